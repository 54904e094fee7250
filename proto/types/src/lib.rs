//! The words of Kapok as types, shared by every crate.
//!
//! No tonic, no tokio, no libvirt: pure crates (the scheduler, the state machines) build on
//! this one. Everything here is a value; the only thing that touches the outside is
//! [`env::System`], the production clock and randomness.

// What things are called.
pub mod id;
pub mod name;

// How much there is of them.
pub mod quantity;
pub mod threads;

// What people want of an instance, what nodes have for it, and what agents say of it.
pub mod cpu_level;
pub mod equipment;
pub mod instance;
pub mod phase;

// Where time, randomness and ids come from.
pub mod env;

// What follows from which command.
pub mod trace;

// How bad input is refused.
pub mod violation;

pub use env::Env;
pub use equipment::{Assignment, Equipment, Needs};
pub use id::{Digest, ImageId, IncarnationId, InstanceId, NodeId, OperationId};
pub use instance::Intent;
pub use name::Name;
pub use quantity::{Bytes, Epoch, Generation, MemoryMib, Seq, Timestamp, Vcpus};
pub use threads::ThreadSet;
pub use trace::TraceContext;
pub use violation::Violation;
