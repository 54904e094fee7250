//! The seam behind which blobs lie: content by its hash, written once, never changed.
//!
//! A store knows no names, formats or images. What it holds under a digest was hashed while it
//! was written, byte by byte, so what is stored is what was hashed (FAULTS 16).

use std::{fmt, io, pin::Pin};

use bytes::Bytes as Piece;
use kapok_types::{Bytes, Digest};
use tokio::io::AsyncRead;

/// A blob being read.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// Where blobs lie.
#[async_trait::async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// Begins a blob of exactly `size` bytes. Nothing of it shows before it is committed; a
    /// writer that is dropped leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when the size doesn't fit, [`Error::Io`].
    async fn begin(&self, size: Bytes) -> Result<Box<dyn BlobWriter>, Error>;

    /// The bytes of a blob from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`], [`Error::Behind`], [`Error::Io`].
    async fn open(&self, digest: Digest, offset: u64) -> Result<Reader, Error>;

    /// Removes a blob; says whether it was there. Whoever reads it reads on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    async fn remove(&self, digest: Digest) -> Result<bool, Error>;

    /// Every committed blob, in the order of their digests.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    async fn list(&self) -> Result<Vec<Digest>, Error>;
}

/// A blob being written.
#[async_trait::async_trait]
pub trait BlobWriter: fmt::Debug + Send {
    /// Appends and hashes the next bytes.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a writer whose write was dropped can only be dropped too.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] above the announced size, [`Error::Full`], [`Error::Io`].
    async fn write(&mut self, piece: Piece) -> Result<(), Error>;

    /// Makes the blob durable and visible under its digest, all at once.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] below the announced size, [`Error::Mismatch`] with `expected`,
    /// [`Error::Full`], [`Error::Io`]. Nothing is left behind then.
    async fn commit(self: Box<Self>, expected: Option<Digest>) -> Result<Digest, Error>;
}

/// Why a blob can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such blob.
    #[error("no blob {digest} is stored")]
    Absent {
        /// Which.
        digest: Digest,
    },
    /// The offset lies behind the blob's end.
    #[error("offset {offset} lies behind the blob's end at {size}")]
    Behind {
        /// Asked for.
        offset: u64,
        /// The blob's size in bytes.
        size: u64,
    },
    /// More or fewer bytes than announced.
    #[error("{announced} bytes were announced, but {found} came")]
    Size {
        /// Announced.
        announced: u64,
        /// Written, or that would have been.
        found: u64,
    },
    /// The content isn't what was expected.
    #[error("the content is {found}, but {expected} was expected")]
    Mismatch {
        /// Expected.
        expected: Digest,
        /// What was hashed.
        found: Digest,
    },
    /// There is no room.
    #[error(
        "no room for a blob of {size}: {free} are free, and {reserve} of them are kept for the log"
    )]
    Full {
        /// What was to be written.
        size: Bytes,
        /// What the disk has left beside what other blobs under way will take.
        free: Bytes,
        /// What is never given to blobs.
        reserve: Bytes,
    },
    /// The disk, or what stands for it, failed.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's word.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Counts and hashes the bytes of a blob that is being written; shared by the stores.
#[derive(Debug)]
pub(super) struct Tally {
    announced: u64,
    written: u64,
    hasher: sha2::Sha256,
}

impl Tally {
    pub(super) fn new(announced: Bytes) -> Self {
        Self {
            announced: announced.get(),
            written: 0,
            hasher: sha2::Digest::new(),
        }
    }

    /// Takes a piece in before it is written.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Error> {
        let found = self
            .written
            .saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if found > self.announced {
            return Err(Error::Size {
                announced: self.announced,
                found,
            });
        }
        sha2::Digest::update(&mut self.hasher, piece);
        self.written = found;
        Ok(())
    }

    /// The digest of all that was taken in, if it is all of it and what was expected.
    pub(super) fn finish(&mut self, expected: Option<Digest>) -> Result<Digest, Error> {
        if self.written != self.announced {
            return Err(Error::Size {
                announced: self.announced,
                found: self.written,
            });
        }
        let found = Digest(sha2::Digest::finalize_reset(&mut self.hasher).into());
        match expected {
            Some(expected) if expected != found => Err(Error::Mismatch { expected, found }),
            _ => Ok(found),
        }
    }
}
