//! What the seam's reads do, each at one revision.
//!
//! The first look is linearizable: it shows everything that was acknowledged before the call. The
//! pages after it are of the same revision. If etcd forgets that revision meanwhile, the read begins
//! again; the leader keeps the history of one checkpoint at least, so that is rare.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_client::{GetOptions, KeyValue};
use kapok_types::Seq;
use tokio::time::Instant;

use super::{
    calls::{Calls, Failure, MESSAGE_BYTES, kv},
    folded,
    keys::corrupt,
    state::State,
};
use crate::{
    Batch, Chain, Error, Extent, Hash, Head, LoadedCheckpoint, Read, Stored, Use,
    log::{self, DecodeError},
};

/// As many values of any size as an answer can hold.
pub(super) const PAGE: i64 = 8;
/// The most values that are asked for at once.
const LARGEST_PAGE: i64 = 1024;
/// What an answer should hold, in bytes.
const GOOD_ANSWER_BYTES: usize = MESSAGE_BYTES / 8;

/// How often a read begins again because its revision was forgotten.
const BEGINNINGS: usize = 4;

/// A batch from its stored value.
pub(super) fn batch(value: impl Into<Bytes>) -> Result<Batch, Error> {
    Batch::decode(value.into()).map_err(|error| match error {
        DecodeError::Newer { found, .. } => Error::Newer {
            found: found.into(),
            known: log::VERSION.into(),
        },
        error => corrupt(format!("in the log: {error}")),
    })
}

/// The keys from `next` to `end` as of a revision, a page at a time.
struct Pages<'a> {
    calls: &'a Calls,
    doing: &'static str,
    next: Vec<u8>,
    end: String,
    revision: i64,
    size: i64,
    more: bool,
}

impl<'a> Pages<'a> {
    fn of(calls: &'a Calls, doing: &'static str, range: (String, String), revision: i64) -> Self {
        Self {
            calls,
            doing,
            next: range.0.into_bytes(),
            end: range.1,
            revision,
            size: PAGE,
            more: true,
        }
    }

    /// At most `most` more pairs; none at the end.
    async fn page(&mut self, most: usize) -> Result<Vec<KeyValue>, Failure> {
        while self.more && most > 0 {
            let limit = self.size.min(i64::try_from(most).unwrap_or(i64::MAX));
            let read = self.calls.read(self.doing, self.calls.until(), |client| {
                let options = GetOptions::new()
                    .with_range(self.end.clone())
                    .with_revision(self.revision)
                    .with_limit(limit);
                let next = self.next.clone();
                async move { kv(&client).get(next, Some(options)).await }
            });
            let mut answer = match read.await {
                Err(Failure::TooLarge(_)) if limit > PAGE => {
                    self.size = PAGE;
                    continue;
                }
                answer => answer?,
            };
            self.more = answer.more();
            let pairs = answer.take_kvs();
            if let Some(last) = pairs.last() {
                self.next = last.key().to_vec();
                self.next.push(0);
            }
            let bytes: usize = pairs.iter().map(|pair| pair.value().len()).sum();
            self.size = if bytes > GOOD_ANSWER_BYTES {
                (self.size / 4).max(PAGE)
            } else {
                (self.size * 2).min(LARGEST_PAGE)
            };
            return Ok(pairs);
        }
        Ok(Vec::new())
    }
}

/// Makes `$read` again as long as what it reads is forgotten meanwhile.
macro_rules! afresh {
    ($read:expr) => {{
        let mut beginnings = 1;
        loop {
            match $read.await {
                Err(Failure::Compacted(_)) if beginnings < BEGINNINGS => beginnings += 1,
                read => break read.map_err(Error::from),
            }
        }
    }};
}

/// How much a read of the log may give.
#[derive(Clone, Copy)]
pub(super) struct Most {
    pub(super) batches: usize,
    pub(super) bytes: usize,
}

pub(super) async fn head(calls: &Calls) -> Result<Head, Error> {
    let state = calls.state("reading the head", calls.until()).await?;
    Ok(state.end.head)
}

pub(super) async fn using(calls: &Calls) -> Result<Use, Error> {
    const DOING: &str = "reading what the store is for";
    Ok(calls.state(DOING, calls.until()).await?.using)
}

pub(super) async fn extent(calls: &Calls) -> Result<Extent, Error> {
    let state = calls.state("measuring the log", calls.until()).await?;
    Ok(Extent {
        first: state.first.seq,
        head: state.end.head,
        checkpoint: state.checkpoint.unwrap_or_default().seq,
        log_bytes: state.end.bytes.saturating_sub(state.first.bytes),
    })
}

/// What is there from `from` on, and the revision at which it was.
pub(super) async fn read(calls: &Calls, from: Seq, most: Most) -> Result<(Read, i64), Error> {
    afresh!(read_once(calls, from, most))
}

/// [`read`], failing when what it reads is forgotten meanwhile.
pub(super) async fn read_once(
    calls: &Calls,
    from: Seq,
    most: Most,
) -> Result<(Read, i64), Failure> {
    const DOING: &str = "reading the log";
    let from = from.max(Seq(1));
    let until = calls.until();
    let state = calls.state(DOING, until).await.map_err(Failure::Refused)?;
    let revision = state.revision;
    if from < state.first.seq {
        let first = state.first.seq;
        return Ok((Read::Trimmed { first }, revision));
    }
    let head = state.end.head.seq;
    if from > head {
        return Ok((Read::Batches(Vec::new()), revision));
    }
    let holder = calls.holder(DOING, from, Some(revision), until).await?;
    let missing = || Failure::Refused(corrupt(format!("entry {from} is not there")));
    let (start, _) = holder.ok_or_else(missing)?;
    let range = (
        calls.keys.batches_from(start),
        calls.keys.batches_from(head.next()),
    );
    let mut pages = Pages::of(calls, DOING, range, revision);
    let mut batches: Vec<Batch> = Vec::new();
    let mut bytes: usize = 0;
    while batches.len() < most.batches && bytes < most.bytes {
        let page = pages.page(most.batches - batches.len()).await?;
        if page.is_empty() {
            break;
        }
        for pair in page {
            bytes = bytes.saturating_add(pair.value().len());
            let next = batches.last().map(Batch::head);
            let batch = placed(calls, pair, next).map_err(Failure::Refused)?;
            batches.push(batch);
        }
    }
    Ok((Read::Batches(batches), revision))
}

/// The batch of a pair, which must be the one that its key says, and continue `after`.
pub(super) fn placed(calls: &Calls, pair: KeyValue, after: Option<Head>) -> Result<Batch, Error> {
    let (key, value) = pair.into_key_value();
    let (seq, _) = calls.keys.place(&key)?;
    let batch = batch(value)?;
    if batch.after().seq.next() != seq {
        return Err(corrupt(format!("the batch at {seq} is another one")));
    }
    let chain = Chain::at(after.unwrap_or(batch.after()));
    let chained = chain.verify(&batch);
    chained.map_err(|broken| corrupt(broken.to_string()))?;
    Ok(batch)
}

/// The hash of the entry at `seq`, if it is there; as of `revision`, or of now.
pub(super) async fn hash(
    calls: &Calls,
    doing: &'static str,
    seq: Seq,
    revision: Option<i64>,
    until: Instant,
) -> Result<Option<Hash>, Failure> {
    let Some((start, offset)) = calls.holder(doing, seq, revision, until).await? else {
        return Ok(None);
    };
    let key = calls.keys.batch(start, offset);
    let read = calls.read(doing, until, |client| {
        let key = key.clone();
        let options = revision.map(|revision| GetOptions::new().with_revision(revision));
        async move { kv(&client).get(key, options).await }
    });
    let Some(pair) = read.await?.take_kvs().pop() else {
        return Ok(None);
    };
    let batch = batch(pair.into_key_value().1).map_err(Failure::Refused)?;
    Ok(batch.entry(seq).map(|entry| entry.hash))
}

pub(super) async fn stored(calls: &Calls, from: Seq, most: usize) -> Result<Vec<Stored>, Error> {
    afresh!(stored_once(calls, from, most))
}

async fn stored_once(calls: &Calls, from: Seq, most: usize) -> Result<Vec<Stored>, Failure> {
    const DOING: &str = "reading the log as it is";
    let state = calls.state(DOING, calls.until()).await;
    let revision = state.map_err(Failure::Refused)?.revision;
    let range = (calls.keys.batches_from(from), calls.keys.log_end());
    let mut pages = Pages::of(calls, DOING, range, revision);
    let mut found = Vec::new();
    loop {
        let page = pages.page(most - found.len()).await?;
        if page.is_empty() {
            return Ok(found);
        }
        for pair in page {
            let (key, value) = pair.into_key_value();
            let (first, _) = calls.keys.place(&key).map_err(Failure::Refused)?;
            let value = value.into();
            found.push(Stored { first, value });
        }
    }
}

pub(super) async fn load_checkpoint(calls: &Calls) -> Result<Option<LoadedCheckpoint>, Error> {
    afresh!(load_once(calls))
}

async fn load_once(calls: &Calls) -> Result<Option<LoadedCheckpoint>, Failure> {
    const DOING: &str = "reading the checkpoint";
    let state = calls.state(DOING, calls.until()).await;
    let state = state.map_err(Failure::Refused)?;
    let Some(Head { seq, hash }) = state.checkpoint else {
        return Ok(None);
    };
    let keys = &calls.keys;
    let mut objects = BTreeMap::new();
    let all = (keys.objects(), keys.objects_end());
    let mut pages = Pages::of(calls, DOING, all, state.revision);
    loop {
        let page = pages.page(usize::MAX).await?;
        if page.is_empty() {
            break;
        }
        for pair in page {
            let (key, value) = pair.into_key_value();
            let name = keys.object_name(&key).map_err(Failure::Refused)?;
            objects.insert(name, Bytes::from(value));
        }
    }
    if let Some(generation) = state.settling {
        let parts = (keys.parts(generation), keys.parts_end(generation));
        let mut pages = Pages::of(calls, DOING, parts, state.revision);
        loop {
            let page = pages.page(usize::MAX).await?;
            if page.is_empty() {
                break;
            }
            for pair in page {
                let moves = folded::decode(pair.value()).map_err(Failure::Refused)?;
                for (key, value) in moves {
                    match value {
                        Some(value) => objects.insert(key, value),
                        None => objects.remove(&key),
                    };
                }
            }
        }
    }
    Ok(Some(LoadedCheckpoint { seq, hash, objects }))
}

/// Checks that the head is the one of the log's last batch or, where nothing is left of the log, of
/// the checkpoint or of the log's beginning. The rest of the chain is verified as it is read.
pub(super) async fn verify(calls: &Calls) -> Result<State, Error> {
    afresh!(verify_once(calls))
}

async fn verify_once(calls: &Calls) -> Result<State, Failure> {
    const DOING: &str = "verifying the store";
    let until = calls.until();
    let state = calls.state(DOING, until).await.map_err(Failure::Refused)?;
    let head = state.end.head;
    let end = if state.first.seq > head.seq {
        state.checkpoint.or(state.begun).unwrap_or_default()
    } else {
        let found = hash(calls, DOING, head.seq, Some(state.revision), until).await?;
        Head {
            seq: head.seq,
            hash: found.unwrap_or_default(),
        }
    };
    if end != head {
        let what = format!("its head at {} is not where its log ends", head.seq);
        return Err(Failure::Refused(corrupt(what)));
    }
    Ok(state)
}
