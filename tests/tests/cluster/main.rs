//! The cluster rung: a real controller, real agents on simulated nodes, real gRPC, paused time.
//!
//! `KAPOK_SOAK_SEEDS` makes the soak longer; `KAPOK_TEST_LOG` shows the log of what runs.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

// What people do, and what guests do.
mod capacity;
mod lifecycle;
mod resize;

// Who may order what, and processes that die.
mod kills;
mod orders;

// Hypervisors, hosts, networks, disks and clocks that fail.
mod boot;
mod hypervisor;
mod partition;
mod storage;

// Servers that aren't well.
mod health;

// What is written of it all, and what is exported.
mod audit;
mod log;
mod monitoring;

use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Shows the processes' own log when `KAPOK_TEST_LOG` says how much of it.
fn show_log() {
    if let Ok(filter) = std::env::var("KAPOK_TEST_LOG") {
        let targets: Targets = filter.parse().unwrap();
        let lines = tracing_subscriber::fmt::layer()
            .with_test_writer()
            .without_time();
        let _ = tracing_subscriber::registry()
            .with(lines.with_filter(targets))
            .try_init();
    }
}
