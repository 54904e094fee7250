//! How nodes' servers do, as people see it.

use kapok_proto::{common::v1 as common, convert::timestamp, fabric::v1 as wire};

use super::View;
use crate::{
    fabric::{self, Condition, health::counts},
    reconcile::health::condition as told,
};

impl View<'_> {
    /// A node's condition.
    pub(in super::super) fn condition(self, node: &fabric::Node) -> common::Condition {
        let (said, heard) = self.observed.health(&node.name);
        condition(node, said.as_deref(), heard)
    }

    /// How a node's server does, by its agent's last word: as it was told since this controller
    /// started, or else as the log has it.
    pub(in super::super) fn health(self, node: &fabric::Node) -> wire::NodeHealthSummary {
        let (said, heard) = self.observed.health(&node.name);
        let condition = condition(node, said.as_deref(), heard).into();
        let health = said.map_or_else(|| recorded(node), |said| (*said).clone());
        wire::NodeHealthSummary {
            node: node.name.to_string(),
            health: Some(common::NodeHealth {
                condition,
                ..health
            }),
            quarantine: node.quarantine.as_ref().map(quarantine),
            release: node.release.as_ref().map(release),
        }
    }
}

/// A node's condition. One that isn't heard is never called healthy: nothing was read of it. What
/// doesn't count for the fabric doesn't count here.
pub(super) fn condition(
    node: &fabric::Node,
    said: Option<&common::NodeHealth>,
    heard: bool,
) -> common::Condition {
    let known = node
        .health
        .as_ref()
        .map(|known| wire_condition(known.condition));
    let last = said.map(|said| {
        let verdicts = said.verdicts.iter();
        let verdicts = verdicts.map(|one| {
            let counts = counts(&one.code, &one.component);
            (told(one.condition()), counts)
        });
        wire_condition(Condition::of(told(said.condition()), verdicts))
    });
    let last = last.or(known);
    match last.unwrap_or(common::Condition::Unknown) {
        common::Condition::Healthy if !heard || !node.reachable => common::Condition::Unknown,
        common::Condition::Unspecified => common::Condition::Unknown,
        last => last,
    }
}

/// What is wrong with a node's server, and what follows from it, in words.
pub(super) fn trouble(node: &fabric::Node) -> Option<String> {
    match (&node.quarantine, &node.release, &node.health) {
        (Some(quarantine), Some(release), _) => Some(format!(
            "{}; {} released it until {}: {}",
            quarantine.reason, release.by, release.until, release.reason
        )),
        (Some(quarantine), None, _) if quarantine.held => Some(format!(
            "{}; it takes instances all the same, because too many nodes are in quarantine",
            quarantine.reason
        )),
        (Some(quarantine), None, _) => {
            let well = quarantine
                .well_since
                .map(|since| format!(", well since {since}"));
            let drain = node.drain_requested.map(|_| ", to be drained");
            Some(format!(
                "quarantined: {}{}{}",
                quarantine.reason,
                drain.unwrap_or_default(),
                well.unwrap_or_default()
            ))
        }
        (None, _, Some(health)) => match health.proven() {
            Condition::Healthy | Condition::Unknown => None,
            wrong => {
                let verdict = health.verdicts.first();
                let what = verdict.map(|verdict| format!(": {verdict}"));
                Some(format!("its server is {wrong}{}", what.unwrap_or_default()))
            }
        },
        (None, _, None) => None,
    }
}

pub(super) fn quarantine(quarantine: &fabric::Quarantine) -> wire::Quarantine {
    wire::Quarantine {
        since_time: Some(timestamp(quarantine.since)),
        reason: quarantine.reason.clone(),
        held: quarantine.held,
    }
}

pub(super) fn release(release: &fabric::Release) -> wire::Release {
    wire::Release {
        by: release.by.to_string(),
        reason: release.reason.clone(),
        until_time: Some(timestamp(release.until)),
    }
}

/// What the log has of a node's health: without evidence and remedies.
fn recorded(node: &fabric::Node) -> common::NodeHealth {
    let verdicts = node.health.iter().flat_map(|health| &health.verdicts);
    common::NodeHealth {
        verdicts: verdicts
            .map(|verdict| common::Verdict {
                code: verdict.code.clone(),
                condition: wire_condition(verdict.condition).into(),
                component: verdict.component.clone(),
                summary: verdict.summary.clone(),
                ..common::Verdict::default()
            })
            .collect(),
        ..common::NodeHealth::default()
    }
}

const fn wire_condition(condition: Condition) -> common::Condition {
    match condition {
        Condition::Healthy => common::Condition::Healthy,
        Condition::Degraded => common::Condition::Degraded,
        Condition::Failing => common::Condition::Failing,
        Condition::Unknown => common::Condition::Unknown,
    }
}
