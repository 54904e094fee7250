//! Safe, blocking, typed libvirt for Kapok: the only crate that links it, and the only unsafe code.
//!
//! It holds no policy and no async runtime. Every call may block for as long as libvirtd does;
//! the caller runs calls on threads of its own and abandons those that don't come back. Handles
//! are cheap to clone and may be used from any thread.
//!
//! **Invariants.** No function takes XML from its caller: documents are built from typed values
//! by an escaping writer ([`xml`]), and what libvirt returns is parsed with DTDs off. Nothing
//! here panics across a foreign frame: callbacks only enqueue and are guarded. Freeing a handle
//! never panics, whatever libvirt answers; its last error is read on the thread, and in the
//! expression, that made the call.
//!
//! ```text
//! Connection ──┬── Domain ──── Console (reader, writer)
//!              ├── Pool ────── Volume
//!              ├── Network, PCI devices
//!              ├── EventSubscription   (callbacks run on the "libvirt-events" thread)
//!              └── stats, capabilities, probe
//! ```

// How calls fail, and how raw pointers are owned.
pub mod error;
mod ffi;

// What a libvirtd offers, and what it tells by itself.
pub mod connection;
pub mod events;

// Domains: their life, their guests, their numbers, their serial line.
pub mod console;
pub mod domain;
pub mod stats;

// Where disks live, what guests are plugged into, what they can be given.
pub mod network;
pub mod node_device;
pub mod storage;

// Whether a hypervisor really boots a guest.
pub mod probe;

// What linking it costs in memory.
pub mod memory;

// The documents that libvirt takes and gives.
pub mod xml;

pub use connection::Connection;
pub use domain::Domain;
pub use error::{Error, Kind};
pub use events::{Event, EventReceiver, EventSubscription};
