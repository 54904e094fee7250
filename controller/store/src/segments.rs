//! Where sealed segments live: a directory now, object storage later.
//!
//! A home keeps whole files by their [`Span`]. It knows no retention and never looks inside.

mod directory;
mod memory;

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use directory::Directory;
pub use memory::MemorySegments;

use crate::segment::Span;

/// A home for sealed segments.
///
/// # Cancel safety
/// A dropped call may or may not have had its effect; every call may be made again.
pub trait Segments: fmt::Debug + Send + Sync + 'static {
    /// Keeps a file's content under its span, in place of what was there. When it returns `Ok`
    /// the file is durable and its bytes were read back; before, none of it shows.
    fn put(&self, span: Span, content: Bytes) -> BoxFuture<'_, Result<(), Error>>;

    /// A file's content, or nothing if there is no such file.
    fn get(&self, span: Span) -> BoxFuture<'_, Result<Option<Bytes>, Error>>;

    /// What is there, in order.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Span>, Error>>;

    /// Removes a file, durably. One that isn't there is no error.
    fn remove(&self, span: Span) -> BoxFuture<'_, Result<(), Error>>;
}

/// A home that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("{doing} in {place} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where.
        place: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// What was read back is not what was written.
    #[error("segment {span} was written, and reads back as something else; is the disk failing?")]
    ReadBack {
        /// Which.
        span: Span,
    },
}
