//! Those who come from outside: another language's client, the command, the linter of our
//! `.proto` files. Against real processes on loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod command;
mod python;
mod repository;

use std::sync::OnceLock;

use kapok_tests::process::{Nodes, Processes, build};

/// A fabric of four simulated nodes in processes of its own.
fn processes() -> Processes {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build().unwrap());
    Processes::start(Nodes {
        count: 4,
        cpus: 16,
        latency_ms: 5,
    })
    .unwrap()
}
