//! `cargo xtask soak`: the long runs of what `cargo xtask test` does in its short, fixed form.

use anyhow::Result;
use clap::{Args, Subcommand};
use kapok_lab::fabric::Build;
use kapok_lab::loopback;

use crate::tool::{cargo, show};

/// What to run for long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    faults: Faults,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Instances that come and go, over a simulated month: what the log and the memory take
    Lives {
        /// How many instances
        #[arg(long, default_value_t = 1_000_000, value_name = "COUNT")]
        lives: u64,
    },
    /// Certificates of a minute, an authority that is rotated twice, and people who go on working
    Rotation {
        /// How many seconds to run
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        seconds: u64,
        /// How many seconds a certificate lives
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        life: u64,
    },
}

/// The simulated fabric with random faults.
#[derive(Debug, Args)]
struct Faults {
    /// How many seeds of the simulated fabric with random faults
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    seeds: u64,
    /// The first seed; a run that fails names the one to begin with
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    first: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    match options.what {
        None => faults(&options.faults),
        Some(What::Lives { lives }) => self::lives(lives),
        Some(What::Rotation { seconds, life }) => rotation(seconds, life),
    }
}

fn faults(options: &Faults) -> Result<()> {
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

fn lives(lives: u64) -> Result<()> {
    let mut command = cargo();
    command
        .args(["run", "--release", "--quiet", "-p", "kapok-replay"])
        .args(["--bin", "soak-lives", "--", "--lives", &lives.to_string()]);
    show(&mut command, "the soak")
}

fn rotation(seconds: u64, life: u64) -> Result<()> {
    for build in loopback::builds(Build::Debug) {
        show(cargo().args(build), "the build")?;
    }
    println!("{seconds} s with certificates of {life} s and an authority that is rotated twice");
    let mut command = cargo();
    command
        .args([
            "run",
            "--quiet",
            "-p",
            "kapok-tests",
            "--no-default-features",
        ])
        .args(["--bin", "soak-rotation", "--"])
        .args([seconds.to_string(), life.to_string()]);
    show(&mut command, "the soak")
}
