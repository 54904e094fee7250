//! Placement: which node a new incarnation goes to, and why the others don't.
//!
//! ```text
//!   events ──▶ Delta ──▶ Fleet ──┬─▶ place, place_all ──▶ Placement | NoFit
//!                (a fold)        ├─▶ explain          ──▶ Explanation
//!                                ├─▶ capacity, audit  ──▶ what still fits, what survives
//!                                └─▶ plan             ──▶ moves, in order
//!                                      ▲
//!                      Request, Policy ┘
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
mod in_use;
mod index;
pub mod node;

// What is asked for, what is preferred, what is kept free.
pub mod groups;
pub mod headroom;
mod question;
pub mod request;

// What can't be, and why; what would be an instance's own.
mod assign;
pub mod filter;
pub mod rejections;

// The answers.
pub mod audit;
pub mod batch;
pub mod capacity;
pub mod explain;
pub mod place;
pub mod plan;
pub mod resize;

#[cfg(test)]
mod fixture;

pub use audit::{Audit, Outcome, audit};
pub use batch::{NoBatch, place_all};
pub use capacity::{Fits, Free, Remaining, Stranded, capacity};
pub use explain::{Answer, Explanation, NodeAnswer, explain};
pub use filter::{CellFree, Filter, Rejection};
pub use fleet::{Delta, Fleet};
pub use groups::{Domain, Group};
pub use headroom::Headroom;
pub use held::Claim;
pub use node::{Capacity, Distrust, Node, NodeView, Overcommit};
pub use place::{NoFit, Placement, Score, place};
pub use plan::{Plan, plan};
pub use rejections::Rejections;
pub use request::{Goal, Policy, Request};
pub use resize::resize;
