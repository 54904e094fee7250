//! The seam: what the controller asks of a store, whatever stands behind it.
//!
//! Shaped by etcd, the narrower of the two backends: a write is one guarded transaction of
//! bounded size, leadership is a campaign that ends in a fencing token, and a write whose answer
//! was lost is *unknown*.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use kapok_types::{Epoch, Seq};
use tokio::sync::watch;

use crate::{
    AppendError, Batch, Checkpoint, Error, Hash, LoadedCheckpoint, Part, WriteError, checkpoint,
    health::{Figures, Health},
};

/// The right to write, won by a campaign. A later campaign's token fences it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaderToken {
    /// The epoch that the campaign raised the store to.
    pub epoch: Epoch,
}

/// A leadership that was won. Dropping it, with all clones of `lost`, resigns: the next candidate need
/// not wait. Its token is fenced by the next campaign, not before.
#[derive(Debug)]
pub struct Leadership {
    /// What every write must show.
    pub token: LeaderToken,
    /// Turns true when the leadership is known to be over. A hint for stopping early: the token
    /// is what protects the log, also from a leader that has not heard yet.
    pub lost: watch::Receiver<bool>,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The candidate, as it called itself when it campaigned.
    pub candidate: String,
    /// The epoch that it won.
    pub epoch: Epoch,
}

/// The log's last position and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// The last entry's position; 0 for an empty log.
    pub seq: Seq,
    /// The last entry's hash; [`Hash::ZERO`] for an empty log.
    pub hash: Hash,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Batches in order, beginning with the one that holds the position asked for (it may begin
    /// earlier); none when the log ends before it.
    Batches(Vec<Batch>),
    /// The position was trimmed away: load the checkpoint and read on from there.
    Trimmed {
        /// The first position that is still there (or the next one to come).
        first: Seq,
    },
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// The next batch, without gaps.
    Batch(Batch),
    /// The next position was trimmed away. The stream ends; load the checkpoint, follow anew.
    Trimmed {
        /// The first position that is still there (or the next one to come).
        first: Seq,
    },
}

/// How much of the log a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first position that is there (or the next one to come).
    pub first: Seq,
    /// The log's head.
    pub head: Head,
    /// The current checkpoint's position; 0 before the first. No trim goes beyond it.
    pub checkpoint: Seq,
    /// What the batches that are there take as encoded, in bytes.
    pub log_bytes: u64,
}

impl Extent {
    /// How many entries are there.
    pub fn entries(&self) -> u64 {
        self.head.seq.next().get().saturating_sub(self.first.get())
    }
}

/// A batch as it is stored, by nobody verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The position that it is stored under: that of its first entry.
    pub first: Seq,
    /// Its bytes; [`Batch::encode`]'s, if nobody changed them.
    pub value: Bytes,
}

/// What a store is for. Only an open one is led; a move takes one after the other through the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Use {
    /// Its log is the one that goes on.
    #[default]
    Open,
    /// A log moves here, and isn't there whole.
    Moving {
        /// The source's epoch that the move was begun under: no two moves of a source share one.
        run: Epoch,
    },
    /// Its log goes on in another store.
    Moved {
        /// The move that took it there, as in [`Use::Moving`].
        run: Epoch,
    },
}

#[cfg(any(feature = "etcd", feature = "redb"))]
impl Use {
    /// As a value of the store: a byte, and the epoch.
    pub(crate) fn encode(self) -> [u8; 9] {
        let (kind, run) = match self {
            Self::Open => (0, Epoch(0)),
            Self::Moving { run } => (1, run),
            Self::Moved { run } => (2, run),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&run.get().to_be_bytes());
        bytes
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (kind, run) = value.split_first()?;
        let run = Epoch(u64::from_be_bytes(run.try_into().ok()?));
        match kind {
            0 => Some(Self::Open),
            1 => Some(Self::Moving { run }),
            2 => Some(Self::Moved { run }),
            _ => None,
        }
    }

    /// Refuses to lead what isn't open.
    pub(crate) const fn check(self) -> Result<(), Error> {
        match self {
            Self::Open => Ok(()),
            Self::Moving { .. } => Err(Error::Moving),
            Self::Moved { .. } => Err(Error::Moved),
        }
    }
}

/// How much one transaction may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations in one transaction.
    pub operations_per_transaction: u32,
    /// Bytes in one transaction: keys, values and framing together.
    pub bytes_per_transaction: u64,
}

impl Limits {
    /// etcd's own defaults, kept by every backend so that nothing grows to depend on more.
    ///
    /// Source: etcd's `--max-txn-ops` (128) and `--max-request-bytes` (1.5 MiB).
    pub const ETCD: Self = Self {
        operations_per_transaction: 128,
        bytes_per_transaction: 3 * 512 * 1024,
    };

    /// What guards, keys and framing of a transaction may take of its bytes.
    const OVERHEAD_BYTES: u64 = 4 * 1024;
    /// What guards and bookkeeping may take of its operations.
    const OVERHEAD_OPERATIONS: u32 = 8;

    /// The largest encoded [`Batch`], and the largest [`Part`] by its own measure, in bytes.
    pub const fn payload_bytes(self) -> u64 {
        self.bytes_per_transaction
            .saturating_sub(Self::OVERHEAD_BYTES)
    }

    /// The most puts and deletes that one [`Part`] may hold.
    pub const fn payload_operations(self) -> u32 {
        self.operations_per_transaction
            .saturating_sub(Self::OVERHEAD_OPERATIONS)
    }
}

/// The log's home. Handles are cheap to share; every call may be made at any time.
///
/// # Cancel safety
///
/// Dropping a read's future is harmless. Dropping a write's leaves its outcome unknown.
pub trait Store: Send + Sync + 'static {
    /// How much one transaction may carry.
    fn limits(&self) -> Limits;

    /// Wins a leadership with an epoch above every earlier one and above `floor`, the highest
    /// that agents report: a controller restored from a backup starts above it.
    ///
    /// The epoch is durable before this returns, and from then on every older token is fenced.
    /// Whether the call waits while another candidate's leadership lives or takes over at once
    /// is the backend's; a candidate always supersedes its own earlier leadership at once.
    ///
    /// # Errors
    /// [`Error::Moving`] and [`Error::Moved`] when it isn't [`Use::Open`], and when the store fails. The
    /// epoch may have been raised; campaigning again is safe.
    fn campaign_above(
        &self,
        candidate: &str,
        floor: Epoch,
    ) -> impl Future<Output = Result<Leadership, Error>> + Send;

    /// [`Store::campaign_above`] without a floor.
    ///
    /// # Errors
    /// As there.
    fn campaign(&self, candidate: &str) -> impl Future<Output = Result<Leadership, Error>> + Send {
        self.campaign_above(candidate, Epoch(0))
    }

    /// [`Store::campaign_above`], whatever the store is for: for who moves a log, and nobody else.
    ///
    /// # Errors
    /// When the store fails.
    fn campaign_moving(
        &self,
        candidate: &str,
        floor: Epoch,
    ) -> impl Future<Output = Result<Leadership, Error>> + Send;

    /// How long a leader that is gone may keep a campaign waiting.
    fn lease_ttl(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether several controllers can be candidates here.
    fn is_shared(&self) -> bool {
        !self.lease_ttl().is_zero()
    }

    /// Who leads, as it changes; nobody until the first look, and while it is known that nobody does.
    /// While the store's servers can't be asked it stays at the last that was known.
    fn leaders(&self) -> watch::Receiver<Option<Leader>>;

    /// How the store's servers are, if it has any: each is asked, and one that can't be is one of the
    /// answers.
    fn health(&self) -> impl Future<Output = Option<Health>> + Send {
        std::future::ready(None)
    }

    /// What the calls to the store's servers have cost this process so far.
    fn figures(&self) -> Option<Figures> {
        None
    }

    /// What the store is for.
    ///
    /// # Errors
    /// When the store fails.
    fn get_use(&self) -> impl Future<Output = Result<Use, Error>> + Send;

    /// Says what the store is for from now on. As durable as an append.
    ///
    /// # Errors
    /// [`WriteError::Fenced`], [`WriteError::Unknown`].
    fn put_use(
        &self,
        token: &LeaderToken,
        using: Use,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Appends `batch` if `token` is in force and the log's head is at `after`. When it returns
    /// `Ok`, the batch survives a crash of the process and of the machine.
    ///
    /// # Errors
    /// [`AppendError::Unknown`] may or may not have landed; every other error says that nothing
    /// did. A fenced token is reported before a conflict.
    fn append(
        &self,
        token: &LeaderToken,
        after: Seq,
        batch: &Batch,
    ) -> impl Future<Output = Result<(), AppendError>> + Send;

    /// Begins a blank log behind `at`, as if everything up to there had been trimmed: for a log that
    /// moves here from another store. Safe to repeat as long as nothing was appended.
    ///
    /// # Errors
    /// [`WriteError::NotBlank`] when anything was appended, committed or begun elsewhere,
    /// [`WriteError::Fenced`], [`WriteError::Unknown`].
    fn begin(
        &self,
        token: &LeaderToken,
        at: Head,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// The log's head.
    ///
    /// # Errors
    /// When the store fails.
    fn head(&self) -> impl Future<Output = Result<Head, Error>> + Send;

    /// At most `max_batches` batches from the one that holds `from` on. Positions 0 and 1 both
    /// mean the log's first entry.
    ///
    /// # Errors
    /// When the store fails or what it holds is damaged.
    fn read(
        &self,
        from: Seq,
        max_batches: usize,
    ) -> impl Future<Output = Result<Read, Error>> + Send;

    /// How much of the log is there. Cheap: the caller may ask every minute.
    ///
    /// # Errors
    /// When the store fails.
    fn extent(&self) -> impl Future<Output = Result<Extent, Error>> + Send;

    /// At most `max_batches` stored values from the position `from` on, as they are: a damaged one
    /// is no error here. For checks that say where the log was changed.
    ///
    /// # Errors
    /// When the store fails.
    fn stored(
        &self,
        from: Seq,
        max_batches: usize,
    ) -> impl Future<Output = Result<Vec<Stored>, Error>> + Send;

    /// Every batch from the one that holds `from` on, first those that are there, then new ones
    /// as they are committed. Ends after [`Follow::Trimmed`], after an error, and when the store
    /// is dropped. While the store's servers are away it waits.
    fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>>;

    /// Stages one part of the next checkpoint. Part 0 begins anew and discards what was staged;
    /// staging an index again replaces it and discards those behind it. Nothing of it shows before [`Store::commit`].
    ///
    /// # Errors
    /// [`WriteError::Fenced`], [`WriteError::TooLarge`], [`WriteError::MissingPart`] for an index
    /// that skips one, [`WriteError::Unknown`].
    fn stage(
        &self,
        token: &LeaderToken,
        part: Part,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Makes the `parts` staged parts, applied on top of the current checkpoint's objects, the
    /// current checkpoint: the fold of the log up to `at`. All or nothing at any size.
    ///
    /// # Errors
    /// [`WriteError::Fenced`], [`WriteError::MissingPart`], [`WriteError::AheadOfLog`],
    /// [`WriteError::BehindCurrent`], [`WriteError::OtherHistory`], [`WriteError::Unknown`].
    fn commit(
        &self,
        token: &LeaderToken,
        at: Head,
        parts: u32,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Puts and deletes folded objects and makes the result the current checkpoint, in as many
    /// parts as the limits ask for. All or nothing. Safe to repeat after any error.
    ///
    /// # Errors
    /// Those of [`Store::stage`] and [`Store::commit`].
    fn checkpoint(
        &self,
        token: &LeaderToken,
        checkpoint: Checkpoint,
    ) -> impl Future<Output = Result<(), WriteError>> + Send {
        let token = *token;
        async move {
            let at = Head {
                seq: checkpoint.seq,
                hash: checkpoint.hash,
            };
            let parts = checkpoint::split(checkpoint, self.limits())?;
            let mut count = 0;
            for part in parts {
                self.stage(&token, part).await?;
                count += 1;
            }
            self.commit(&token, at, count).await
        }
    }

    /// The current checkpoint, or nothing if none was ever committed.
    ///
    /// # Errors
    /// When the store fails or what it holds is damaged.
    fn load_checkpoint(
        &self,
    ) -> impl Future<Output = Result<Option<LoadedCheckpoint>, Error>> + Send;

    /// Drops the log's entries before `before`, in whole batches: one that reaches to `before` or
    /// beyond stays.
    ///
    /// # Errors
    /// [`WriteError::PastCheckpoint`] when the current checkpoint does not cover all of them,
    /// [`WriteError::Fenced`], [`WriteError::Unknown`].
    fn trim(
        &self,
        token: &LeaderToken,
        before: Seq,
    ) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// A folded object's key and value.
pub type Object = (String, Bytes);
