//! The image cache: brings images onto the node's pool by content, once, whole and checked.
//!
//! ```text
//!  ensure(image) ─▶ known whole? ─yes─▶ done
//!                        │ no
//!                        ├─ on the pool, but not believed: hash it there; damaged ones are removed
//!                        ▼
//!        sources in turn ─▶ spool file (resumes at its length) ─▶ SHA-256 ─▶ pool ─▶ noted as whole
//! ```
//!
//! One pull per digest; whoever asks meanwhile joins it. Pulls run in tasks of the cache's own, so
//! they go on when their callers leave and end with the cache.
//!
//! **Invariants.**
//! - An image counts as cached only after the bytes *that were stored* hashed to its digest, and
//!   the local store says so (FAULTS 16). Whatever else lies on the pool is checked before use.
//! - Nothing is removed that an overlay found on disk names.
//! - A source can't make the node keep more bytes than the controller announced, and no pull takes
//!   the last room of the file system that the local store is on.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kapok_types::{
    Digest, Env,
    instance::{DiskFormat, RootDisk},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::{
    pull::blocking,
    spool::{Free, Spool},
};
use crate::{driver::Storage, local::Local, trust::Trust};

mod error;
mod fetch;
mod peer;
mod pull;
mod spool;
#[cfg(test)]
mod tests;
mod whole;

pub use error::Error;
pub use fetch::{Fetch, FetchError, Pieces, Source};
pub use peer::Peers;

/// Most sources of one pull; the rest are ignored.
pub const MAX_SOURCES: usize = 8;
/// Most pulls at once; more wait.
const MAX_PULLS: usize = 2;

/// An image as the controller announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Its content.
    pub digest: Digest,
    /// Its layout.
    pub format: DiskFormat,
    /// Its size.
    pub bytes: u64,
}

impl From<&RootDisk> for Image {
    fn from(root: &RootDisk) -> Self {
        Self {
            digest: root.image,
            format: root.image_format,
            bytes: root.image_bytes.get(),
        }
    }
}

/// What a cache is set up with.
pub struct Options {
    /// The pool.
    pub storage: Arc<dyn Storage>,
    /// Where whole images are noted.
    pub local: Local,
    /// What peers are dialled with.
    pub trust: Trust,
    /// A folder of its own for files under way; it is made when it is needed.
    pub spool: PathBuf,
    /// The host's boot.
    pub boot: Uuid,
    /// Clock and randomness.
    pub env: Arc<dyn Env>,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes on the node so far.
    pub done: u64,
    /// Bytes in all; 0 while no pull is under way.
    pub total: u64,
}

/// An image in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached {
    /// Which image.
    pub image: Image,
    /// Overlays found on disk that name it.
    pub overlays: usize,
}

/// The cache. Dropping it ends the pulls under way; their spool files stay for the next run.
pub struct ImageCache {
    inner: Arc<Inner>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Inner {
    storage: Arc<dyn Storage>,
    local: Local,
    fetch: Arc<dyn Fetch>,
    env: Arc<dyn Env>,
    boot: Uuid,
    spool: PathBuf,
    /// Held while spool files are tidied or opened.
    spooling: tokio::sync::Mutex<()>,
    free: Free,
    pulls: Mutex<BTreeMap<Digest, Pull>>,
    /// Outlives pulls for as long as somebody watches.
    progress: Mutex<BTreeMap<Digest, watch::Sender<Progress>>>,
    places: Semaphore,
}

struct Pull {
    image: Image,
    ended: watch::Receiver<Option<Result<(), Error>>>,
}

impl std::fmt::Debug for ImageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageCache")
            .field("spool", &self.inner.spool)
            .finish_non_exhaustive()
    }
}

impl ImageCache {
    /// A cache over the pool that pulls from peers. Must be called inside a tokio runtime.
    pub fn new(options: Options) -> Self {
        let peers = Peers::new(options.trust.clone());
        Self::with_fetch(options, Arc::new(peers))
    }

    /// A cache that reads blobs in another way. Must be called inside a tokio runtime.
    pub fn with_fetch(options: Options, fetch: Arc<dyn Fetch>) -> Self {
        Self::assemble(options, fetch, Arc::new(spool::free))
    }

    fn assemble(options: Options, fetch: Arc<dyn Fetch>, free: Free) -> Self {
        let inner = Arc::new(Inner {
            storage: options.storage,
            local: options.local,
            fetch,
            env: options.env,
            boot: options.boot,
            spool: options.spool,
            spooling: tokio::sync::Mutex::default(),
            free,
            pulls: Mutex::default(),
            progress: Mutex::default(),
            places: Semaphore::new(MAX_PULLS),
        });
        let tasks = TaskTracker::new();
        let theirs = Arc::clone(&inner);
        tasks.spawn(async move {
            if let Err(error) = theirs.tidy().await {
                tracing::warn!(%error, "what earlier pulls left can't be tidied");
            }
        });
        Self {
            inner,
            tasks,
            stop: CancellationToken::new(),
        }
    }

    /// Brings a root disk's image in and waits for it: see [`ImageCache::ensure_image`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn ensure(&self, root: &RootDisk, sources: &[Source]) -> Result<(), Error> {
        self.ensure_image(root.into(), sources).await
    }

    /// Brings an image in and waits for it. Cached already is success at once. Whoever asks while
    /// it is being pulled joins, with the first caller's sources.
    ///
    /// Sources come best first; those after the eighth are ignored. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Why it isn't in the cache; [`Error::Conflict`] if the same digest is being pulled with
    /// another format or size.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the wait, not the pull.
    pub async fn ensure_image(&self, image: Image, sources: &[Source]) -> Result<(), Error> {
        let mut ended = self.join(image, sources)?;
        let outcome = ended.wait_for(Option::is_some).await.map(|end| end.clone());
        match outcome {
            Ok(Some(outcome)) => outcome,
            _ => Err(Error::Interrupted),
        }
    }

    /// Joins the pull of this image, after beginning it if there is none.
    fn join(
        &self,
        image: Image,
        sources: &[Source],
    ) -> Result<watch::Receiver<Option<Result<(), Error>>>, Error> {
        let (sender, receiver) = watch::channel(None);
        match lock(&self.inner.pulls).entry(image.digest) {
            Entry::Occupied(entry) if entry.get().image == image => {
                return Ok(entry.get().ended.clone());
            }
            Entry::Occupied(entry) => {
                return Err(Error::Conflict {
                    digest: image.digest,
                    format: entry.get().image.format,
                    bytes: entry.get().image.bytes,
                });
            }
            Entry::Vacant(place) => {
                place.insert(Pull {
                    image,
                    ended: receiver.clone(),
                });
            }
        }
        let sources: Vec<Source> = sources.iter().take(MAX_SOURCES).cloned().collect();
        let (inner, stop) = (Arc::clone(&self.inner), self.stop.clone());
        self.tasks.spawn(async move {
            // Taken out also when the task panics, so that nobody joins a corpse.
            let registered = Registered {
                inner: &inner,
                digest: image.digest,
            };
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => Err(Error::Interrupted),
                outcome = inner.bring(image, &sources) => outcome,
            };
            if let Err(error) = &outcome {
                tracing::warn!(digest = %image.digest, %error, "an image could not be brought in");
            }
            drop(registered);
            sender.send_replace(Some(outcome));
        });
        Ok(receiver)
    }

    /// The progress of this image's pull, present or to come.
    pub fn progress(&self, digest: Digest) -> watch::Receiver<Progress> {
        let mut all = lock(&self.inner.progress);
        all.retain(|_, progress| progress.receiver_count() > 0);
        all.entry(digest).or_default().subscribe()
    }

    /// What is in the cache: whole images only.
    ///
    /// # Errors
    ///
    /// Those of the pool.
    pub async fn list(&self) -> Result<Vec<Cached>, Error> {
        let found = self.inner.storage.images().await?;
        let disks = self.inner.storage.disks().await?;
        let known = |digest, format| {
            self.inner
                .local
                .image(digest)
                .filter(|known| known.format == format)
        };
        Ok(found
            .into_iter()
            .filter_map(|image| {
                let known = known(image.digest, image.format)?;
                Some(Cached {
                    image: Image {
                        digest: image.digest,
                        format: image.format,
                        bytes: known.bytes,
                    },
                    overlays: disks
                        .iter()
                        .filter(|disk| disk.image == Some(image.digest))
                        .count(),
                })
            })
            .collect())
    }

    /// Takes an image off the pool. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] while an overlay found on disk names it, [`Error::Conflict`] while it is
    /// being pulled, or those of the pool.
    pub async fn remove(&self, digest: Digest) -> Result<(), Error> {
        if let Some(pull) = lock(&self.inner.pulls).get(&digest) {
            return Err(Error::Conflict {
                digest,
                format: pull.image.format,
                bytes: pull.image.bytes,
            });
        }
        let Inner { storage, local, .. } = self.inner.as_ref();
        let disks = storage.disks().await?;
        let overlays = disks
            .iter()
            .filter(|disk| disk.image == Some(digest))
            .count();
        if overlays > 0 {
            return Err(Error::InUse { overlays });
        }
        let known = local.image(digest);
        local.drop_image(digest).await?;
        match storage.remove_image(digest).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // An overlay came in between: the image is as whole as it was.
                if let (crate::driver::Error::InUse { .. }, Some(known)) = (&error, known) {
                    local.set_image(digest, known).await?;
                }
                Err(error.into())
            }
        }
    }
}

impl Drop for ImageCache {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Inner {
    /// Removes what broken-off pulls have left beyond what is kept.
    async fn tidy(&self) -> Result<(), Error> {
        let _one = self.spooling.lock().await;
        let (folder, used) = (self.spool.clone(), self.pulled());
        blocking(move || spool::tidy(&folder, &used, spool::KEPT)).await
    }

    /// Opens an image's spool file with room for the whole.
    async fn open_spool(&self, image: Image) -> Result<Spool, Error> {
        let _one = self.spooling.lock().await;
        let (folder, used, free) = (self.spool.clone(), self.pulled(), Arc::clone(&self.free));
        blocking(move || {
            spool::tidy(&folder, &used, spool::KEPT)?;
            let spool = Spool::open(&folder, image.digest, image.bytes, &free)?;
            spool.make_room(&folder, &used)?;
            Ok(spool)
        })
        .await
    }

    /// What is being pulled. Whoever is among these has yet to open its file, or has it open.
    fn pulled(&self) -> Vec<Digest> {
        lock(&self.pulls).keys().copied().collect()
    }

    /// Tells who watches.
    fn show(&self, digest: Digest, done: u64, total: u64) {
        let now = Progress { done, total };
        if let Some(progress) = lock(&self.progress).get(&digest) {
            progress.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
    }
}

/// A pull's place in the table.
struct Registered<'a> {
    inner: &'a Inner,
    digest: Digest,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        lock(&self.inner.pulls).remove(&self.digest);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
