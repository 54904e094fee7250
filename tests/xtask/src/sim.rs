//! `cargo xtask sim`: a fabric of a city's size, simulated nodes under the real controller.

use anyhow::Result;
use clap::Args;
use kapok_lab::fabric::Build;
use kapok_lab::loopback;

use crate::tool::{cargo, show};

/// How large.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..))]
    nodes: u16,
    /// How many instances, of 200 tenants with 698 systems
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    instances: u32,
    /// How many changes a second, in the minute of load
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=30))]
    rate: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    for arguments in loopback::builds(Build::Release) {
        show(cargo().args(arguments), "the build")?;
    }
    let Options {
        nodes,
        instances,
        rate,
    } = options;
    let mut command = cargo();
    command
        .args([
            "run",
            "--release",
            "-p",
            "kapok-tests",
            "--bin",
            "sim",
            "--",
        ])
        .args([u32::from(*nodes), *instances, *rate].map(|number| number.to_string()));
    show(&mut command, "the measurement")
}
