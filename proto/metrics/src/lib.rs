//! Metrics as text: `OpenMetrics` or the classic format, bounded and escaped.
//!
//! ```text
//!   facts ─▶ collectors (names from one table) ─▶ registry ─▶ text ─▶ gzip ─▶ response
//!                 │                                  ▲
//!                 └── label values cut to a bound    └── as `Accept` and `Accept-Encoding` ask
//! ```
//!
//! Whoever exports has a table of [`Name`]s, writes series with a [`Writer`], and answers a request
//! with [`respond`]. Series of things whose number nobody bounds are counted by a [`Cap`]; what is
//! open only for a while, such as a stream, by an [`Open`].
//!
//! **Invariants.**
//! - No text that comes from outside can end a line, a label or a series (FAULTS 62).
//! - Two different texts never become the same label value.
//!
//! Absent on purpose: what is measured, and who may read it.

mod cap;
mod format;
mod label;
mod name;
mod open;
mod page;

pub use cap::{Budget, Cap};
pub use format::Format;
pub use label::{MAX_LABEL_BYTES, label};
pub use name::{Kind, Labels, Name, Series, Value, Writer};
pub use open::{Held, Open};
pub use page::{Error, respond};
