//! The management controller's sensors and event log over IPMI, through ipmitool or freeipmi.
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
use serde::Deserialize;

use crate::{Component, Failure, Host, Kind, Reading, Source, host::Output, quantity};

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(20);

/// The devices by which the kernel speaks with the controller. Source: ipmitool(8), "open".
const DEVICES: &[&str] = &["/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0"];

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

/// A tool that speaks IPMI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// `ipmitool`.
    Ipmitool,
    /// `ipmi-sensors` and `ipmi-sel`.
    Freeipmi,
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

    async fn ask(&self, host: &Host, tool: &str, question: &[&str]) -> Result<Output, Failure> {
        let mut arguments: Vec<&str> = self.settings.arguments.iter().map(String::as_str).collect();
        arguments.extend(question);
        let output = host.run(tool, &arguments, QUESTION).await?;
        if output.status == Some(0) {
            return Ok(output);
        }
        Err(Failure::Unreadable(format!("{tool} {}", output.end())))
    }

    fn tool(&self, host: &Host) -> Result<Tool, Failure> {
        if let Some(tool) = self.settings.tool {
            return Ok(tool);
        }
        if host.tool("ipmitool").is_ok() {
            return Ok(Tool::Ipmitool);
        }
        if host.tool("ipmi-sensors").is_ok() {
            return Ok(Tool::Freeipmi);
        }
        let missing = "there is an IPMI device, but neither ipmitool nor freeipmi is installed";
        Err(Failure::Absent(missing.to_owned()))
    }
}

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
        let device = DEVICES.iter().any(|device| host.exists(device));
        if !device && self.settings.arguments.is_empty() {
            return Err(Failure::Absent("there is no IPMI device".to_owned()));
        }
        let (mut readings, log) = match self.tool(host)? {
            Tool::Ipmitool => {
                let list = self
                    .ask(host, "ipmitool", &["-c", "sdr", "elist", "all"])
                    .await?;
                // Only for the limits: without them the controller's word on each sensor remains.
                let limits = self.ask(host, "ipmitool", &["sensor"]).await;
                let limits = limits.map(|output| output.text).unwrap_or_default();
                let chassis = self.ask(host, "ipmitool", &["chassis", "status"]).await;
                let mut readings = sensor::readings(&ipmitool::sensors(&list.text, &limits));
                if let Ok(chassis) = chassis {
                    readings.extend(ipmitool::chassis(&chassis.text));
                }
                let log = self.ask(host, "ipmitool", &["sel", "elist"]).await;
                (readings, log.map(|output| ipmitool::log(&output.text)))
            }
            Tool::Freeipmi => {
                let list = self.ask(host, "ipmi-sensors", freeipmi::SENSORS).await?;
                let log = self.ask(host, "ipmi-sel", freeipmi::LOG).await;
                let readings = sensor::readings(&freeipmi::sensors(&list.text));
                (readings, log.map(|output| freeipmi::log(&output.text)))
            }
        };
        if readings.is_empty() {
            let nothing = "the management controller lists no sensor that can be read";
            return Err(Failure::Unreadable(nothing.to_owned()));
        }
        let bmc = Component::only(Kind::Bmc);
        match log {
            Ok(log) => readings.extend(log.readings(&bmc)),
            Err(failure) => {
                let unreadable = |it| Reading::unreadable(&bmc, it, &failure);
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
