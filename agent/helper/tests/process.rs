//! The program: what the service manager sees of it, with a socket that it was passed and with one
//! of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, which say why they skip"
)]

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, geteuid},
};

/// How long anything here may take.
const BOUND: Duration = Duration::from_mins(1);

struct Bench {
    folder: tempfile::TempDir,
    manager: UnixDatagram,
}

/// A program that was started. Dropping it kills it.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ended_already = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(BOUND)).unwrap();
        Self { folder, manager }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, mut command: Command) -> Started {
        let user = User::from_uid(geteuid()).unwrap().unwrap();
        let log = File::create(self.path("log")).unwrap();
        command
            .args(["--user", &user.name])
            .env("NOTIFY_SOCKET", self.path("notify"))
            .env("WATCHDOG_USEC", "300000")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Started(command.spawn().unwrap())
    }

    /// Waits for a word to the service manager.
    fn says(&self, word: &str) {
        let mut bytes = [0; 4096];
        loop {
            let heard = self.manager.recv(&mut bytes).unwrap_or_else(|_| {
                let log = fs::read_to_string(self.path("log")).unwrap_or_default();
                panic!("it never said {word}\n{log}")
            });
            let said = String::from_utf8_lossy(&bytes[..heard]);
            if said.lines().any(|line| line == word) {
                return;
            }
        }
    }

    /// Sends bytes, and hears the answer.
    fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path("socket")).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// It refuses nonsense, and answers a question: this machine may have no disk with SMART.
    fn answers(&self) {
        let refused = self.talk(b"\0\0\0\x04\"rm\"");
        assert!(refused.contains("refused"), "{refused}");
        let answered = self.talk(b"\0\0\0\x07\"smart\"");
        let end = answered.contains("\"done\"") || answered.contains("{\"failed\":{");
        assert!(end, "{answered}");
    }
}

fn helper() -> &'static str {
    env!("CARGO_BIN_EXE_kapok-helper")
}

#[test]
fn by_itself_it_makes_a_socket_for_the_group() {
    let bench = Bench::new();
    let mut command = Command::new(helper());
    command.arg("--socket").arg(bench.path("socket"));
    // One was left behind by a kill.
    drop(std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap());
    let mut started = bench.start(command);
    bench.says("READY=1");
    let mode = fs::metadata(bench.path("socket")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o660);
    bench.answers();
    bench.says("WATCHDOG=1");
    let pid = Pid::from_raw(i32::try_from(started.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    bench.says("STOPPING=1");
    assert!(started.0.wait().unwrap().success());
}

/// systemd's own tool passes the socket, as its manager does.
#[test]
fn it_takes_the_socket_of_the_service_manager() {
    let bench = Bench::new();
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg("--listen")
        .arg(bench.path("socket"))
        .args(["--setenv=NOTIFY_SOCKET", helper()]);
    if let Err(error) = Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        && error.kind() == io::ErrorKind::NotFound
    {
        println!("SKIP socket activation: it isn't installed (Debian's package systemd)");
        return;
    }
    let _started = bench.start(command);
    let listens = || UnixStream::connect(bench.path("socket")).is_ok();
    let bound = std::time::Instant::now() + BOUND;
    while !listens() {
        assert!(std::time::Instant::now() < bound, "nobody listens");
        std::thread::yield_now();
    }
    bench.says("READY=1");
    bench.answers();
}

#[test]
fn who_may_ask_must_be_known() {
    let bench = Bench::new();
    let output = Command::new(helper())
        .args(["--user", "nobody-of-that-name", "--socket"])
        .arg(bench.path("socket"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("there is no user nobody-of-that-name"),
        "{said}"
    );
    assert!(!bench.path("socket").exists());
}
