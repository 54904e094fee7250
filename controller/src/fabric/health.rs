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
    /// What is wrong, worst first, then by code and component; at most [`MAX_VERDICTS`].
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

impl Condition {
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
    /// What it is about, whatever its numbers are.
    fn key(&self) -> (Reverse<u8>, &str, &str) {
        (
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
    /// What an agent says. A server isn't better than what is proven to be wrong with it, and what
    /// is wrong beyond [`MAX_VERDICTS`] is left out, the least of it.
    pub fn new(condition: Condition, mut verdicts: Vec<Verdict>) -> Self {
        let proven = verdicts.iter().map(|verdict| verdict.condition);
        let proven = proven.filter(|one| *one != Condition::Unknown);
        let condition = Condition::worst(proven.chain([condition]));
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
            let keys = |verdicts: &'_ [Verdict]| -> Vec<(Reverse<u8>, String, String)> {
                let owned = |one: &Verdict| {
                    let (severity, code, component) = one.key();
                    (severity, code.to_owned(), component.to_owned())
                };
                verdicts.iter().map(owned).collect()
            };
            health.condition == self.condition && keys(&health.verdicts) == keys(&self.verdicts)
        })
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
        let all = self.verdicts.iter().map(|verdict| verdict.condition);
        let all = all.chain([self.condition]);
        Condition::worst(all.filter(|one| *one != Condition::Unknown))
    }
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
            .filter(|verdict| self.quarantine.is_met(verdict.condition))
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
mod tests {
    use super::*;

    fn verdict(code: &str, component: &str, condition: Condition) -> Verdict {
        Verdict {
            code: code.into(),
            component: component.into(),
            condition,
            summary: "as it is".into(),
        }
    }

    #[test]
    fn a_judgement_is_the_same_in_any_order_and_with_any_numbers() {
        let (a, b) = (
            verdict("FAN_STOPPED", "fan/2", Condition::Degraded),
            verdict("DISK_FAILING", "disk/sda", Condition::Failing),
        );
        let one = Judgement::new(Condition::Failing, vec![a.clone(), b.clone()]);
        let known = one.since(None, Timestamp(7));
        let mut louder = a.clone();
        louder.summary = "0 rpm".into();
        let other = Judgement::new(Condition::Failing, vec![b.clone(), louder, a]);
        assert!(other.is_known(Some(&known)));
        assert_eq!(known.verdicts[0], b, "the worst comes first");
        assert!(!Judgement::new(Condition::Failing, vec![b]).is_known(Some(&known)));
        assert!(!one.is_known(None));
        assert_eq!(one.since(Some(&known), Timestamp(9)).since, Timestamp(7));
    }

    /// An agent that calls itself healthy with a failing disk isn't believed that.
    #[test]
    fn nothing_is_better_than_its_verdicts() {
        let failing = verdict("DISK_FAILING", "disk/sda", Condition::Failing);
        let said = Judgement::new(Condition::Healthy, vec![failing]);
        assert_eq!(said.condition, Condition::Failing);
        let unread = verdict("SOURCE_UNREADABLE", "source/ipmi", Condition::Unknown);
        let said = Judgement::new(Condition::Healthy, vec![unread]);
        assert_eq!(said.condition, Condition::Healthy, "the rules decide that");
    }

    #[test]
    fn what_is_left_out_is_the_least() {
        let many = (0..100).map(|n| verdict("FAN_SLOW", &format!("fan/{n}"), Condition::Degraded));
        let failing = verdict("PSU_LOST", "psu/1", Condition::Failing);
        let said = Judgement::new(Condition::Failing, many.chain([failing.clone()]).collect());
        assert_eq!(said.verdicts.len(), MAX_VERDICTS);
        assert_eq!(said.verdicts[0], failing);
        let health = said.since(None, Timestamp(0));
        assert_eq!(
            Policy::default().calls_for(&health).unwrap(),
            "PSU_LOST psu/1, FAN_SLOW fan/0, FAN_SLOW fan/1, FAN_SLOW fan/10 and 28 more"
        );
    }

    #[test]
    fn unknown_proves_nothing_and_hides_nothing() {
        let unread = verdict("SOURCE_UNREADABLE", "source/edac", Condition::Unknown);
        let policy = Policy::default();
        let unknown = Judgement::new(Condition::Unknown, vec![unread.clone()]);
        let unknown = unknown.since(None, Timestamp(0));
        assert_eq!(policy.calls_for(&unknown), None);
        let fan = verdict("FAN_STOPPED", "fan/2", Condition::Degraded);
        let both = Judgement::new(Condition::Unknown, vec![unread, fan]);
        let both = both.since(None, Timestamp(0));
        assert_eq!(both.condition, Condition::Unknown);
        assert_eq!(policy.calls_for(&both).unwrap(), "FAN_STOPPED fan/2");
    }

    #[test]
    fn one_node_is_always_allowed() {
        let policy = |brake_percent| Policy {
            brake_percent,
            ..Policy::default()
        };
        let most = |percent, nodes| policy(percent).most(nodes);
        assert_eq!((most(20, 50), most(20, 4), most(20, 1)), (10, 1, 1));
        assert_eq!((most(100, 7), most(1, 0), most(1, 99)), (7, 1, 1));
    }

    #[test]
    fn changes_of_parts_are_told() {
        let parts = |all: &[(&str, &str)]| -> Parts {
            let owned = |(part, is): &(&str, &str)| ((*part).to_owned(), (*is).to_owned());
            all.iter().map(owned).collect()
        };
        let before = parts(&[
            ("memory/A1", "32 GiB"),
            ("memory/A2", "32 GiB"),
            ("nic/a", "x"),
        ]);
        let after = parts(&[("memory/A1", "16 GiB"), ("disk/S1", "1 TB"), ("nic/a", "x")]);
        let told: Vec<_> = PartChange::between(&before, &after)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            [
                "disk/S1 is new (1 TB)",
                "memory/A1 is 16 GiB (was 32 GiB)",
                "memory/A2 is gone (was 32 GiB)"
            ]
        );
        assert_eq!(PartChange::between(&after, &after), []);
    }
}
