//! All that is known of a node at one moment.

use std::{collections::BTreeMap, fmt, sync::Arc};

use kapok_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Component, Condition,
    verdict::{Held, Verdict},
};

/// A node's verdicts with what they rest on. Its text is stable: people and goldens read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// When it was made.
    pub at: Timestamp,
    /// The node's own: see [`crate::judge`].
    pub condition: Condition,
    /// What is wrong, worst first.
    pub verdicts: Vec<Verdict>,
    /// Every part that was read or should have been.
    pub components: BTreeMap<Component, Condition>,
    /// Where readings come from.
    pub sources: Vec<SourceState>,
    /// The last readings.
    pub readings: Vec<Held>,
}

/// How a source does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceState {
    /// Its name.
    pub name: Arc<str>,
    /// When it was asked last.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of asking a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// So many readings.
    Read(usize),
    /// The server has nothing of the kind.
    Absent(String),
    /// Why it could not be read.
    Unreadable(String),
}

impl fmt::Display for Assessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} at {}", self.condition, self.at)?;
        for verdict in &self.verdicts {
            write!(f, "{verdict}")?;
        }
        f.write_str("components:\n")?;
        for (component, condition) in &self.components {
            writeln!(f, "  {condition:<8} {component}")?;
        }
        f.write_str("sources:\n")?;
        for SourceState { name, at, outcome } in &self.sources {
            writeln!(f, "  {name}: {outcome} ({at})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            condition,
            component,
            summary,
            ..
        } = self;
        writeln!(f, "{condition} {code} {component}: {summary}")?;
        for held in &self.evidence {
            writeln!(f, "  | {held}")?;
        }
        writeln!(f, "  since {}, last {}", self.first_seen, self.last_seen)?;
        writeln!(f, "  do: {}", self.remedy)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(readings) => write!(f, "{readings} readings"),
            Self::Absent(what) => write!(f, "absent: {what}"),
            Self::Unreadable(reason) => write!(f, "unreadable: {reason}"),
        }
    }
}
