//! How nodes' servers do: verdicts with what they rest on.
//!
//! For people the worst comes first, and the evidence stands under what isn't healthy. What can't be
//! read is said as such, never left out.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use kapok_proto::{
    common::v1::{self as common, reading::Read, source_health::Outcome},
    fabric::v1 as wire,
};
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, age, time};
use crate::{
    human::{or_dash, plain},
    output::{columns, pairs},
};

/// How all nodes do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FabricHealth {
    /// Conditions to the number of nodes that are in them.
    counts: BTreeMap<String, u32>,
    nodes: Vec<Summary>,
}

/// How one node does, by its agent's last word.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    node: String,
    condition: String,
    quarantine: Option<Quarantine>,
    release: Option<Release>,
    verdicts: Vec<Verdict>,
    judge_time: Option<Time>,
}

/// How one node does, with all its components.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeHealth {
    #[serde(flatten)]
    summary: Summary,
    components: Vec<Component>,
    sources: Vec<Source>,
    /// Empty unless they were asked for.
    readings: Vec<Reading>,
}

/// Verdicts keep new instances off a node.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Quarantine {
    since_time: Option<Time>,
    reason: String,
    held: bool,
}

/// A person's word before verdicts.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Release {
    by: String,
    reason: String,
    until_time: Option<Time>,
}

#[derive(Debug, Clone, Serialize)]
struct Verdict {
    code: String,
    condition: String,
    component: String,
    summary: String,
    evidence: Vec<Reading>,
    first_seen_time: Option<Time>,
    last_seen_time: Option<Time>,
    remedy: String,
}

#[derive(Debug, Clone, Serialize)]
struct Component {
    component: String,
    condition: String,
}

#[derive(Debug, Clone, Serialize)]
struct Source {
    name: String,
    /// How many readings it gave last; null when it gave none.
    readings: Option<u32>,
    /// Why the server has nothing of the kind.
    absent: Option<String>,
    /// Why it can't be read.
    unreadable: Option<String>,
    read_time: Option<Time>,
    cadence_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Reading {
    component: String,
    quantity: String,
    unit: String,
    /// Null when it couldn't be read, or isn't there.
    value: Option<f64>,
    unreadable: Option<String>,
    absent: bool,
    source: String,
    read_time: Option<Time>,
}

/// A condition's word. What an older side doesn't say isn't known.
pub(super) fn condition(wire: i32) -> String {
    match common::Condition::try_from(wire) {
        Ok(common::Condition::Unspecified) => "unknown".to_owned(),
        _ => super::word!(common::Condition, "CONDITION_", wire),
    }
}

/// The worse, the higher. What isn't known is never taken for healthy.
fn severity(word: &str) -> u8 {
    match word {
        "healthy" => 0,
        "degraded" => 1,
        "failing" => 3,
        _ => 2,
    }
}

impl From<wire::Quarantine> for Quarantine {
    fn from(quarantine: wire::Quarantine) -> Self {
        Self {
            since_time: time(quarantine.since_time),
            reason: quarantine.reason,
            held: quarantine.held,
        }
    }
}

impl Quarantine {
    /// In one word.
    pub(crate) fn word(&self) -> &'static str {
        if self.held { "held" } else { "quarantined" }
    }

    /// In a line.
    pub(crate) fn line(&self, now: Timestamp) -> String {
        let held = if self.held {
            "held, too many nodes are in quarantine; "
        } else {
            ""
        };
        let since = age(self.since_time, now);
        format!("{held}since {since}: {}", plain(&self.reason))
    }
}

impl From<wire::Release> for Release {
    fn from(release: wire::Release) -> Self {
        Self {
            by: release.by,
            reason: release.reason,
            until_time: time(release.until_time),
        }
    }
}

impl Release {
    /// In a line.
    pub(crate) fn line(&self, now: Timestamp) -> String {
        let left = super::left(self.until_time, now);
        let (by, reason) = (plain(&self.by), plain(&self.reason));
        format!("by {by} for another {left}: {reason}")
    }
}

/// How a node stands by its health, in a cell: "degraded,quarantined".
pub(super) fn cell(
    condition: &str,
    quarantine: Option<&Quarantine>,
    release: Option<&Release>,
) -> String {
    let standing = match (quarantine, release) {
        (Some(_), Some(_)) => ",released",
        (Some(one), None) if one.held => ",held",
        (Some(_), None) => ",quarantined",
        (None, _) => "",
    };
    format!("{condition}{standing}")
}

impl From<common::Reading> for Reading {
    fn from(reading: common::Reading) -> Self {
        let (value, unreadable, absent) = match reading.read {
            Some(Read::Value(value)) => (Some(value), None, false),
            Some(Read::Unreadable(reason)) => (None, Some(reason), false),
            Some(Read::Absent(absent)) => (None, None, absent),
            None => (
                None,
                Some("said in a way that isn't known".to_owned()),
                false,
            ),
        };
        Self {
            component: reading.component,
            quantity: reading.quantity,
            unit: reading.unit,
            value,
            unreadable,
            absent,
            source: reading.source,
            read_time: time(reading.read_time),
        }
    }
}

impl Reading {
    fn value(&self) -> String {
        match (self.value, &self.unreadable) {
            (Some(value), _) => or_dash(format!("{value} {}", self.unit).trim_end()),
            (None, Some(reason)) => format!("can't be read: {}", plain(reason)),
            (None, None) => "absent".to_owned(),
        }
    }

    fn line(&self, of: &str, now: Timestamp) -> String {
        let component = if self.component == of {
            String::new()
        } else {
            format!("{} ", plain(&self.component))
        };
        format!(
            "{component}{} {} ({}, {} ago)",
            plain(&self.quantity),
            self.value(),
            plain(&self.source),
            age(self.read_time, now)
        )
    }
}

impl From<common::Verdict> for Verdict {
    fn from(verdict: common::Verdict) -> Self {
        Self {
            condition: condition(verdict.condition),
            code: verdict.code,
            component: verdict.component,
            summary: verdict.summary,
            evidence: verdict.evidence.into_iter().map(Reading::from).collect(),
            first_seen_time: time(verdict.first_seen_time),
            last_seen_time: time(verdict.last_seen_time),
            remedy: verdict.remedy,
        }
    }
}

impl Verdict {
    /// What is wrong, what that rests on, and what to do; indented.
    fn text(&self, component: bool, now: Timestamp) -> String {
        let mut text = format!("    {}", plain(&self.code));
        if component {
            let _ = write!(text, " {}", plain(&self.component));
        }
        if self.first_seen_time.is_some() {
            let _ = write!(text, " for {}", age(self.first_seen_time, now));
        }
        let _ = writeln!(text, ": {}", plain(&self.summary));
        for reading in &self.evidence {
            let _ = writeln!(text, "        {}", reading.line(&self.component, now));
        }
        if !self.remedy.is_empty() {
            let _ = writeln!(text, "        to do: {}", plain(&self.remedy));
        }
        text
    }
}

impl From<common::SourceHealth> for Source {
    fn from(source: common::SourceHealth) -> Self {
        let (readings, absent, unreadable) = match source.outcome {
            Some(Outcome::Readings(readings)) => (Some(readings), None, None),
            Some(Outcome::Absent(reason)) => (None, Some(reason), None),
            Some(Outcome::Unreadable(reason)) => (None, None, Some(reason)),
            None => (None, None, Some("not read yet".to_owned())),
        };
        Self {
            name: source.name,
            readings,
            absent,
            unreadable,
            read_time: time(source.read_time),
            cadence_ms: source.cadence_ms,
        }
    }
}

impl Summary {
    fn new(
        node: String,
        health: &common::NodeHealth,
        quarantine: Option<wire::Quarantine>,
        release: Option<wire::Release>,
    ) -> Self {
        let verdicts = health.verdicts.iter().cloned();
        Self {
            node,
            condition: condition(health.condition),
            quarantine: quarantine.map(Quarantine::from),
            release: release.map(Release::from),
            verdicts: verdicts.map(Verdict::from).collect(),
            judge_time: time(health.judge_time),
        }
    }

    /// What its verdicts come to, in a line; empty when they come to nothing.
    fn standing(&self, now: Timestamp) -> String {
        match (&self.quarantine, &self.release) {
            (Some(_), Some(release)) => format!("released {}", release.line(now)),
            (Some(one), None) if one.held => one.line(now),
            (Some(one), None) => format!("{} {}", one.word(), one.line(now)),
            (None, _) => String::new(),
        }
    }
}

impl FabricHealth {
    /// From all pages of the answer.
    pub(crate) fn new(counts: BTreeMap<String, u32>, nodes: Vec<wire::NodeHealthSummary>) -> Self {
        let summary = |one: wire::NodeHealthSummary| {
            let health = one.health.unwrap_or_default();
            Summary::new(one.node, &health, one.quarantine, one.release)
        };
        Self {
            counts,
            nodes: nodes.into_iter().map(summary).collect(),
        }
    }

    /// The answer for people: the numbers, then nodes with what is wrong with them.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let total: u32 = self.counts.values().sum();
        let mut counted: Vec<_> = self
            .counts
            .iter()
            .filter(|(_, count)| **count > 0)
            .collect();
        counted.sort_by_key(|(word, _)| Reverse(severity(word)));
        let counted: Vec<_> = counted
            .iter()
            .map(|(word, count)| format!("{count} {}", plain(word)))
            .collect();
        let nodes = if total == 1 { "node" } else { "nodes" };
        let mut text = match counted.len() {
            0 => format!("{total} {nodes}\n"),
            _ => format!("{total} {nodes}: {}\n", counted.join(", ")),
        };
        for node in &self.nodes {
            let standing = match node.standing(now).as_str() {
                "" => String::new(),
                standing => format!("; {standing}"),
            };
            let name = plain(&node.node);
            let _ = writeln!(text, "\n{name}: {}{standing}", node.condition);
            for verdict in &node.verdicts {
                text += &verdict.text(true, now);
            }
        }
        text
    }
}

impl From<wire::GetNodeHealthResponse> for NodeHealth {
    fn from(answer: wire::GetNodeHealthResponse) -> Self {
        let (node, health) = (
            answer.node.unwrap_or_default(),
            answer.health.unwrap_or_default(),
        );
        let summary = Summary::new(node.name, &health, node.quarantine, node.release);
        let component = |one: common::ComponentHealth| Component {
            condition: condition(one.condition),
            component: one.component,
        };
        Self {
            summary,
            components: health.components.into_iter().map(component).collect(),
            sources: health.sources.into_iter().map(Source::from).collect(),
            readings: health.readings.into_iter().map(Reading::from).collect(),
        }
    }
}

impl NodeHealth {
    /// The answer for people.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let Summary {
            node,
            condition,
            judge_time,
            ..
        } = &self.summary;
        let mut text = pairs(&[
            ("Node", plain(node)),
            ("Condition", condition.clone()),
            ("Standing", or_dash(&self.summary.standing(now))),
            ("Judged", super::when(*judge_time, now)),
        ]);
        text += "\n";
        text += &self.components(now);
        text += &self.unread(now);
        if !self.readings.is_empty() {
            let rows = self.readings.iter().map(|reading| {
                vec![
                    plain(&reading.component),
                    plain(&reading.quantity),
                    reading.value(),
                    plain(&reading.source),
                    age(reading.read_time, now),
                ]
            });
            let headers = ["COMPONENT", "QUANTITY", "VALUE", "SOURCE", "AGE"];
            text += "\n";
            text += &columns(&headers, rows);
        }
        text
    }

    /// All components, the worst first, with the evidence under what isn't healthy.
    fn components(&self, now: Timestamp) -> String {
        let mut all: BTreeMap<&str, &str> = self
            .components
            .iter()
            .map(|one| (one.component.as_str(), one.condition.as_str()))
            .collect();
        for verdict in &self.summary.verdicts {
            all.entry(&verdict.component).or_insert(&verdict.condition);
        }
        let mut sorted: Vec<_> = all.into_iter().collect();
        sorted.sort_by_key(|(component, condition)| (Reverse(severity(condition)), *component));
        let rows = sorted
            .iter()
            .map(|(component, condition)| vec![plain(component), plain(condition)]);
        let table = columns(&["COMPONENT", "CONDITION"], rows);
        let mut lines = table.lines();
        let mut text = lines.next().unwrap_or_default().to_owned() + "\n";
        for ((component, _), line) in sorted.iter().zip(lines) {
            text += line;
            text += "\n";
            let of_it = self.summary.verdicts.iter();
            for verdict in of_it.filter(|verdict| verdict.component == *component) {
                text += &verdict.text(false, now);
            }
        }
        text
    }

    /// Sources that can't be read.
    fn unread(&self, now: Timestamp) -> String {
        let rows: Vec<_> = self
            .sources
            .iter()
            .filter_map(|source| {
                let reason = source.unreadable.as_ref()?;
                let tried = age(source.read_time, now);
                Some(vec![plain(&source.name), tried, plain(reason)])
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        "\n".to_owned() + &columns(&["CAN'T BE READ", "TRIED", "WHY"], rows)
    }
}
