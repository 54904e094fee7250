//! One incarnation's life on this node: a pure machine, and the actor that runs it.

// What should be done next, without doing it.
pub mod state;

// Doing it.
pub mod actor;
pub mod changes;
pub mod registry;
