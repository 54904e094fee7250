//! The simulator: hosts in memory, for thousands of nodes in one process.
//!
//! A [`Host`] is the hardware: it outlives agents, so that one can be killed and started again
//! over it. Faults are injected per call ([`Fault`]), and guests can crash, shut themselves down
//! or be tampered with by an outsider. It has no time of its own but tokio's, which tests pause,
//! and no randomness, so one seed gives one sequence.

mod calls;
mod clock;
mod compute;
mod console;
mod guest;
mod statistics;
mod storage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kapok_types::{
    Digest, Equipment, IncarnationId, MemoryMib, Vcpus,
    instance::{Arch, DiskFormat},
};
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

use super::{Driver, Foreign, FoundImage, Hint, statistics::Tally};

pub use calls::{Call, Fault, Stage};
pub use clock::VirtualEnv;

use calls::Stuck;
use guest::Domain;

/// Hints that a slow agent may lag behind.
const HINTS: usize = 64;

/// What a simulated host is like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Its architecture.
    pub arch: Arch,
    /// Processor threads, those that are set aside among them.
    pub cpus: u32,
    /// Memory, huge pages among it.
    pub memory: MemoryMib,
    /// What it has beyond amounts.
    pub equipment: Arc<Equipment>,
    /// Whether its pool is shared with other hosts.
    pub pool_shared: bool,
    /// Whether its pool holds every image that anybody asks for.
    pub has_all_images: bool,
    /// How long each call takes.
    pub latency: Duration,
    /// How long a guest needs after its start until its agent answers.
    pub boot_time: Duration,
    /// How long a guest needs to shut down.
    pub shutdown_time: Duration,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            arch: Arch::X86_64,
            cpus: 16,
            memory: MemoryMib(65_536),
            equipment: Arc::default(),
            pool_shared: false,
            has_all_images: true,
            latency: Duration::from_millis(1),
            boot_time: Duration::from_millis(200),
            shutdown_time: Duration::from_millis(200),
        }
    }
}

/// One simulated host. Shared; agents come and go above it.
pub struct Host {
    shape: Shape,
    inner: Mutex<Inner>,
    hints: broadcast::Sender<Hint>,
    /// Hints that were given; each stands for an event.
    hinted: Tally,
    /// What its guests wrote to consoles.
    console_bytes: Tally,
    /// Wakes calls that wait for a release.
    released: Notify,
    /// Wakes whoever waits for a call to get stuck.
    stuck: Notify,
}

struct Inner {
    boot: Uuid,
    boots: u128,
    up: bool,
    domains: BTreeMap<IncarnationId, Domain>,
    foreign: BTreeMap<Uuid, Foreign>,
    disks: BTreeMap<IncarnationId, Digest>,
    images: BTreeMap<Digest, (DiskFormat, u64)>,
    damaged_images: BTreeSet<Digest>,
    faults: Vec<(u64, Fault)>,
    next_fault: u64,
    stuck: Vec<Stuck>,
    next_stuck: u64,
    log: Vec<(Call, Option<IncarnationId>)>,
    /// Whether to keep the log; off for long runs.
    logs: bool,
    mute: bool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// A host that has just booted.
    pub fn new(shape: Shape) -> Arc<Self> {
        Arc::new(Self {
            shape,
            inner: Mutex::new(Inner {
                boot: Uuid::from_u128(1),
                boots: 1,
                up: true,
                domains: BTreeMap::new(),
                foreign: BTreeMap::new(),
                disks: BTreeMap::new(),
                images: BTreeMap::new(),
                damaged_images: BTreeSet::new(),
                faults: Vec::new(),
                next_fault: 0,
                stuck: Vec::new(),
                next_stuck: 0,
                log: Vec::new(),
                logs: false,
                mute: false,
            }),
            hints: broadcast::Sender::new(HINTS),
            hinted: Tally::default(),
            console_bytes: Tally::default(),
            released: Notify::new(),
            stuck: Notify::new(),
        })
    }

    /// The driver over this host.
    pub fn driver(self: &Arc<Self>) -> Driver {
        Driver {
            compute: Arc::new(compute::Compute(Arc::clone(self))),
            storage: Arc::new(storage::Storage(Arc::clone(self))),
            console: Arc::new(console::Console(Arc::clone(self))),
            statistics: Arc::new(statistics::Statistics(Arc::clone(self))),
        }
    }

    /// What it is like.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its present boot.
    pub fn boot(&self) -> Uuid {
        self.lock().boot
    }

    // What happens to it.

    /// Its power is cut and comes back: guests are off, nobody knows how, and the boot is new.
    pub fn reboot(&self) {
        let mut inner = self.lock();
        inner.boots += 1;
        inner.boot = Uuid::from_u128(inner.boots);
        for domain in inner.domains.values_mut() {
            domain.host_went_down();
        }
        inner.domains.retain(|_, domain| domain.persistent);
        inner.stuck.clear();
        drop(inner);
        self.released.notify_waiters();
    }

    /// The hypervisor's daemon stops answering, or answers again. Guests run on.
    pub fn set_up(&self, up: bool) {
        self.lock().up = up;
        if up {
            self.hint(Hint::Everything);
        }
    }

    /// A domain that Kapok did not make appears, or changes.
    pub fn put_foreign(&self, uuid: Uuid, name: &str, active: bool) {
        let domain = Foreign {
            uuid,
            name: name.into(),
            active,
            vcpus: Vcpus(1),
            memory: MemoryMib(512),
        };
        self.lock().foreign.insert(uuid, domain);
        self.hint(Hint::Listing);
    }

    /// A foreign domain is removed by its owner.
    pub fn remove_foreign(&self, uuid: Uuid) {
        self.lock().foreign.remove(&uuid);
        self.hint(Hint::Listing);
    }

    /// All foreign domains.
    pub fn foreign(&self) -> Vec<Foreign> {
        self.lock().foreign.values().cloned().collect()
    }

    /// Puts an image on the pool, damaged or whole.
    pub fn put_image(&self, digest: Digest, format: DiskFormat, bytes: u64, damaged: bool) {
        let mut inner = self.lock();
        inner.images.insert(digest, (format, bytes));
        if damaged {
            inner.damaged_images.insert(digest);
        } else {
            inner.damaged_images.remove(&digest);
        }
    }

    // What is on it.

    /// Incarnations that have a root disk on the pool.
    pub fn disks(&self) -> Vec<IncarnationId> {
        self.lock().disks.keys().copied().collect()
    }

    /// Incarnations that have a domain.
    pub fn domains(&self) -> Vec<IncarnationId> {
        self.lock().domains.keys().copied().collect()
    }

    /// Images on the pool.
    pub fn images(&self) -> Vec<FoundImage> {
        let inner = self.lock();
        let found = |(digest, (format, bytes)): (&Digest, &(DiskFormat, u64))| FoundImage {
            digest: *digest,
            format: *format,
            bytes: *bytes,
            modified_ns: None,
        };
        inner.images.iter().map(found).collect()
    }

    /// Whether hints get lost.
    pub fn set_mute(&self, mute: bool) {
        self.lock().mute = mute;
    }

    fn hint(&self, hint: Hint) {
        if self.lock().mute {
            return;
        }
        self.hinted.add(1);
        // Without an agent nobody listens, and that is fine.
        let _ = self.hints.send(hint);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
