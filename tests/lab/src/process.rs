//! A process of the lab: known by its own pid, stopped by its own pid.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::until;

/// How long a process may take to end once it was killed.
const END: Duration = Duration::from_secs(10);

/// A child process of the raiser inside a machine. The machine holds it too: its init can end
/// only when all of its namespace are waited for, and it is we who have to wait for these.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Child>>);

impl Shared {
    pub(crate) fn new(child: Child) -> Self {
        Self(Arc::new(Mutex::new(child)))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> io::Result<Option<ExitStatus>> {
        self.lock().try_wait()
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        match self.0.lock() {
            Ok(child) => child,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// A running process inside a lab machine. Dropping it kills it.
#[derive(Debug)]
pub struct Proc {
    name: String,
    pid: u32,
    child: Shared,
    log: PathBuf,
}

impl Proc {
    pub(crate) fn new(name: &str, child: Shared, log: PathBuf) -> Self {
        let pid = child.lock().id();
        Self {
            name: name.to_owned(),
            pid,
            child,
            log,
        }
    }

    /// What it was called when it was started.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id as this process sees it (inside its machine it has another).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its output goes. The file ends with the lab.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Held meanwhile, so that nobody waits for it and the pid can't become another's.
        let mut child = self.child.lock();
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("{} has already ended ({status})", self.name);
        }
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal)
            .with_context(|| format!("can't send {signal} to {}", self.name))
    }

    /// Freezes it: SIGSTOP.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it run on after [`Proc::freeze`]: SIGCONT.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Kills it with SIGKILL and waits for its end. Fine if it has ended already.
    ///
    /// # Errors
    ///
    /// When it doesn't end (it hangs inside the kernel).
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let killed = self.child.lock().kill();
        match killed {
            Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error.into()),
            _ => self.wait(END),
        }
    }

    /// Asks it to end with SIGTERM and waits for that.
    ///
    /// # Errors
    ///
    /// When it doesn't end within `bound`; it is then still running.
    pub fn terminate(&mut self, bound: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.wait(bound)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it doesn't end within `bound`; it is then still running.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        until(&what, bound, || Ok(self.child.ended()?))
    }

    /// Whether it has not ended. A frozen process is alive.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.ended(), Ok(None))
    }

    /// Waits until its output contains `text`.
    ///
    /// # Errors
    ///
    /// When it ends first, or `bound` passes; the error holds the end of its output.
    pub fn wait_for_log(&mut self, text: &str, bound: Duration) -> Result<()> {
        let what = format!("{text:?} from {}", self.name);
        let outcome = until(&what, bound, || {
            if self.log().contains(text) {
                return Ok(Some(()));
            }
            match self.child.ended()? {
                Some(status) => anyhow::bail!("{} ended ({status})", self.name),
                None => Ok(None),
            }
        });
        outcome.with_context(|| format!("{} said:\n{}", self.name, tail(&self.log())))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            crate::note(&format!("can't end {}: {error:#}", self.name));
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
