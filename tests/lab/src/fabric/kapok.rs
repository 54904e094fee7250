//! `kapok`, used as a person would.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::{capture, run, system};

/// How long one command may take.
const BOUND: Duration = Duration::from_mins(3);

/// Who uses the command: the three whose credentials `kapok-controller init` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Person {
    /// Runs nodes, images and instances.
    SystemAdministrator,
    /// Users, tokens, certificates.
    SecurityAdministrator,
    /// Reads everything, the audit too.
    Auditor,
}

impl Person {
    /// The file that holds their credential.
    pub const fn file(self) -> &'static str {
        match self {
            Self::SystemAdministrator => "system-administrator.pem",
            Self::SecurityAdministrator => "security-administrator.pem",
            Self::Auditor => "auditor.pem",
        }
    }
}

/// The command, the controller that it speaks to, and who uses it.
#[derive(Debug, Clone)]
pub struct Kapok {
    program: PathBuf,
    server: String,
    credentials: PathBuf,
    credential: PathBuf,
    variables: Vec<(String, String)>,
}

impl Kapok {
    /// The command `program`, for the controller at "HOST:PORT", used by the system
    /// administrator. `credentials` is the folder that `kapok-controller init` filled.
    pub fn new(program: PathBuf, server: String, credentials: PathBuf) -> Self {
        let credential = credentials.join(Person::SystemAdministrator.file());
        Self {
            program,
            server,
            credentials,
            credential,
            variables: Vec::new(),
        }
    }

    /// The same, used by somebody else.
    #[must_use]
    pub fn by(&self, person: Person) -> Self {
        self.with(self.credentials.join(person.file()))
    }

    /// The same, used by whoever's credential is in this file, or will be after `kapok login`.
    #[must_use]
    pub fn with(&self, credential: PathBuf) -> Self {
        Self {
            credential,
            ..self.clone()
        }
    }

    /// The same, with a variable in its environment.
    #[must_use]
    pub fn with_variable(&self, name: &str, value: &str) -> Self {
        let mut with = self.clone();
        with.variables.push((name.to_owned(), value.to_owned()));
        with
    }

    /// The same, for the controller at another place: "HOST:PORT", or several of them with commas.
    #[must_use]
    pub fn at(&self, server: String) -> Self {
        Self {
            server,
            ..self.clone()
        }
    }

    /// Where the controller is, "HOST:PORT".
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The command itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The file with the credential of who uses it.
    pub fn credential(&self) -> PathBuf {
        self.credential.clone()
    }

    /// Runs it and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it ends with anything but 0; the error holds what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments, BOUND))
    }

    /// Runs it to its end, whatever it answers.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        capture(&mut self.command(arguments, BOUND))
    }

    /// Runs it with this input, for at most `bound`, and gives what it printed until then.
    ///
    /// # Errors
    ///
    /// When it can't be started or doesn't take its input.
    pub fn with_input(&self, arguments: &[&str], input: &str, bound: Duration) -> Result<String> {
        let mut child = self.start(arguments, bound)?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts it, and lets it run for at most `bound`; its input and its output are open.
    ///
    /// # Errors
    ///
    /// When it can't be started.
    pub fn start(&self, arguments: &[&str], bound: Duration) -> Result<Child> {
        self.command(arguments, bound)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("can't start kapok")
    }

    /// Runs it with `-o json` and gives what it printed.
    ///
    /// # Errors
    ///
    /// When it fails or prints no JSON.
    pub fn value(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("kapok {} printed no JSON: {text}", arguments.join(" ")))
    }

    /// Runs it with `-o json` and gives the list that it printed.
    ///
    /// # Errors
    ///
    /// When it fails or prints no list.
    pub fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        match self.value(arguments)? {
            Value::Array(items) => Ok(items),
            other => bail!("kapok {} printed no list: {other}", arguments.join(" ")),
        }
    }

    fn command(&self, arguments: &[&str], bound: Duration) -> Command {
        // A controller that hangs must not hang its users' tests.
        let mut command = system("timeout");
        command
            .args(["--kill-after=5", &bound.as_secs_f32().to_string()])
            .arg(&self.program)
            .args(["--server", &self.server])
            .arg("--credential")
            .arg(&self.credential)
            .args(arguments)
            .envs(self.variables.iter().cloned());
        command
    }
}

/// A text field of an answer; empty if absent.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
