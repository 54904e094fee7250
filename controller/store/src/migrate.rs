//! Moving a log from one store to another: the same batches, the same chain, the same checkpoint.
//!
//! Both stores are led for as long as it takes: the source, so that nobody writes to it any more,
//! and the target, with a higher epoch than anybody ever had in the source, so that agents take the
//! new leader's commands. What is in the source stays there; only its epoch and its use change.
//!
//! Never are both led by controllers. The target is [`Use::Moving`] from before its first entry until
//! all of it was read back; and only once the source is [`Use::Moved`] the target is opened. A crash
//! between these two leaves none open, and the same move made again ends it: which one it is, both say.
//! A move back is one like any other, and opens the store that it comes to.
//!
//! A move that was cut off is taken up where it ended: what the target holds must then be the
//! beginning of what the source holds. Anything else in the target is refused and left alone. The
//! log goes first and the checkpoint last, so a target with a checkpoint has the log below it too.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kapok_types::{Epoch, Seq};

use crate::{
    AppendError, Batch, Broken, Chain, Checkpoint, Error as StoreError, Extent, Head, LeaderToken,
    Leadership, LoadedCheckpoint, Read, Store, Stored, Use, WriteError,
};

/// What the mover calls itself in both stores.
const CANDIDATE: &str = "store migrate";

/// How long another controller's leadership is waited for, beyond its lease. One that was killed is over
/// by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far the target's epochs are above the source's. Every campaign in the source raises its own by
/// one, so they never meet, whatever is done with the source afterwards.
const EPOCHS_APART: u64 = 1_000_000;

/// Batches that are read at a time.
const READ_AHEAD: usize = 256;

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub step: Step,
    /// Entries that this step has dealt with.
    pub entries: u64,
    /// Entries that it has to deal with.
    pub of: u64,
}

/// The steps of a move, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Comparing what an earlier move left in the target.
    Compare,
    /// Copying the log.
    Copy,
    /// Copying the checkpoint's objects.
    Checkpoint,
    /// Reading both stores once more, and comparing.
    Verify,
}

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// What both stores hold now.
    pub extent: Extent,
    /// How many objects the checkpoint has.
    pub objects: u64,
    /// Entries that were there already, from an earlier move.
    pub found: u64,
    /// The epoch that the target begins with: above every one of the source.
    pub epoch: Epoch,
}

/// Why a log was not moved. The source holds what it held.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A controller leads one of the stores.
    #[error("a controller leads the {store} store; stop all controllers first")]
    InUse {
        /// Which: source or target.
        store: &'static str,
    },
    /// The source's log went on in another store before.
    #[error(
        "the source's log was moved to another store already; set store.backend to that one, or move \
         it from there"
    )]
    AlreadyMoved,
    /// The source is the target of a move that was cut off.
    #[error("a move into the source isn't complete; make that one again first")]
    SourceMoving,
    /// The source was led by somebody else before the move was over.
    #[error(
        "somebody else led the source meanwhile (epoch {current}), so the target stays closed; stop \
         all controllers, then move again"
    )]
    SourceLed {
        /// The epoch in force.
        current: Epoch,
    },
    /// Whether the source is closed isn't known, so the target isn't opened.
    #[error("the source couldn't be closed for controllers; try again, it goes on from there")]
    Close(#[source] WriteError),
    /// The target holds something else than the beginning of the source.
    #[error("the target is not blank and holds no part of this move: {what}; give a blank one")]
    NotBlank {
        /// What is there.
        what: String,
    },
    /// The source's own chain does not hold: it is damaged.
    #[error("the source's log is damaged, nothing is moved from it before it is restored")]
    Broken(#[from] Broken),
    /// What was written reads back as something else.
    #[error("the target differs from the source after the move: {what}; don't use it")]
    Differs {
        /// Where.
        what: String,
    },
    /// The source failed.
    #[error("the source failed")]
    Source(#[source] StoreError),
    /// The target failed. What it has is taken up by the next try.
    #[error("the target failed; try again, it goes on from there")]
    Target(#[source] StoreError),
    /// An append to the target failed. What it has is taken up by the next try.
    #[error("the target took no more of the log; try again, it goes on from there")]
    Append(#[from] AppendError),
    /// Beginning or folding the target failed. What it has is taken up by the next try.
    #[error("the target took no more; try again, it goes on from there")]
    Write(#[from] WriteError),
}

/// Moves what `from` holds to `to`, which is blank or holds the beginning of it from an earlier move,
/// and compares both in the end. Then `from` is led no more, and `to` is. `progress` is told after every
/// few hundred batches.
///
/// # Errors
/// See [`Error`]. Safe to repeat after any error and after a crash.
///
/// # Cancel safety
/// Dropping it is as a crash.
pub async fn migrate(
    from: &impl Store,
    to: &impl Store,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Moved, Error> {
    let source = lead(from, "source", Epoch(0), Error::Source).await?;
    let run = run(from, to, &source.token).await?;
    let above = source.token.epoch.get().saturating_add(EPOCHS_APART);
    let target = lead(to, "target", Epoch(above), Error::Target).await?;
    let extent = from.extent().await.map_err(Error::Source)?;
    let checkpoint = from.load_checkpoint().await.map_err(Error::Source)?;

    let found = take_up(from, to, &target.token, run, &extent, &mut progress).await?;
    copy(from, to, &target.token, &extent, &mut progress).await?;
    if let Some(checkpoint) = &checkpoint {
        progress(Progress {
            step: Step::Checkpoint,
            entries: 0,
            of: 0,
        });
        fold(to, &target.token, checkpoint).await?;
    }
    verify(from, to, &extent, checkpoint.as_ref(), &mut progress).await?;
    let extent_now = from.extent().await.map_err(Error::Source)?;
    let checkpoint_now = from.load_checkpoint().await.map_err(Error::Source)?;
    if (extent_now, &checkpoint_now) != (extent, &checkpoint) {
        return Err(moved_on(extent_now.head.seq));
    }
    // Guarded: whoever led the source since, and wrote to it after the look above, is told here.
    let closed = from.put_use(&source.token, Use::Moved { run }).await;
    closed.map_err(|error| match error {
        WriteError::Fenced { current } => Error::SourceLed { current },
        error => Error::Close(error),
    })?;
    to.put_use(&target.token, Use::Open).await?;
    let objects = checkpoint.map_or(0, |checkpoint| checkpoint.objects.len());
    Ok(Moved {
        extent,
        objects: u64::try_from(objects).unwrap_or(u64::MAX),
        found,
        epoch: target.token.epoch,
    })
}

async fn lead(
    store: &impl Store,
    name: &'static str,
    floor: Epoch,
    failed: fn(StoreError) -> Error,
) -> Result<Leadership, Error> {
    let campaign = store.campaign_moving(CANDIDATE, floor);
    let patience = store.lease_ttl() + PATIENCE;
    let won = tokio::time::timeout(patience, campaign).await;
    won.map_err(|_| Error::InUse { store: name })?
        .map_err(failed)
}

/// What this move goes by: the one that was cut off between the source's end and the target's
/// beginning, or a new one.
async fn run(from: &impl Store, to: &impl Store, token: &LeaderToken) -> Result<Epoch, Error> {
    match from.get_use().await.map_err(Error::Source)? {
        Use::Open => Ok(token.epoch),
        Use::Moving { .. } => Err(Error::SourceMoving),
        Use::Moved { run } => match to.get_use().await.map_err(Error::Target)? {
            // Any other target of a source that was moved would be a second end of one log.
            Use::Moving { run: there } if there == run => Ok(run),
            _ => Err(Error::AlreadyMoved),
        },
    }
}

/// Begins the target where the source begins, or checks that what is there is its beginning. Says
/// how many entries are there. From then on the target is nobody's.
async fn take_up(
    from: &impl Store,
    to: &impl Store,
    token: &LeaderToken,
    run: Epoch,
    extent: &Extent,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<u64, Error> {
    let begin = begins_after(from, extent).await?;
    let there = to.extent().await.map_err(Error::Target)?;
    let blank = there.head == Head::default() && there.checkpoint == Seq::ZERO;
    if blank {
        to.put_use(token, Use::Moving { run }).await?;
        to.begin(token, begin).await?;
        return Ok(0);
    }
    let not_blank = |what: String| Error::NotBlank { what };
    if there.first != extent.first || there.head.seq > extent.head.seq {
        return Err(not_blank(format!(
            "its log goes from {} to {}, the source's from {} to {}",
            there.first, there.head.seq, extent.first, extent.head.seq
        )));
    }
    if there.checkpoint != Seq::ZERO && there.checkpoint != extent.checkpoint {
        return Err(not_blank(format!(
            "its checkpoint is at {}, the source's at {}",
            there.checkpoint, extent.checkpoint
        )));
    }
    if there.entries() == 0 && there.head != begin {
        return Err(not_blank(format!(
            "it begins behind another entry {}",
            begin.seq
        )));
    }
    let of = there.entries();
    let said = |entries| Progress {
        step: Step::Compare,
        entries,
        of,
    };
    let same = compare(from, to, there.first, there.head.seq, |entries| {
        progress(said(entries));
    });
    same.await?
        .map_err(|seq| not_blank(format!("its log differs from the source's at {seq}")))?;
    to.put_use(token, Use::Moving { run }).await?;
    Ok(of)
}

/// What stands before the source's first entry.
async fn begins_after(from: &impl Store, extent: &Extent) -> Result<Head, Error> {
    if extent.entries() == 0 {
        return Ok(extent.head);
    }
    match from.read(extent.first, 1).await.map_err(Error::Source)? {
        Read::Batches(batches) => {
            let first = batches.first().map(Batch::after);
            Ok(first.unwrap_or(extent.head))
        }
        Read::Trimmed { first } => Err(moved_on(first)),
    }
}

/// The source is led by this move alone; somebody wrote to it all the same.
fn moved_on(at: Seq) -> Error {
    Error::Differs {
        what: format!("the source was changed meanwhile, at {at}"),
    }
}

/// Appends what the target lacks.
async fn copy(
    from: &impl Store,
    to: &impl Store,
    token: &LeaderToken,
    extent: &Extent,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(), Error> {
    let mut chain = Chain::at(to.head().await.map_err(Error::Target)?);
    let begun_at = chain.head_seq.get();
    let of = extent.head.seq.get().saturating_sub(begun_at);
    while chain.head_seq < extent.head.seq {
        let next = chain.head_seq.next();
        let read = from.read(next, READ_AHEAD).await.map_err(Error::Source)?;
        let batches = match read {
            Read::Batches(batches) if !batches.is_empty() => batches,
            Read::Batches(_) => return Err(moved_on(next)),
            Read::Trimmed { first } => return Err(moved_on(first)),
        };
        for batch in batches {
            chain.verify(&batch)?;
            to.append(token, chain.head_seq, &batch).await?;
            chain.advance(&batch)?;
        }
        progress(Progress {
            step: Step::Copy,
            entries: chain.head_seq.get().saturating_sub(begun_at),
            of,
        });
    }
    Ok(())
}

/// Makes the target's checkpoint the source's.
async fn fold(
    to: &impl Store,
    token: &LeaderToken,
    checkpoint: &LoadedCheckpoint,
) -> Result<(), Error> {
    let there = to.load_checkpoint().await.map_err(Error::Target)?;
    if there.as_ref() == Some(checkpoint) {
        return Ok(());
    }
    let objects = &checkpoint.objects;
    let too_many = there.map_or_else(BTreeMap::new, |there| there.objects);
    let too_many = too_many
        .into_keys()
        .filter(|key| !objects.contains_key(key));
    let whole = Checkpoint {
        seq: checkpoint.seq,
        hash: checkpoint.hash,
        puts: objects
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        deletes: too_many.collect(),
    };
    to.checkpoint(token, whole).await?;
    Ok(())
}

/// Reads both stores from the first byte to the last.
async fn verify(
    from: &impl Store,
    to: &impl Store,
    extent: &Extent,
    checkpoint: Option<&LoadedCheckpoint>,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(), Error> {
    let differs = |what: String| Error::Differs { what };
    let there = to.extent().await.map_err(Error::Target)?;
    if there != *extent {
        return Err(differs(format!("it holds {there:?} and not {extent:?}")));
    }
    let loaded = to.load_checkpoint().await.map_err(Error::Target)?;
    if loaded.as_ref() != checkpoint {
        return Err(differs("its checkpoint is another one".to_owned()));
    }
    let of = extent.entries();
    let same = compare(from, to, extent.first, extent.head.seq, |entries| {
        progress(Progress {
            step: Step::Verify,
            entries,
            of,
        });
    });
    same.await?
        .map_err(|seq| differs(format!("its log is another one at {seq}")))
}

/// Whether both stores hold the same values from `from_seq` to `to_seq`, and these are a chain; if
/// not, where.
async fn compare(
    from: &impl Store,
    to: &impl Store,
    first: Seq,
    last: Seq,
    mut said: impl FnMut(u64) + Send,
) -> Result<Result<(), Seq>, Error> {
    let mut next = first;
    let mut chain: Option<Chain> = None;
    while next <= last {
        let theirs = to.stored(next, READ_AHEAD).await.map_err(Error::Target)?;
        let ours = from.stored(next, READ_AHEAD).await.map_err(Error::Source)?;
        if theirs.is_empty() {
            return Ok(Err(next));
        }
        for (index, stored) in theirs.iter().enumerate() {
            if ours.get(index) != Some(stored) {
                return Ok(Err(stored.first));
            }
            let Some(batch) = batch(stored) else {
                return Ok(Err(stored.first));
            };
            let mut known = chain.unwrap_or(Chain::at(batch.after()));
            if known.advance(&batch).is_err() {
                return Ok(Err(stored.first));
            }
            chain = Some(known);
            next = batch.head().seq.next();
        }
        said(next.get().saturating_sub(first.get()));
    }
    Ok(Ok(()))
}

fn batch(stored: &Stored) -> Option<Batch> {
    let batch = Batch::decode(Bytes::clone(&stored.value)).ok()?;
    (batch.after().seq.next() == stored.first).then_some(batch)
}
