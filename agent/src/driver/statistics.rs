//! Domains' numbers: what monitoring shows of them.
//!
//! They come in two halves, because one may hang: a [`Glance`] at all domains at once asks no QEMU,
//! an [`Answer`] is one QEMU's own and may never come. Foreign domains are included: they use the
//! same host.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use super::Error;

/// Numbers of domains.
#[async_trait]
pub trait Statistics: Send + Sync + 'static {
    /// What is known of every domain without asking a QEMU.
    async fn glance(&self) -> Result<Vec<Glance>, Error>;

    /// What a domain's QEMU says; none if there is no such domain, or it is off.
    async fn ask(&self, domain: Uuid) -> Result<Option<Answer>, Error>;

    /// How long calls took, by lane; calls that haven't ended aren't counted. Never blocks.
    fn latencies(&self) -> Vec<(&'static str, Histogram)>;

    /// What came in by itself. Never blocks.
    fn intake(&self) -> Intake;
}

/// What guests and the hypervisor said by themselves, and what of it was too much (FAULTS 61). Counts
/// since the driver was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Intake {
    /// Events that the hypervisor told.
    pub events: u64,
    /// Events that were dropped because too many waited; everything was looked at instead.
    pub dropped_events: u64,
    /// Hints that came of them: many events about one domain are one.
    pub hints: u64,
    /// Bytes that guests wrote to consoles that somebody had open.
    pub console_bytes: u64,
    /// Bytes of these that were dropped because nobody read them in time.
    pub dropped_console_bytes: u64,
}

/// Counts one part of an [`Intake`]. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<AtomicU64>);

impl Tally {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A domain as it looks from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// Its UUID; an incarnation's id, if it is Kapok's.
    pub domain: Uuid,
    /// Its name in the hypervisor.
    pub name: Box<str>,
    /// Its state.
    pub state: State,
    /// Its network cards.
    pub nics: Box<[Nic]>,
}

/// A domain's state, in the words of monitoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It runs.
    Running,
    /// It is held.
    Paused,
    /// It is on its way down.
    ShuttingDown,
    /// It is off.
    Off,
    /// It crashed and is kept.
    Crashed,
    /// The guest put itself to sleep.
    Suspended,
    /// Something that this version doesn't know.
    Unknown,
}

impl State {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShuttingDown => "shutting_down",
            Self::Off => "off",
            Self::Crashed => "crashed",
            Self::Suspended => "suspended",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it has a QEMU that can be asked.
    pub const fn is_on(self) -> bool {
        !matches!(self, Self::Off | Self::Unknown)
    }
}

/// A network card's counters, as the guest sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nic {
    /// The host's side of it.
    pub name: Box<str>,
    /// The host's bridge that it is plugged into; empty if it is in none, or none is known yet.
    pub bridge: Box<str>,
    /// What came in.
    pub receive: Traffic,
    /// What went out.
    pub transmit: Traffic,
}

/// One direction of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that were dropped.
    pub drops: u64,
}

/// What a QEMU says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Which run it is on the host's present boot: another one after each start. None if the driver
    /// can't tell.
    pub run: Option<u64>,
    /// Processor time used since it was turned on, in ns.
    pub cpu_time_ns: Option<u64>,
    /// Virtual processors that are on.
    pub vcpus: Option<u32>,
    /// Its memory.
    pub memory: Memory,
    /// Its disks.
    pub disks: Box<[Disk]>,
}

/// A domain's memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// What the guest may use at most.
    pub maximum_kib: Option<u64>,
    /// What its balloon leaves it now.
    pub current_kib: Option<u64>,
    /// What its QEMU holds of the host's memory.
    pub resident_kib: Option<u64>,
    /// What the guest says that it has.
    pub available_kib: Option<u64>,
    /// What the guest says that nobody uses.
    pub unused_kib: Option<u64>,
    /// What the guest says that it could hand out without swapping.
    pub usable_kib: Option<u64>,
}

/// A disk's counters since its QEMU started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// The guest's name for it.
    pub name: Box<str>,
    /// Its file or device on the host.
    pub path: Option<Box<str>>,
    /// Reads.
    pub read: Requests,
    /// Writes.
    pub write: Requests,
    /// Flushes.
    pub flushes: u64,
    /// Size that the guest sees, in bytes.
    pub capacity_bytes: Option<u64>,
    /// What it takes on the host, in bytes.
    pub physical_bytes: Option<u64>,
}

/// One direction of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Requests {
    /// Requests.
    pub requests: u64,
    /// Bytes.
    pub bytes: u64,
    /// Time they took, in ns, summed.
    pub time_ns: u64,
}

/// Bounds of a histogram of calls, in seconds.
pub const CALL_BOUNDS: [f64; 9] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// An empty histogram of calls.
pub fn call_histogram() -> Histogram {
    Histogram::new(CALL_BOUNDS)
}
