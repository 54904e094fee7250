//! Why an image isn't in the cache.

use kapok_types::{Digest, instance::DiskFormat};

use crate::{driver, local};

/// Why an image could not be brought in or removed. Cheap to clone: all who joined a pull get it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes aren't those that the digest stands for; they were thrown away.
    #[error("{place} hashes to {found}, not to {expected}; it was thrown away")]
    Mismatch {
        /// What was hashed.
        place: &'static str,
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// A source sent more than was announced.
    #[error("{from} sent more than the {announced} bytes that were announced")]
    TooLong {
        /// Which source.
        from: String,
        /// Bytes announced.
        announced: u64,
    },
    /// No source gave the rest.
    #[error("no source gave {digest} beyond {done_bytes} bytes; the last said: {last}")]
    NoSource {
        /// Which image.
        digest: Digest,
        /// Bytes that are kept for the next attempt.
        done_bytes: u64,
        /// What the last source answered.
        last: String,
    },
    /// The announced size can't be right.
    #[error("an image of {bytes} bytes is refused; at most {limit} are allowed")]
    TooLarge {
        /// Bytes announced.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The same digest is being pulled as something else, or at all.
    #[error("{digest} is being pulled, as {bytes} bytes of {}", format.as_str())]
    Conflict {
        /// Which image.
        digest: Digest,
        /// The format of the pull under way.
        format: DiskFormat,
        /// The size of the pull under way.
        bytes: u64,
    },
    /// The file under way can't be written.
    #[error("the spool file can't be used: {reason}")]
    Spool {
        /// What the system said.
        reason: String,
    },
    /// There is no room for the file under way, or only what must stay free.
    #[error("there is no room for the spool file: {reason}")]
    NoRoom {
        /// What is free, and what is wanted.
        reason: String,
    },
    /// Overlays found on disk name it.
    #[error("the image is used by {overlays} overlays")]
    InUse {
        /// How many.
        overlays: usize,
    },
    /// The pool failed.
    #[error("the pool: {0}")]
    Pool(driver::Error),
    /// The local store failed.
    #[error("{reason}")]
    Local {
        /// What it said.
        reason: String,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Interrupted,
}

impl From<driver::Error> for Error {
    fn from(error: driver::Error) -> Self {
        match error {
            driver::Error::InUse { overlays } => Self::InUse { overlays },
            other => Self::Pool(other),
        }
    }
}

impl From<local::Error> for Error {
    fn from(error: local::Error) -> Self {
        Self::Local {
            reason: error.to_string(),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let reason = error.to_string();
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::NoRoom { reason }
            }
            _ => Self::Spool { reason },
        }
    }
}
