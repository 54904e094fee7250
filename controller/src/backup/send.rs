//! The record out of a store that is in use: what a backup begins with.

use std::io;

use kapok_store::{Archive, Batch, Read, Store};
use kapok_types::{Epoch, Name, Seq, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::format::{self, About, Frame};
use crate::log;

/// Batches that are read at a time.
const READ_BATCHES: usize = 64;

/// Who sends.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The fabric's name.
    pub fabric: Name,
    /// The time.
    pub now: Timestamp,
    /// The epoch that leads.
    pub epoch: Epoch,
}

/// Why it can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("the record can't be read")]
    Store(#[from] kapok_store::Error),
    /// A segment's home failed.
    #[error("a segment can't be read")]
    Segments(#[from] kapok_store::segments::Error),
    /// It went on faster than it was read.
    #[error("the record went on while it was read; try again")]
    MovedOn,
    /// Nobody reads.
    #[error("the backup can't be sent")]
    Io(#[from] io::Error),
}

/// Sends the record as of now, as a backup without keys. What is written meanwhile isn't in it.
///
/// # Errors
/// [`Error`]. Nothing was changed.
pub async fn send<S: Store>(
    archive: &Archive<S>,
    sender: &Sender,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Error> {
    let store = archive.store();
    let checkpoint = store.load_checkpoint().await?;
    let extent = store.extent().await?;
    let (at, hash) = checkpoint
        .as_ref()
        .map(|checkpoint| (checkpoint.seq, checkpoint.hash))
        .unwrap_or_default();
    let mut out = Out {
        to,
        hash: Sha256::new(),
    };
    out.bytes(&format::start()).await?;
    let about = About {
        fabric: sender.fabric.clone(),
        taken_at: sender.now,
        epoch: sender.epoch,
        first: extent.first,
        head: extent.head.seq,
        head_hash: extent.head.hash,
        checkpoint: at,
        checkpoint_hash: hash,
        entries: log::VERSION,
        written_by: env!("CARGO_PKG_VERSION").to_owned(),
    };
    out.put(&Frame::About(Box::new(about))).await?;
    for (key, value) in checkpoint.into_iter().flat_map(|one| one.objects) {
        out.put(&Frame::Object(key, value)).await?;
    }
    let mut next = extent.first;
    while next <= extent.head.seq {
        let Read::Batches(batches) = store.read(next, READ_BATCHES).await? else {
            return Err(Error::MovedOn);
        };
        if batches.is_empty() {
            return Err(Error::MovedOn);
        }
        // The head is the end of a batch: what is written later is in later ones.
        for batch in batches
            .iter()
            .filter(|one| one.head().seq <= extent.head.seq)
        {
            out.put(&Frame::Batch(batch.encode())).await?;
        }
        next = batches.last().map_or(next, after);
    }
    for span in archive.segments().list().await? {
        // What was sealed and isn't trimmed yet has gone out already.
        if span.first >= extent.first {
            break;
        }
        // Past its retention since it was listed: the oldest go first.
        if let Some(content) = archive.segments().get(span).await? {
            out.put(&Frame::Segment(span, content)).await?;
        }
    }
    let digest = out.hash.clone().finalize().into();
    out.put(&Frame::End(digest)).await?;
    out.to.flush().await?;
    Ok(())
}

fn after(batch: &Batch) -> Seq {
    batch.head().seq.next()
}

struct Out<'a, W> {
    to: &'a mut W,
    hash: Sha256,
}

impl<W: AsyncWrite + Unpin> Out<'_, W> {
    async fn put(&mut self, frame: &Frame) -> io::Result<()> {
        self.bytes(&frame.encode()).await
    }

    async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes).await
    }
}
