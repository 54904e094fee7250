//! `cargo xtask bench`: what the agent adds to a start, what the daemons hold in memory, what a
//! scrape of the metrics takes, what mTLS, verifying the log and placing instances take.
//!
//! All run the release build, because figures of a debug build mean nothing; the first three in a lab.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use kapok_lab::fabric::{self, Build, Fabric, Settings, text};
use kapok_lab::wait::{pause, until};
use kapok_lab::{Lab, User, leftovers, packages, places};

use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::{setup, tool};

mod scrape;

/// The most memory that an agent may hold with 40 domains.
const AGENT_GOAL_KIB: u64 = 25 * 1024;

/// The most memory that a controller may hold with 3 nodes.
const CONTROLLER_GOAL_KIB: u64 = 40 * 1024;

/// How long one step with the fabric may take.
const BOUND: Duration = Duration::from_mins(2);

/// How long the daemons are left alone before they are measured.
const REST: Duration = Duration::from_secs(20);

/// The instances' image: a blank disk. Nothing boots, and nothing has to.
const IMAGE: &str = "blank";

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    #[command(flatten)]
    InLab(InLab),
    /// gRPC over mTLS against plain text, on loopback
    Tls,
    /// Verifying a log of 100,000 entries
    Audit,
    /// Placements a second, in memory and durable, with up to 100,000 nodes
    Placement {
        /// Where the log is written meanwhile; must be on a disk
        #[arg(long, value_name = "FOLDER", default_value = "target")]
        folder: PathBuf,
    },
}

/// What is measured in a lab.
#[derive(Debug, Subcommand)]
enum InLab {
    /// Create to running: through the agent, and by the same libvirt calls made in-process
    Start {
        /// How many alternating pairs
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(30..))]
        pairs: u32,
    },
    /// Resident memory of an agent with many domains, and of a controller with 3 nodes
    Memory {
        /// How many domains
        #[arg(long, default_value_t = 40)]
        domains: u32,
    },
    /// The agent's metrics with many domains, against prometheus-libvirt-exporter
    Scrape {
        /// How many domains
        #[arg(long, default_value_t = 100)]
        domains: u32,
    },
}

pub(crate) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    match &options.what {
        What::Tls => example("kapok-trust", "tls"),
        What::Audit => example("kapok-store", "verify"),
        What::Placement { folder } => placement(folder),
        What::InLab(what) => in_a_lab(what, progress, interrupt),
    }
}

/// Runs a crate's own measurement.
fn example(package: &str, name: &str) -> Result<()> {
    let mut command = tool::cargo();
    command.args(["run", "--release", "-p", package, "--example", name]);
    tool::show(&mut command, "the measurement")
}

/// Runs the placement's measurement.
fn placement(folder: &Path) -> Result<()> {
    let mut command = tool::cargo();
    command.args([
        "run",
        "--release",
        "-p",
        "kapok-replay",
        "--bin",
        "bench-placement",
        "--",
    ]);
    command.arg("--folder").arg(folder);
    tool::show(&mut command, "the measurement")
}

fn in_a_lab(what: &InLab, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    setup::install(
        &[packages::BUILD, packages::LAB, packages::BENCH].concat(),
        progress,
    )?;
    progress.say("building the release programs");
    build(&["-p", "kapok-agent", "-p", "kapok-controller", "-p", "kapok"])?;
    let hosts = match what {
        InLab::Start { .. } => {
            build(&["-p", "kapok-tests", "--bin", "bench-start"])?;
            1
        }
        InLab::Memory { .. } => 3,
        InLab::Scrape { .. } => 1,
    };
    interrupt.check()?;
    progress.say(&format!("raising a lab, hosts: {hosts}"));
    let lab = Lab::raise(&kapok_lab::Options { hosts })?;
    let measured = measure(&lab, what, progress, interrupt);
    if measured.is_err() && !interrupt.is_asked() {
        println!("{}", fabric::last_words(&lab, 15));
    }
    lab.close()?;
    let left = leftovers();
    if !left.is_empty() {
        bail!("left behind: {}", left.join(", "));
    }
    measured
}

fn build(what: &[&str]) -> Result<()> {
    let mut command = tool::cargo();
    command.args(["build", "--release"]).args(what);
    if !what.contains(&"--bin") {
        command.arg("--bins");
    }
    tool::show(&mut command, "the build")
}

fn measure(lab: &Lab, what: &InLab, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    let settings = Settings {
        build: Build::Release,
        // The fewest threads are one; the domains have one vCPU each.
        vcpu_overcommit: 64,
        ..Settings::default()
    };
    let fabric = Fabric::start(lab, settings)?;
    let kapok = fabric.kapok();
    until("all nodes", BOUND, || {
        interrupt.check()?;
        let nodes = kapok.list(&["node", "ls"]).unwrap_or_default();
        let ready = nodes
            .iter()
            .filter(|node| text(node, "state") == "ready")
            .count();
        Ok((ready == lab.hosts().len()).then_some(()))
    })?;
    let blank = lab.shared_folder()?.join("blank.raw");
    fs::write(&blank, vec![0_u8; 1 << 20])?;
    let file = blank.to_string_lossy();
    kapok.run(&["image", "import", &file, "--name", IMAGE, "--format", "raw"])?;
    match *what {
        InLab::Start { pairs } => start(lab, &fabric, pairs, progress)?,
        InLab::Memory { domains } => memory(lab, &fabric, domains, progress, interrupt)?,
        InLab::Scrape { domains } => scrape::run(lab, &fabric, domains, progress, interrupt)?,
    }
    fabric.end()
}

const CREATE: [&str; 6] = ["instance", "create", "--image", IMAGE, "--memory", "16MiB"];

fn create(fabric: &Fabric<'_>, name: &str) -> Result<()> {
    let words = [&CREATE[..], &[name, "--wait"]].concat();
    fabric.kapok().run(&words).map(drop)
}

/// Doesn't wait for it to run.
fn create_only(fabric: &Fabric<'_>, name: &str) -> Result<()> {
    let words = [&CREATE[..], &[name]].concat();
    fabric.kapok().run(&words).map(drop)
}

fn start(lab: &Lab, fabric: &Fabric<'_>, pairs: u32, progress: &Progress) -> Result<()> {
    // Brings the image to the node, and everything has been done once.
    create(fabric, "first")?;
    fabric
        .kapok()
        .run(&["instance", "rm", "first", "--yes", "--wait"])?;
    let image = fabric.kapok().value(&["image", "show", IMAGE])?;
    let size = image["size_bytes"]
        .as_u64()
        .context("an image without a size")?;
    let node = fabric
        .kapok()
        .value(&["node", "show", lab.host(0).name()])?;
    // The one thing on that host that speaks to its agent as a controller does.
    let trust = fabric.share_controller_trust()?;
    progress.say(&format!("measuring {pairs} pairs"));
    let program = places::inside(&places::target().join("release/bench-start"));
    let machine = lab.host(0).machine();
    let output = machine
        .command(program)
        .user(User::Kapok)
        .bound(BOUND * 10)
        .env("RUST_BACKTRACE", "0")
        .args(["--agent", &fabric.agent_address(0).to_string()])
        .args(["--node", text(&node, "id")])
        .arg("--trust")
        .arg(places::inside(&trust))
        .args(["--image", text(&image, "digest")])
        .args(["--image-format", text(&image, "format")])
        .args(["--image-bytes", &size.to_string()])
        .args(["--pairs", &pairs.to_string()])
        .output()?;
    println!("\n{}", String::from_utf8_lossy(&output.stdout).trim_end());
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

fn memory(
    lab: &Lab,
    fabric: &Fabric<'_>,
    domains: u32,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    for other in &lab.hosts()[1..] {
        fabric.kapok().run(&["node", "cordon", other.name()])?;
    }
    progress.say(&format!("starting {domains} domains on one node"));
    for number in 1..=domains {
        interrupt.check()?;
        create(fabric, &format!("domain-{number}"))?;
    }
    let running = lab.host(0).running_domains()?.len();
    ensure!(
        running == usize::try_from(domains)?,
        "{running} domains run"
    );
    progress.say("leaving it alone for a while");
    pause(REST);
    let agent = Resident::of(fabric.agent_pid(0).context("no agent")?)?;
    let controller = Resident::of(fabric.controller_pid().context("no controller")?)?;
    println!();
    let mut missed = Vec::new();
    for (what, found, goal) in [
        (
            format!("agent with {domains} domains"),
            agent,
            AGENT_GOAL_KIB,
        ),
        (
            "controller with 3 nodes".to_owned(),
            controller,
            CONTROLLER_GOAL_KIB,
        ),
    ] {
        println!(
            "{what:<24} {:>9} resident, goal {} (its own {}, programs and libraries {})",
            mib(found.kib),
            mib(goal),
            mib(found.own_kib),
            mib(found.files_kib)
        );
        if found.kib > goal {
            missed.push(what);
        }
    }
    if !missed.is_empty() {
        bail!("over the goal: {}", missed.join(", "));
    }
    Ok(())
}

/// Resident memory of a process, in KiB.
#[derive(Debug, Clone, Copy)]
struct Resident {
    /// All of it, shared pages included.
    kib: u64,
    /// What it has allocated.
    own_kib: u64,
    /// Pages of files: code and constants.
    files_kib: u64,
}

impl Resident {
    fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            let kib = kib.with_context(|| format!("no {name} in its status"))?;
            Ok(kib.parse()?)
        };
        Ok(Self {
            kib: field("VmRSS:")?,
            own_kib: field("RssAnon:")?,
            files_kib: field("RssFile:")?,
        })
    }
}

fn mib(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}
