//! The embedded backend: one redb file, one process, under a file lock.
//!
//! [`Redb`] is a cheap handle. The engine itself sits in `engine`, which opens, verifies, locks
//! and re-opens it; `writes`, `folded` and `reads` are what the seam's calls do in its transactions;
//! `disk` is a disk in memory, with faults on demand.
//!
//! A file's calls run on the blocking pool. A memory store's run inline, so that a seeded fabric
//! replays the same. Commits are durable before they return, in two phases: with redb's
//! one-phase commit a page that is damaged after a crash looks like a commit that never finished
//! and is rolled back without a word, and with it entries that were acknowledged.
//!
//! What no file can tell about itself: that an older copy of it was put in its place, and that
//! the one bit was flipped, after a crash, that says which of redb's two commit slots is in
//! force (the commit before the last is then back). A head kept elsewhere tells both.

mod disk;
mod engine;
mod folded;
mod follow;
mod reads;
mod tables;
mod writes;

use std::{path::Path, sync::Arc};

use futures::stream::BoxStream;
use kapok_types::{Epoch, Seq};
use tokio::sync::watch;

pub use disk::{Fault, MemoryDisk};

use self::{
    engine::{Engine, Home},
    writes::Failure as _,
};
use crate::{
    AppendError, Batch, Error, Extent, Follow, Head, Leader, LeaderToken, Leadership, Limits,
    LoadedCheckpoint, Part, Read, Store, Stored, Use, WriteError,
};

/// The store in a redb file, or in memory. Clones are handles on the same store.
#[derive(Debug, Clone)]
pub struct Redb {
    engine: Arc<Engine>,
}

impl Redb {
    /// Opens the store at `path`, or makes it if no file is there. The whole file is verified.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is open elsewhere, [`Error::Newer`] and [`Error::Corrupt`] if it
    /// can't be trusted: it is then left as it is.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let home = Home::File(path.as_ref().to_path_buf());
        let opened = tokio::task::spawn_blocking(move || Engine::open(home));
        let engine = Arc::new(opened.await.map_err(|_| Error::Stopped)??);
        Ok(Self { engine })
    }

    /// A new store in memory, gone with its last handle.
    ///
    /// # Errors
    /// None in practice; the engine's initialisation could fail.
    pub fn in_memory() -> Result<Self, Error> {
        Self::on_disk(&MemoryDisk::new())
    }

    /// The store on a disk in memory, or a new one if it is blank.
    ///
    /// # Errors
    /// As [`Redb::open`].
    pub fn on_disk(disk: &MemoryDisk) -> Result<Self, Error> {
        let engine = Arc::new(Engine::open(Home::Memory(disk.clone()))?);
        Ok(Self { engine })
    }

    /// Runs `call` where the engine may block. An error says that it was not run to its end.
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Error> {
        if self.engine.is_inline() {
            return engine::guarded(|| call(&self.engine));
        }
        let engine = Arc::clone(&self.engine);
        let running = tokio::task::spawn_blocking(move || engine::guarded(|| call(&engine)));
        running.await.unwrap_or(Err(Error::Stopped))
    }

    async fn write(
        &self,
        call: impl FnOnce(&Engine) -> Result<(), WriteError> + Send + 'static,
    ) -> Result<(), WriteError> {
        self.run(call)
            .await
            .unwrap_or_else(|source| Err(WriteError::unknown(source)))
    }
}

impl Store for Redb {
    fn limits(&self) -> Limits {
        Limits::ETCD
    }

    async fn campaign_above(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        let candidate = candidate.to_owned();
        self.run(move |engine| writes::campaign(engine, &candidate, floor, Use::check))
            .await?
    }

    async fn campaign_moving(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        let candidate = candidate.to_owned();
        self.run(move |engine| writes::campaign(engine, &candidate, floor, |_| Ok(())))
            .await?
    }

    fn leaders(&self) -> watch::Receiver<Option<Leader>> {
        self.engine.leaders.subscribe()
    }

    async fn get_use(&self) -> Result<Use, Error> {
        self.run(reads::using).await?
    }

    async fn put_use(&self, token: &LeaderToken, using: Use) -> Result<(), WriteError> {
        let token = *token;
        self.write(move |engine| folded::put_use(engine, token, using))
            .await
    }

    async fn append(
        &self,
        token: &LeaderToken,
        after: Seq,
        batch: &Batch,
    ) -> Result<(), AppendError> {
        let (token, batch) = (*token, batch.clone());
        let landed = self
            .run(move |engine| writes::append(engine, token, after, &batch))
            .await;
        landed.unwrap_or_else(|source| Err(AppendError::unknown(source)))
    }

    async fn begin(&self, token: &LeaderToken, at: Head) -> Result<(), WriteError> {
        let token = *token;
        self.write(move |engine| folded::begin(engine, token, at))
            .await
    }

    async fn head(&self) -> Result<Head, Error> {
        self.run(reads::head).await?
    }

    async fn read(&self, from: Seq, max_batches: usize) -> Result<Read, Error> {
        self.run(move |engine| reads::read(engine, from, max_batches))
            .await?
    }

    async fn extent(&self) -> Result<Extent, Error> {
        self.run(reads::extent).await?
    }

    async fn stored(&self, from: Seq, max_batches: usize) -> Result<Vec<Stored>, Error> {
        self.run(move |engine| reads::stored(engine, from, max_batches))
            .await?
    }

    fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>> {
        follow::follow(&self.engine, from)
    }

    async fn stage(&self, token: &LeaderToken, part: Part) -> Result<(), WriteError> {
        let token = *token;
        self.write(move |engine| folded::stage(engine, token, &part))
            .await
    }

    async fn commit(&self, token: &LeaderToken, at: Head, parts: u32) -> Result<(), WriteError> {
        let token = *token;
        self.write(move |engine| folded::commit(engine, token, at, parts))
            .await?;
        // It is the current one now, whatever becomes of the rest: the next commit goes on with it.
        while let Ok(true) = self.run(folded::settle).await? {}
        Ok(())
    }

    async fn load_checkpoint(&self) -> Result<Option<LoadedCheckpoint>, Error> {
        self.run(reads::load_checkpoint).await?
    }

    async fn trim(&self, token: &LeaderToken, before: Seq) -> Result<(), WriteError> {
        let token = *token;
        self.write(move |engine| folded::trim(engine, token, before))
            .await
    }
}
