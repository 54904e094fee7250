//! `cargo xtask demo`: the whole way, from packages to guests that answer.
//!
//! Real and simulated demos differ in where nodes come from and share everything after that:
//! [`tour`] speaks to the controller through `kapok`, as a person would.

mod cli;
mod real;
mod simulated;
mod tour;

use anyhow::Result;
use clap::Args;

use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// End when everything was shown, instead of waiting for Ctrl-C
    #[arg(long)]
    once: bool,
    /// Simulated nodes: needs neither root nor libvirt
    #[arg(long)]
    simulated: bool,
    /// How many hosts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    hosts: u8,
}

pub(crate) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    if options.simulated {
        simulated::run(options, progress, interrupt)
    } else {
        real::run(options, progress, interrupt)
    }
}
