//! Recorded demand through the real ledger and scheduler: how well it packs, and how fast.
//!
//! ```text
//!   trace (CSV) ──▶ replay ──commands──▶ World: Ledger ─▶ decide ─▶ redb on a disk
//!                     └─▶ Report ◀── outcomes and snapshots ──┘
//! ```
//!
//! What decides and what writes are the controller's own: nothing is modelled here but the nodes'
//! agents, whose word (that a guest runs, that it is gone) comes at once.

// What is asked for, and on what.
pub mod trace;
pub mod world;

// What comes of it.
pub mod figures;
pub mod replay;
