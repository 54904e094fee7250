//! What a server is made of and how it does.
//!
//! ```text
//!   Host (a root directory, tools) ─▶ Source ─▶ Sweep of Readings ─▶ Judge ─▶ Assessment
//!                                   blocks,        data               pure, takes time
//!                                   may hang                          from the sweeps
//! ```
//!
//! Sources read and never judge; the judge judges and never reads. Who calls a source decides when,
//! and bounds it: a source has no clock.
//!
//! **Invariants:**
//! - What could not be read is never *healthy*: it is *unreadable*, with the reason, and what it
//!   was about is *unknown*. *Absent* is what the server doesn't have.
//! - Nothing here changes the server, and no path or argument of a tool comes from outside of the
//!   agent's configuration.

// What is said of a server: which part, which quantity, which value.
pub mod component;
pub mod quantity;
pub mod reading;

// What is made of it.
pub mod assessment;
pub mod history;
pub mod judge;
pub mod rules;
pub mod verdict;

// How it is found out.
pub mod config;
pub mod host;
pub mod inventory;
pub mod source;

pub use assessment::{Assessment, Outcome, SourceState};
pub use component::{Component, Kind};
pub use host::Host;
pub use inventory::Inventory;
pub use judge::Judge;
pub use quantity::{Quantity, Shape, Unit};
pub use reading::{Read, Reading, Sweep};
pub use rules::Rules;
pub use source::{Failure, Source};
pub use verdict::{Code, Condition, Held, Verdict};
