//! The command, typed.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::fake::Serving;

/// The command as user/ada.
pub fn kapok(server: &Serving, line: &str) -> Command {
    let mut command = anonymous(server, line);
    command.env("KAPOK_CREDENTIAL", &server.credential);
    command
}

/// The command of somebody with only a home.
pub fn anonymous(server: &Serving, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kapok"));
    command
        .env_clear()
        .env("HOME", server.home.path())
        // Without it nothing is drawn.
        .env("TERM", "xterm")
        .args(line.split(' '));
    command.stdin(Stdio::null());
    command
}

/// Ends a process that takes too long, so that no test waits for ever.
pub struct Bound(#[expect(dead_code, reason = "dropping it is the signal")] mpsc::Sender<()>);

impl Bound {
    pub fn on(child: &Child) -> Self {
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let (alive, ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(30)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Self(alive)
    }
}

/// Its exit code, its output and its errors.
pub fn finish(child: Child) -> (i32, String, String) {
    let bound = Bound::on(&child);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    drop(bound);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        status.code().expect("it took too long"),
        text(stdout),
        text(stderr),
    )
}

/// Runs a command with pipes.
pub fn spawned(mut command: Command) -> (i32, String, String) {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(piped.spawn().unwrap())
}

/// Runs it as user/ada.
pub fn run(server: &Serving, line: &str) -> (i32, String, String) {
    spawned(kapok(server, line))
}

/// Runs it with the credential in a file.
pub fn run_as(server: &Serving, credential: &Path, line: &str) -> (i32, String, String) {
    let mut command = anonymous(server, line);
    command.env("KAPOK_CREDENTIAL", credential);
    spawned(command)
}
