//! How nodes' servers do, by their agents' word, and what the fabric makes of it.
//!
//! ```text
//!            degraded or failing                   ┌── worse again ───┐
//!   sound ──────┬───────────────▶ in quarantine ───┴─▶ well ──quiet──▶ sound
//!               │ the brake is on        ▲
//!               └───────▶ held ──────────┘ another one has left
//! ```
//!
//! A quarantine keeps new instances off; it stops nothing that runs. *Held* means that too many
//! nodes are in quarantine already: the node takes instances, and somebody should look. A *release*
//! is a person's word before the verdicts, until a time. A cordon is another word of people's and
//! holds beside all of this.
//!
//! Invariants:
//! - *Unknown* proves nothing: it begins no quarantine, and it ends none.
//! - What guests do is shown and decides nothing: see [`counts`].
//! - What an agent's numbers are isn't kept here: a judgement is another one only if its condition
//!   or what its verdicts are about differs.

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use kapok_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::Actor;

/// Verdicts that are kept of one node.
pub const MAX_VERDICTS: usize = 32;
/// Verdicts that a quarantine's reason names.
const MAX_NAMED: usize = 4;

/// A judgement of a server or of one of its components.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It was read, and nothing is wrong.
    Healthy,
    /// Something is wrong, and it works.
    Degraded,
    /// It fails, or is about to.
    Failing,
    /// Too much could not be read.
    Unknown,
}

/// Something that is wrong with a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What, in one stable word: `MEMORY_CE_STORM`.
    pub code: String,
    /// Which part: "memory/mc0".
    pub component: String,
    /// How bad.
    pub condition: Condition,
    /// In a sentence, with the numbers of when it was first said.
    pub summary: String,
}

/// What an agent says of its server, in a form that is the same for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    condition: Condition,
    verdicts: Vec<Verdict>,
}

/// How a node's server does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The worst of its components.
    pub condition: Condition,
    /// What is wrong, first what [counts], worst first, then by code and component; at most
    /// [`MAX_VERDICTS`].
    pub verdicts: Vec<Verdict>,
    /// Since when it is in this condition.
    pub since: Timestamp,
}

/// Verdicts keep new instances off a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when.
    pub since: Timestamp,
    /// What for: "CODE COMPONENT, …".
    pub reason: String,
    /// Whether it is held back, because too many nodes would be in quarantine.
    pub held: bool,
    /// Since when nothing calls for it any more.
    pub well_since: Option<Timestamp>,
}

/// A person's word before a node's verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Whose.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Until when.
    pub until: Timestamp,
}

/// What a server is made of: part (`memory/DIMM_A1`) to what it is.
pub type Parts = BTreeMap<String, String>;

/// A part that isn't what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartChange {
    /// Which.
    pub part: String,
    /// What it was; none for a new one.
    pub before: Option<String>,
    /// What it is; none for one that is gone.
    pub after: Option<String>,
}

/// What the fabric does about its nodes' health. Comes from the configuration, with each command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// From which condition on a node goes into quarantine.
    pub quarantine: Threshold,
    /// From which condition on a node in quarantine is to be drained.
    pub drain: Threshold,
    /// How long nothing may call for a quarantine before it ends, in milliseconds.
    pub quiet_ms: u64,
    /// How many of a hundred nodes may be in quarantine at once; one always may.
    pub brake_percent: u32,
}

/// From which condition on something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// From none.
    Off,
    /// From *degraded*.
    Degraded,
    /// From *failing*.
    Failing,
}

/// Whether a verdict is about the server, and so counts: towards the node's condition, its
/// quarantine and its drain. Others are shown, and no more: a guest that hangs ("instance/…") or a
/// tenant's load ("pressure/…", and `DISK_SLOW`, which the load alone can make) is wrong with no
/// server, and must not keep a tenant's neighbours off it.
pub fn counts(code: &str, component: &str) -> bool {
    let kind = component.split('/').next().unwrap_or_default();
    !matches!(kind, "instance" | "pressure") && code != "DISK_SLOW"
}

impl Condition {
    /// A server's condition: the worst of its agent's word and of what is proven by the verdicts
    /// that count, told with each. What a verdict that doesn't count accounts for in the agent's
    /// word is taken out of it. *Unknown* stays, unless worse is proven.
    pub fn of(said: Self, verdicts: impl IntoIterator<Item = (Self, bool)>) -> Self {
        let (mut proven, mut aside) = (Self::Healthy, Self::Healthy);
        for (condition, counts) in verdicts {
            let worst = if counts { &mut proven } else { &mut aside };
            if condition != Self::Unknown {
                *worst = Self::worst([*worst, condition]);
            }
        }
        let accounted_for = said != Self::Unknown && said.severity() <= aside.severity();
        let said = if accounted_for { Self::Healthy } else { said };
        Self::worst([proven, said])
    }

    /// The worse, the higher: failing, unknown, degraded, healthy.
    pub const fn severity(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Degraded => 1,
            Self::Unknown => 2,
            Self::Failing => 3,
        }
    }

    /// As people say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }

    fn worst(all: impl IntoIterator<Item = Self>) -> Self {
        let worst = all.into_iter().max_by_key(|one| one.severity());
        worst.unwrap_or(Self::Healthy)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Verdict {
    /// Whether it decides anything: see [`counts`].
    pub fn counts(&self) -> bool {
        counts(&self.code, &self.component)
    }

    /// What it is about, whatever its numbers are. What counts comes first.
    fn key(&self) -> (bool, Reverse<u8>, &str, &str) {
        (
            !self.counts(),
            Reverse(self.condition.severity()),
            &self.code,
            &self.component,
        )
    }
}

impl fmt::Display for Verdict {
    /// "CODE COMPONENT".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)?;
        if !self.component.is_empty() {
            write!(f, " {}", self.component)?;
        }
        Ok(())
    }
}

impl Judgement {
    /// What an agent says. A server isn't better than what is proven to be wrong with it, nor worse
    /// for what doesn't count; what is wrong beyond [`MAX_VERDICTS`] is left out, the least of it.
    pub fn new(condition: Condition, mut verdicts: Vec<Verdict>) -> Self {
        let condition = Condition::of(condition, decisive(&verdicts));
        verdicts.sort_by(|one, other| one.key().cmp(&other.key()));
        verdicts.dedup_by(|one, other| one.key() == other.key());
        verdicts.truncate(MAX_VERDICTS);
        Self {
            condition,
            verdicts,
        }
    }

    /// Whether it says the same as what is known.
    pub fn is_known(&self, health: Option<&Health>) -> bool {
        health.is_some_and(|health| {
            health.condition == self.condition
                && health
                    .verdicts
                    .iter()
                    .map(Verdict::key)
                    .eq(self.verdicts.iter().map(Verdict::key))
        })
    }

    /// Whether it proves more to be wrong than what is known: a worse condition, or something else
    /// that fails.
    pub fn is_worse(&self, health: Option<&Health>) -> bool {
        let (before, known) = health.map_or((Condition::Healthy, &[][..]), |health| {
            (health.proven(), &health.verdicts)
        });
        let fails = |one: &&Verdict| one.counts() && one.condition == Condition::Failing;
        let mut failing = self.verdicts.iter().filter(fails);
        proven(self.condition, &self.verdicts).severity() > before.severity()
            || failing.any(|one| known.iter().all(|other| other.key() != one.key()))
    }

    /// The same as what is known from now on. The condition's age stays if it does.
    pub(super) fn since(&self, before: Option<&Health>, now: Timestamp) -> Health {
        let same = before.filter(|before| before.condition == self.condition);
        Health {
            condition: self.condition,
            verdicts: self.verdicts.clone(),
            since: same.map_or(now, |before| before.since),
        }
    }
}

impl Health {
    /// The worst that is proven: what can't be read proves nothing.
    pub fn proven(&self) -> Condition {
        proven(self.condition, &self.verdicts)
    }
}

fn decisive(verdicts: &[Verdict]) -> impl Iterator<Item = (Condition, bool)> {
    let all = verdicts.iter();
    all.map(|verdict| (verdict.condition, verdict.counts()))
}

fn proven(condition: Condition, verdicts: &[Verdict]) -> Condition {
    let said = match condition {
        Condition::Unknown => Condition::Healthy,
        said => said,
    };
    Condition::of(said, decisive(verdicts))
}

impl PartChange {
    /// What differs between what was and what is, by part.
    pub fn between(before: &Parts, after: &Parts) -> Vec<Self> {
        let gone_or_other = before
            .iter()
            .filter(|(part, was)| after.get(*part) != Some(was))
            .map(|(part, was)| Self {
                part: part.clone(),
                before: Some(was.clone()),
                after: after.get(part).cloned(),
            });
        let new = after.iter().filter(|(part, _)| !before.contains_key(*part));
        let new = new.map(|(part, is)| Self {
            part: part.clone(),
            before: None,
            after: Some(is.clone()),
        });
        let mut changes: Vec<_> = gone_or_other.chain(new).collect();
        changes.sort_by(|one, other| one.part.cmp(&other.part));
        changes
    }
}

impl fmt::Display for PartChange {
    /// `memory/DIMM_A2 is gone (was 32 GiB DDR5)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            part,
            before,
            after,
        } = self;
        match (before, after) {
            (Some(before), None) => write!(f, "{part} is gone (was {before})"),
            (None, Some(after)) => write!(f, "{part} is new ({after})"),
            (Some(before), Some(after)) => write!(f, "{part} is {after} (was {before})"),
            (None, None) => f.write_str(part),
        }
    }
}

impl Threshold {
    /// Whether something is done at a condition.
    pub const fn is_met(self, condition: Condition) -> bool {
        match (self, condition) {
            (Self::Degraded, Condition::Degraded | Condition::Failing)
            | (Self::Failing, Condition::Failing) => true,
            (Self::Off, _)
            | (Self::Failing, Condition::Degraded)
            | (_, Condition::Healthy | Condition::Unknown) => false,
        }
    }
}

impl Policy {
    /// How many of the fabric's nodes may be in quarantine at once.
    pub fn most(&self, nodes: usize) -> usize {
        let percent = usize::try_from(self.brake_percent).unwrap_or(100);
        (nodes.saturating_mul(percent) / 100).max(1)
    }

    /// What a quarantine is for, if a server's health calls for one.
    pub fn calls_for(&self, health: &Health) -> Option<String> {
        if !self.quarantine.is_met(health.proven()) {
            return None;
        }
        let counting = health.verdicts.iter();
        let counting: Vec<_> = counting
            .filter(|verdict| verdict.counts() && self.quarantine.is_met(verdict.condition))
            .map(ToString::to_string)
            .collect();
        let more = match counting.len().saturating_sub(MAX_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = counting.get(..MAX_NAMED).unwrap_or(&counting).join(", ");
        Some(match named.as_str() {
            "" => format!("{} by its agent's word", health.proven()),
            named => format!("{named}{more}"),
        })
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            quarantine: Threshold::Degraded,
            drain: Threshold::Off,
            quiet_ms: 10 * 60 * 1000,
            brake_percent: 20,
        }
    }
}

#[cfg(test)]
mod tests;
