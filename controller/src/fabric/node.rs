//! Nodes: servers that have joined, and what tells one server from another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kapok_types::{
    Equipment, MemoryMib, Name, NodeId, Timestamp, Vcpus, Violation, instance::Arch,
};
use serde::{Deserialize, Serialize};

use super::{Actor, Health, Parts, Quarantine, Release, Revocation, health::Condition};

/// Components of a fingerprint, and bytes of a component's name and of its value.
const MAX_COMPONENTS: usize = 32;
const MAX_COMPONENT_BYTES: usize = 256;
/// The component that is a set: one network card may be swapped without asking anybody.
const MACS: &str = "macs";

/// A physical server that runs an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its identity, made once on the server.
    pub id: NodeId,
    /// Its name in this fabric.
    pub name: Name,
    /// Where its agent listens, "HOST:PORT".
    pub address: String,
    /// vCPUs that one physical thread may carry, in permille.
    pub vcpu_overcommit_permille: u32,
    /// When it joined for the first time.
    pub joined_at: Timestamp,
    /// What its server is made of, as it joined or was rebound.
    pub host: HostFingerprint,
    /// What its server is made of now, if that is another one: it takes nothing new until it is
    /// rebound.
    pub found: Option<HostFingerprint>,
    /// What it can carry, once its agent was reached.
    pub capacity: Option<Capacity>,
    /// Whether its agent answers. *Unreachable* is never *dead*.
    pub reachable: bool,
    /// Whether its agent waits for the full intent.
    pub resyncing: bool,
    /// Why it takes no new instances, if somebody said so.
    pub cordoned: Option<Cordon>,
    /// Whether its key is believed no more. Its guests run on, its claims count.
    pub revoked: Option<Revocation>,
    /// How its server does, by its agent's last word; none before the first one.
    #[serde(default)]
    pub health: Option<Health>,
    /// Whether its verdicts call for no new instances.
    #[serde(default)]
    pub quarantine: Option<Quarantine>,
    /// Whether a person's word goes before its verdicts.
    #[serde(default)]
    pub release: Option<Release>,
    /// When its instances were asked to move because its server fails.
    #[serde(default)]
    pub drain_requested: Option<Timestamp>,
    /// What its server was last seen to be made of; empty before that.
    #[serde(default)]
    pub parts: Arc<Parts>,
    /// Whether its agent is still to be told that its present parts are accepted.
    #[serde(default)]
    pub accepting_parts: bool,
    /// What it has beyond amounts, by its agent's word; nothing before that.
    #[serde(default, skip_serializing_if = "has_none")]
    pub equipment: Arc<Equipment>,
    /// Where it stands and what it is for.
    #[serde(default, skip_serializing_if = "Site::is_unknown")]
    pub site: Site,
}

/// Where a node stands and what it is for, by people's word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Site {
    /// Its rack, if it is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rack: Option<Name>,
    /// Its room, if it is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<Name>,
    /// Its labels, which instances may ask for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Name, String>,
    /// The isolation class of the tenants whose instances it takes; none takes those that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Name>,
}

/// One thing about a node's site that is to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteChange {
    /// Its rack.
    Rack(Option<Name>),
    /// Its room.
    Room(Option<Name>),
    /// All of its labels.
    Labels(BTreeMap<Name, String>),
    /// One of its labels; none takes it away.
    Label(Name, Option<String>),
    /// The isolation class of those that it takes.
    Isolation(Option<Name>),
}

impl Site {
    /// Whether nobody said anything.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// The same with a change.
    #[must_use]
    pub fn with(mut self, change: &SiteChange) -> Self {
        match change.clone() {
            SiteChange::Rack(rack) => self.rack = rack,
            SiteChange::Room(room) => self.room = room,
            SiteChange::Labels(labels) => self.labels = labels,
            SiteChange::Label(label, Some(value)) => drop(self.labels.insert(label, value)),
            SiteChange::Label(label, None) => drop(self.labels.remove(&label)),
            SiteChange::Isolation(class) => self.isolation = class,
        }
        self
    }
}

impl Node {
    /// Whether its verdicts keep new instances off it at present.
    pub fn is_quarantined(&self) -> bool {
        self.release.is_none() && self.quarantine.as_ref().is_some_and(|one| !one.held)
    }

    /// What speaks against it without closing it: nodes of a lower tier are preferred.
    pub(super) fn tier(&self) -> u8 {
        let moves = if self.drain_requested.is_some() { 4 } else { 0 };
        let condition = self.health.as_ref().map(|health| health.condition);
        moves
            + match condition.unwrap_or(Condition::Unknown) {
                Condition::Healthy => 0,
                Condition::Unknown => 1,
                Condition::Degraded => 2,
                Condition::Failing => 3,
            }
    }

    /// Whether something is still to be done about it when time passes.
    pub(super) fn is_unsettled(&self) -> bool {
        self.quarantine.is_some() || self.release.is_some() || self.accepting_parts
    }
}

fn has_none(equipment: &Equipment) -> bool {
    *equipment == Equipment::default()
}

/// What a node can carry, by its agent's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Its architecture.
    pub arch: Arch,
    /// Physical threads.
    pub cpus: u32,
    /// Memory for instances, less the host's reserve.
    pub memory: MemoryMib,
    /// vCPUs held by domains that Kapok did not make.
    pub foreign_vcpus: Vcpus,
    /// Memory held by domains that Kapok did not make.
    pub foreign_memory: MemoryMib,
}

/// A word of people that a node takes nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Why.
    pub reason: String,
    /// Who said so.
    pub by: Actor,
}

/// What a server is made of, by component: `product_uuid`, `product_serial`, `board_serial`,
/// `machine_id`, `macs`. Empty when nothing could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostFingerprint(pub BTreeMap<String, String>);

/// A component that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Which.
    pub component: &'a str,
    /// What it was.
    pub before: &'a str,
    /// What it is.
    pub after: &'a str,
}

impl HostFingerprint {
    /// A fingerprint within its limits. Components without a value are left out.
    ///
    /// # Errors
    ///
    /// Too many components, or one that is too long or not printable.
    pub fn new(components: impl IntoIterator<Item = (String, String)>) -> Result<Self, Violation> {
        let refused = |reason: String| Err(Violation::new("fingerprint", reason));
        let mut kept = BTreeMap::new();
        for (component, value) in components {
            let value = value.trim();
            if component.is_empty()
                || component.len().max(value.len()) > MAX_COMPONENT_BYTES
                || component.chars().chain(value.chars()).any(char::is_control)
            {
                return refused(format!(
                    "has a component that isn't printable text of at most {MAX_COMPONENT_BYTES} bytes"
                ));
            }
            if !value.is_empty() {
                kept.insert(component, value.to_owned());
            }
        }
        if kept.len() > MAX_COMPONENTS {
            return refused(format!(
                "has {} components; at most {MAX_COMPONENTS} are allowed",
                kept.len()
            ));
        }
        Ok(Self(kept))
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What differs in `now`. A component that one of both doesn't have says nothing; of network
    /// cards, one that both have is enough.
    pub fn differences<'a>(&'a self, now: &'a Self) -> Vec<Difference<'a>> {
        let both = self
            .0
            .iter()
            .filter_map(|(component, before)| Some((component, before, now.0.get(component)?)));
        both.filter(|(component, before, after)| !is_same(component, before, after))
            .map(|(component, before, after)| Difference {
                component,
                before,
                after,
            })
            .collect()
    }

    /// The same server with what is known of it now: what `now` lacks is kept.
    pub(super) fn renewed(&self, now: &Self) -> Self {
        let mut components = self.0.clone();
        components.extend(now.0.clone());
        Self(components)
    }
}

fn is_same(component: &str, before: &str, after: &str) -> bool {
    let words = |text: &str| -> BTreeSet<String> {
        text.split([',', ' '])
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_lowercase)
            .collect()
    };
    if component != MACS {
        return before.trim().eq_ignore_ascii_case(after.trim());
    }
    let (before, after) = (words(before), words(after));
    before.is_empty() || after.is_empty() || !before.is_disjoint(&after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(components: &[(&str, &str)]) -> HostFingerprint {
        HostFingerprint::new(
            components
                .iter()
                .map(|(component, value)| ((*component).to_owned(), (*value).to_owned())),
        )
        .unwrap()
    }

    #[track_caller]
    fn check(before: &[(&str, &str)], after: &[(&str, &str)], expected: &[&str]) {
        let (before, after) = (host(before), host(after));
        let named: Vec<_> = before
            .differences(&after)
            .into_iter()
            .map(|difference| difference.component)
            .collect();
        assert_eq!(named, expected);
    }

    #[test]
    fn what_one_side_lacks_says_nothing() {
        check(&[], &[("product_uuid", "a")], &[]);
        check(&[("product_uuid", "a")], &[("product_serial", "1")], &[]);
        check(&[("product_uuid", "a")], &[("product_uuid", " ")], &[]);
        check(&[("product_uuid", "AB")], &[("product_uuid", "ab ")], &[]);
        check(
            &[("board_serial", "1"), ("product_uuid", "a")],
            &[("board_serial", "2"), ("product_uuid", "b")],
            &["board_serial", "product_uuid"],
        );
    }

    #[test]
    fn one_common_network_card_is_enough() {
        check(
            &[("macs", "02:00:0a,02:00:0b")],
            &[("macs", "02:00:0B 02:00:0C")],
            &[],
        );
        check(&[("macs", "02:00:0a")], &[("macs", "02:00:0c")], &["macs"]);
    }

    #[test]
    fn limits_hold() {
        let many = (0..33).map(|n| (format!("c{n}"), "x".to_owned()));
        assert!(HostFingerprint::new(many).is_err());
        for wrong in [
            ("", "x"),
            ("a\n", "x"),
            ("a", "x\0"),
            ("a", &*"x".repeat(257)),
        ] {
            let one = (wrong.0.to_owned(), wrong.1.to_owned());
            assert_eq!(
                HostFingerprint::new([one]).unwrap_err().field,
                "fingerprint"
            );
        }
    }
}
