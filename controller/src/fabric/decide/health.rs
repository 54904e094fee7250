//! Health: nodes judged, kept free of new instances, released, well again.
//!
//! Quarantine and brake are one decision: each looks at the nodes that are in quarantine with it,
//! so that however many turn at once, no decision takes more than the policy allows. Whoever finds
//! no room is *held* and looked at again by the next review.

use std::{cmp::Reverse, ops::RangeInclusive};

use kapok_types::{Name, NodeId, Timestamp, Violation};

use super::{Context, Decision, node, printable};
use crate::fabric::{
    Condition, Denied, Event, Fabric, Health, Judgement, Node, PartChange, Parts, Quarantine,
    Release,
    health::{Policy, Threshold},
};

/// How long a release lasts: unless told otherwise, and its limits.
const DEFAULT_RELEASE_MS: u64 = 24 * 3600 * 1000;
const RELEASE_MS: RangeInclusive<u64> = 60_000..=30 * 24 * 3600 * 1000;
/// Facts after which a review stops; the next one goes on.
const AT_ONCE: usize = 512;

/// How many more nodes may go into quarantine.
struct Brake {
    taken: usize,
    most: usize,
}

impl Brake {
    fn new(fabric: &Fabric, policy: &Policy) -> Self {
        Self {
            taken: fabric.quarantined.len(),
            most: policy.most(fabric.nodes.len()),
        }
    }

    /// Takes a place, if there is one.
    fn take(&mut self) -> bool {
        let free = self.taken < self.most;
        self.taken += usize::from(free);
        free
    }

    fn give_back(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }
}

/// An agent's word on its server. One on another server than the fabric knows isn't believed.
pub(super) fn judge(
    context: Context<'_>,
    name: &Name,
    id: NodeId,
    judgement: &Judgement,
    policy: &Policy,
) -> Result<Decision, Denied> {
    let node = node::speaking(context, name, id)?;
    if node.found.is_some() {
        return Ok(Decision::done(Vec::new()));
    }
    let (mut node, mut events) = (node.clone(), Vec::new());
    let counted = node.is_quarantined();
    if !judgement.is_known(node.health.as_ref()) {
        let health = judgement.since(node.health.as_ref(), context.now);
        node.health = Some(health.clone());
        events.push(Event::NodeJudged {
            node: name.clone(),
            health,
        });
    }
    let mut brake = Brake::new(context.fabric, policy);
    settle(&node, counted, policy, context.now, &mut brake, &mut events);
    Ok(Decision::done(events))
}

/// Whether a review would change anything. Looks at the unsettled nodes alone.
pub fn is_due(fabric: &Fabric, policy: &Policy, now: Timestamp) -> bool {
    !reviewed(fabric, policy, now).is_empty()
}

/// What time, other nodes and the policy have changed since.
pub(super) fn review(context: Context<'_>, policy: &Policy) -> Decision {
    Decision::done(reviewed(context.fabric, policy, context.now))
}

/// Those that leave go first, then those that wait for their place: the worst, then the oldest.
fn reviewed(fabric: &Fabric, policy: &Policy, now: Timestamp) -> Vec<Event> {
    let unsettled = fabric.unsettled.iter();
    let mut nodes: Vec<&Node> = unsettled
        .filter_map(|name| fabric.nodes.get(name))
        .collect();
    nodes.sort_by_key(|node| {
        let proven = node
            .health
            .as_ref()
            .map_or(Condition::Healthy, Health::proven);
        let since = node.quarantine.as_ref().map(|one| one.since);
        let waits = !node.is_quarantined();
        (waits, Reverse(proven.severity()), since)
    });
    let mut brake = Brake::new(fabric, policy);
    let mut events = Vec::new();
    for node in nodes {
        if events.len() >= AT_ONCE {
            break;
        }
        let mut node = node.clone();
        let counted = node.is_quarantined();
        if node.release.as_ref().is_some_and(|one| one.until <= now) {
            node.release = None;
            events.push(Event::NodeReleaseEnded {
                node: node.name.clone(),
            });
        }
        settle(&node, counted, policy, now, &mut brake, &mut events);
    }
    events
}

/// A person's word before the verdicts. The same person may say it again, for longer.
pub(super) fn release(
    context: Context<'_>,
    which: &str,
    reason: &str,
    life_ms: u64,
) -> Result<Decision, Denied> {
    let node = node::present(context, which)?;
    printable("reason", reason)?;
    let life_ms = match life_ms {
        0 => DEFAULT_RELEASE_MS,
        life_ms => life_ms,
    };
    let wrong = if reason.is_empty() {
        Some(Violation::new("reason", "must be stated"))
    } else if !RELEASE_MS.contains(&life_ms) {
        Some(Violation::new("life", "must be 1 minute to 30 days"))
    } else {
        None
    };
    if let Some(wrong) = wrong {
        return Err(Denied::Invalid(vec![wrong]));
    }
    if node.quarantine.is_none() {
        return Err(Denied::NodeNotQuarantined {
            node: node.name.to_string(),
        });
    }
    let until = Timestamp(context.now.get().saturating_add(life_ms));
    let release = Release {
        by: context.by().clone(),
        reason: reason.to_owned(),
        until,
    };
    let mut events = vec![Event::NodeReleased {
        node: node.name.clone(),
        release,
    }];
    events.extend(drained(node, None));
    Ok(Decision::done(events))
}

/// The verdicts decide again, if there is a place in quarantine.
pub(super) fn end_release(
    context: Context<'_>,
    which: &str,
    policy: &Policy,
) -> Result<Decision, Denied> {
    let node = node::present(context, which)?;
    if node.release.is_none() {
        return Err(Denied::NodeNotReleased {
            node: node.name.to_string(),
        });
    }
    let mut node = node.clone();
    node.release = None;
    let mut events = vec![Event::NodeReleaseEnded {
        node: node.name.clone(),
    }];
    let mut brake = Brake::new(context.fabric, policy);
    settle(&node, false, policy, context.now, &mut brake, &mut events);
    Ok(Decision::done(events))
}

/// What an agent says that its server is made of. Nothing read is not nothing there.
pub(super) fn parts(
    context: Context<'_>,
    name: &Name,
    id: NodeId,
    parts: &Parts,
) -> Result<Decision, Denied> {
    let node = node::speaking(context, name, id)?;
    if node.found.is_some() || parts.is_empty() || *parts == *node.parts {
        return Ok(Decision::done(Vec::new()));
    }
    let node_name = name.clone();
    Ok(Decision::done(vec![if node.parts.is_empty() {
        Event::NodePartsLearned {
            node: node_name,
            parts: parts.clone(),
        }
    } else {
        Event::NodePartsChanged {
            node: node_name,
            changes: PartChange::between(&node.parts, parts),
        }
    }]))
}

pub(super) fn parts_accepted(context: Context<'_>, name: &Name) -> Decision {
    let node = context.fabric.nodes.get(name);
    let waits = node.is_some_and(|node| node.accepting_parts);
    let told = waits.then(|| Event::NodePartsAccepted {
        node: name.clone(),
        told: true,
    });
    Decision::done(told.into_iter().collect())
}

/// The facts that follow from a node's health, release and age. `counted` says whether it had a
/// place in quarantine before.
fn settle(
    node: &Node,
    counted: bool,
    policy: &Policy,
    now: Timestamp,
    brake: &mut Brake,
    events: &mut Vec<Event>,
) {
    let next = next(node, counted, policy, now, brake);
    let active = node.release.is_none() && next.as_ref().is_some_and(|one| !one.held);
    if counted && !active {
        brake.give_back();
    }
    let name = || node.name.clone();
    let failing = node
        .health
        .as_ref()
        .is_some_and(|health| policy.drain.is_met(health.proven()));
    let asked = (active && failing).then_some(now);
    let drain = node.drain_requested.filter(|_| active).or(asked);
    match (&node.quarantine, next) {
        (None, None) => {}
        (Some(_), None) => events.push(Event::NodeQuarantineEnded { node: name() }),
        (Some(was), Some(is)) if was.held == is.held && was.reason == is.reason => {
            if was.well_since != is.well_since {
                events.push(Event::NodeRecovering {
                    node: name(),
                    since: is.well_since,
                });
            }
        }
        (_, Some(quarantine)) => events.push(Event::NodeQuarantined {
            node: name(),
            quarantine,
        }),
    }
    let drain = drain.filter(|_| policy.drain != Threshold::Off);
    events.extend(drained(node, drain));
}

fn drained(node: &Node, at: Option<Timestamp>) -> Option<Event> {
    (node.drain_requested != at).then(|| Event::NodeDrainRequested {
        node: node.name.clone(),
        at,
    })
}

/// What is to become of a node's quarantine.
fn next(
    node: &Node,
    counted: bool,
    policy: &Policy,
    now: Timestamp,
    brake: &mut Brake,
) -> Option<Quarantine> {
    let health = node.health.as_ref()?;
    let (before, released) = (node.quarantine.as_ref(), node.release.is_some());
    if let Some(reason) = policy.calls_for(health) {
        let held = match before {
            // Without effect until the release ends.
            before if released => before.is_some_and(|before| before.held),
            _ => !counted && !brake.take(),
        };
        return Some(Quarantine {
            since: before.map_or(now, |before| before.since),
            reason,
            held,
            well_since: None,
        });
    }
    let before = before?;
    let unsure = health.condition == Condition::Unknown || !node.reachable;
    if policy.quarantine == Threshold::Off || (before.held && !unsure) {
        return None;
    }
    let well_since = (!unsure).then(|| before.well_since.unwrap_or(now));
    if well_since.is_some_and(|since| now.millis_since(since) >= policy.quiet_ms) {
        return None;
    }
    Some(Quarantine {
        held: before.held || (!released && !counted && !brake.take()),
        well_since,
        ..before.clone()
    })
}
