//! Blobs in memory, for simulated fabrics and tests.

use std::{
    collections::BTreeMap,
    io::Cursor,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes as Piece, BytesMut};
use kapok_types::{Bytes, Digest, quantity::GIB};

use super::blob::{BlobStore, BlobWriter, Error, Reader, Tally};

/// The largest blob that is kept in memory.
const LIMIT: Bytes = Bytes(GIB);

type Blobs = BTreeMap<Digest, Piece>;

/// Blobs that are gone with the last handle.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    blobs: Arc<Mutex<Blobs>>,
}

impl Memory {
    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl BlobStore for Memory {
    async fn begin(&self, size: Bytes) -> Result<Box<dyn BlobWriter>, Error> {
        if size > LIMIT {
            return Err(Error::Full {
                size,
                free: LIMIT,
                reserve: Bytes::ZERO,
            });
        }
        let (store, tally) = (self.clone(), Tally::new(size));
        Ok(Box::new(Writer {
            store,
            tally,
            bytes: BytesMut::new(),
        }))
    }

    async fn open(&self, digest: Digest, offset: u64) -> Result<Reader, Error> {
        let blob = self
            .blobs()
            .get(&digest)
            .cloned()
            .ok_or(Error::Absent { digest })?;
        let size = u64::try_from(blob.len()).unwrap_or(u64::MAX);
        if offset > size {
            return Err(Error::Behind { offset, size });
        }
        let rest = blob.slice(usize::try_from(offset).unwrap_or(blob.len())..);
        Ok(Box::pin(Cursor::new(rest)))
    }

    async fn remove(&self, digest: Digest) -> Result<bool, Error> {
        Ok(self.blobs().remove(&digest).is_some())
    }

    async fn list(&self) -> Result<Vec<Digest>, Error> {
        Ok(self.blobs().keys().copied().collect())
    }
}

#[derive(Debug)]
struct Writer {
    store: Memory,
    tally: Tally,
    bytes: BytesMut,
}

#[async_trait::async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, piece: Piece) -> Result<(), Error> {
        self.tally.take(&piece)?;
        self.bytes.extend_from_slice(&piece);
        Ok(())
    }

    async fn commit(mut self: Box<Self>, expected: Option<Digest>) -> Result<Digest, Error> {
        let digest = self.tally.finish(expected)?;
        self.store.blobs().insert(digest, self.bytes.freeze());
        Ok(digest)
    }
}
