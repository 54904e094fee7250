//! The management controller's sensors and event log over IPMI, through ipmitool or freeipmi.
//!
//! How it is asked is [`kapok_helper::ipmi`]'s; this reads what it says. The local device needs
//! rights, and is asked through the helper; a controller that is reached with configured arguments
//! is one of the network's, and is asked from here.
//!
//! Both are slow (a controller takes seconds for a hundred sensors) and both are asked without a
//! cache of their own. The controller's own thresholds decide what is a warning and what is
//! critical: it is its word that is read, with the thresholds as evidence. Without an IPMI device
//! and without configured arguments, the server has nothing of the kind.
//!
//! **Absent on purpose:** whatever changes the controller. The event log is counted, never
//! cleared.

mod freeipmi;
mod ipmitool;
mod sensor;

use std::time::Duration;

use async_trait::async_trait;
pub use kapok_helper::ipmi::Tool;
use kapok_helper::{
    Answer, Request, Subject,
    ipmi::{self, Question, Way},
};
use serde::Deserialize;

use crate::{Component, Failure, Host, Kind, Reading, Source, host, quantity};

/// How the management controller is asked: `[health.ipmi]`.
///
/// ```toml
/// [health.ipmi]
/// tool = "ipmitool"       # or "freeipmi"; by itself: what is installed
/// arguments = ["-I", "lanplus", "-H", "bmc7", "-U", "watch", "-f", "/etc/kapok/bmc.password"]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which tool.
    pub tool: Option<Tool>,
    /// Its arguments before the question, for a controller that isn't reached by the local device.
    /// Passwords are in files: arguments can be read by everybody on the host.
    pub arguments: Vec<String>,
}

impl Settings {
    /// Checks what the types can't say.
    ///
    /// # Errors
    ///
    /// A password or key among the arguments.
    pub fn check(&self) -> Result<(), String> {
        const SECRETS: &[&str] = &["-P", "-K", "-k", "-y", "--password", "--k-g"];
        let freeipmi = self.tool == Some(Tool::Freeipmi);
        let secret = |it: &&String| {
            SECRETS.iter().any(|secret| it.starts_with(secret))
                || (freeipmi && it.starts_with("-p"))
        };
        match self.arguments.iter().find(secret) {
            None => Ok(()),
            Some(_) => Err(
                "no password or key among arguments, which everybody on the host can read: ipmitool \
                 takes -f FILE, freeipmi --config-file=FILE"
                    .to_owned(),
            ),
        }
    }
}

/// The source.
#[derive(Debug, Clone, Default)]
pub struct Ipmi {
    settings: Settings,
}

impl Ipmi {
    /// A source that asks in this way.
    pub const fn new(settings: Settings) -> Self {
        Self { settings }
    }

    async fn ask(&self, host: &Host) -> Result<Answers, Failure> {
        let Settings { tool, arguments } = &self.settings;
        let mut answers = Answers::new();
        let take = |Answer { of, outcome }| {
            if let Subject::Ipmi(question) = of {
                answers.push((question, outcome.map(|output| output.text)));
            }
        };
        if arguments.is_empty() {
            let request = match tool {
                None => Request::Ipmi,
                Some(Tool::Ipmitool) => Request::Ipmitool,
                Some(Tool::Freeipmi) => Request::Freeipmi,
            };
            host.ask(request, take).await?;
        } else {
            let tool = *tool;
            let way = Way { tool, arguments };
            host::each(async |to| ipmi::ask(host.tools(), &way, &to).await, take).await?;
        }
        Ok(answers)
    }
}

/// What was asked, and what was said.
type Answers = Vec<(Question, Result<String, String>)>;

#[async_trait]
impl Source for Ipmi {
    fn name(&self) -> &'static str {
        "ipmi"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(50)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let answers = self.ask(host).await?;
        let said = |asked: Question| {
            let answer = answers.iter().find(|(question, _)| *question == asked);
            answer.map(|(_, said)| said.as_deref().map_err(String::as_str))
        };
        let text = |asked| said(asked).and_then(Result::ok).unwrap_or_default();
        let mut readings = sensor::readings(&freeipmi::sensors(text(Question::FreeipmiSensors)));
        // The limits may be missing: then the controller's word on each sensor remains.
        let sensors = ipmitool::sensors(text(Question::Sensors), text(Question::Limits));
        readings.extend(sensor::readings(&sensors));
        readings.extend(ipmitool::chassis(text(Question::Chassis)));
        let log = match (said(Question::Log), said(Question::FreeipmiLog)) {
            (Some(log), _) => log.map(ipmitool::log),
            (None, Some(log)) => log.map(freeipmi::log),
            (None, None) => Err("the log wasn't asked for"),
        };
        if readings.is_empty() {
            let nothing = "the management controller lists no sensor that can be read";
            return Err(Failure::Unreadable(nothing.to_owned()));
        }
        let bmc = Component::only(Kind::Bmc);
        match log {
            Ok(log) => readings.extend(log.readings(&bmc)),
            Err(reason) => {
                let unreadable = |it| Reading::unreadable(&bmc, it, reason);
                readings.push(unreadable(quantity::LOG_ENTRIES));
                readings.push(unreadable(quantity::LOG_CRITICAL_ENTRIES));
            }
        }
        Ok(readings)
    }
}

/// What is in the controller's event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Log {
    entries: u32,
    critical: u32,
}

impl Log {
    fn count(&mut self, critical: bool) {
        self.entries += 1;
        self.critical += u32::from(critical);
    }

    fn readings(self, bmc: &Component) -> [Reading; 2] {
        [
            Reading::new(bmc, quantity::LOG_ENTRIES, f64::from(self.entries)),
            Reading::new(
                bmc,
                quantity::LOG_CRITICAL_ENTRIES,
                f64::from(self.critical),
            ),
        ]
    }
}

#[cfg(test)]
mod tests;
