//! A fabric in a lab: a controller in the hub, an unprivileged agent on every host, and `kapok`
//! on this machine, all of them the programs that people install.
//!
//! ```text
//!   kapok ── door (loopback) ──▶ hub: kapok-controller ──▶ node-1: kapok-agent ──▶ libvirtd
//!                                                     └──▶ node-2: kapok-agent ──▶ libvirtd
//! ```
//!
//! It comes about as any other: `kapok-controller init` makes the authority and the first
//! credentials, and every host joins with a token of its own.
//!
//! **Invariant:** programs are taken once, when the fabric starts. A build that goes on meanwhile
//! doesn't change what a restart starts.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

pub mod config;
pub mod kapok;

pub use self::config::{Build, Listen, Settings, Store, Virt};
pub use self::kapok::{Kapok, Person, text};

use crate::command::User;
use crate::forward::Forward;
use crate::lab::{HUB, Lab};
use crate::places;
use crate::process::Proc;
use crate::run::{run, system};
use crate::wait::until;

/// The controller's port for people and agents; also the door's, if it is free on this machine.
const CONTROLLER: u16 = 7700;

/// The controller's port for joining and for its pages.
const HTTPS: u16 = 7780;

/// The agents' port, and that of their pages.
const AGENT: u16 = 7701;
const AGENT_HTTPS: u16 = 7781;

/// How long a program may take to end in order.
const MOMENT: Duration = Duration::from_secs(30);

/// The programs of a fabric.
const PROGRAMS: [&str; 3] = ["kapok-agent", "kapok-controller", "kapok"];

/// Where an agent keeps its state, inside its host.
pub const AGENT_STATE: &str = "/var/lib/kapok/agent";

/// Where the controller keeps its state, inside the hub.
const CONTROLLER_STATE: &str = "/var/lib/kapok/controller";

/// The configuration files, inside their machines.
const AGENT_CONFIG: &str = "/etc/kapok/agent.toml";
const CONTROLLER_CONFIG: &str = "/etc/kapok/controller.toml";

/// Where a token lies while its host joins.
const TOKEN: &str = "/etc/kapok/token";

/// How long a controller may take until it answers.
const SOON: Duration = Duration::from_secs(30);

/// A running fabric. Dropping it kills its programs; guests end with the lab.
#[derive(Debug)]
pub struct Fabric<'lab> {
    lab: &'lab Lab,
    settings: Settings,
    programs: PathBuf,
    agents: Vec<Mutex<Option<Proc>>>,
    controller: Mutex<Option<Proc>>,
    door: Forward,
    kapok: Kapok,
}

impl<'lab> Fabric<'lab> {
    /// Starts the programs. The nodes may need a moment until they are ready.
    ///
    /// # Errors
    ///
    /// When a program wasn't built or can't be started.
    pub fn start(lab: &'lab Lab, settings: Settings) -> Result<Self> {
        let programs = take_programs(lab, settings.build)?;
        let inside = SocketAddr::from((HUB, CONTROLLER));
        let door = Forward::open(Arc::clone(lab.hub()), CONTROLLER, inside)
            .or_else(|_| Forward::open(Arc::clone(lab.hub()), 0, inside))?;
        let credentials = lab.shared_folder()?.join("credentials");
        let kapok = Kapok::new(
            programs.join("kapok"),
            door.local().to_string(),
            credentials.clone(),
        );
        let fabric = Self {
            lab,
            settings,
            programs,
            agents: lab.hosts().iter().map(|_| Mutex::default()).collect(),
            controller: Mutex::default(),
            door,
            kapok,
        };
        fabric.initialize(&credentials)?;
        fabric.start_controller()?;
        for index in 0..fabric.agents.len() {
            fabric.join(index)?;
            fabric.start_agent(index)?;
        }
        Ok(fabric)
    }

    /// Makes the authority, the controller's certificate and the first credentials.
    fn initialize(&self, credentials: &Path) -> Result<()> {
        let hub = self.lab.hub();
        self.configure_controller(&self.settings)?;
        let credentials = places::inside(credentials);
        hub.command(places::inside(&self.programs.join("kapok-controller")))
            .user(User::Kapok)
            .args(["init", "--config", CONTROLLER_CONFIG, "--fabric", "lab"])
            .arg("--credentials")
            .arg(credentials)
            .text()
            .map(drop)
    }

    /// Writes the controller's configuration, which it reads when it starts.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub fn configure_controller(&self, settings: &Settings) -> Result<()> {
        let listen = Listen {
            grpc: SocketAddr::from((HUB, CONTROLLER)),
            https: SocketAddr::from((HUB, HTTPS)),
        };
        let text = config::controller(listen, Path::new(CONTROLLER_STATE), settings);
        self.lab.hub().write(CONTROLLER_CONFIG, &text)
    }

    /// What the fabric was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes a host a node, or brings a node back whose certificate has ended.
    ///
    /// # Errors
    ///
    /// When the controller or the agent refuses.
    pub fn join(&self, index: usize) -> Result<()> {
        let host = self.lab.host(index);
        let token = self
            .kapok
            .run(&["node", "token", "create", host.name(), "--quiet"])?;
        let listen = Listen {
            grpc: self.agent_address(index),
            https: SocketAddr::from((host.address(), AGENT_HTTPS)),
        };
        let text = config::agent(listen, Path::new(AGENT_STATE), &self.settings);
        host.machine().write(AGENT_CONFIG, &text)?;
        host.machine().write(TOKEN, token.trim())?;
        let program = places::inside(&self.programs.join("kapok-agent"));
        host.machine()
            .command(program)
            .user(User::Kapok)
            .args(["join", "--config", AGENT_CONFIG, "--token-file", TOKEN])
            .args(["--controller".to_owned(), format!("{HUB}:{HTTPS}")])
            .args(["--address".to_owned(), listen.grpc.to_string()])
            .text()?;
        Ok(fs::remove_file(host.machine().path(TOKEN))?)
    }

    /// The folder with the controller's certificate and key, as this process reaches it: for tests
    /// that speak to agents themselves.
    pub fn controller_trust(&self) -> PathBuf {
        self.lab
            .hub()
            .path(Path::new(CONTROLLER_STATE).join("trust/controller"))
    }

    /// The lab that it runs in.
    pub fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// The command, with this fabric's controller.
    pub fn kapok(&self) -> &Kapok {
        &self.kapok
    }

    /// Starts a host's agent, unless one runs there.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn start_agent(&self, index: usize) -> Result<()> {
        let mut agent = lock(&self.agents[index]);
        if agent.as_mut().is_some_and(Proc::is_alive) {
            return Ok(());
        }
        let program = places::inside(&self.programs.join("kapok-agent"));
        *agent = Some(
            self.lab
                .host(index)
                .spawn("kapok-agent", program, |command| {
                    command.user(User::Kapok).args(["--config", AGENT_CONFIG])
                })?,
        );
        Ok(())
    }

    /// A copy of [`Fabric::controller_trust`] that every host of the lab can read.
    ///
    /// # Errors
    ///
    /// When it can't be copied.
    pub fn share_controller_trust(&self) -> Result<PathBuf> {
        let copy = self.lab.shared_folder()?.join("controller-trust");
        run(system("cp")
            .arg("-a")
            .arg(self.controller_trust())
            .arg(&copy))?;
        Ok(copy)
    }

    /// Kills a host's agent with SIGKILL.
    ///
    /// # Errors
    ///
    /// When it hangs inside the kernel.
    pub fn kill_agent(&self, index: usize) -> Result<()> {
        match lock(&self.agents[index]).take() {
            Some(mut agent) => agent.kill().map(|_| ()),
            None => Ok(()),
        }
    }

    /// Sends a host's agent a signal.
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub fn signal_agent(&self, index: usize, signal: Signal) -> Result<()> {
        lock(&self.agents[index])
            .as_mut()
            .context("the agent doesn't run")?
            .signal(signal)
    }

    /// The process id of a host's agent as this process sees it, if one was started.
    pub fn agent_pid(&self, index: usize) -> Option<u32> {
        lock(&self.agents[index]).as_ref().map(Proc::pid)
    }

    /// What a host's agents have logged.
    pub fn agent_log(&self, index: usize) -> String {
        read_log(self.lab, self.lab.host(index).name(), "kapok-agent")
    }

    /// Where a host's agent listens, inside the lab.
    pub fn agent_address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.lab.host(index).address(), AGENT))
    }

    /// A door to a host's agent.
    ///
    /// # Errors
    ///
    /// When this machine has no free port.
    pub fn agent_door(&self, index: usize) -> Result<Forward> {
        Forward::open(Arc::clone(self.lab.hub()), 0, self.agent_address(index))
    }

    /// Starts the controller, unless it runs, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it can't be started or doesn't answer.
    pub fn start_controller(&self) -> Result<()> {
        let mut controller = lock(&self.controller);
        if controller.as_mut().is_some_and(Proc::is_alive) {
            return Ok(());
        }
        let program = places::inside(&self.programs.join("kapok-controller"));
        *controller = Some(
            self.lab
                .hub()
                .command(program)
                .user(User::Kapok)
                .args(["--config", CONTROLLER_CONFIG])
                .spawn("kapok-controller")?,
        );
        until("the controller's answer", SOON, || {
            Ok(self.kapok.run(&["whoami"]).ok().map(drop))
        })
    }

    /// Runs a command of the controller's own program, as the controller's user, and gives what it said.
    ///
    /// # Errors
    ///
    /// When it fails, with what it said.
    pub fn controller_command(&self, arguments: &[&str]) -> Result<String> {
        let program = places::inside(&self.programs.join("kapok-controller"));
        self.lab
            .hub()
            .command(program)
            .user(User::Kapok)
            .args(arguments)
            .args(["--config", CONTROLLER_CONFIG])
            .text()
    }

    /// The controller's state directory, as this process reaches it.
    pub fn controller_state(&self) -> PathBuf {
        self.lab.hub().path(CONTROLLER_STATE)
    }

    /// Kills the controller with SIGKILL.
    ///
    /// # Errors
    ///
    /// When it hangs inside the kernel.
    pub fn kill_controller(&self) -> Result<()> {
        match lock(&self.controller).take() {
            Some(mut controller) => controller.kill().map(|_| ()),
            None => Ok(()),
        }
    }

    /// The controller's process id as this process sees it, if one was started.
    pub fn controller_pid(&self) -> Option<u32> {
        lock(&self.controller).as_ref().map(Proc::pid)
    }

    /// What the controllers have logged.
    pub fn controller_log(&self) -> String {
        read_log(self.lab, self.lab.hub().name(), "kapok-controller")
    }

    /// Ends the programs as an administrator would, and says if one doesn't obey.
    ///
    /// # Errors
    ///
    /// When a program doesn't end in time.
    pub fn end(self) -> Result<()> {
        for program in std::iter::once(&self.controller).chain(&self.agents) {
            if let Some(mut program) = lock(program).take() {
                let name = program.name().to_owned();
                program
                    .terminate(MOMENT)
                    .with_context(|| format!("{name} didn't end in order"))?;
            }
        }
        drop(self.door);
        Ok(())
    }
}

/// The end of each program's log, for a person who has to find out what went wrong.
pub fn last_words(lab: &Lab, lines: usize) -> String {
    let hub = lab.hub().name().to_owned();
    let hosts = lab
        .hosts()
        .iter()
        .map(|host| (host.name().to_owned(), "kapok-agent"));
    let mut words = String::new();
    for (machine, program) in std::iter::once((hub, "kapok-controller")).chain(hosts) {
        let log = read_log(lab, &machine, program);
        let log: Vec<&str> = log.lines().collect();
        let end = log[log.len().saturating_sub(lines)..].join("\n");
        let _never_fails = writeln!(words, "-- {program} on {machine}\n{end}");
    }
    words
}

fn read_log(lab: &Lab, machine: &str, program: &str) -> String {
    let path = lab
        .folder()
        .join(machine)
        .join("logs")
        .join(format!("{program}.log"));
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Puts the programs of a build aside. A link is enough: a build makes new files.
fn take_programs(lab: &Lab, build: Build) -> Result<PathBuf> {
    let folder = lab.shared_folder()?.join("bin");
    fs::create_dir_all(&folder)?;
    for name in PROGRAMS {
        let built = places::target().join(build.as_str()).join(name);
        let taken = folder.join(name);
        if !taken.exists() && fs::hard_link(&built, &taken).is_err() {
            fs::copy(&built, &taken).with_context(|| format!("{} isn't built", built.display()))?;
        }
    }
    Ok(folder)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
