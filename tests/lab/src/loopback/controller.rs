//! One controller of a fabric on loopback: its files, its ports, its process.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{MOMENT, Running, free_port};
use crate::fabric::config::{Listen, controller as controller_config};
use crate::fabric::{Kapok, Settings};
use crate::wait::until;

pub(super) const PROGRAM: &str = "kapok-controller";

/// A controller. Dropping it kills its process.
#[derive(Debug)]
pub struct Controller {
    name: String,
    listen: Listen,
    program: PathBuf,
    folder: PathBuf,
    kapok: Kapok,
    running: Option<Running>,
}

impl Controller {
    /// One that isn't started; `kapok` is how people reach it.
    pub(super) fn new(name: &str, programs: &Path, folder: &Path, kapok: &Kapok) -> Result<Self> {
        let listen = Listen {
            grpc: free_port()?,
            https: free_port()?,
        };
        Ok(Self {
            name: name.to_owned(),
            program: programs.join(PROGRAM),
            folder: folder.to_owned(),
            kapok: kapok.at(listen.grpc.to_string()),
            listen,
            running: None,
        })
    }

    /// Its name in the fabric.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves.
    pub fn listen(&self) -> Listen {
        self.listen
    }

    /// Where it serves people and other controllers.
    pub fn address(&self) -> SocketAddr {
        self.listen.grpc
    }

    /// `kapok`, asking this one and no other.
    pub fn kapok(&self) -> &Kapok {
        &self.kapok
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.join(self.log_name())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its process id, if it was started.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Whether its process runs, as far as anybody was told.
    pub fn is_started(&self) -> bool {
        self.running.is_some()
    }

    /// Writes its configuration, which it reads at its next start.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        let text = controller_config(self.listen, &self.state(), settings);
        fs::write(self.config(), text).context("writing the controller's configuration")
    }

    /// Runs a command of its program, and gives what it said.
    ///
    /// # Errors
    ///
    /// When it fails, with what it said.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let config = self.config();
        let mut command = crate::run::system(&self.program.to_string_lossy());
        command.args(arguments).args(["--config", &config]);
        crate::run::run(&mut command)
    }

    /// Runs a command of its program and kills it with SIGKILL as soon as `look` says so; says whether
    /// that came before its end.
    ///
    /// # Errors
    ///
    /// When it can't be started, or neither comes in time.
    pub fn killed(&self, arguments: &[&str], mut look: impl FnMut() -> bool) -> Result<bool> {
        let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        arguments.extend(["--config".into(), self.config()]);
        let mut running = self.spawn(&arguments)?;
        until("the moment of the kill", MOMENT, || {
            if look() {
                return Ok(Some(true));
            }
            Ok(running.child.try_wait()?.map(|_| false))
        })
    }

    /// Starts it, unless it runs, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it ends or doesn't answer.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut running = self.spawn(&["--config".into(), self.config()])?;
        let kapok = self.kapok.clone();
        until("the controller's answer", MOMENT, || {
            running.check()?;
            Ok(kapok.run(&["whoami"]).ok())
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Ends it as an administrator would.
    ///
    /// # Errors
    ///
    /// When it doesn't end in order.
    pub fn stop(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), Running::end)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Waits for it to end by itself; gives whether it said that it ended in order.
    ///
    /// # Errors
    ///
    /// When it goes on.
    pub fn ended(&mut self) -> Result<bool> {
        let Some(mut running) = self.running.take() else {
            return Ok(true);
        };
        let status = until("the controller's end", MOMENT, || {
            Ok(running.child.try_wait()?)
        })?;
        Ok(status.success())
    }

    /// Stops its process from running, as a machine that is suspended does, or lets it go on.
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let pid = self.pid().context("the controller doesn't run")?;
        let signal = if frozen {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    fn spawn(&self, arguments: &[String]) -> Result<Running> {
        let log = self.folder.join(self.log_name());
        Running::spawn(PROGRAM, &self.program, arguments, &log, &self.folder)
    }

    fn config(&self) -> String {
        let file = self.folder.join(format!("{}.toml", self.name));
        file.display().to_string()
    }

    fn log_name(&self) -> String {
        format!("{}.log", self.name)
    }
}
