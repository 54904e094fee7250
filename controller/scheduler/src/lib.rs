//! Placement: which node a new incarnation goes to, and why the others don't.
//!
//! ```text
//!   events ──▶ Delta ──▶ Fleet ──┬─▶ place   ──▶ Placement | Rejections
//!                (a fold)        └─▶ explain ──▶ Explanation
//!                                      ▲
//!                       Request, Policy┘
//! ```
//!
//! The same functions serve decisions, dry runs, drains and rebalancing: a what-if is a clone of
//! the fleet with deltas applied to it.
//!
//! **Invariant:** everything here is a function of its arguments. There is no clock, no
//! randomness, no task and no IO, and equal fleets give equal answers in every process.
//!
//! **Invariant:** a [`Fleet`] is a fold of the controller's events and of nothing else; capacity
//! isn't recorded a second time anywhere.

// What there is, and what is taken of it.
pub mod fleet;
mod held;
pub mod node;

// What is asked for, and what is preferred.
pub mod request;

// What can't be, and why.
pub mod filter;
pub mod rejections;

// The answers.
pub mod explain;
pub mod place;

#[cfg(test)]
mod fixture;

pub use explain::{Answer, Explanation, NodeAnswer, explain};
pub use filter::{Filter, Rejection};
pub use fleet::{Delta, Fleet};
pub use held::Claim;
pub use node::{Capacity, Distrust, Node, NodeView, Overcommit};
pub use place::{Candidate, Placement, Score, place};
pub use rejections::Rejections;
pub use request::{Goal, Policy, Request, Weights};
