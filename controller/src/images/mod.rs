//! Images on their way in, and the blobs behind them.
//!
//! ```text
//!  ImportImage ─▶ Incoming: Inspector (is it what it says?) ─┐
//!                           BlobWriter (store and hash) ─────┴─▶ commit ─▶ RegisterImage
//!                                                                          (the ledger)
//! ```
//!
//! The [`Library`] owns the [`BlobStore`]. Invariants:
//! - Nothing is registered that wasn't checked, hashed and made durable first (FAULTS 16).
//! - A blob that no image names is garbage, and goes at start and when an image is removed; one
//!   that was committed and waits to be registered doesn't.
//! - No program is run on a blob, and nothing that its content names is opened (FAULTS 5–8).

// The seam and what stands behind it.
pub mod blob;
pub mod files;
pub mod memory;

// What a blob must look like.
mod bytes;
pub mod check;
mod magic;
pub mod qcow2;
mod tables;

use std::{collections::BTreeSet, sync::Arc};

use ::bytes::Bytes as Piece;
use kapok_types::{Bytes, Digest, Violation, instance::DiskFormat};
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, RwLock, Semaphore};

pub use blob::BlobStore;
use blob::BlobWriter;
use check::Inspector;
pub use files::Files;
pub use memory::Memory;

/// Imports at a time: each holds a piece of the stream and the beginning of its blob in memory.
const IMPORTS: usize = 4;

/// Why an import ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The content or its description is refused.
    #[error("{0}")]
    Refused(Violation),
    /// Storing it failed.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// Too many others are under way.
    #[error("{IMPORTS} imports are under way already; try again when one has ended")]
    Busy,
}

/// The blobs of a fabric's images.
#[derive(Debug)]
pub struct Library {
    blobs: Arc<dyn BlobStore>,
    max_image: Bytes,
    imports: Arc<Semaphore>,
    /// Read by imports between commit and registration, written by the collector.
    registering: Arc<RwLock<()>>,
}

/// An import under way. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    inspector: Inspector,
    writer: Box<dyn BlobWriter>,
    registering: Arc<RwLock<()>>,
    _permit: OwnedSemaphorePermit,
}

/// A checked and stored blob. While this lives, it isn't garbage.
#[derive(Debug)]
pub struct Stored {
    /// Its content.
    pub digest: Digest,
    /// Size of the disk that it holds.
    pub virtual_size: Bytes,
    _registering: OwnedRwLockReadGuard<()>,
}

impl Library {
    /// The library of these blobs, with the largest image it takes.
    pub fn new(blobs: Arc<dyn BlobStore>, max_image: Bytes) -> Self {
        let imports = Arc::new(Semaphore::new(IMPORTS));
        Self {
            blobs,
            max_image,
            imports,
            registering: Arc::default(),
        }
    }

    /// Where the blobs lie.
    pub fn blobs(&self) -> &Arc<dyn BlobStore> {
        &self.blobs
    }

    /// Begins an import of `size` bytes.
    ///
    /// # Errors
    ///
    /// A bad size, no room, or too many imports at a time.
    pub async fn import(&self, format: DiskFormat, size: Bytes) -> Result<Incoming, Error> {
        let inspector = Inspector::new(format, size, self.max_image).map_err(Error::Refused)?;
        let permit = Arc::clone(&self.imports)
            .try_acquire_owned()
            .map_err(|_| Error::Busy)?;
        let writer = self.blobs.begin(size).await?;
        let registering = Arc::clone(&self.registering);
        Ok(Incoming {
            inspector,
            writer,
            registering,
            _permit: permit,
        })
    }

    /// Removes every blob that isn't among those that `named` gives, asked once nothing waits to
    /// be registered. Gives what was removed.
    ///
    /// # Errors
    ///
    /// The store's; what was removed before stays removed.
    pub async fn collect(
        &self,
        named: impl FnOnce() -> BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, blob::Error> {
        let _alone = self.registering.write().await;
        let (named, mut removed) = (named(), Vec::new());
        for digest in self.blobs.list().await? {
            if !named.contains(&digest) && self.blobs.remove(digest).await? {
                tracing::info!(%digest, "removed a blob that no image names");
                removed.push(digest);
            }
        }
        Ok(removed)
    }
}

impl Incoming {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with them, or with storing them. The import can only be dropped then.
    pub async fn feed(&mut self, piece: Piece) -> Result<(), Error> {
        self.inspector.feed(&piece).map_err(Error::Refused)?;
        Ok(self.writer.write(piece).await?)
    }

    /// Ends the import: stored as what was hashed, under its hash.
    ///
    /// # Errors
    ///
    /// The content ended early or isn't the expected one; the disk failed. Nothing is left then.
    pub async fn finish(self, expected: Option<Digest>) -> Result<Stored, Error> {
        let virtual_size = self.inspector.finish().map_err(Error::Refused)?;
        let registering = Arc::clone(&self.registering).read_owned().await;
        let digest = self.writer.commit(expected).await?;
        Ok(Stored {
            digest,
            virtual_size,
            _registering: registering,
        })
    }
}

#[cfg(test)]
mod tests;
