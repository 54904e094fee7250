//! What can be asked, and what is answered.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use crate::{Failure, Output, Tools, ipmi, smart};

/// A question. It carries nothing: whoever may ask can't say of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What smartctl says of every disk that it finds.
    Smart,
    /// What the management controller's sensors and log say, by the tool that is installed.
    Ipmi,
    /// The same by ipmitool.
    Ipmitool,
    /// The same by freeipmi.
    Freeipmi,
}

/// What one call of a tool brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What it is about.
    pub of: Subject,
    /// What the tool left, or why it left nothing.
    pub outcome: Result<Output, String>,
}

/// What an answer is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A disk's report.
    Disk(smart::Disk),
    /// One of the questions about the management controller.
    Ipmi(ipmi::Question),
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Smart, Self::Ipmi, Self::Ipmitool, Self::Freeipmi];

    /// How long it may take, whoever answers it.
    pub const fn deadline(self) -> Duration {
        match self {
            // Less than the agent waits, so that it hears why.
            Self::Smart => Duration::from_secs(170),
            Self::Ipmi | Self::Ipmitool | Self::Freeipmi => Duration::from_secs(45),
        }
    }

    /// The tools that may be called for it.
    pub const fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Smart => &[smart::TOOL],
            Self::Ipmi => &[ipmi::IPMITOOL, ipmi::SENSORS, ipmi::LOG],
            Self::Ipmitool => &[ipmi::IPMITOOL],
            Self::Freeipmi => &[ipmi::SENSORS, ipmi::LOG],
        }
    }
}

/// Asks with this process' own rights. Answers come as they are known, in any order.
///
/// # Errors
///
/// Nothing of the kind is here, or nothing of it could be read; what couldn't be read of a single
/// part is an answer.
///
/// # Cancel safety
///
/// Dropped, it kills the tools that it has started.
pub async fn ask(request: Request, tools: &Tools, answers: &Sender<Answer>) -> Result<(), Failure> {
    let local = |tool| ipmi::Way {
        tool,
        arguments: &[],
    };
    match request {
        Request::Smart => smart::ask(tools, answers).await,
        Request::Ipmi => ipmi::ask(tools, &local(None), answers).await,
        Request::Ipmitool => ipmi::ask(tools, &local(Some(ipmi::Tool::Ipmitool)), answers).await,
        Request::Freeipmi => ipmi::ask(tools, &local(Some(ipmi::Tool::Freeipmi)), answers).await,
    }
}
