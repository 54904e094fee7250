//! The log's home: where the controller's one durable record lives.
//!
//! [`Store`] is the seam. `Redb` (cargo feature `redb`, on by default) is its embedded backend: one
//! process, under a file lock. `Etcd` (cargo feature `etcd`) is the one for several controllers, in an
//! etcd cluster. The suite in `conformance` (a cargo feature) holds both to one contract, and
//! [`migrate`](fn@migrate::migrate) moves a log from one to the other. Old entries move out of the
//! store into sealed [`Segments`]; [`Archive`] is the log as one with them, and [`verify`] says whether
//! it is still what was written. Without a backend the crate is what a checker of files needs.
//!
//! **Invariants.** The store never looks into a payload. It never creates an empty store where a
//! damaged one lies, and never gives back less than it acknowledged without an error. It has no
//! clock and no retention policy: what to checkpoint and when to trim is its caller's decision.

// What is stored: the hash-chained log and the checkpoint of folded objects.
pub mod checkpoint;
pub mod log;

// The seam, and how it refuses.
pub mod error;
pub mod health;
pub mod seam;

// What was moved out of the store, and the log as one with it.
pub mod archive;
pub mod segment;
pub mod segments;

// Whether the log is what it was: in a store, in segments, in a file.
pub mod lines;
pub mod verify;

// From one store to another.
pub mod migrate;

// Backends, and whichever of them was chosen.
#[cfg(any(feature = "etcd", feature = "redb"))]
pub mod any;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "redb")]
pub mod redb;

// What every backend must do.
#[cfg(feature = "conformance")]
pub mod conformance;
// A real cluster for them to run on.
#[cfg(feature = "conformance")]
pub mod testing;

#[cfg(any(feature = "etcd", feature = "redb"))]
pub use self::any::AnyStore;
#[cfg(feature = "etcd")]
pub use self::etcd::{Etcd, EtcdOptions, EtcdTls, EtcdUser};
#[cfg(feature = "redb")]
pub use self::redb::Redb;
pub use archive::Archive;
pub use checkpoint::{Checkpoint, LoadedCheckpoint, Part};
pub use error::{AppendError, Error, WriteError};
pub use log::{Batch, Broken, Chain, Entry, Hash};
pub use seam::{
    Extent, Follow, Head, Leader, LeaderToken, Leadership, Limits, Read, Store, Stored, Use,
};
pub use segment::{Segment, Span};
pub use segments::Segments;
