//! `kapok-agent doctor`: whether this server is fit to be a node, and what to do where it isn't.
//!
//! ```text
//!   a root directory, libvirt's answers, a certificate, the time ─▶ checks ─▶ findings ─▶ report
//!                       what is looked at                            pure
//! ```
//!
//! One file a kind of check. Each is a function of what is looked at, and tells the condition in the
//! words of verdicts: healthy, degraded, failing, and unknown for what couldn't be looked at.
//!
//! **Invariants:**
//! - Every finding that isn't healthy says what to do.
//! - Nothing is changed, but for a guest of its own that is booted for a moment; a running agent is
//!   not disturbed, and isn't needed.
//! - What couldn't be looked at is never healthy.
//!
//! **Absent on purpose:** what an agent watches all the time (hardware: `kapok node health`), and
//! whatever only a controller knows.

use std::{fmt::Write as _, io, path::Path};

use kapok_health::{Condition, Host};
use kapok_types::Timestamp;
use serde::Serialize;

use crate::config::{self, Config};

mod certificate;
mod clock;
mod confinement;
mod devices;
mod helper;
#[cfg(feature = "libvirt")]
pub mod hypervisor;
mod limits;
mod network;
mod permissions;
mod ports;
mod skew;
mod space;
#[cfg(test)]
mod tests;
mod users;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check: a word that stays.
    pub check: &'static str,
    /// How it is.
    pub condition: Condition,
    /// What was found, for people.
    pub found: String,
    /// What to do; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// All findings, in the order of the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst condition of them.
    pub condition: Condition,
    /// They.
    pub findings: Vec<Finding>,
}

/// What is looked at.
#[derive(Debug)]
pub struct Server<'a> {
    /// Its file system, and its tools.
    pub host: &'a Host,
    /// The agent's configuration.
    pub config: &'a Config,
    /// The file that it is from.
    pub file: &'a Path,
    /// Now.
    pub now: Timestamp,
}

/// The configuration, or the default one where it can't be used; and what there is to say of it.
pub fn configuration(file: &Path) -> (Config, Finding) {
    const CHECK: &str = "configuration";
    let shown = file.display();
    match Config::load(file) {
        Ok(config) => (config, Finding::healthy(CHECK, format!("{shown} is fine"))),
        Err(config::Error::Unreadable { source, .. })
            if source.kind() == io::ErrorKind::NotFound =>
        {
            let found = format!("there is no {shown}; the defaults are looked at");
            let advice = "`kapok-agent join` writes one, with all keys and what they mean";
            (Config::default(), Finding::degraded(CHECK, found, advice))
        }
        Err(error @ config::Error::Unreadable { .. }) => {
            let found = format!(
                "{:#}; the defaults are looked at",
                anyhow::Error::from(error)
            );
            let advice = "run the doctor as root";
            (Config::default(), Finding::unknown(CHECK, found, advice))
        }
        Err(error @ config::Error::Wrong { .. }) => {
            let found = format!("{error}; the defaults are looked at");
            let advice = "correct it: the agent doesn't start with it";
            (Config::default(), Finding::failing(CHECK, found, advice))
        }
    }
}

/// Looks at all that doesn't need the hypervisor. Blocks for some seconds at most.
pub async fn examine(server: &Server<'_>) -> Vec<Finding> {
    let mut findings = permissions::check(server);
    findings.extend(devices::check(server));
    findings.push(confinement::check(server.host));
    findings.extend(limits::check(server.host));
    findings.extend(skew::check(server.host));
    findings.push(clock::check(server.host).await);
    findings.push(certificate::check(server));
    findings.extend(ports::check(server));
    findings.push(space::check(server));
    findings.extend(network::check(server.host));
    findings.push(helper::check(server).await);
    findings
}

impl Finding {
    fn healthy(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Condition::Healthy, found, "")
    }

    fn degraded(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Condition::Degraded, found, advice)
    }

    fn failing(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Condition::Failing, found, advice)
    }

    fn unknown(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(check, Condition::Unknown, found, advice)
    }

    /// What couldn't be read.
    fn unread(check: &'static str, failure: &kapok_health::Failure) -> Self {
        Self::unknown(check, failure.to_string(), "run the doctor as root")
    }

    fn new(
        check: &'static str,
        condition: Condition,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            condition,
            found: found.into(),
            advice: advice.into(),
        }
    }
}

impl Report {
    /// Of these findings.
    pub fn of(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|it| it.condition).max();
        Self {
            condition: worst.unwrap_or(Condition::Unknown),
            findings,
        }
    }

    /// Whether nothing stands in the way: all is healthy or degraded.
    pub fn is_fit(&self) -> bool {
        matches!(self.condition, Condition::Healthy | Condition::Degraded)
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let longest = self.findings.iter().map(|it| it.check.len()).max();
        let width = longest.unwrap_or_default();
        let mut text = String::new();
        for Finding {
            check,
            condition,
            found,
            advice,
        } in &self.findings
        {
            let condition = word(*condition);
            // Writing to a string doesn't fail.
            let _ = writeln!(text, "{condition:8}  {check:width$}  {found}");
            if !advice.is_empty() {
                let _ = writeln!(text, "{:8}  {:width$}  → {advice}", "", "");
            }
        }
        let count = |condition| {
            let like = self.findings.iter().filter(|it| it.condition == condition);
            (like.count(), word(condition))
        };
        let counts = [
            Condition::Failing,
            Condition::Unknown,
            Condition::Degraded,
            Condition::Healthy,
        ]
        .map(count);
        let counts: Vec<String> = { counts.iter() }
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        let _ = writeln!(text, "\n{}", counts.join(", "));
        text
    }
}

const fn word(condition: Condition) -> &'static str {
    match condition {
        Condition::Healthy => "healthy",
        Condition::Degraded => "degraded",
        Condition::Unknown => "unknown",
        Condition::Failing => "failing",
    }
}
