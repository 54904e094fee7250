//! The capability seams: what a hypervisor does for the agent, in the agent's types.
//!
//! A driver implements the traits it can and names what it lacks in [`Facts::lacks`]. The
//! simulator ([`sim`]) and libvirt (`libvirt`, behind the cargo feature of that name) pass one
//! contract suite each.
//!
//! Invariants:
//! - A future returned here resolves only when the call under it has really ended. Deadlines are
//!   the caller's: it stops waiting, the call goes on, the outcome stays *unknown*.
//! - No method decides anything: legality, order, retries and policy live in
//!   [`instance::state`](crate::instance::state).
//! - No method takes a host path, XML or a device name. Disks and images are named by
//!   incarnation and digest; the driver makes the names.

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use kapok_types::{
    Assignment, Digest, Equipment, Generation, IncarnationId, Intent, MemoryMib, Vcpus,
    instance::{Arch, Counters, DiskFormat, RootDisk},
    phase::Size,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

pub mod contract;
pub mod equipment;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod sim;
pub mod statistics;

pub use statistics::Statistics;

/// One hypervisor, taken apart by capability.
#[derive(Clone)]
pub struct Driver {
    /// Domains.
    pub compute: Arc<dyn Compute>,
    /// Disks and images.
    pub storage: Arc<dyn Storage>,
    /// Serial consoles.
    pub console: Arc<dyn Console>,
    /// Domains' numbers.
    pub statistics: Arc<dyn Statistics>,
}

/// Why a driver call failed. Never *outcome unknown*: a call that hasn't ended has no error yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The thing isn't there.
    #[error("{what} doesn't exist")]
    Absent {
        /// Which thing.
        what: String,
    },
    /// The hypervisor can't be reached at present.
    #[error("the hypervisor can't be reached: {reason}")]
    Unavailable {
        /// What it said.
        reason: String,
    },
    /// A call on this domain is stuck; only `destroy` gets through.
    #[error("a call on the domain is stuck, it is quarantined")]
    Quarantined,
    /// The call's lane or its queue is full.
    #[error("too many calls wait in the lane {lane}")]
    Busy {
        /// Which lane.
        lane: &'static str,
    },
    /// Somebody else holds the disk's lock: the domain may run elsewhere.
    #[error("the disk is locked by another process: {reason}")]
    Locked {
        /// What the hypervisor said.
        reason: String,
    },
    /// No room left on the pool.
    #[error("the pool has no room: {reason}")]
    NoSpace {
        /// What the hypervisor said.
        reason: String,
    },
    /// The image is still needed by overlays.
    #[error("the image is used by {overlays} overlays")]
    InUse {
        /// How many overlays found on disk name it.
        overlays: usize,
    },
    /// The driver can't do this at all.
    #[error("the driver lacks {capability}")]
    Lacking {
        /// Which capability.
        capability: &'static str,
    },
    /// Anything else, in the hypervisor's words.
    #[error("{call} failed: {reason}")]
    Failed {
        /// What was called.
        call: &'static str,
        /// What came back.
        reason: String,
    },
}

impl Error {
    /// Which of them it is, in a word.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "absent",
            Self::Unavailable { .. } => "unavailable",
            Self::Quarantined => "quarantined",
            Self::Busy { .. } => "busy",
            Self::Locked { .. } => "locked",
            Self::NoSpace { .. } => "no_space",
            Self::InUse { .. } => "in_use",
            Self::Lacking { .. } => "lacking",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What is kept with a domain, as JSON in its metadata: the applied intent and what came of it.
///
/// No secrets, no user-data: any local user can read it. At most 64 KiB encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this form; a newer one than [`Record::VERSION`] makes the domain *unknown*.
    pub version: u32,
    /// The applied intent.
    pub intent: Intent,
    /// One-time acts that took effect.
    pub done: Counters,
    /// The host's boot in which it was last started.
    pub started_boot: Option<Uuid>,
    /// The value of `done.starts` that the guest itself ended by a shutdown, if it did.
    pub ended_by_guest: Option<u64>,
    /// Whether a start for `done.starts` was about to be made: written before it, cleared once the
    /// domain was seen on. Off with this set means that the start is still owed.
    #[serde(default)]
    pub starting: bool,
    /// The intent's generation under which it was seen to have moved to another host, if it has:
    /// it isn't started here before a newer one. The hypervisor itself forgets this soon.
    #[serde(default)]
    pub moved: Option<Generation>,
    /// The machine type, pinned when it was first defined ("pc-q35-7.2").
    pub machine: String,
    /// "kvm" or "qemu", pinned likewise.
    pub virt_type: String,
}

impl Record {
    /// The form that this version writes.
    pub const VERSION: u32 = 1;
}

/// Whether a domain is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// It runs.
    On,
    /// It is on its way down.
    GoingDown,
    /// It exists in memory but doesn't run; why, in [`Seen::note`].
    Paused,
    /// It is off.
    Off,
}

/// How a domain that is off came to be so, as far as the hypervisor knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// The guest shut down, asked or by itself.
    Shutdown,
    /// Somebody destroyed it.
    Destroyed,
    /// The guest or the emulator crashed.
    Crashed,
    /// It could not be started.
    Failed,
    /// Somebody moved it to another host, where it may run.
    Moved,
    /// Nobody knows, for example after the host's boot.
    Unknown,
}

/// One of Kapok's domains as the hypervisor shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What its metadata says.
    pub record: Record,
    /// Whether it is on.
    pub run: Run,
    /// How it went off; meaningful only with [`Run::Off`].
    pub off: Off,
    /// While it is on, what runs; else what its definition says.
    pub size: Size,
    /// The same of what is its own on the node; none if that isn't known.
    pub assignment: Option<Assignment>,
    /// vCPUs that it can be given while it is on; at least those of `size`.
    pub most_vcpus: Vcpus,
    /// Whether it has a definition, which outlives its end. One that is off always has.
    pub persistent: bool,
    /// Differences from what the record asks for, in words; at most 16.
    pub drift: Vec<String>,
    /// What the hypervisor says beyond that ("paused: I/O error"), or empty.
    pub note: String,
}

/// A domain that Kapok did not make: reported, never touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Whether it is on.
    pub active: bool,
    /// vCPUs it holds.
    pub vcpus: Vcpus,
    /// Memory it holds.
    pub memory: MemoryMib,
}

/// Everything that the hypervisor has.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Kapok's own.
    pub ours: Vec<Seen>,
    /// All others, including those whose metadata is damaged, of another node, or newer.
    pub foreign: Vec<Foreign>,
    /// Kapok's own that did not answer in time: known to be defined, nothing more.
    pub silent: Vec<IncarnationId>,
}

/// What the node is, as far as the hypervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The driver's name: "libvirt" or "simulator".
    pub driver: &'static str,
    /// The node's architecture.
    pub arch: Arch,
    /// Online processor threads, without those that are set aside for dedicated vCPUs.
    pub cpus: u32,
    /// The machine's memory, without all huge pages.
    pub memory: MemoryMib,
    /// The machine type that new domains are pinned to.
    pub machine: String,
    /// "kvm" or "qemu".
    pub virt_type: String,
    /// Why `virt_type` is what it is.
    pub virt_reason: String,
    /// Versions by component.
    pub versions: Vec<(String, String)>,
    /// Capabilities that the driver lacks: "console", "guest-agent".
    pub lacks: Vec<&'static str>,
    /// What guests can be.
    pub offers: Arc<Offers>,
    /// What the node has beyond amounts.
    pub equipment: Arc<Equipment>,
}

/// What guests can be here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offers {
    /// Machine types, sorted.
    pub machines: Vec<String>,
    /// Named processor models that a guest can have here, and be migrated with; sorted.
    pub cpu_models: Vec<String>,
}

/// Something may have changed. A hint leads to a fresh observation, never to a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// About one incarnation.
    Incarnation(IncarnationId),
    /// About which domains there are, or ones that aren't known as Kapok's: list again.
    Listing,
    /// About anything: look at everything (reconnect, lost events).
    Everything,
}

/// How the driver's calls fare.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether the hypervisor answers.
    pub up: bool,
    /// The lanes of calls.
    pub lanes: Vec<Lane>,
    /// Domains on which a call is stuck.
    pub quarantined: Vec<IncarnationId>,
}

/// One lane of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Its name.
    pub name: &'static str,
    /// Milliseconds since a call on it last finished while others wait longer than they should, or
    /// the age of a stuck call that nobody could be served beside; else 0.
    pub stuck_ms: u64,
    /// Calls waiting or running.
    pub depth: u32,
}

/// Domains: define, start, stop, look.
#[async_trait]
pub trait Compute: Send + Sync + 'static {
    /// What the node is. May be answered from a cache.
    async fn facts(&self) -> Result<Facts, Error>;

    /// Everything the hypervisor has. Must not hang on one stuck domain: that one is `silent`.
    async fn list(&self) -> Result<Listing, Error>;

    /// One incarnation, fresh; none when no domain has its id. One that has it but isn't Kapok's
    /// (any more) is an error, never none: it may run on the incarnation's disk.
    async fn observe(&self, incarnation: IncarnationId) -> Result<Option<Seen>, Error>;

    /// Makes the persistent definition carry this record, creating the domain (off) if absent.
    /// A running domain's live record follows; its hardware doesn't change.
    async fn define(&self, record: &Record) -> Result<(), Error>;

    /// Turns it on. Legal when defined and off, with its root disk present.
    async fn start(&self, incarnation: IncarnationId) -> Result<(), Error>;

    /// Asks the guest to shut down (guest agent or ACPI). Returns when asked, not when off.
    async fn shutdown(&self, incarnation: IncarnationId) -> Result<(), Error>;

    /// Gives a guest more vCPUs while it runs, and asks its agent to use them. Legal when on, up to
    /// [`Seen::most_vcpus`]. What came of it is seen by the next look, not here.
    async fn set_vcpus(&self, incarnation: IncarnationId, vcpus: Vcpus) -> Result<(), Error>;

    /// Presses the reset button. Legal when on.
    async fn reset(&self, incarnation: IncarnationId) -> Result<(), Error>;

    /// Turns it off hard. Legal always, also in quarantine; off already or absent is success.
    /// As all changes, refused when a domain has the id that isn't Kapok's (any more).
    async fn destroy(&self, incarnation: IncarnationId) -> Result<(), Error>;

    /// Removes the definition. Legal when off; absent is success.
    async fn undefine(&self, incarnation: IncarnationId) -> Result<(), Error>;

    /// Whether the guest's agent answers. Legal when on.
    async fn guest_agent(&self, incarnation: IncarnationId) -> Result<bool, Error>;

    /// Hints from now on. A lagging receiver must look at everything.
    fn hints(&self) -> broadcast::Receiver<Hint>;

    /// How calls fare. Never blocks.
    fn health(&self) -> Health;
}

/// A root disk found on the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDisk {
    /// Whose it is, by its name.
    pub incarnation: IncarnationId,
    /// The image under it, by the overlay's own header.
    pub image: Option<Digest>,
}

/// An image found on the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundImage {
    /// Its content, by its name. Whether the bytes agree is the image cache's knowledge.
    pub digest: Digest,
    /// Its layout, by its name.
    pub format: DiskFormat,
    /// Bytes it takes.
    pub bytes: u64,
    /// When its bytes last changed, in nanoseconds since 1970, if the driver knows.
    pub modified_ns: Option<u64>,
}

/// The room on a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What can still be written, in bytes.
    pub available_bytes: u64,
}

/// Disks and images on the node's pool.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Whether the pool is shared with other nodes (then a boot starts nothing by itself).
    fn shared(&self) -> bool;

    /// The pool's room, fresh. Hangs with the pool.
    async fn room(&self) -> Result<Room, Error> {
        Err(Error::Lacking { capability: "room" })
    }

    /// All root disks of Kapok on the pool.
    async fn disks(&self) -> Result<Vec<FoundDisk>, Error>;

    /// Makes the root disk as a new copy-on-write child of the image, format and backing format
    /// explicit. Present already is success.
    async fn create_root(&self, incarnation: IncarnationId, root: &RootDisk) -> Result<(), Error>;

    /// Removes the root disk. Absent is success.
    async fn remove_root(&self, incarnation: IncarnationId) -> Result<(), Error>;

    /// All images of Kapok on the pool, complete or not.
    async fn images(&self) -> Result<Vec<FoundImage>, Error>;

    /// Stores a checked file as an image, whole; gives the digest of the bytes that were stored.
    async fn store_image(
        &self,
        digest: Digest,
        format: DiskFormat,
        file: &Path,
    ) -> Result<Digest, Error>;

    /// Reads a stored image back and hashes it.
    async fn hash_image(&self, digest: Digest, format: DiskFormat) -> Result<Digest, Error>;

    /// Removes an image that no overlay on disk names; absent is success.
    async fn remove_image(&self, digest: Digest) -> Result<(), Error>;
}

/// A piece of a console's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleOutput {
    /// What the guest wrote.
    pub data: Bytes,
    /// Bytes dropped before this piece because nobody read them in time.
    pub dropped: u64,
}

/// An open console. Dropping it closes it.
#[derive(Debug)]
pub struct OpenConsole {
    /// Input for the guest.
    pub input: mpsc::Sender<Bytes>,
    /// Output of the guest; ends when the console closes.
    pub output: mpsc::Receiver<ConsoleOutput>,
}

/// Serial consoles.
#[async_trait]
pub trait Console: Send + Sync + 'static {
    /// Opens the console of a running incarnation; with `force`, takes it from whoever has it.
    async fn open(&self, incarnation: IncarnationId, force: bool) -> Result<OpenConsole, Error>;
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}
