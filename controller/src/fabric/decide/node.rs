//! Nodes: configured, reached, lost, cordoned.

use kapok_types::{Name, NodeId, Violation};

use super::{Context, Decision};
use crate::fabric::{Capacity, Cordon, Denied, Enrolled, Event, Fabric, Node};

/// Longest reason of a cordon, in bytes.
const MAX_REASON_BYTES: usize = 256;

pub(super) fn cordon(context: Context<'_>, which: &str, reason: &str) -> Result<Decision, Denied> {
    let node = present(context.fabric, which)?;
    if reason.len() > MAX_REASON_BYTES {
        return Err(Denied::Invalid(vec![Violation::new(
            "reason",
            format!(
                "has {} bytes; at most {MAX_REASON_BYTES} are allowed",
                reason.len()
            ),
        )]));
    }
    let cordon = Cordon {
        reason: reason.to_owned(),
        by: context.ask.by.clone(),
    };
    if node.cordoned.as_ref() == Some(&cordon) {
        return Ok(Decision::done(Vec::new()));
    }
    Ok(Decision::done(vec![Event::NodeCordoned {
        node: node.name.clone(),
        cordon,
    }]))
}

pub(super) fn uncordon(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let node = present(context.fabric, which)?;
    Ok(Decision::done(match node.cordoned {
        Some(_) => vec![Event::NodeUncordoned {
            node: node.name.clone(),
        }],
        None => Vec::new(),
    }))
}

/// The configuration's word on nodes that it names.
pub(super) fn configure(context: Context<'_>, nodes: &[(Name, String, u32)]) -> Decision {
    let fabric = context.fabric;
    let mut events = Vec::new();
    for (name, address, vcpu_overcommit_permille) in nodes {
        let same = fabric.nodes.get(name).is_some_and(|node| {
            node.configured
                && node.address == *address
                && node.vcpu_overcommit_permille == *vcpu_overcommit_permille
        });
        if !same {
            events.push(Event::NodeConfigured {
                node: name.clone(),
                address: address.clone(),
                vcpu_overcommit_permille: *vcpu_overcommit_permille,
            });
        }
    }
    Decision::done(events)
}

/// A node that the configuration drops stays known while the fabric has claims there, but takes
/// nothing new.
pub(super) fn unconfigure(context: Context<'_>, nodes: &[Name]) -> Decision {
    let known = |name: &&Name| {
        let node = context.fabric.nodes.get(*name);
        node.is_some_and(|node| node.configured)
    };
    let dropped = nodes.iter().filter(known);
    Decision::done(
        dropped
            .map(|node| Event::NodeUnconfigured { node: node.clone() })
            .collect(),
    )
}

/// An agent's word on what its node is. A node that answers with another identity is refused:
/// the fabric would send one node's intent to another.
pub(super) fn report(
    context: Context<'_>,
    name: &Name,
    id: NodeId,
    capacity: Capacity,
    resyncing: bool,
) -> Result<Decision, Denied> {
    let fabric = context.fabric;
    let node = fabric.nodes.get(name).ok_or_else(|| Denied::Absent {
        kind: "node",
        which: name.to_string(),
    })?;
    let mut events = Vec::new();
    match &node.enrolled {
        Some(enrolled) if enrolled.id != id => {
            return Err(Denied::WrongNode {
                node: name.to_string(),
                known: enrolled.id.to_string(),
                found: id.to_string(),
            });
        }
        Some(enrolled) if enrolled.capacity == capacity => {}
        Some(_) => events.push(Event::NodeChanged {
            node: name.clone(),
            capacity,
        }),
        None => {
            if let Some(other) = fabric.node_names.get(&id) {
                return Err(Denied::WrongNode {
                    node: name.to_string(),
                    known: "not enrolled".into(),
                    found: format!("{id}, which is {other},"),
                });
            }
            let enrolled = Enrolled {
                id,
                at: context.now,
                capacity,
            };
            events.push(Event::NodeEnrolled {
                node: name.clone(),
                enrolled,
            });
        }
    }
    if node.resyncing != resyncing {
        events.push(Event::NodeResyncing {
            node: name.clone(),
            waits: resyncing,
        });
    }
    if !node.reachable {
        events.push(Event::NodeReached { node: name.clone() });
    }
    Ok(Decision::done(events))
}

pub(super) fn lose(context: Context<'_>, name: &Name, reason: &str) -> Decision {
    match context.fabric.nodes.get(name) {
        Some(node) if node.reachable => Decision::done(vec![Event::NodeLost {
            node: name.clone(),
            reason: reason.to_owned(),
        }]),
        _ => Decision::done(Vec::new()),
    }
}

fn present<'f>(fabric: &'f Fabric, which: &str) -> Result<&'f Node, Denied> {
    fabric.node(which).ok_or_else(|| Denied::Absent {
        kind: "node",
        which: which.to_owned(),
    })
}
