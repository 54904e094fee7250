//! Reconcilers: woken by timer and by event, without input, idempotent.
//!
//! Each looks at the published intent and at what agents report, and submits what follows as
//! commands. Nothing is remembered between rounds that matters: a restart loses nothing.

pub mod availability;
pub mod deadline;
pub mod health;
pub mod housekeeping;
pub mod instance;
pub mod metering;
pub mod system;

#[cfg(test)]
pub(crate) mod fixture;
