//! `kapok`, used as a person would.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kapok_lab::places;
use kapok_lab::run::run;
use serde_json::Value;

use crate::interrupt::Interrupt;

/// The command and the controller that it speaks to.
#[derive(Debug)]
pub(super) struct Kapok {
    program: PathBuf,
    server: String,
}

impl Kapok {
    pub(super) fn new(server: String) -> Self {
        Self {
            program: places::program("kapok"),
            server,
        }
    }

    /// The URL of the controller.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Runs it and gives what it printed.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        run(command.args(["--server", &self.server]).args(arguments))
    }

    /// Runs it with `-o json` and gives the list that it printed.
    pub(super) fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = self.run(&[arguments, &["-o", "json"]].concat())?;
        match serde_json::from_str(&text)? {
            Value::Array(items) => Ok(items),
            other => bail!("kapok {} printed no list: {other}", arguments.join(" ")),
        }
    }

    /// Lists until `good` holds for all and there are `count`.
    pub(super) fn wait_for(
        &self,
        what: &str,
        arguments: &[&str],
        count: usize,
        good: impl Fn(&Value) -> bool,
        bound: Duration,
        interrupt: &Interrupt,
    ) -> Result<Vec<Value>> {
        let end = Instant::now() + bound;
        loop {
            interrupt.check()?;
            // The controller may be starting still; what it says in the end is the error.
            let found = self.list(arguments);
            if let Ok(items) = &found
                && items.len() >= count
                && items.iter().all(&good)
            {
                return found;
            }
            if Instant::now() > end {
                let last = found.with_context(|| format!("waited in vain for {what}"))?;
                bail!(
                    "waited in vain for {what}; last seen:\n{}",
                    Value::Array(last)
                );
            }
            interrupt.pause(Duration::from_millis(250));
        }
    }
}

/// A text field of an answer; empty if absent.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
