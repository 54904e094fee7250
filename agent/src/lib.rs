//! The node agent: follows intent, drives a hypervisor, reports what runs.
//!
//! The controller says *what*; the agent decides *how*, one actor per instance, and reports what
//! it sees. Nothing here can stop a guest by dying: guests belong to the hypervisor.
//!
//! Absent on purpose: no module but `driver/libvirt` knows libvirt, and none knows a scheduler.

// How it is set up and put together.
pub mod agent;
pub mod config;
pub mod doctor;
#[cfg(feature = "libvirt")]
pub mod setup;
pub mod sockets;

// What a hypervisor does for it.
pub mod driver;
#[cfg(feature = "libvirt")]
pub mod probe;

// One actor per instance, and the loop that wakes them.
pub mod dispatch;
pub mod instance;

// What must outlive a restart, and what is kept from the network.
pub mod images;
pub mod local;

// Who it is, and whom it believes.
pub mod fingerprint;
pub mod trust;

// What it says of itself, and of its server.
pub mod health;
pub mod heartbeat;
pub mod http;
pub mod metrics;
pub mod server;
pub mod watch;
pub mod watchdog;
