//! The seam to where blobs come from.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use kapok_types::Digest;

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
    async fn read(&self, source: &str, digest: Digest, offset: u64) -> Result<Pieces, FetchError>;
}
