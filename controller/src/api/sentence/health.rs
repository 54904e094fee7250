//! Facts about nodes' health, and about what their servers are made of.

use kapok_types::Name;

use super::{Sentence, because};
use crate::fabric::{Condition, Event, Fabric, Health};

/// Verdicts and parts that one sentence names.
const MAX_NAMED: usize = 8;

/// The sentence for such a fact; none for others.
pub(super) fn of(event: &Event, fabric: &Fabric) -> Option<Sentence> {
    let (name, text) = told(event)?;
    let node = fabric.nodes.get(name);
    Some(Sentence {
        subject_id: node.map(|node| node.id.to_string()).unwrap_or_default(),
        subject_name: name.to_string(),
        text,
        ..Sentence::default()
    })
}

fn told(event: &Event) -> Option<(&Name, String)> {
    Some(match event {
        Event::NodeJudged { node, health } => (node, judged(node, health)),
        Event::NodeQuarantined { node, quarantine } if quarantine.held => (
            node,
            format!(
                "node {node} takes instances although it should not ({}): too many nodes are in \
                 quarantine already",
                quarantine.reason
            ),
        ),
        Event::NodeQuarantined { node, quarantine } => (
            node,
            format!("node {node} is in quarantine: {}", quarantine.reason),
        ),
        Event::NodeRecovering {
            node,
            since: Some(_),
        } => (
            node,
            format!("node {node} is well; its quarantine ends if that lasts"),
        ),
        Event::NodeRecovering { node, since: None } => (
            node,
            format!("node {node} isn't well yet; its quarantine goes on"),
        ),
        Event::NodeQuarantineEnded { node } => {
            (node, format!("node {node} is no longer in quarantine"))
        }
        Event::NodeReleased { node, release } => (
            node,
            format!(
                "{} released node {node} until {}{}",
                release.by,
                release.until,
                because(&release.reason)
            ),
        ),
        Event::NodeReleaseEnded { node } => (
            node,
            format!("the release of node {node} has ended; its verdicts decide again"),
        ),
        Event::NodeDrainRequested { node, at: Some(_) } => (
            node,
            format!("the instances on node {node} are asked to move: its server fails"),
        ),
        Event::NodeDrainRequested { node, at: None } => (
            node,
            format!("the instances on node {node} are no longer asked to move"),
        ),
        Event::NodePartsLearned { node, parts } => (
            node,
            format!("the server of node {node} is known: {} parts", parts.len()),
        ),
        Event::NodePartsChanged { node, changes } => {
            let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
            (node, format!("node {node}: {}", some(&changes)))
        }
        Event::NodePartsAccepted { node, told: false } => (
            node,
            format!("the parts that node {node} has now are accepted as its own"),
        ),
        Event::NodePartsAccepted { node, told: true } => (
            node,
            format!("the agent of node {node} knows that its parts are accepted"),
        ),
        _ => return None,
    })
}

fn judged(node: &Name, health: &Health) -> String {
    let verdicts = health
        .verdicts
        .iter()
        .map(|verdict| format!("{verdict}{}", because(&verdict.summary)))
        .collect::<Vec<_>>();
    let how = match health.condition {
        Condition::Unknown => "can't be judged",
        Condition::Healthy => "is healthy",
        Condition::Degraded => "is degraded",
        Condition::Failing => "is failing",
    };
    format!(
        "the server of node {node} {how}{}",
        because(&some(&verdicts))
    )
}

/// The first of several, and how many more there are.
fn some(all: &[String]) -> String {
    let named = all.get(..MAX_NAMED).unwrap_or(all).join("; ");
    match all.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}
