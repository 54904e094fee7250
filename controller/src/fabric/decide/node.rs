//! Nodes: joined, reached, lost, cordoned, rebound, revoked, forgotten.

use std::sync::Arc;

use kapok_trust::Subject;
use kapok_types::{Equipment, Name, NodeId, Violation, equipment::MAX_LABEL_BYTES};

use super::{Context, Decision, adoption, certificate, printable, token};
use crate::fabric::{
    Capacity, Cordon, Denied, Event, HostFingerprint, Node, Outcome, Site, SiteChange,
    TokenSubject, command::JoinNode,
};

/// vCPUs that one thread may carry, in permille.
const OVERCOMMIT_PERMILLE: std::ops::RangeInclusive<u32> = 1000..=64_000;
/// Labels that one node has at most.
const MAX_LABELS: usize = 64;
/// Longest address, in bytes.
const MAX_ADDRESS_BYTES: usize = 256;

/// What an agent says of its node.
#[derive(Clone, Copy)]
pub(super) struct Report<'a> {
    pub(super) capacity: Capacity,
    pub(super) equipment: &'a Arc<Equipment>,
    pub(super) host: &'a HostFingerprint,
    pub(super) resyncing: bool,
}

/// A server shows a token. A known node keeps its identity, its instances and their claims.
///
/// On other hardware than the fabric knows only that is recorded, for a rebind: the token stays
/// good. A revoked node has no token from before: revoking took them back.
pub(super) fn join(context: Context<'_>, join: &JoinNode) -> Result<Decision, Denied> {
    let Context { fabric, now, .. } = context;
    let token = fabric.token(&join.token, now)?;
    let TokenSubject::Node(name) = &token.subject else {
        return Err(Denied::TokenRefused);
    };
    check_address(&join.address)?;
    let mut events = match (fabric.nodes.get(name), fabric.node_names.get(&join.id)) {
        (Some(node), Some(own)) if own == name => {
            let host = present_host(node, &join.host);
            if !node.host.differences(host).is_empty() {
                return Ok(Decision {
                    events: host_found(node, host).into_iter().collect(),
                    outcome: Outcome::HostChanged(node.id),
                });
            }
            if join.host.is_empty() && !node.host.is_empty() {
                return Err(Denied::Invalid(vec![Violation::new(
                    "fingerprint",
                    "is empty, but the fabric knows the node's server; join with the right to \
                     read what the server is made of",
                )]));
            }
            // Whoever held the node's key before holds nothing any more.
            let subject = Subject::Node(node.id);
            let mut events = certificate::revoked(context, &subject, "the node joined anew");
            events.push(Event::NodeRejoined {
                node: name.clone(),
                address: join.address.clone(),
                host: node.host.renewed(host),
            });
            events
        }
        (None, None) => {
            check_overcommit(join.vcpu_overcommit_permille)?;
            let node = Node {
                id: join.id,
                name: name.clone(),
                address: join.address.clone(),
                vcpu_overcommit_permille: join.vcpu_overcommit_permille,
                joined_at: now,
                host: join.host.clone(),
                found: None,
                capacity: None,
                reachable: false,
                resyncing: false,
                cordoned: None,
                revoked: None,
                health: None,
                quarantine: None,
                release: None,
                drain_requested: None,
                parts: Arc::default(),
                accepting_parts: false,
                equipment: Arc::default(),
                site: Site::default(),
            };
            let joined = Event::NodeJoined {
                node: Box::new(node),
            };
            let mut events = vec![joined];
            events.extend(adoption::joins(fabric, name));
            events
        }
        (known, own) => {
            return Err(Denied::WrongNode {
                node: name.to_string(),
                known: known.map_or_else(|| "no node yet".into(), |node| node.id.to_string()),
                found: own.map_or_else(
                    || join.id.to_string(),
                    |own| format!("{}, which is {own}", join.id),
                ),
            });
        }
    };
    if join.certificate.subject != Subject::Node(join.id) {
        return Err(Denied::Forbidden {
            reason: "the certificate names somebody else than the node",
        });
    }
    events.push(Event::TokenUsed {
        token: token.id,
        at: now,
    });
    events.push(certificate::issued(
        context,
        &join.certificate,
        Some(token.id),
    )?);
    Ok(Decision::done(events))
}

pub(super) fn update(
    context: Context<'_>,
    which: &str,
    vcpu_overcommit_permille: Option<u32>,
    address: Option<&str>,
    changes: &[SiteChange],
) -> Result<Decision, Denied> {
    let node = present(context, which)?;
    let vcpu_overcommit_permille =
        vcpu_overcommit_permille.unwrap_or(node.vcpu_overcommit_permille);
    check_overcommit(vcpu_overcommit_permille)?;
    let address = address.unwrap_or(&node.address);
    check_address(address)?;
    let site = changes.iter().fold(node.site.clone(), Site::with);
    check_site(&site)?;
    let mut events = Vec::new();
    if vcpu_overcommit_permille != node.vcpu_overcommit_permille || address != node.address {
        events.push(Event::NodeUpdated {
            node: node.name.clone(),
            address: address.to_owned(),
            vcpu_overcommit_permille,
        });
    }
    if site != node.site {
        let node = node.name.clone();
        events.push(Event::NodeSited { node, site });
    }
    Ok(Decision::done(events))
}

fn check_site(site: &Site) -> Result<(), Denied> {
    let mut violations = Vec::new();
    let mut refuse = |reason| violations.push(Violation::new("labels", reason));
    if site.labels.len() > MAX_LABELS {
        let count = site.labels.len();
        refuse(format!("are {count}; at most {MAX_LABELS} are allowed"));
    }
    for (label, value) in &site.labels {
        if value.len() > MAX_LABEL_BYTES || value.chars().any(char::is_control) {
            refuse(format!(
                "has a value of {label} that isn't printable text of at most {MAX_LABEL_BYTES} \
                 bytes"
            ));
        }
    }
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Denied::Invalid(violations))
    }
}

pub(super) fn cordon(context: Context<'_>, which: &str, reason: &str) -> Result<Decision, Denied> {
    let node = present(context, which)?;
    printable("reason", reason)?;
    let cordon = Cordon {
        reason: reason.to_owned(),
        by: context.by().clone(),
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
    let node = present(context, which)?;
    Ok(Decision::done(match node.cordoned {
        Some(_) => vec![Event::NodeUncordoned {
            node: node.name.clone(),
        }],
        None => Vec::new(),
    }))
}

/// The parts that its agent sees are its own, too: the agent is told once it can be.
pub(super) fn rebind(
    context: Context<'_>,
    which: &str,
    parts_differ: bool,
) -> Result<Decision, Denied> {
    let node = present(context, which)?;
    if node.found.is_none() && !parts_differ {
        return Err(Denied::FingerprintUnchanged {
            node: node.name.to_string(),
        });
    }
    let mut events = Vec::new();
    if let Some(found) = &node.found {
        events.push(Event::NodeRebound {
            node: node.name.clone(),
            host: found.clone(),
        });
    }
    if !node.accepting_parts {
        events.push(Event::NodePartsAccepted {
            node: node.name.clone(),
            told: false,
        });
    }
    Ok(Decision::done(events))
}

/// The node's certificates end, and so do tokens that were made for it before: whatever brings it
/// back was made afterwards.
pub(super) fn revoke(context: Context<'_>, which: &str, reason: &str) -> Result<Decision, Denied> {
    let node = present(context, which)?;
    printable("reason", reason)?;
    let mut events = Vec::new();
    if node.revoked.is_none() {
        events.push(Event::NodeRevoked {
            node: node.name.clone(),
            revocation: context.revocation(reason),
        });
    }
    events.extend(nothing_proves(context, node, reason));
    Ok(Decision::done(events))
}

pub(super) fn delete(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let node = present(context, which)?;
    let incarnations = context
        .fabric
        .on_node
        .get(&node.id)
        .map_or(0, imbl::OrdMap::len);
    if incarnations > 0 {
        return Err(Denied::NodeInUse {
            node: node.name.to_string(),
            incarnations,
        });
    }
    let mut events = nothing_proves(context, node, "the node was removed");
    events.push(Event::NodeRemoved {
        node: node.name.clone(),
        id: node.id,
    });
    Ok(Decision::done(events))
}

/// An agent's word on what its node is. One that answers with another identity is refused: the
/// fabric would send one node's intent to another (FAULTS 22).
pub(super) fn report(
    context: Context<'_>,
    name: &Name,
    id: NodeId,
    says: Report<'_>,
) -> Result<Decision, Denied> {
    let node = speaking(context, name, id)?;
    let Report {
        capacity,
        equipment,
        host,
        resyncing,
    } = says;
    let mut events = Vec::new();
    if node.host.is_empty() && !host.is_empty() {
        // Nothing was known of its server: what is seen first is its own.
        events.push(Event::NodeRebound {
            node: name.clone(),
            host: host.clone(),
        });
    } else {
        events.extend(host_found(node, present_host(node, host)));
    }
    if node.capacity != Some(capacity) {
        events.push(Event::NodeChanged {
            node: name.clone(),
            capacity,
        });
    }
    if node.equipment != *equipment {
        events.push(Event::NodeEquipped {
            node: name.clone(),
            equipment: Arc::clone(equipment),
        });
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

/// What a node's server is made of: what it says now, or what was last seen if it says nothing.
fn present_host<'a>(node: &'a Node, said: &'a HostFingerprint) -> &'a HostFingerprint {
    if said.is_empty() {
        node.found.as_ref().unwrap_or(&node.host)
    } else {
        said
    }
}

/// The fact that a node's server is another one now, or the one that the fabric knows again.
fn host_found(node: &Node, host: &HostFingerprint) -> Option<Event> {
    let differs = !node.host.differences(host).is_empty();
    let found = differs.then(|| host.clone());
    (node.found != found).then(|| Event::NodeFingerprintChanged {
        node: node.name.clone(),
        found,
    })
}

/// Nobody proves to be this node any more: its certificates and its tokens end.
fn nothing_proves(context: Context<'_>, node: &Node, reason: &str) -> Vec<Event> {
    let mut events = certificate::revoked(context, &Subject::Node(node.id), reason);
    events.extend(token::taken_back(
        context,
        &TokenSubject::Node(node.name.clone()),
    ));
    events
}

fn check_overcommit(permille: u32) -> Result<(), Denied> {
    if OVERCOMMIT_PERMILLE.contains(&permille) {
        return Ok(());
    }
    let (least, most) = OVERCOMMIT_PERMILLE.into_inner();
    Err(Denied::Invalid(vec![Violation::new(
        "vcpu_overcommit_permille",
        format!("is {permille}; must be {least} to {most}"),
    )]))
}

fn check_address(address: &str) -> Result<(), Denied> {
    let parts = address.rsplit_once(':');
    let sound = parts.is_some_and(|(host, port)| {
        !host.is_empty()
            && address.len() <= MAX_ADDRESS_BYTES
            && address
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '@' | '?' | '#'))
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if sound {
        return Ok(());
    }
    Err(Denied::Invalid(vec![Violation::new(
        "address",
        "must have the form HOST:PORT",
    )]))
}

/// The node that an agent speaks for; one that isn't trusted isn't listened to.
pub(super) fn speaking<'f>(
    context: Context<'f>,
    name: &Name,
    id: NodeId,
) -> Result<&'f Node, Denied> {
    let node = context.fabric.nodes.get(name);
    let node = node.ok_or_else(|| Denied::Absent {
        kind: "node",
        which: name.to_string(),
    })?;
    if node.id != id {
        return Err(Denied::WrongNode {
            node: name.to_string(),
            known: node.id.to_string(),
            found: id.to_string(),
        });
    }
    if node.revoked.is_some() {
        return Err(Denied::Revoked {
            what: format!("node {name}"),
        });
    }
    Ok(node)
}

/// Nodes are the whole fabric's.
pub(super) fn present<'f>(context: Context<'f>, which: &str) -> Result<&'f Node, Denied> {
    context.whole_fabric()?;
    context.fabric.node(which).ok_or_else(|| Denied::Absent {
        kind: "node",
        which: which.to_owned(),
    })
}
