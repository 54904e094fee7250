//! The real driver: domains, volumes and consoles of one libvirtd.
//!
//! ```text
//!  compute ─┐                        ┌─ worker ─ connection ─┐
//!  storage ─┼─ lanes (who may block) ┼─ worker ─ connection ─┼─ libvirtd ─ QEMU …
//!  console ─┘                        └─ …                    │
//!  hints  ◀── link (one thread: events, life of libvirtd) ───┘
//! ```
//!
//! A domain is **ours** when its metadata holds a record that this version reads, of this fabric,
//! of this node, and of the incarnation that the domain's UUID names. Any other domain is foreign:
//! it is listed, and no call that changes anything is made on it (FAULTS 44).
//!
//! Who owns what: [`lanes`] owns the threads and their connections, [`link`] the connection that
//! events come through; everything else is stateless between calls but for the small caches of
//! [`Inner`]. Absent on purpose: retries, order, legality (the instance's state machine has them).

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use kapok_libvirt::{Connection, console::Meter, xml::topology::HostCell};
use kapok_types::{Env, IncarnationId, Name, NodeId};
use uuid::Uuid;

use self::{
    lanes::{Lanes, Limits},
    link::Link,
    statistics::Plugs,
};
use super::{Driver, Error, Foreign};
use crate::{config::Offering, probe::Probe};

mod compute;
mod console;
mod document;
mod drift;
mod equipment;
mod error;
pub mod examine;
mod facts;
mod lanes;
mod link;
mod names;
mod observe;
mod placement;
mod pool;
mod record;
mod statistics;
mod storage;
#[cfg(test)]
mod tests;

/// What the driver is set up with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which libvirtd.
    pub uri: String,
    /// The pool of root disks and images.
    pub pool: String,
    /// Whether other nodes use that pool.
    pub pool_shared: bool,
    /// The network that instances are plugged into.
    pub network: String,
    /// What of the node single instances can have.
    pub offering: Offering,
    /// The fabric's name.
    pub fabric: Name,
    /// This node.
    pub node: NodeId,
    /// How long a call may take before its domain is quarantined.
    pub call_deadline: Duration,
    /// How `virt_type` is decided.
    pub probe: Probe,
    /// Clock and randomness.
    pub env: Arc<dyn Env>,
}

/// Sets the driver up and starts its threads; connects in the background, for as long as it is
/// kept. A libvirtd that isn't there is no error: calls answer [`Error::Unavailable`] until it is,
/// and [`Hint::Everything`](super::Hint::Everything) tells when.
///
/// # Errors
///
/// If the system gives no threads.
pub fn open(options: Options) -> io::Result<Driver> {
    let libvirt = assemble(options)?;
    Ok(Driver {
        compute: libvirt.clone(),
        storage: libvirt.clone(),
        console: libvirt.clone(),
        statistics: libvirt,
    })
}

fn assemble(options: Options) -> io::Result<Arc<Libvirt>> {
    let link = Link::start(&options.uri, Arc::clone(&options.env))?;
    let lanes = Lanes::new(
        Limits::new(options.call_deadline),
        Arc::clone(&options.env),
        link.connector(),
    );
    lanes.watch()?;
    Ok(Arc::new(Libvirt {
        inner: Arc::new(Inner {
            link,
            options,
            probing: Mutex::default(),
            foreign: Mutex::default(),
            pool_path: Mutex::default(),
            learning: AtomicBool::new(false),
            facts: Mutex::default(),
            cells: Mutex::default(),
            layout: Mutex::default(),
            plugs: Mutex::default(),
        }),
        lanes,
        fact_finder: tokio::sync::Mutex::default(),
        consoles: Arc::new(tokio::sync::Semaphore::new(console::MAX_OPEN)),
        meter: Arc::default(),
    }))
}

/// The driver.
struct Libvirt {
    inner: Arc<Inner>,
    lanes: Lanes<Connection>,
    /// Held while facts are looked up, so that one probe runs at a time.
    fact_finder: tokio::sync::Mutex<()>,
    consoles: Arc<tokio::sync::Semaphore>,
    /// What came over all of them.
    meter: Arc<Meter>,
}

/// What calls share on their threads.
struct Inner {
    options: Options,
    link: Link,
    /// The probe's short-lived domain, which isn't worth reporting.
    probing: Mutex<Option<Uuid>>,
    /// Foreign domains as they were last seen.
    foreign: Mutex<BTreeMap<Uuid, Foreign>>,
    /// The pool's folder, once it is known.
    pool_path: Mutex<Option<String>>,
    /// Whether a call that asks for it waits or runs.
    learning: AtomicBool,
    /// Facts, as they were last found.
    facts: Mutex<Option<facts::Kept>>,
    /// The host's cells, once they are known.
    cells: Mutex<Option<Arc<[HostCell]>>>,
    /// Held by calls that decide from which overlays exist.
    layout: Mutex<()>,
    /// Where the network cards of domains are plugged in.
    plugs: Mutex<Plugs>,
}

/// Nothing here panics while it holds a lock; if it did, going on beats hanging.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn foreign(incarnation: IncarnationId, call: &'static str) -> Error {
    Error::Failed {
        call,
        reason: format!("the domain {incarnation} isn't Kapok's (its metadata says otherwise)"),
    }
}
