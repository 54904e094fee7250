//! The small local store: what libvirt can't keep for the agent.
//!
//! It holds the highest epoch, tombstones, whether the controller's full intent was taken once,
//! which images are known complete, the probe's result, the node's id, and heads of the fabric's log. A mirror in memory
//! answers reads; a write returns only when it is durable, and only then the mirror shows it.
//!
//! Who changes it: the change path of [`dispatch`](crate::dispatch) (epoch, tombstones, resync),
//! the image cache (images), the probe, and the service that takes heads. One write at a time.
//!
//! Invariant: a damaged or newer store is an error, never an empty store (FAULTS 54). A missing
//! one is fresh, and a fresh one needs a resync before it takes a create.

mod file;
mod heads;
mod identity;
mod memory;
mod state;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use kapok_types::{Digest, Env, Epoch, IncarnationId, NodeId};
use prometheus_client::metrics::histogram::Histogram;

use crate::driver::statistics::call_histogram;

pub use file::FILE;
pub use heads::MAX_HEADS;
pub use memory::Memory;
pub use state::{KnownImage, Tombstone};

use state::{Change, State};

/// Why the local store can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Its content can't be trusted. Start with `--reset-local-store` to move it aside.
    #[error(
        "the local store {} is damaged ({reason}); `kapok-agent --reset-local-store` moves it \
         aside and asks the controller for its intent again",
        file.display()
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer agent wrote it.
    #[error(
        "the local store {} has form {found}, this agent knows {known}: install the newer agent \
         again", file.display()
    )]
    Newer {
        /// Which file.
        file: PathBuf,
        /// The form found.
        found: u32,
        /// The newest form that this version knows.
        known: u32,
    },
    /// Another agent has it open.
    #[error("the local store {} is open in another process", file.display())]
    InUse {
        /// Which file.
        file: PathBuf,
    },
    /// The file system refused. A failed write isn't known to be undone: the store is read again
    /// before the next one.
    #[error("the local store {} can't be used: {reason}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl Error {
    /// Whether a person has to decide (exit code 78), rather than wait for a better time.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Newer { .. })
    }
}

/// Where the state is kept between runs.
trait Keep: Send + Sync + 'static {
    /// Makes changes durable. After a failure the next call first reads what really is there and
    /// gives it back, with the changes applied.
    fn save(&self, changes: &[Change]) -> Result<Option<State>, Error>;

    /// Whether [`Keep::save`] waits for a disk.
    fn blocks(&self) -> bool;
}

/// A handle to the store; cheap to clone.
#[derive(Clone)]
pub struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    env: Arc<dyn Env>,
    keep: Arc<dyn Keep>,
    mirror: Mutex<State>,
    writer: Arc<tokio::sync::Mutex<()>>,
    load: Arc<Load>,
}

/// How writes fare. It counts with the write itself: one whose caller went away while the disk
/// hangs is still a write that hangs.
struct Load {
    waiting: AtomicU32,
    writing_since_ms: AtomicU64,
    /// How long writes took.
    took: Histogram,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            waiting: AtomicU32::default(),
            writing_since_ms: AtomicU64::default(),
            took: call_histogram(),
        }
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local")
            .field("node", &self.inner.node)
            .finish_non_exhaustive()
    }
}

impl Local {
    /// Opens the store of `dir`, making a fresh one if there is none. Blocks; call it at start.
    ///
    /// # Errors
    ///
    /// A damaged or newer store, one in use, or what the file system said.
    pub fn open(dir: &Path, env: Arc<dyn Env>) -> Result<Self, Error> {
        let (keep, mut state) = file::File::open(dir)?;
        let node = identity::node_id(dir, state.node, &env)?;
        if state.node != Some(node) {
            keep.save(&[Change::Node(node)])?;
            state.apply(&Change::Node(node));
        }
        Ok(Self::new(node, env, Arc::new(keep), state))
    }

    /// The id of the node whose state directory `dir` is, made if there is none. Works beside an
    /// agent that has the store open. Blocks.
    ///
    /// # Errors
    ///
    /// As [`Local::open`].
    pub fn identify(dir: &Path, env: Arc<dyn Env>) -> Result<NodeId, Error> {
        match identity::written(dir)? {
            Some(node) => Ok(node),
            None => Ok(Self::open(dir, env)?.node_id()),
        }
    }

    /// Moves a store that can't be used aside and says where to; the next [`Local::open`] is fresh.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn reset(dir: &Path, env: &dyn Env) -> Result<PathBuf, Error> {
        file::move_aside(dir, env.now())
    }

    /// A store in memory, for simulated nodes: what `memory` holds survives the agent.
    pub fn in_memory(memory: &Memory, env: Arc<dyn Env>) -> Self {
        Self::new(memory.node(), env, Arc::new(memory.clone()), memory.state())
    }

    fn new(node: NodeId, env: Arc<dyn Env>, keep: Arc<dyn Keep>, state: State) -> Self {
        Self {
            inner: Arc::new(Inner {
                node,
                env,
                keep,
                mirror: Mutex::new(state),
                writer: Arc::default(),
                load: Arc::default(),
            }),
        }
    }

    /// This node's identity, made once.
    pub fn node_id(&self) -> NodeId {
        self.inner.node
    }

    /// The highest epoch that is durable; zero when none was seen.
    pub fn epoch(&self) -> Epoch {
        self.read(|state| state.epoch)
    }

    /// Whether creates must wait for the controller's full intent.
    pub fn needs_resync(&self) -> bool {
        self.read(|state| !state.resynced)
    }

    /// The tombstone of an incarnation.
    pub fn tombstone(&self, incarnation: IncarnationId) -> Option<Tombstone> {
        self.read(|state| state.tombstones.get(&incarnation).copied())
    }

    /// All tombstones, by incarnation.
    pub fn tombstones(&self) -> Vec<Tombstone> {
        self.read(|state| state.tombstones.values().copied().collect())
    }

    /// What is known of an image that was checked whole on this node.
    pub fn image(&self, digest: Digest) -> Option<KnownImage> {
        self.read(|state| state.images.get(&digest).copied())
    }

    /// All images that were checked whole on this node.
    pub fn images(&self) -> Vec<(Digest, KnownImage)> {
        self.read(|state| state.images.iter().map(|(d, i)| (*d, *i)).collect())
    }

    /// The probe's cached result, in the probe's own form.
    pub fn probe(&self) -> Option<String> {
        self.read(|state| state.probe.clone())
    }

    /// Stores a higher epoch; an equal or lower one changes nothing.
    ///
    /// # Errors
    ///
    /// The write failed: the epoch isn't known to be stored, so nothing may be done in its name.
    pub async fn raise_epoch(&self, epoch: Epoch) -> Result<(), Error> {
        self.write(|state| (epoch > state.epoch).then_some(Change::Epoch(epoch)))
            .await
    }

    /// Notes that the controller's full intent was taken.
    ///
    /// # Errors
    ///
    /// The write failed.
    pub async fn set_resynced(&self) -> Result<(), Error> {
        self.write(|state| (!state.resynced).then_some(Change::Resynced))
            .await
    }

    /// Stores a tombstone. One that is there already stays.
    ///
    /// # Errors
    ///
    /// The write failed: nothing may be removed yet.
    pub async fn bury(&self, tombstone: Tombstone) -> Result<(), Error> {
        self.write(|state| {
            (!state.tombstones.contains_key(&tombstone.incarnation))
                .then_some(Change::Bury(tombstone))
        })
        .await
    }

    /// Forgets tombstones, because the controller has recorded the ends.
    ///
    /// # Errors
    ///
    /// The write failed.
    pub async fn forget(&self, incarnations: &[IncarnationId]) -> Result<(), Error> {
        self.write(|state| {
            incarnations
                .iter()
                .filter(|id| state.tombstones.contains_key(id))
                .map(|id| Change::Forget(*id))
                .collect::<Vec<_>>()
        })
        .await
    }

    /// Notes that an image on the pool was checked whole.
    ///
    /// # Errors
    ///
    /// The write failed.
    pub async fn set_image(&self, digest: Digest, image: KnownImage) -> Result<(), Error> {
        self.write(|_| Some(Change::Image(digest, image))).await
    }

    /// Notes that an image isn't known to be whole any more. Call it before removing the image.
    ///
    /// # Errors
    ///
    /// The write failed.
    pub async fn drop_image(&self, digest: Digest) -> Result<(), Error> {
        self.write(|state| {
            state
                .images
                .contains_key(&digest)
                .then_some(Change::DropImage(digest))
        })
        .await
    }

    /// Keeps the probe's result.
    ///
    /// # Errors
    ///
    /// The write failed.
    pub async fn set_probe(&self, result: String) -> Result<(), Error> {
        self.write(|_| Some(Change::Probe(result))).await
    }

    /// Writes waiting or under way, and for how long the present one has been.
    pub fn load(&self) -> (u32, Duration) {
        let load = &self.inner.load;
        let depth = load.waiting.load(Ordering::SeqCst);
        let since = load.writing_since_ms.load(Ordering::SeqCst);
        let now = millis(self.inner.env.monotonic());
        let stuck = if depth == 0 || since == 0 {
            0
        } else {
            now.saturating_sub(since)
        };
        (depth, Duration::from_millis(stuck))
    }

    /// How long writes took, those that failed as well.
    pub(crate) fn write_times(&self) -> Histogram {
        self.inner.load.took.clone()
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(
            &self
                .inner
                .mirror
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Decides on changes under the writer's lock, makes them durable, then shows them.
    ///
    /// A write that has begun runs to its end, holding the lock, also when its caller goes away:
    /// the next decision sees what it did.
    async fn write<C>(&self, decide: impl FnOnce(&State) -> C) -> Result<(), Error>
    where
        C: IntoIterator<Item = Change>,
    {
        let inner = &self.inner;
        let count = Count::new(&inner.load);
        let writer = Arc::clone(&inner.writer).lock_owned().await;
        let changes: Vec<Change> = self.read(decide).into_iter().collect();
        if changes.is_empty() {
            return Ok(());
        }
        let since = millis(inner.env.monotonic()).max(1);
        if inner.keep.blocks() {
            let (keep, this) = (Arc::clone(&inner.keep), self.clone());
            let save = move || {
                let _writer = writer;
                let _writing = Writing::new(count, since);
                this.save(keep.as_ref(), &changes)
            };
            tokio::task::spawn_blocking(save)
                .await
                .unwrap_or_else(|error| {
                    Err(Error::Io {
                        file: PathBuf::new(),
                        reason: error.to_string(),
                    })
                })
        } else {
            let _writing = Writing::new(count, since);
            self.save(inner.keep.as_ref(), &changes)
        }
    }

    fn save(&self, keep: &dyn Keep, changes: &[Change]) -> Result<(), Error> {
        let since = self.inner.env.monotonic();
        let saved = keep.save(changes);
        let took = self.inner.env.monotonic().saturating_sub(since);
        self.inner.load.took.observe(took.as_secs_f64());
        let read_again = saved?;
        let mut mirror = self
            .inner
            .mirror
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = read_again {
            *mirror = state;
        } else {
            for change in changes {
                mirror.apply(change);
            }
        }
        Ok(())
    }
}

/// Counts a write down when it ends, however it ends.
struct Count(Arc<Load>);

impl Count {
    fn new(load: &Arc<Load>) -> Self {
        load.waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(load))
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The write that is under way.
struct Writing(Count);

impl Writing {
    fn new(count: Count, since_ms: u64) -> Self {
        count.0.writing_since_ms.store(since_ms, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.0.writing_since_ms.store(0, Ordering::SeqCst);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
