//! The whole log: what the store holds, and before it the segments that were sealed out of it.
//!
//! ```text
//!  seal_next ─▶ write the file, verify it ─▶ (the caller records it in the log) ─▶ trim
//! ```
//!
//! Each step may be repeated after a crash between any two: which batches the next segment takes
//! depends on the store's first batch and on the policy only, so the same file is written again,
//! and entries leave the store only when their segment was read back and recorded. Until then
//! they are in both places, and readers take the store's.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use kapok_types::Seq;

use crate::{
    Batch, Error, Follow, LeaderToken, Read, Store, WriteError,
    segment::{self, Segment, Span},
    segments::Segments,
};

/// How much is read of the store at a time, in batches.
const READ_BATCHES: usize = 64;

/// How much of the log stays in the store, and how much goes into one segment. What the current
/// checkpoint doesn't cover stays in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The newest entries that stay, at least, while they take no more than `keep_bytes`.
    pub keep_entries: u64,
    /// What stays of a log of large entries, in bytes.
    pub keep_bytes: u64,
    /// Entries of one segment; the batch that reaches this is its last.
    pub segment_entries: u64,
    /// Bytes of one segment; the batch that reaches this is its last.
    pub segment_bytes: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            keep_entries: 100_000,
            keep_bytes: 128 * 1024 * 1024,
            segment_entries: 10_000,
            segment_bytes: 8 * 1024 * 1024,
        }
    }
}

/// A segment that was written and verified, and is to be recorded next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What to remember of it.
    pub segment: Segment,
    /// Its last entry's payload, which tells its age to whoever understands it.
    pub newest: Bytes,
}

/// The store and its segments. Clones are handles on the same.
pub struct Archive<S> {
    store: Arc<S>,
    segments: Arc<dyn Segments>,
}

impl<S> fmt::Debug for Archive<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive")
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

impl<S> Clone for Archive<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            segments: Arc::clone(&self.segments),
        }
    }
}

impl<S: Store> Archive<S> {
    /// The log in `store`, whose sealed segments live in `segments`.
    pub fn new(store: Arc<S>, segments: Arc<dyn Segments>) -> Self {
        Self { store, segments }
    }

    /// The store.
    pub fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// The segments' home.
    pub fn segments(&self) -> &Arc<dyn Segments> {
        &self.segments
    }

    /// At most `max_batches` batches from the one that holds `from` on, wherever they are.
    /// Positions 0 and 1 both mean the log's first entry.
    ///
    /// # Errors
    /// When the store or the home fails, or what they hold is damaged.
    pub async fn read(&self, from: Seq, max_batches: usize) -> Result<Read, Error> {
        loop {
            let first = match self.store.read(from, max_batches).await? {
                Read::Trimmed { first } => first,
                found @ Read::Batches(_) => return Ok(found),
            };
            let from = from.max(Seq(1));
            let spans = self.segments.list().await?;
            let Some(span) = spans.iter().rev().find(|span| span.first <= from) else {
                let kept = spans.first().map_or(first, |span| span.first.min(first));
                return Ok(Read::Trimmed { first: kept });
            };
            if span.last < from {
                let next = spans
                    .iter()
                    .map(|span| span.first)
                    .find(|next| *next > from);
                let first = next.map_or(first, |next| next.min(first));
                return Ok(Read::Trimmed { first });
            }
            // Removed since it was listed: look again.
            let Some(content) = self.segments.get(*span).await? else {
                continue;
            };
            let batches = open(*span, &content)?.1.into_iter();
            let batches = batches.skip_while(|batch| batch.head().seq < from);
            return Ok(Read::Batches(batches.take(max_batches).collect()));
        }
    }

    /// Every batch from the one that holds `from` on, first those of segments, then those of the
    /// store, then new ones as they are committed. As [`Store::follow`] in all else.
    pub fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>> {
        let follower = Follower {
            store: Arc::downgrade(&self.store),
            segments: Arc::clone(&self.segments),
            next: from.max(Seq(1)),
            ready: VecDeque::new(),
            live: None,
            ended: false,
        };
        stream::unfold(follower, |mut follower| async move {
            let item = follower.next().await?;
            follower.ended = !matches!(item, Ok(Follow::Batch(_)));
            Some((item, follower))
        })
        .boxed()
    }

    /// Writes the next segment that is due, or nothing. The entries stay in the store.
    ///
    /// # Errors
    /// When the store or the home fails, or what they hold is damaged.
    pub async fn seal_next(&self, policy: &Policy) -> Result<Option<Sealed>, Error> {
        let extent = self.store.extent().await?;
        let (mut batches, mut entries, mut bytes) = (Vec::new(), 0_u64, 0_u64);
        let mut next = extent.first;
        while entries < policy.segment_entries && bytes < policy.segment_bytes {
            let read = self.store.read(next, READ_BATCHES).await?;
            let Read::Batches(found) = read else {
                return Ok(None);
            };
            if found.is_empty() {
                return Ok(None);
            }
            for batch in found {
                if entries >= policy.segment_entries || bytes >= policy.segment_bytes {
                    break;
                }
                next = batch.head().seq.next();
                entries += next.get() - batch.after().seq.next().get();
                bytes += batch.encoded_len();
                batches.push(batch);
            }
            // Cheap to look at each time: most rounds end at the first read.
            let stays = extent.entries().saturating_sub(entries) >= policy.keep_entries
                || extent.log_bytes.saturating_sub(bytes) >= policy.keep_bytes;
            if !stays || next > extent.checkpoint.next() {
                return Ok(None);
            }
        }
        let newest = batches.last().and_then(|batch| batch.entries().last());
        let newest = newest.map(|entry| entry.payload.clone());
        let (Some((segment, content)), Some(newest)) = (Segment::seal(&batches), newest) else {
            return Ok(None);
        };
        // There already after a crash; written again all the same if it isn't whole.
        let span = segment.span();
        if self.segments.get(span).await?.as_ref() != Some(&content) {
            self.segments.put(span, content).await?;
        }
        let written = self.segments.get(span).await?.unwrap_or_default();
        let (read_back, _) = open(span, &written)?;
        if read_back != segment {
            return Err(damaged(span, "it is not the one that was written"));
        }
        Ok(Some(Sealed { segment, newest }))
    }

    /// Drops the entries of a segment from the store, once more after looking that its file is
    /// the one that was recorded.
    ///
    /// # Errors
    /// Those of [`Store::trim`], and when the file isn't there or is another one.
    pub async fn trim(&self, token: &LeaderToken, segment: &Segment) -> Result<(), WriteError> {
        let extent = self.store.extent().await?;
        if extent.first > segment.last {
            return Ok(());
        }
        let span = segment.span();
        let content = self.segments.get(span).await.map_err(Error::from)?;
        let content = match content {
            Some(content) => content,
            // Whoever wrote it may be another controller, that went with its disk.
            None => self
                .seal_again(segment)
                .await?
                .ok_or_else(|| damaged(span, "its file is missing"))?,
        };
        if open(span, &content)?.0 != *segment {
            return Err(damaged(span, "its file is not the one that was recorded").into());
        }
        self.store.trim(token, segment.last.next()).await
    }

    /// Writes a recorded segment anew from the entries that the store still holds, and gives its content;
    /// nothing if some of them have left the store.
    ///
    /// # Errors
    /// When the store or the home fails, or the entries are not those that were recorded.
    pub async fn seal_again(&self, segment: &Segment) -> Result<Option<Bytes>, Error> {
        let span = segment.span();
        let (mut batches, mut next) = (Vec::new(), segment.first);
        while next <= segment.last {
            let Read::Batches(found) = self.store.read(next, READ_BATCHES).await? else {
                return Ok(None);
            };
            if found.is_empty() {
                return Ok(None);
            }
            for batch in found {
                if next <= segment.last {
                    next = batch.head().seq.next();
                    batches.push(batch);
                }
            }
        }
        let Some((sealed, content)) = Segment::seal(&batches) else {
            return Ok(None);
        };
        if sealed != *segment {
            return Err(damaged(
                span,
                "the store's entries are not those that were recorded",
            ));
        }
        self.segments.put(span, content.clone()).await?;
        Ok(Some(content))
    }

    /// Removes what a crash or another policy left: files whose entries the store still holds and
    /// of which `recorded` says nothing.
    ///
    /// # Errors
    /// When the store or the home fails.
    pub async fn sweep(&self, recorded: impl Fn(Span) -> bool) -> Result<(), Error> {
        let first = self.store.extent().await?.first;
        for span in self.segments.list().await? {
            if span.first >= first && !recorded(span) {
                tracing::info!(%span, "a segment that was never recorded is removed");
                self.segments.remove(span).await?;
            }
        }
        Ok(())
    }
}

/// A segment's batches, verified, of the span that its name says.
fn open(span: Span, content: &Bytes) -> Result<(Segment, Vec<Batch>), Error> {
    match Segment::open(content) {
        Ok((segment, _)) if segment.span() != span => Err(damaged(span, "it holds another span")),
        Ok(opened) => Ok(opened),
        Err(segment::Error::Newer { found }) => Err(Error::Newer {
            found: found.into(),
            known: segment::VERSION.into(),
        }),
        Err(error) => Err(damaged(span, error.to_string())),
    }
}

fn damaged(span: Span, reason: impl Into<String>) -> Error {
    Error::Segment {
        span,
        reason: reason.into(),
    }
}

struct Follower<S> {
    store: Weak<S>,
    segments: Arc<dyn Segments>,
    next: Seq,
    ready: VecDeque<Batch>,
    /// The store's own following, once the segments are behind.
    live: Option<BoxStream<'static, Result<Follow, Error>>>,
    ended: bool,
}

impl<S: Store> Follower<S> {
    async fn next(&mut self) -> Option<Result<Follow, Error>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.next = batch.head().seq.next();
                return Some(Ok(Follow::Batch(batch)));
            }
            if let Some(live) = &mut self.live {
                match live.next().await? {
                    Ok(Follow::Batch(batch)) => self.ready.push_back(batch),
                    // Trimmed under a slow reader: it goes on in the segments.
                    Ok(Follow::Trimmed { .. }) => self.live = None,
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            let store = self.store.upgrade()?;
            let archive = Archive::new(store, Arc::clone(&self.segments));
            match archive.store.extent().await {
                Ok(extent) if extent.first <= self.next => {
                    self.live = Some(archive.store.follow(self.next));
                }
                // Whole segments: each is read and verified once.
                Ok(_) => match archive.read(self.next, usize::MAX).await {
                    Ok(Read::Batches(batches)) => self.ready.extend(batches),
                    Ok(Read::Trimmed { first }) => return Some(Ok(Follow::Trimmed { first })),
                    Err(error) => return Some(Err(error)),
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
