//! `kapok`, used as a person would.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::{capture, run, system};

/// How long one command may take.
const BOUND: Duration = Duration::from_mins(3);

/// The command and the controller that it speaks to.
#[derive(Debug)]
pub struct Kapok {
    program: PathBuf,
    server: String,
}

impl Kapok {
    /// The command `program`, for the controller at the URL `server`.
    pub fn new(program: PathBuf, server: String) -> Self {
        Self { program, server }
    }

    /// The URL of the controller.
    pub fn server(&self) -> &str {
        &self.server
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
        let mut child = self
            .command(arguments, bound)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("can't start kapok")?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
            .args(arguments);
        command
    }
}

/// A text field of an answer; empty if absent.
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
