//! The project's own commands. `cargo xtask --help` lists them.
//!
//! **Invariant:** this program links neither libvirt nor the agent, so that it builds on a
//! machine where `cargo xtask setup` hasn't installed anything yet. A test says so.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod bench;
mod debian;
mod demo;
mod interrupt;
mod lab;
mod package;
mod progress;
mod setup;
mod sim;
mod soak;
mod suites;
mod test;
mod tool;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// Kapok's own commands: try it, test it, measure it
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the Debian packages that the demo and the tests need
    #[command(
        after_help = "Examples:\n  cargo xtask setup\n  cargo xtask setup --dev   # also what \
                      only tests need: a Python gRPC client, buf"
    )]
    Setup(setup::Options),
    /// Build the bootable guest image and print where it is
    #[command(after_help = "Example:\n  cargo xtask guest")]
    Guest,
    /// Raise bare libvirt hosts, without Kapok, until Ctrl-C
    #[command(after_help = "Examples:\n  cargo xtask lab\n  cargo xtask lab --hosts 2 --once")]
    Lab(lab::Options),
    /// Show Kapok at work: a fabric of several hosts with real guests, until Ctrl-C
    #[command(
        after_help = "Examples:\n  cargo xtask demo               # three hosts, as root on \
                      Debian 12\n  cargo xtask demo --once        # ends by itself\n  cargo xtask \
                      demo --simulated   # neither root nor libvirt"
    )]
    Demo(demo::Options),
    /// Run the project's tests, suite by suite
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --suite pure --suite \
                      driver\n  cargo xtask test --list"
    )]
    Test(test::Options),
    /// Run for long: random faults with many seeds, or certificates that change under load
    #[command(
        after_help = "Examples:\n  cargo xtask soak\n  cargo xtask soak --first 4711 --seeds 1   \
                      # one seed again\n  cargo xtask soak rotation"
    )]
    Soak(soak::Options),
    /// Measure a fabric of a city's size: simulated nodes under the real controller
    #[command(
        after_help = "Examples:\n  cargo xtask sim\n  cargo xtask sim --nodes 5000 --instances 50000"
    )]
    Sim(sim::Options),
    /// Make the Debian packages, and look through them
    #[command(
        after_help = "Examples:\n  cargo xtask package                 # with the release build\n  \
                      cargo xtask package --profile dev   # to try them"
    )]
    Package(package::Options),
    /// Prove the packages on a whole Debian server: installed, upgraded, removed under a guest
    #[command(after_help = "Example:\n  cargo xtask debian   # as root; up to half an hour")]
    Debian(debian::Options),
    /// Measure the release build
    #[command(
        after_help = "Examples:\n  cargo xtask bench start --pairs 50\n  cargo xtask bench memory\n  \
                      cargo xtask bench tls"
    )]
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    let progress = Progress::start();
    match command {
        Command::Setup(options) => setup::run(&options, &progress),
        Command::Guest => {
            println!("{}", kapok_lab::guest::build()?.disk.display());
            Ok(())
        }
        Command::Lab(options) => lab::run(&options, &progress, &interrupt),
        Command::Demo(options) => demo::run(&options, &progress, &interrupt),
        Command::Test(options) => test::run(&options, &interrupt),
        Command::Soak(options) => soak::run(&options),
        Command::Sim(options) => sim::run(&options),
        Command::Package(options) => package::run(&options, &progress, &interrupt),
        Command::Debian(options) => debian::run(&options, &progress, &interrupt),
        Command::Bench(options) => bench::run(&options, &progress, &interrupt),
    }
}
