//! A fabric of real processes on loopback, without libvirt: the controller's own binary, and
//! simulated nodes in another one. It comes about as any other: `init`, tokens, joining.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub use self::controller::Controller;
use self::controller::PROGRAM;
use crate::fabric::config::Listen;
use crate::fabric::{Build, Kapok, Person, Settings};
use crate::places;
use crate::wait::until;

mod controller;

/// How long a program may take to serve, or to end.
const MOMENT: Duration = Duration::from_mins(1);
/// What each simulated node may add to that.
const EACH: Duration = Duration::from_millis(50);

/// The name of the controller that `init` makes.
const FIRST: &str = "a";
const SIMULATOR: &str = "kapok-sim";

/// What the simulated nodes are like.
#[derive(Debug, Clone, Copy)]
pub struct Nodes {
    /// How many.
    pub count: u16,
    /// Processor threads of each; each carries four vCPUs.
    pub cpus: u32,
    /// How long a simulated call takes, in milliseconds.
    pub latency_ms: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            count: 4,
            cpus: 16,
            latency_ms: 5,
        }
    }
}

/// A controller and simulated nodes, each in a process of its own. Dropping it kills them.
#[derive(Debug)]
pub struct Loopback {
    controller: Controller,
    /// Those that joined it.
    others: Vec<Controller>,
    simulator: Option<Running>,
    kapok: Kapok,
    programs: PathBuf,
    folder: TempDir,
}

/// A program of ours. Dropping it kills it; so does the end of this process, however it comes.
#[derive(Debug)]
struct Running {
    name: &'static str,
    child: Child,
    /// Reads from a pipe that only this process holds, and kills the program when it closes.
    guard: Child,
}

impl Loopback {
    /// Starts both and waits until they serve. The programs were built before.
    ///
    /// # Errors
    ///
    /// What could not be started, with the last words of its log.
    pub fn start(nodes: Nodes, settings: &Settings) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("kapok-loopback-")
            .tempdir()?;
        let programs = places::target().join(settings.build.as_str());
        let kapok = Kapok::new(
            programs.join("kapok"),
            String::new(),
            folder.path().join("credentials"),
        );
        let controller = Controller::new(FIRST, &programs, folder.path(), &kapok)?;
        let kapok = controller.kapok().clone();
        let mut fabric = Self {
            controller,
            others: Vec::new(),
            simulator: None,
            kapok,
            programs,
            folder,
        };
        fabric.configure(settings)?;
        let started = fabric.initialize().and_then(|()| {
            fabric.start_controller()?;
            fabric.start_nodes(nodes, settings)
        });
        match started {
            Ok(()) => Ok(fabric),
            Err(error) => Err(error.context(fabric.last_words())),
        }
    }

    /// Where the controller serves.
    pub fn listen(&self) -> Listen {
        self.controller.listen()
    }

    /// All controllers, the first one first.
    pub fn controllers(&mut self) -> Vec<&mut Controller> {
        std::iter::once(&mut self.controller)
            .chain(&mut self.others)
            .collect()
    }

    /// One of the controllers, by its place.
    pub fn controller(&mut self, index: usize) -> &mut Controller {
        match index.checked_sub(1) {
            None => &mut self.controller,
            Some(other) => &mut self.others[other],
        }
    }

    /// Lets one more controller join, and starts it.
    ///
    /// # Errors
    ///
    /// What it or the fabric said against it.
    pub fn join_controller(&mut self, name: &str, settings: &Settings) -> Result<()> {
        let mut controller =
            Controller::new(name, &self.programs, self.folder.path(), &self.kapok)?;
        controller.configure(settings)?;
        let security = self.kapok.by(Person::SecurityAdministrator);
        let subject = format!("controller/{name}");
        let token = security.run(&["token", "create", &subject, "--quiet"])?;
        // At the newest one: it passes on what it can't answer itself.
        let asked = self.others.last().unwrap_or(&self.controller);
        let https = asked.listen().https.to_string();
        controller.command(&["join", "--token", token.trim(), "--controller", &https])?;
        controller.start()?;
        self.others.push(controller);
        Ok(())
    }

    /// `kapok`, asking whichever controller answers.
    pub fn kapok_of_all(&self) -> Kapok {
        let all = std::iter::once(&self.controller).chain(&self.others);
        let all: Vec<String> = all.map(|one| one.address().to_string()).collect();
        self.kapok.at(all.join(","))
    }

    /// `kapok`, used by the system administrator.
    pub fn kapok(&self) -> &Kapok {
        &self.kapok
    }

    /// A folder that goes with the processes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder with the controller's certificate and key.
    pub fn controller_trust(&self) -> PathBuf {
        self.controller.state().join("trust/controller")
    }

    /// What the controllers have logged.
    pub fn controller_log(&self) -> String {
        let all = std::iter::once(&self.controller).chain(&self.others);
        all.map(Controller::log).collect()
    }

    /// What the simulated nodes have logged.
    pub fn simulator_log(&self) -> String {
        self.log(SIMULATOR)
    }

    /// The controller's process id, if it was started.
    pub fn controller_pid(&self) -> Option<u32> {
        self.controller.pid()
    }

    /// The simulated nodes' process id, if it was started.
    pub fn simulator_pid(&self) -> Option<u32> {
        self.simulator.as_ref().map(|running| running.child.id())
    }

    /// Writes the controller's configuration, which it reads at its next start.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        self.controller.configure(settings)
    }

    /// Runs a command of the controller's own program, and gives what it said.
    ///
    /// # Errors
    ///
    /// When it fails, with what it said.
    pub fn controller_command(&self, arguments: &[&str]) -> Result<String> {
        self.controller.command(arguments)
    }

    /// Runs a command of the controller's own program and kills it with SIGKILL as soon as `look` says
    /// so; says whether that came before its end.
    ///
    /// # Errors
    ///
    /// When it can't be started, or neither comes in time.
    pub fn controller_killed(
        &self,
        arguments: &[&str],
        look: impl FnMut() -> bool,
    ) -> Result<bool> {
        self.controller.killed(arguments, look)
    }

    /// Ends the controller as an administrator would.
    ///
    /// # Errors
    ///
    /// When it doesn't end in order.
    pub fn stop_controller(&mut self) -> Result<()> {
        self.controller.stop()
    }

    /// Kills the controller with SIGKILL.
    pub fn kill_controller(&mut self) {
        self.controller.kill();
    }

    /// Starts the controller, unless it runs, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it ends or doesn't answer.
    pub fn start_controller(&mut self) -> Result<()> {
        self.controller.start()
    }

    /// Ends the programs as an administrator would, and takes their folder away.
    ///
    /// # Errors
    ///
    /// When one doesn't end in order.
    pub fn end(mut self) -> Result<()> {
        self.stop()
    }

    /// Ends the programs as an administrator would. What they have written stays.
    ///
    /// # Errors
    ///
    /// When one doesn't end in order.
    pub fn stop(&mut self) -> Result<()> {
        for controller in self.controllers().into_iter().rev() {
            controller.stop()?;
        }
        self.simulator.take().map_or(Ok(()), Running::end)
    }

    /// The last lines of both logs.
    pub fn last_words(&self) -> String {
        let mut words = String::new();
        let mut logs = vec![(SIMULATOR, self.log(SIMULATOR))];
        let all = std::iter::once(&self.controller).chain(&self.others);
        logs.extend(all.map(|one| (one.name(), one.log())));
        for (name, log) in logs {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            let _never_fails = writeln!(words, "-- {name}\n{last}");
        }
        words
    }

    fn initialize(&self) -> Result<()> {
        let credentials = self.path("credentials");
        let credentials = credentials.to_string_lossy();
        let init = [
            "init",
            "--fabric",
            "loopback",
            "--credentials",
            &*credentials,
        ];
        self.controller_command(&init).map(drop)
    }

    /// Makes a token for each simulated node and lets all of them join.
    fn start_nodes(&mut self, nodes: Nodes, settings: &Settings) -> Result<()> {
        let mut tokens = String::new();
        for number in 1..=nodes.count {
            let name = format!("sim-{number}");
            let token = ["node", "token", "create", &name, "--quiet"];
            writeln!(tokens, "{}", self.kapok.run(&token)?.trim())?;
        }
        let (file, ready) = (self.path("tokens"), self.path("ready.json"));
        fs::write(&file, tokens)?;
        let mut arguments = vec![
            "--nodes".into(),
            nodes.count.to_string(),
            "--listen-base".into(),
            "127.0.0.1:0".into(),
            "--cpus".into(),
            nodes.cpus.to_string(),
            "--latency-ms".into(),
            nodes.latency_ms.to_string(),
            "--controller".into(),
            self.listen().https.to_string(),
            "--tokens".into(),
            file.display().to_string(),
            "--ready-file".into(),
            ready.display().to_string(),
        ];
        if let Some(endpoint) = &settings.otlp_endpoint {
            arguments.extend(["--otlp-endpoint".into(), endpoint.clone()]);
        }
        let log = self.path(&format!("{SIMULATOR}.log"));
        let program = self.programs.join(SIMULATOR);
        let folder = self.folder.path();
        let mut running = Running::spawn(SIMULATOR, &program, &arguments, &log, folder)?;
        let bound = MOMENT + EACH * u32::from(nodes.count);
        until("the simulated nodes", bound, || {
            running.check()?;
            Ok(ready.exists().then_some(()))
        })?;
        self.simulator = Some(running);
        fs::remove_file(file)?;
        let all = usize::from(nodes.count);
        until("the nodes to be ready", bound, || {
            let listed = self.kapok.list(&["node", "ls"])?;
            let is_ready = |node: &&Value| node["state"] == "ready";
            Ok((listed.iter().filter(is_ready).count() == all).then_some(()))
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.path(&format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Whoever is killed runs no clean-up of its own.
fn guard(child: &Child) -> Result<Child> {
    Command::new("sh")
        .args(["-c", "read -r _; kill -KILL \"$0\""])
        .arg(child.id().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("can't start sh")
}

impl Running {
    /// Starts a program in a folder; what it says is added to a log.
    fn spawn(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C at the terminal is for whoever started us, which then ends it in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("can't start {name}; was it built?"))?;
        let guard = guard(&child);
        let mut child = child;
        if guard.is_err() {
            let _ended_already = child.kill().and_then(|()| child.wait());
        }
        let guard = guard?;
        Ok(Self { name, child, guard })
    }

    /// Fails when it has ended.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended ({status})", self.name),
            None => Ok(()),
        }
    }

    fn end(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGTERM)?;
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
        // The guard first: by its end the program's id could be another's.
        let _ended_already = self.guard.kill().and_then(|()| self.guard.wait());
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// The commands of cargo that build the programs of such a fabric. The simulator on its own: built
/// together, another crate's wish for libvirt would count for all.
pub fn builds(build: Build) -> [Vec<&'static str>; 2] {
    let release: &[&str] = match build {
        Build::Debug => &[],
        Build::Release => &["--release"],
    };
    let sim = [
        "build",
        "-p",
        "kapok-agent",
        "--no-default-features",
        "--features",
        "otlp",
        "--bin",
        SIMULATOR,
    ];
    let others = ["build", "-p", PROGRAM, "-p", "kapok", "--bins"];
    [
        [&sim[..], release].concat(),
        [&others[..], release].concat(),
    ]
}

/// An address of loopback that is free now.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
