//! The demo without root or libvirt: the same controller, with simulated nodes.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kapok_lab::fabric::config::{Node, controller as controller_config};
use kapok_lab::fabric::{Kapok, Settings};
use kapok_lab::places;
use kapok_lab::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use std::os::unix::process::CommandExt;

use super::Options;
use super::tour::Tour;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, human};
use crate::tool;

/// How long a program may take to end.
const MOMENT: Duration = Duration::from_secs(20);

/// Size of the made-up image, in bytes.
const IMAGE_BYTES: u64 = 4 * 1024 * 1024;

pub(super) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    progress.say("building the simulated agents, the controller and the command");
    let mut agent = tool::cargo();
    // On its own: built together, another crate's wish for libvirt would count for all.
    agent.args([
        "build",
        "-p",
        "kapok-agent",
        "--no-default-features",
        "--bin",
        "kapok-sim",
    ]);
    tool::show(&mut agent, "the build")?;
    let mut others = tool::cargo();
    others.args(["build", "-p", "kapok-controller", "-p", "kapok", "--bins"]);
    tool::show(&mut others, "the build")?;
    interrupt.check()?;

    let folder = tempfile::Builder::new().prefix("kapok-demo-").tempdir()?;
    let shown = show(folder.path(), options, progress, interrupt);
    if shown.is_err() && !interrupt.is_asked() {
        println!("{}", last_words(folder.path()));
    }
    folder.close().context("can't remove the demo's folder")?;
    shown?;
    progress.say(&format!(
        "nothing is left; all done in {}",
        human(start.elapsed())
    ));
    Ok(())
}

fn show(
    folder: &Path,
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let count = usize::from(options.hosts);
    let (simulator, nodes) = start_nodes(folder, count)?;
    let controller = free_address()?;
    let text = controller_config(
        controller,
        &folder.join("controller"),
        &nodes,
        &Settings::default(),
    );
    let file = folder.join("controller.toml");
    fs::write(&file, text)?;
    let controlling = Running::start(
        folder,
        "kapok-controller",
        &["--config".to_owned(), file.display().to_string()],
    )?;
    let kapok = Kapok::new(places::program("kapok"), format!("http://{controller}"));
    progress.say(&format!(
        "{count} simulated nodes and a controller run: {}",
        kapok.server()
    ));

    let image = folder.join("image.raw");
    File::create(&image)?.set_len(IMAGE_BYTES)?;
    let tour = Tour {
        kapok: &kapok,
        nodes: count,
        image: &image,
        instances: count.max(2),
        guests_answer: false,
        progress,
        interrupt,
    };
    tour.go()?;
    tour.show()?;
    if !options.once {
        println!(
            "Look around in another terminal:\n\n  export KAPOK_SERVER={}",
            kapok.server()
        );
        println!("  alias kapok={}", places::program("kapok").display());
        println!("  kapok node ls; kapok instance ls; kapok events\n\nCtrl-C ends it.");
        interrupt.wait();
    }
    controlling.end()?;
    simulator.end()
}

/// A node of the simulator's ready file.
#[derive(Debug, Deserialize)]
struct Listening {
    address: SocketAddr,
}

/// A program of ours that runs beside the demo. Dropping it kills it.
struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    fn start(folder: &Path, name: &'static str, arguments: &[String]) -> Result<Self> {
        let log = File::create(log_path(folder, name))?;
        let child = Command::new(places::program(name))
            .args(arguments)
            .current_dir(folder)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C at the terminal is for the demo, which then ends it in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        Ok(Self { name, child })
    }

    fn end(mut self) -> Result<()> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let child = &mut self.child;
        let status = until(&format!("the end of {}", self.name), MOMENT, || {
            Ok(child.try_wait()?)
        })?;
        if !status.success() {
            bail!("{} ended badly ({status})", self.name);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn last_words(folder: &Path) -> String {
    ["kapok-controller", "kapok-sim"]
        .map(|name| {
            let log = fs::read_to_string(log_path(folder, name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!(
                "-- {name}\n{}",
                lines[lines.len().saturating_sub(15)..].join("\n")
            )
        })
        .join("\n")
}

/// Starts simulated nodes and waits until all of them listen.
fn start_nodes(folder: &Path, count: usize) -> Result<(Running, Vec<Node>)> {
    let ready = folder.join("nodes.json");
    let arguments = [
        "--nodes".to_owned(),
        count.to_string(),
        "--listen-base".to_owned(),
        "127.0.0.1:0".to_owned(),
        "--ready-file".to_owned(),
        ready.display().to_string(),
    ];
    let mut simulator = Running::start(folder, "kapok-sim", &arguments)?;
    let text = until("the simulated nodes", MOMENT, || {
        if let Some(status) = simulator.child.try_wait()? {
            bail!("kapok-sim ended ({status})");
        }
        Ok(fs::read_to_string(&ready).ok())
    })?;
    let listening: Vec<Listening> = serde_json::from_str(&text)?;
    let nodes = listening
        .into_iter()
        .enumerate()
        .map(|(index, node)| Node {
            name: format!("sim-{index}"),
            address: node.address,
        })
        .collect();
    Ok((simulator, nodes))
}

/// An address of loopback that is free now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
