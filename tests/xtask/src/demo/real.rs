//! The demo with real hosts: libvirtd, QEMU and an unprivileged agent in each.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kapok_lab::forward::Forward;
use kapok_lab::guest::{self, Image};
use kapok_lab::places;
use kapok_lab::{Host, Lab, Proc, User, leftovers, packages};
use nix::unistd::Uid;
use serde_json::Value;

use super::Options;
use super::cli::{Kapok, text};
use super::config::{self, Node};
use super::tour::Tour;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, human};
use crate::{setup, tool};

/// The controller's port for people, inside the lab and, if it is free, on this machine.
const CONTROLLER: u16 = 7700;

/// The agents' port.
const AGENT: u16 = 7701;

/// How long a program may take to say that it is ready, or to end.
const MOMENT: Duration = Duration::from_secs(30);

pub(super) fn run(options: &Options, progress: &Progress, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    if !Uid::effective().is_root() {
        bail!("the demo makes namespaces and needs root; try `cargo xtask demo --simulated`");
    }
    let wanted = [packages::BUILD, packages::LAB, packages::GUEST].concat();
    setup::install(&wanted, progress)?;
    interrupt.check()?;
    progress.say("building the agent, the controller and the command");
    let mut build = tool::cargo();
    build.args([
        "build",
        "-p",
        "kapok-agent",
        "-p",
        "kapok-controller",
        "-p",
        "kapok",
        "--bins",
    ]);
    tool::show(&mut build, "the build")?;
    interrupt.check()?;
    progress.say("making the guest image from Debian packages");
    let image = guest::build()?;
    interrupt.check()?;
    progress.say(&format!("raising a lab of {} hosts", options.hosts));
    let lab = Lab::raise(&kapok_lab::Options {
        hosts: options.hosts,
    })?;
    let shown = show(&lab, &image, options, progress, interrupt);
    if let Err(error) = &shown
        && !interrupt.is_asked()
    {
        println!("\nThat went wrong: {error:#}\n{}", last_words(&lab));
    }
    progress.say("taking everything away");
    lab.close()?;
    let left = leftovers();
    if !left.is_empty() {
        bail!("left behind: {}", left.join(", "));
    }
    shown?;
    progress.say(&format!(
        "nothing is left; all done in {}",
        human(start.elapsed())
    ));
    Ok(())
}

fn show(
    lab: &Lab,
    image: &Image,
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut agents = Vec::new();
    for host in lab.hosts() {
        agents.push(start_agent(host, image)?);
    }
    progress.say("an agent runs on every host, as an unprivileged user");
    let mut controller = start_controller(lab)?;
    let inside = SocketAddr::from((kapok_lab::lab::HUB, CONTROLLER));
    let door = Forward::open(Arc::clone(lab.hub()), CONTROLLER, inside)
        .or_else(|_| Forward::open(Arc::clone(lab.hub()), 0, inside))?;
    let kapok = Kapok::new(format!("http://{}", door.local()));
    progress.say(&format!(
        "the controller runs; {} leads to it",
        kapok.server()
    ));

    let tour = Tour {
        kapok: &kapok,
        nodes: lab.hosts().len(),
        image: &image.disk,
        instances: lab.hosts().len().max(2),
        guests_answer: true,
        progress,
        interrupt,
    };
    let instances = tour.go()?;
    compare_with_virsh(lab, &instances)?;
    progress.say("virsh on every host agrees with `kapok instance ls`");
    tour.show()?;
    if !options.once {
        how_to_look_around(lab, &kapok);
        interrupt.wait();
    }
    controller
        .terminate(MOMENT)
        .context("the controller didn't end in order")?;
    for mut agent in agents {
        agent
            .terminate(MOMENT)
            .context("an agent didn't end in order")?;
    }
    Ok(())
}

fn start_agent(host: &Host, image: &Image) -> Result<Proc> {
    let machine = host.machine();
    let probe = (
        places::inside(&image.probe_kernel),
        places::inside(&image.probe_initrd),
    );
    let listen = SocketAddr::from((host.address(), AGENT));
    let state = Path::new("/var/lib/kapok/agent");
    let text = config::agent(listen, state, (&probe.0, &probe.1));
    machine.write("/etc/kapok/agent.toml", &text)?;
    host.spawn(
        "kapok-agent",
        places::inside(&places::program("kapok-agent")),
        |command| {
            command
                .user(User::Kapok)
                .args(["--config", "/etc/kapok/agent.toml"])
        },
    )
}

fn start_controller(lab: &Lab) -> Result<Proc> {
    let nodes: Vec<Node> = lab
        .hosts()
        .iter()
        .map(|host| Node {
            name: host.name().to_owned(),
            address: SocketAddr::from((host.address(), AGENT)),
        })
        .collect();
    let listen = SocketAddr::from((kapok_lab::lab::HUB, CONTROLLER));
    let text = config::controller(listen, Path::new("/var/lib/kapok/controller"), &nodes);
    lab.hub().write("/etc/kapok/controller.toml", &text)?;
    lab.hub()
        .command(places::inside(&places::program("kapok-controller")))
        .user(User::Kapok)
        .args(["--config", "/etc/kapok/controller.toml"])
        .spawn("kapok-controller")
}

/// The same instances, asked on every host without Kapok.
fn compare_with_virsh(lab: &Lab, instances: &[Value]) -> Result<()> {
    for host in lab.hosts() {
        let here = instances
            .iter()
            .filter(|instance| text(instance, "node") == host.name());
        let (expected, seen) = (here.count(), host.running_domains()?.len());
        if expected != seen {
            bail!(
                "kapok says {expected} instances on {}, virsh says {seen}",
                host.name()
            );
        }
    }
    Ok(())
}

fn how_to_look_around(lab: &Lab, kapok: &Kapok) {
    let program = places::program("kapok");
    println!("Look around in another terminal:\n");
    println!("  export KAPOK_SERVER={}", kapok.server());
    println!("  alias kapok={}", program.display());
    println!("  kapok node ls; kapok instance ls -o wide; kapok events");
    println!("  kapok instance console guest-1      # a shell; Ctrl-] leaves");
    println!("  kapok instance explain guest-1\n");
    for host in lab.hosts() {
        let machine = host.machine();
        let pid = machine.init_pid();
        println!(
            "  nsenter --target {pid} --all virsh list   # {}",
            host.name()
        );
    }
    println!(
        "\n  logs: {}/*/logs/\n\nCtrl-C takes everything away.",
        lab.folder().display()
    );
}

/// The end of each program's log, for a person who has to find out what went wrong.
fn last_words(lab: &Lab) -> String {
    let mut words = String::new();
    let logs = std::iter::once((lab.hub().name().to_owned(), "kapok-controller")).chain(
        lab.hosts()
            .iter()
            .map(|host| (host.name().to_owned(), "kapok-agent")),
    );
    for (machine, program) in logs {
        let path = lab
            .folder()
            .join(&machine)
            .join("logs")
            .join(format!("{program}.log"));
        let log = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n");
        let _never_fails = writeln!(words, "-- {program} on {machine}\n{end}");
    }
    words
}
