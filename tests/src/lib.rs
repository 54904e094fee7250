//! The harness of the cluster suites: a real controller and real agents in one process, with a
//! simulated network, simulated hypervisors and paused time.
//!
//! Everything runs on one thread and every clock, id and random number comes from one seed, so
//! a run repeats. What is real: the ledger over redb, the links, the agents' state machines and
//! gRPC between them. What is simulated: wires ([`network`]), disks
//! ([`MemoryDisk`](kapok_store::redb::MemoryDisk)), hypervisors
//! ([`sim`](kapok_agent::driver::sim)) and time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness: what fails here is a failed test"
)]

// What a simulated world is made of.
pub mod env;
pub mod network;
pub mod node;
pub mod trust;

// The world, and how people reach it.
pub mod cluster;
pub mod people;

// What must hold in it, whatever happens.
pub mod fold;
pub mod invariants;
pub mod soak;

// Real processes, for suites over loopback.
pub mod collector;
pub mod real;
pub mod rotation;

pub use cluster::{Builder, Cluster};
