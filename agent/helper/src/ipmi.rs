//! The management controller's sensors and log, through ipmitool or freeipmi.
//!
//! **Absent on purpose:** whatever changes the controller. The log is read, never cleared.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use crate::{Answer, Failure, Output, Subject, Tools};

/// `ipmitool`.
pub const IPMITOOL: &str = "ipmitool";
/// freeipmi's tool for sensors.
pub const SENSORS: &str = "ipmi-sensors";
/// freeipmi's tool for the log.
pub const LOG: &str = "ipmi-sel";

/// How long one question may take.
const QUESTION_DEADLINE: Duration = Duration::from_secs(20);

/// The devices by which the kernel speaks with the controller. Source: ipmitool(8), "open".
const DEVICES: &[&str] = &["/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0"];

/// A tool that speaks IPMI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tool {
    /// `ipmitool`.
    Ipmitool,
    /// `ipmi-sensors` and `ipmi-sel`.
    Freeipmi,
}

/// How the controller is asked.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// By which tool; none for the one that is installed.
    pub tool: Option<Tool>,
    /// Its arguments before the question; none for the local device.
    pub arguments: &'a [String],
}

/// One call of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// ipmitool's list of sensors.
    Sensors,
    /// ipmitool's table of sensors with their limits.
    Limits,
    /// ipmitool's word on the chassis.
    Chassis,
    /// ipmitool's list of the log.
    Log,
    /// freeipmi's list of sensors.
    FreeipmiSensors,
    /// freeipmi's list of the log.
    FreeipmiLog,
}

impl Question {
    /// In the order in which they are asked. The first is the one without which there is nothing.
    const fn of(tool: Tool) -> &'static [Self] {
        match tool {
            Tool::Ipmitool => &[Self::Sensors, Self::Limits, Self::Chassis, Self::Log],
            Tool::Freeipmi => &[Self::FreeipmiSensors, Self::FreeipmiLog],
        }
    }

    const fn call(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Sensors => (IPMITOOL, &["-c", "sdr", "elist", "all"]),
            Self::Limits => (IPMITOOL, &["sensor"]),
            Self::Chassis => (IPMITOOL, &["chassis", "status"]),
            Self::Log => (IPMITOOL, &["sel", "elist"]),
            Self::FreeipmiSensors => (
                SENSORS,
                &[
                    "--comma-separated-output",
                    "--no-header-output",
                    "--output-sensor-state",
                    "--output-sensor-thresholds",
                    "--ignore-not-available-sensors",
                    "--quiet-cache",
                ],
            ),
            Self::FreeipmiLog => (
                LOG,
                &[
                    "--comma-separated-output",
                    "--no-header-output",
                    "--output-event-state",
                    "--quiet-cache",
                ],
            ),
        }
    }
}

/// Asks the controller.
///
/// # Errors
///
/// There is no device, no tool, or no list of sensors; another question that fails is an answer.
pub async fn ask(tools: &Tools, way: &Way<'_>, answers: &Sender<Answer>) -> Result<(), Failure> {
    let device = || DEVICES.iter().any(|device| tools.path(device).exists());
    if way.arguments.is_empty() && !device() {
        return Err(Failure::Absent("there is no IPMI device".to_owned()));
    }
    for (index, question) in Question::of(tool(tools, way)?).iter().enumerate() {
        let outcome = call(tools, way, *question).await;
        if index == 0 {
            outcome.as_ref().map_err(Clone::clone)?;
        }
        let answer = Answer {
            of: Subject::Ipmi(*question),
            outcome: outcome.map_err(|failure| failure.to_string()),
        };
        // Whoever asked may have gone; then the caller ends this.
        drop(answers.send(answer).await);
    }
    Ok(())
}

fn tool(tools: &Tools, way: &Way<'_>) -> Result<Tool, Failure> {
    if let Some(tool) = way.tool {
        return Ok(tool);
    }
    if tools.find(IPMITOOL).is_ok() {
        return Ok(Tool::Ipmitool);
    }
    if tools.find(SENSORS).is_ok() {
        return Ok(Tool::Freeipmi);
    }
    let missing = "there is an IPMI device, but neither ipmitool nor freeipmi is installed";
    Err(Failure::Absent(missing.to_owned()))
}

async fn call(tools: &Tools, way: &Way<'_>, question: Question) -> Result<Output, Failure> {
    let (tool, words) = question.call();
    let before = way.arguments.iter().map(String::as_str);
    let arguments: Vec<&str> = before.chain(words.iter().copied()).collect();
    let output = tools.run(tool, &arguments, QUESTION_DEADLINE).await?;
    if output.status == Some(0) {
        return Ok(output);
    }
    Err(Failure::Unreadable(format!("{tool} {}", output.end())))
}
