//! The log's home: where the controller's one durable record lives.
//!
//! [`Store`] is the seam; [`Redb`] is its embedded backend (one process, under a file lock). The
//! seam is written to etcd's limits and semantics, and the suite in `conformance` (a cargo
//! feature) holds any backend to them.
//!
//! **Invariants.** The store never looks into a payload. It never creates an empty store where a
//! damaged one lies, and never gives back less than it acknowledged without an error. It has no
//! clock and no retention policy: what to checkpoint and when to trim is its caller's decision.

// What is stored: the hash-chained log and the checkpoint of folded objects.
pub mod checkpoint;
pub mod log;

// The seam, and how it refuses.
pub mod error;
pub mod seam;

// Backends.
pub mod redb;

// What every backend must do.
#[cfg(feature = "conformance")]
pub mod conformance;

pub use self::redb::Redb;
pub use checkpoint::{Checkpoint, LoadedCheckpoint, Part};
pub use error::{AppendError, Error, WriteError};
pub use log::{Batch, Broken, Chain, Entry, Hash};
pub use seam::{Follow, Head, LeaderToken, Leadership, Limits, Read, Store};
