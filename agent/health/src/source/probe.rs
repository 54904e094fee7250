//! A site's own probes: executables in a directory, each asked in every round.
//!
//! The contract, in full in `agent/health/PROBES.md`: a probe gets no arguments, no input and an
//! empty environment, and prints one JSON object of at most 64 KiB before its deadline:
//!
//! ```json
//! { "readings": [ { "component": "sensor/door", "quantity": "door_open", "unit": "count", "value": 0 } ],
//!   "verdicts": [ { "code": "UPS_ON_BATTERY", "component": "ups1", "condition": "degraded",
//!                   "summary": "UPS 1 runs on its battery", "remedy": "see the site's runbook 7" } ] }
//! ```
//!
//! A probe's verdict becomes a reading of [`SITE_CONDITION`](quantity::SITE_CONDITION) on
//! "site/PROBE/CODE/COMPONENT": the judge's rules decide from it, with their hysteresis, as from
//! any other, and show the probe's words. A verdict that a probe no longer prints must be printed
//! as "healthy" instead, or it is *vanished*, for a probe that forgets is no recovery.
//!
//! Only files that root or this process' own user owns, and that nobody else can write, are
//! started: whoever can write a probe is this process.

mod answer;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use nix::unistd::Uid;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// How long one probe may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);
/// Most that a probe may say, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Most probes that are started.
const MAX_PROBES: usize = 64;
/// Probes that run at once.
const AT_ONCE: usize = 4;
/// Longest name of a probe, in bytes.
const MAX_NAME_BYTES: usize = 32;

/// Where the site's own probes are: `[health.probe]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Their directory; an absolute path.
    pub folder: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        let folder = PathBuf::from("/etc/kapok/health.d");
        Self { folder }
    }
}

impl Settings {
    /// Checks what the types can't say.
    ///
    /// # Errors
    ///
    /// The path is not absolute.
    pub fn check(&self) -> Result<(), String> {
        if self.folder.is_absolute() {
            return Ok(());
        }
        Err("folder must be an absolute path".to_owned())
    }
}

/// The source.
#[derive(Debug)]
pub struct Probes {
    folder: PathBuf,
    /// What was judged last, for the log.
    judged: Mutex<BTreeMap<Component, Option<f64>>>,
}

impl Probes {
    /// The probes of a directory.
    pub fn new(settings: Settings) -> Self {
        let Settings { folder } = settings;
        let judged = Mutex::default();
        Self { folder, judged }
    }

    /// What the probes judge otherwise than in the round before.
    fn changed<'a>(&self, readings: &'a [Reading]) -> Vec<&'a Reading> {
        let of_sites = |it: &&Reading| it.quantity == quantity::SITE_CONDITION;
        let judged = || readings.iter().filter(of_sites);
        let now = judged().map(|it| (it.component.clone(), it.value()));
        let mut last = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *last, now.collect());
        let was = |it: &Reading| before.get(&it.component).copied().unwrap_or(Some(0.0));
        judged().filter(|it| it.value() != was(it)).collect()
    }
}

#[async_trait]
impl Source for Probes {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(50)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let names = host.list(&self.folder)?;
        if names.is_empty() {
            let nothing = format!("no probe is in {}", self.folder.display());
            return Err(Failure::Absent(nothing));
        }
        if names.len() > MAX_PROBES {
            let many = format!("more than {MAX_PROBES} files in {}", self.folder.display());
            return Err(Failure::Unreadable(many));
        }
        is_safe(&host.path(&self.folder), Uid::effective()).map_err(Failure::Unreadable)?;
        let mut waiting = names.into_iter();
        let (mut asking, mut readings) = (JoinSet::new(), Vec::new());
        loop {
            while asking.len() < AT_ONCE
                && let Some(name) = waiting.next()
            {
                let program = host.path(self.folder.join(&name));
                let host = host.clone();
                asking.spawn(async move { ask(&host, &name, &program).await });
            }
            match asking.join_next().await {
                Some(Ok(of_probe)) => readings.extend(of_probe),
                Some(Err(error)) => return Err(Failure::Unreadable(error.to_string())),
                None => break,
            }
        }
        readings.sort_by(|a, b| a.component.cmp(&b.component));
        for Reading {
            component,
            read,
            note,
            ..
        } in self.changed(&readings)
        {
            tracing::info!(%component, ?read, note, "a probe judges otherwise");
        }
        Ok(readings)
    }
}

/// What one probe says; if nothing can be had of it, that is said.
async fn ask(host: &Host, name: &str, program: &Path) -> Vec<Reading> {
    let answer = async {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.len() > MAX_NAME_BYTES || !name.chars().all(fits) {
            return Err(format!(
                "a probe's name is 1 to {MAX_NAME_BYTES} of [a-z0-9-]"
            ));
        }
        is_safe(program, Uid::effective())?;
        // Under its own name among the tools, none of which has a slash in its name.
        let tool = format!("health.d/{name}");
        let host = host.clone().with_tool(&tool, program);
        let output = host.run(&tool, &[], PROBE_DEADLINE).await;
        let output = output.map_err(|failure| failure.to_string())?;
        if output.status != Some(0) {
            return Err(format!("it {}", output.end()));
        }
        if output.text.len() > MAX_ANSWER_BYTES {
            return Err(format!("it said more than {MAX_ANSWER_BYTES} bytes"));
        }
        answer::readings(name, &output.text)
    };
    let probe = Component::new(Kind::Site, name);
    match answer.await {
        Ok(mut readings) => {
            readings.push(Reading::flag(&probe, quantity::RESPONDS, true));
            readings
        }
        Err(reason) => vec![Reading::unreadable(&probe, quantity::RESPONDS, reason)],
    }
}

/// Whether only root and we ourselves decide what a file is.
fn is_safe(path: &Path, own: Uid) -> Result<(), String> {
    let wrong = |reason: &str| format!("{}: {reason}", path.display());
    let found = fs::metadata(path).map_err(|error| wrong(&error.to_string()))?;
    if found.uid() != 0 && found.uid() != own.as_raw() {
        return Err(wrong("isn't owned by root or the agent's user"));
    }
    if found.permissions().mode() & 0o022 != 0 {
        return Err(wrong("can be written by others than its owner"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
