//! Logs and traces: set-up, export, and trace context from process to process.
//!
//! ```text
//!  kapok ─traceparent─▶ controller ─operation─▶ push ─traceparent─▶ agent ─▶ actor ─▶ lane ─▶ libvirt
//!    └───────────────────────┴──────────── spans, if configured ──────┴─────────────────┘─▶ collector
//! ```
//!
//! A trace is all that follows from one command. Its context ([`TraceContext`]) flows always and
//! by value: in metadata ([`grpc`]), with the operation, with the intent. Spans put its id on every
//! line of the log, and are exported only where somebody configured a collector.
//!
//! Invariants:
//! - Nothing waits for telemetry: spans go into a bounded queue, what doesn't fit or can't be sent
//!   is counted and dropped, and the process' end waits for a bounded time.
//! - Exactly the spans with the target [`TARGET`] belong to a trace. They are in the log whatever
//!   its filter is, and nothing else is exported: neither libraries' spans nor long-lived ones.
//! - A context that came from outside is believed only as far as that it names a trace. One that
//!   can't be read is as good as none.

#[cfg(feature = "otlp")]
mod export;
pub mod grpc;
mod journal;
mod logs;
mod settings;
mod span;

pub use kapok_types::{TraceContext, trace::TRACEPARENT};
pub use logs::{Guard, Logs, init};
pub use settings::{Export, Ratio, Telemetry};
pub use span::{TARGET, is_traced, join};

#[doc(hidden)]
pub mod private {
    //! For macros.
    pub use tracing;
}
