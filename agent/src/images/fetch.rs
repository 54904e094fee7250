//! The seam to where blobs come from.

use std::{fmt, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use kapok_types::{Digest, NodeId};

/// Where a blob can be read, and the right to ask for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// "HOST:PORT".
    pub address: String,
    /// The node that serves there; none for a controller.
    pub node: Option<NodeId>,
    /// A controller's seal, shown to whoever serves.
    pub ticket: Bytes,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// Pieces of a blob in order.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, FetchError>> + Send>>;

/// Why a source didn't give a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The source doesn't have it.
    #[error("it doesn't have the blob")]
    Absent,
    /// The blob ends before the offset asked for.
    #[error("its blob ends before the offset")]
    OutOfRange,
    /// The source is no legal address.
    #[error("{reason}")]
    Illegal {
        /// What is wrong and what would be right.
        reason: String,
    },
    /// It can't be reached, broke off, or is too slow.
    #[error("{reason}")]
    Broken {
        /// What happened.
        reason: String,
    },
}

/// Reads blobs from a source.
#[async_trait]
pub trait Fetch: Send + Sync + 'static {
    /// The blob's bytes from `offset` on. A stream that ends early ends without an error.
    ///
    /// # Errors
    ///
    /// Why there are none; errors in the stream end it.
    async fn read(
        &self,
        source: &Source,
        digest: Digest,
        offset: u64,
    ) -> Result<Pieces, FetchError>;
}
