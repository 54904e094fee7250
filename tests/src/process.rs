//! A fabric of real processes on loopback: the controller's own binary, and simulated nodes in
//! another one. For suites that come from outside, such as other languages' clients.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use kapok_lab::places;
use serde_json::Value;
use tempfile::TempDir;

/// How long a program may take until it serves.
const MOMENT: Duration = Duration::from_mins(1);

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

/// A controller and simulated nodes, each in a process of its own. Dropping it ends them.
#[derive(Debug)]
pub struct Processes {
    controller: Running,
    _simulator: Running,
    address: SocketAddr,
    folder: TempDir,
}

#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Builds the programs, so that what is tested is what is there.
///
/// # Errors
///
/// A build that fails.
pub fn build() -> Result<()> {
    // On its own: built together, another crate's wish for libvirt would count for all.
    let sim: &[&str] = &[
        "-p",
        "kapok-agent",
        "--no-default-features",
        "--bin",
        "kapok-sim",
    ];
    let others: &[&str] = &["-p", "kapok-controller", "-p", "kapok", "--bins"];
    for arguments in [sim, others] {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--offline"])
            .args(arguments)
            .current_dir(places::workspace())
            .output()
            .context("can't start cargo")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

impl Processes {
    /// Starts both and waits until they serve.
    ///
    /// # Errors
    ///
    /// What could not be started, with the last words of its log.
    pub fn start(nodes: Nodes) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("kapok-processes-")
            .tempdir()?;
        let ready = folder.path().join("ready.json");
        let simulator = spawn(
            folder.path(),
            "kapok-sim",
            &[
                "--nodes".into(),
                nodes.count.to_string(),
                "--listen-base".into(),
                "127.0.0.1:0".into(),
                "--cpus".into(),
                nodes.cpus.to_string(),
                "--latency-ms".into(),
                nodes.latency_ms.to_string(),
                "--ready-file".into(),
                ready.display().to_string(),
            ],
        )?;
        until(folder.path(), "kapok-sim", || ready.exists())?;
        let address = free_port()?;
        let file = folder.path().join("controller.toml");
        fs::write(
            &file,
            config(address, folder.path(), &fs::read_to_string(&ready)?)?,
        )?;
        let controller = spawn(
            folder.path(),
            "kapok-controller",
            &["--config".into(), file.display().to_string()],
        )?;
        until(folder.path(), "kapok-controller", || {
            TcpStream::connect(address).is_ok()
        })?;
        Ok(Self {
            controller,
            _simulator: simulator,
            address,
            folder,
        })
    }

    /// Where the controller serves: "127.0.0.1:PORT".
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A folder that goes with the processes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The controller's resident memory, in KiB.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn controller_resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.controller.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number
            .context("no VmRSS")?
            .trim()
            .parse()
            .context("VmRSS is no number")
    }

    /// `kapok`, told where the controller is.
    pub fn kapok(&self, line: &str) -> Command {
        let mut command = Command::new(places::program("kapok"));
        command
            .env_clear()
            .env("KAPOK_SERVER", format!("http://{}", self.address))
            .args(line.split(' '))
            .stdin(Stdio::null());
        command
    }

    /// The last lines of both logs.
    pub fn last_words(&self) -> String {
        last_words(self.folder.path())
    }
}

fn config(address: SocketAddr, folder: &Path, ready: &str) -> Result<String> {
    let mut text = format!(
        "listen = \"{address}\"\nstate_dir = \"{}\"\n",
        folder.join("controller").display()
    );
    let nodes: Vec<Value> = serde_json::from_str(ready)?;
    for (number, node) in nodes.iter().enumerate() {
        let address = node
            .get("address")
            .and_then(Value::as_str)
            .context("no address")?;
        let number = number + 1;
        write!(
            text,
            "\n[[nodes]]\nname = \"sim-{number}\"\naddress = \"{address}\"\n"
        )?;
    }
    Ok(text)
}

fn spawn(folder: &Path, name: &str, arguments: &[String]) -> Result<Running> {
    let log = File::create(log_path(folder, name))?;
    let child = Command::new(places::program(name))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("can't start {name}"))?;
    Ok(Running(child))
}

fn until(folder: &Path, name: &str, condition: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + MOMENT;
    while !condition() {
        if Instant::now() > end {
            bail!(
                "{name} doesn't serve within {MOMENT:?}\n{}",
                last_words(folder)
            );
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a poll within a bound, in real time"
        )]
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn last_words(folder: &Path) -> String {
    let mut words = String::new();
    for name in ["kapok-controller", "kapok-sim"] {
        let log = fs::read_to_string(log_path(folder, name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n");
        let _never_fails = writeln!(words, "-- {name}\n{last}");
    }
    words
}

fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
