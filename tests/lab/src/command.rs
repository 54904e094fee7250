//! A command that runs inside a lab machine.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::process::{Proc, Shared};
use crate::run::{capture, line, run, system};
use crate::users;

/// How long a command may take whose end is waited for: a frozen libvirtd never answers.
const BOUND: Duration = Duration::from_mins(1);

/// Who runs a command inside a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The machine's root.
    Root,
    /// The unprivileged user `kapok`, who is in the group `libvirt` as the installed agent is.
    Kapok,
}

/// A command under construction; like [`std::process::Command`].
#[derive(Debug)]
pub struct Command<'machine> {
    machine: &'machine Machine,
    user: User,
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    bound: Duration,
}

impl<'machine> Command<'machine> {
    pub(crate) fn new(machine: &'machine Machine, program: OsString) -> Self {
        Self {
            machine,
            user: User::Root,
            words: vec![program],
            environment: Vec::new(),
            bound: BOUND,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.words.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.words.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Says who runs it; root if nothing is said.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    /// Says how long it may take if its end is waited for; a minute if nothing is said.
    #[must_use]
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// Runs it to its end, whatever it answers. Past its bound it is killed, and its exit status
    /// is 124 or 137.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn output(self) -> Result<Output> {
        let mut command = self.build(true);
        self.machine.namespaces().within(|| capture(&mut command))
    }

    /// Runs it to its end and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it can't be started or fails; the error holds what it said.
    pub fn text(self) -> Result<String> {
        let mut command = self.build(true);
        self.machine
            .namespaces()
            .within(|| run(&mut command))
            .with_context(|| format!("on {}", self.machine.name()))
    }

    /// Starts it and lets it run. `name` is for messages and for its log file, which keeps what
    /// earlier processes of this name wrote.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn spawn(self, name: &str) -> Result<Proc> {
        let folder = self.machine.log_folder();
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path)?;
        let mut command = self.build(false);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = self.machine.namespaces().within(|| {
            command
                .spawn()
                .with_context(|| format!("can't start {}", line(&command)))
        })?;
        let child = Shared::new(child);
        self.machine.adopt(child.clone());
        Ok(Proc::new(
            &format!("{name} on {}", self.machine.name()),
            child,
            path,
        ))
    }

    fn build(&self, bounded: bool) -> std::process::Command {
        let seconds = self.bound.as_secs_f32().to_string();
        let limit = ["timeout", "--kill-after=5", &seconds].map(OsString::from);
        let mut words = limit.iter().filter(|_| bounded).chain(&self.words);
        let program = words.next().map(OsString::as_os_str).unwrap_or_default();
        let mut command = match self.user {
            User::Root => {
                let mut command = system(&program.to_string_lossy());
                command
                    .env("HOME", "/root")
                    .env("USER", "root")
                    .env("LOGNAME", "root");
                command
            }
            User::Kapok => {
                let mut command = system("setpriv");
                let name = users::NAME;
                command
                    .args(["--reuid", name, "--regid", name, "--init-groups"])
                    .args(["--inh-caps=-all", "--no-new-privs", "--"])
                    .arg(program)
                    .env("HOME", users::HOME)
                    .env("USER", name)
                    .env("LOGNAME", name);
                command
            }
        };
        command
            .args(words)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        for foreign in [
            "XDG_RUNTIME_DIR",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "LIBVIRT_DEFAULT_URI",
        ] {
            command.env_remove(foreign);
        }
        // A Ctrl-C at the terminal is for the raiser, which then ends everything in order.
        command
            .current_dir("/")
            .env("NO_COLOR", "1")
            .process_group(0);
        command
    }
}
