//! `cargo xtask soak`: the long runs of what `cargo xtask test` does in its short, fixed form.

use anyhow::Result;
use clap::Args;

use crate::tool::{cargo, show};

/// How long to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many seeds of the simulated fabric with random faults
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    seeds: u64,
    /// The first seed; a run that fails names the one to begin with
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    first: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    println!(
        "{} seeds from {}: a simulated fabric each, with faults, and every invariant at its end",
        options.seeds, options.first
    );
    let mut command = cargo();
    command
        .args(["test", "-p", "kapok-tests", "--test", "cluster", "--"])
        .args(["--nocapture", "random_faults_break_no_invariant"])
        .env("KAPOK_SOAK_SEEDS", options.seeds.to_string())
        .env("KAPOK_SOAK_FIRST", options.first.to_string());
    show(&mut command, "the soak")
}
