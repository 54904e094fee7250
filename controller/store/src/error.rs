//! How the store fails and refuses. No message repeats its source.

use std::path::PathBuf;

use kapok_types::{Epoch, Seq};

use crate::{log::Broken, segment::Span, segments};

/// An error below the seam, boxed because each backend has its own.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure of the store itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another handle of this one, has the store open.
    #[error("the store {} is in use by another process; stop that one first", path.display())]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// The store was written by a newer version of Kapok.
    #[error(
        "the store has format {found} and this version knows up to {known}; run the version that wrote it"
    )]
    Newer {
        /// The format in the store.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// The store is damaged. Nothing was repaired or recreated; restore it from a backup.
    #[error("the store is damaged ({what}); it was left as it is, restore it from a backup")]
    Corrupt {
        /// What was found to be wrong.
        what: String,
    },
    /// The disk is full. The store works again once there is room.
    #[error("{doing}: no space is left for the store; free some, it continues by itself")]
    Full {
        /// What was being done.
        doing: &'static str,
        /// The system's word.
        source: Source,
    },
    /// The database that holds the store has reached its quota and takes no more writes; nothing of
    /// this one landed. Reads work on.
    #[error(
        "{doing}: etcd's database has reached its quota and takes no writes; compact and defragment \
         it or raise --quota-backend-bytes, then run `etcdctl alarm disarm`"
    )]
    Quota {
        /// What was being done.
        doing: &'static str,
        /// etcd's word.
        source: Source,
    },
    /// No answer in time from the servers that hold the store, or none of them can decide: most of
    /// them are away. The store works again once they are back.
    #[error("{doing}: the store's servers can't be reached or most of them are away")]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// The last answer, or what came instead of one.
        source: Source,
    },
    /// The store's servers and this process don't trust each other's certificates.
    #[error(
        "the store's servers show a certificate of another authority than the one configured, or \
         don't take this client's; check the CA, the certificate and its key"
    )]
    Untrusted {
        /// What TLS said.
        source: Source,
    },
    /// The store's servers refuse what was asked, and will again: its user has no rights there, or isn't
    /// known. Nothing landed.
    #[error("{doing}: etcd refuses; check the user, its password and its rights on the prefix")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// etcd's word.
        source: Source,
    },
    /// A log moves into the store and isn't there whole: nobody leads it before.
    #[error(
        "a move into this store isn't complete; run `store migrate` again, it goes on from there"
    )]
    Moving,
    /// The store's log goes on in another one: nobody leads it here any more.
    #[error(
        "this log was moved to another store; set store.backend to that one, or move it back with \
         `store migrate`"
    )]
    Moved,
    /// Options that no store can be opened with.
    #[error("the store can't be opened so: {what}")]
    Options {
        /// What is wrong with them.
        what: String,
    },
    /// Reading or writing failed below the store. Later calls open it afresh and may succeed.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The engine's or the system's word.
        source: Source,
    },
    /// A sealed segment is damaged. Nothing was repaired.
    #[error("segment {span} is damaged ({reason}); it was left as it is, restore it from a backup")]
    Segment {
        /// Which.
        span: Span,
        /// What was found to be wrong.
        reason: String,
    },
    /// The home of sealed segments failed.
    #[error(transparent)]
    Segments(#[from] segments::Error),
    /// The runtime is shutting down, so the call was not carried out to its end.
    #[error("the store is shutting down")]
    Stopped,
}

impl Error {
    /// Whether the log is, or is to be, in another place than here: nobody leads before somebody
    /// moves it or names that place.
    pub const fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Moving | Self::Moved)
    }
}

/// Why an append did not, or may not, become part of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log's head is not where the caller believes it to be; nothing was written.
    #[error("the log's head is at {head}, not at the position to append after")]
    Conflict {
        /// Where the head is.
        head: Seq,
    },
    /// A newer leadership exists; nothing was written, and nothing of this one will be again.
    #[error("this leadership is over: epoch {current} is in force")]
    Fenced {
        /// The epoch in force.
        current: Epoch,
    },
    /// It may or may not have landed. Drop what memory believes and reload: the head tells.
    #[error("whether the append landed is unknown")]
    Unknown {
        /// What went wrong on the way.
        source: Error,
    },
    /// The batch is larger than one transaction of the store can carry; nothing was written.
    #[error("a batch of {size_bytes} bytes is over the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Size of the batch as encoded.
        size_bytes: u64,
        /// The most that is taken: [`crate::Limits::payload_bytes`].
        limit_bytes: u64,
    },
    /// The batch has no entries; nothing was written.
    #[error("an append needs at least one entry")]
    Empty,
    /// The batch does not continue the log's hash chain; nothing was written.
    #[error("the batch does not continue the log")]
    Broken(#[source] Broken),
    /// The store failed before anything was written.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Why a part of a checkpoint, its commit, or a trim was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A newer leadership exists; nothing was written, and nothing of this one will be again.
    #[error("this leadership is over: epoch {current} is in force")]
    Fenced {
        /// The epoch in force.
        current: Epoch,
    },
    /// It may or may not have landed. Every one of these calls may safely be made again.
    #[error("whether the write landed is unknown")]
    Unknown {
        /// What went wrong on the way.
        source: Error,
    },
    /// A part, or the one object named, is larger than a transaction of the store can carry.
    #[error("{what} is over the limit: {size} of at most {limit}")]
    TooLarge {
        /// What is too large, with its unit.
        what: String,
        /// How large it is.
        size: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// The commit names a position that the log has not reached.
    #[error("a checkpoint at {seq} is ahead of the log's head at {head}")]
    AheadOfLog {
        /// The position named.
        seq: Seq,
        /// Where the head is.
        head: Seq,
    },
    /// The commit names a position before the current checkpoint's.
    #[error("a checkpoint at {seq} is behind the current one at {current}")]
    BehindCurrent {
        /// The position named.
        seq: Seq,
        /// The current checkpoint's position.
        current: Seq,
    },
    /// The commit's hash is not that of the log's entry at this position.
    #[error("the checkpoint's hash is not that of the log's entry {seq}")]
    OtherHistory {
        /// The position named.
        seq: Seq,
    },
    /// The parts that this leadership staged are not the ones that the call needs.
    #[error("{staged} parts of a checkpoint are staged, and the call needs {needed}")]
    MissingPart {
        /// How many this leadership has staged.
        staged: u32,
        /// How many must be.
        needed: u32,
    },
    /// The log was to be begun anew, and something is there.
    #[error("the store is not blank: its log reaches to {head}, its checkpoint to {checkpoint}")]
    NotBlank {
        /// Where the head is.
        head: Seq,
        /// The current checkpoint's position; 0 when there is none.
        checkpoint: Seq,
    },
    /// The trim would drop entries that no committed checkpoint covers.
    #[error("trimming before {before} would drop entries after the checkpoint at {checkpoint}")]
    PastCheckpoint {
        /// The position named.
        before: Seq,
        /// The current checkpoint's position; 0 when there is none.
        checkpoint: Seq,
    },
    /// The store failed before anything was written.
    #[error(transparent)]
    Store(#[from] Error),
}
