//! What a service manager hears of the real programs: ready, pings, stopping.
//!
//! The manager is a socket in a folder, as systemd's is. No libvirt runs, and none is needed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use kapok_lab::fabric::Kapok;
use kapok_lab::{places, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything here may take.
const BOUND: Duration = Duration::from_mins(1);
/// Pings that prove that they go on.
const PINGS: usize = 3;

/// A folder with what the programs keep, and the service manager's socket.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

/// A program that this manager has started. Dropping it kills it.
struct Service<'a> {
    manager: &'a Manager,
    name: &'static str,
    child: Child,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self { folder, socket }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    fn config(&self, name: &str, text: &str) {
        fs::write(self.path(&format!("{name}.toml")), text).unwrap();
    }

    /// The program with its configuration.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(places::program(name));
        let config = self.path(&format!("{name}.toml"));
        command.args(["--config".as_ref(), config.as_os_str()]);
        command.stdin(Stdio::null());
        command
    }

    /// Takes what was said up to now: a program that isn't heard would wait.
    fn forget(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    fn start(&self, name: &'static str) -> Service<'_> {
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        let child = self
            .program(name)
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("WATCHDOG_USEC", "300000")
            .env_remove("WATCHDOG_PID")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Service {
            manager: self,
            name,
            child: child.unwrap(),
        }
    }
}

impl Service<'_> {
    /// Waits for a word, such as "READY=1".
    fn says(&self, word: &str) {
        let mut heard = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            let Ok(length) = self.manager.socket.recv(&mut bytes) else {
                let log = self.manager.log(self.name);
                panic!("{} never said {word}, but {heard:?}\n{log}", self.name);
            };
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if said.lines().any(|line| line == word) {
                return;
            }
            heard.push(said);
        }
    }

    /// That pings come from now on.
    fn pings(&self) {
        self.manager.forget();
        for _ in 0..PINGS {
            self.says("WATCHDOG=1");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn logs(&self, words: &str) {
        let what = format!("{words:?} in the log of {}", self.name);
        let look = || {
            self.manager.forget();
            Ok(self.manager.log(self.name).contains(words).then_some(()))
        };
        wait::until(&what, BOUND, look).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let look = || {
            self.manager.forget();
            Ok(self.child.try_wait()?)
        };
        wait::until("its end", BOUND, look).unwrap()
    }

    /// Stops it as the service manager does.
    fn stops(mut self) {
        self.signal(Signal::SIGTERM);
        self.says("STOPPING=1");
        let status = self.ended();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// The agent's configuration: with a libvirt that isn't there.
fn agent(state: &Path, grpc: SocketAddr, https: SocketAddr) -> String {
    format!(
        "listen = \"{grpc}\"\nstate_dir = \"{}\"\n[http]\nlisten = \"{https}\"\n[libvirt]\n\
         uri = \"qemu+unix:///system?socket=/nowhere\"\nvirt_type = \"qemu\"\n",
        state.display()
    )
}

/// A server that was never joined: the package's installation must not hang on it, nor the watchdog
/// kill it. SIGHUP doesn't either, whatever became of the configuration.
#[test]
fn an_agent_that_waits_for_a_join_is_ready_and_alive() {
    let manager = Manager::new();
    let config = agent(&manager.path("state"), free_port(), free_port());
    manager.config("kapok-agent", &config);
    let service = manager.start("kapok-agent");
    service.says("READY=1");
    service.pings();
    for (config, words) in [
        (config.clone(), "is what this agent runs with"),
        (
            format!("reserved_memory_mib = 2048\n{config}"),
            "has changed",
        ),
        ("listen = 7".to_owned(), "could not be started again"),
    ] {
        manager.config("kapok-agent", &config);
        service.signal(Signal::SIGHUP);
        service.logs(words);
    }
    service.pings();
    service.stops();
}

/// Both programs, from nothing. The agent's pings come through its dispatch loop, although there is
/// no libvirt to be had: that is a verdict, and no reason to be killed.
#[test]
fn a_controller_and_an_agent_without_libvirt_are_ready_alive_and_stop() {
    let manager = Manager::new();
    let (grpc, https) = (free_port(), free_port());
    let state = manager.path("controller");
    let config = format!(
        "listen = \"{grpc}\"\nstate_dir = \"{}\"\n[https]\nlisten = \"{https}\"\n",
        state.display()
    );
    manager.config("kapok-controller", &config);
    let credentials = manager.path("credentials");
    run(manager
        .program("kapok-controller")
        .args(["init", "--credentials"])
        .arg(&credentials));
    let controller = manager.start("kapok-controller");
    controller.says("READY=1");
    TcpStream::connect(grpc).unwrap();
    TcpStream::connect(https).unwrap();
    controller.pings();
    controller.signal(Signal::SIGHUP);
    controller.logs("policies read again");
    controller.pings();

    let kapok = Kapok::new(places::program("kapok"), grpc.to_string(), credentials);
    let token = kapok.run(&["node", "token", "create", "node-1", "--quiet"]);
    fs::write(manager.path("token"), token.unwrap()).unwrap();
    let (served, pages) = (free_port(), free_port());
    manager.config("kapok-agent", &agent(&manager.path("agent"), served, pages));
    run(manager
        .program("kapok-agent")
        .args(["join", "--controller", &https.to_string(), "--token-file"])
        .arg(manager.path("token")));
    controller.stops();

    let agent = manager.start("kapok-agent");
    agent.says("READY=1");
    TcpStream::connect(served).unwrap();
    TcpStream::connect(pages).unwrap();
    agent.pings();
    agent.logs("the hypervisor can't be listed");
    agent.signal(Signal::SIGHUP);
    agent.logs("is what this agent runs with");
    agent.pings();
    agent.stops();
}
