//! Facts of the log, told to people in one sentence each.

use std::collections::BTreeMap;

use kapok_types::{Equipment, InstanceId, equipment::PageSize, instance::Power};

use crate::fabric::{Event, Fabric, OperationKind, OperationOutcome};

mod accounting;
mod health;
mod placement;
mod system;
mod tenant;
mod trust;

/// What one fact is about and what is said of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sentence {
    pub(super) subject_id: String,
    pub(super) subject_name: String,
    pub(super) operation_id: String,
    pub(super) text: String,
}

/// The sentence for a fact, or none for the fabric's own book-keeping. Names that a fact doesn't
/// carry are looked up in the present fabric; what is no more is called by its id.
pub(super) fn of(event: &Event, fabric: &Fabric) -> Option<Sentence> {
    let node = |name: &kapok_types::Name, text: String| Sentence {
        subject_id: fabric
            .nodes
            .get(name)
            .map(|node| node.id.to_string())
            .unwrap_or_default(),
        subject_name: name.to_string(),
        text,
        ..Sentence::default()
    };
    let instance = |id: InstanceId, text: &dyn Fn(&str) -> String| {
        let known = fabric
            .instances
            .get(&id)
            .map(|instance| instance.name.to_string());
        let called = known.clone().unwrap_or_else(|| id.to_string());
        let subject_name = known.unwrap_or_default();
        Sentence {
            subject_id: id.to_string(),
            subject_name,
            text: text(&called),
            ..Sentence::default()
        }
    };
    Some(match event {
        Event::LeaderElected { epoch } => Sentence {
            text: format!("a controller leads with epoch {epoch}"),
            ..Sentence::default()
        },
        Event::AdoptionBegan { cause, nodes, .. } => Sentence {
            text: format!(
                "the fabric's record was {}; {} nodes are to be adopted before they follow it",
                cause.as_str(),
                nodes.len()
            ),
            ..Sentence::default()
        },
        Event::NodeAdopted { node: name } => node(
            name,
            format!("node {name} is adopted and follows the record again"),
        ),
        Event::NodeJoined { node: joined } => Sentence {
            subject_id: joined.id.to_string(),
            ..node(
                &joined.name,
                format!("node {} joined at {}", joined.name, joined.address),
            )
        },
        Event::NodeRejoined {
            node: name,
            address,
            ..
        } => node(name, format!("node {name} joined again at {address}")),
        Event::NodeUpdated {
            node: name,
            address,
            vcpu_overcommit_permille,
        } => node(
            name,
            format!(
                "node {name} is at {address} and may carry {vcpu_overcommit_permille} vCPUs per \
                 1000 threads"
            ),
        ),
        Event::NodeFingerprintChanged {
            node: name,
            found: Some(_),
        } => node(
            name,
            format!("node {name} runs on another server; it takes nothing new until it is rebound"),
        ),
        Event::NodeFingerprintChanged {
            node: name,
            found: None,
        } => node(name, format!("node {name} runs on its own server again")),
        Event::NodeRebound { node: name, .. } => {
            node(name, format!("node {name} is bound to its present server"))
        }
        Event::NodeRevoked {
            node: name,
            revocation,
        } => node(
            name,
            format!(
                "{} revoked node {name}{}; its instances are taken to run on",
                revocation.by,
                because(&revocation.reason)
            ),
        ),
        Event::NodeRemoved { node: name, id } => Sentence {
            subject_id: id.to_string(),
            ..node(name, format!("node {name} is forgotten"))
        },
        Event::NodeChanged {
            node: name,
            capacity,
        } => node(
            name,
            format!(
                "node {name} now has {} threads and {} for instances, less {} vCPUs and {} of \
                 foreign domains",
                capacity.cpus, capacity.memory, capacity.foreign_vcpus, capacity.foreign_memory
            ),
        ),
        Event::NodeEquipped {
            node: name,
            equipment,
        } => node(name, format!("node {name} now has {}", has(equipment))),
        Event::NodeReached { node: name } => node(name, format!("node {name} answers")),
        Event::NodeLost { node: name, reason } => node(
            name,
            format!("node {name} doesn't answer ({reason}); its instances are taken to run on"),
        ),
        Event::NodeResyncing {
            node: name,
            waits: true,
        } => node(name, format!("node {name} waits for its full intent")),
        Event::NodeResyncing {
            node: name,
            waits: false,
        } => node(name, format!("node {name} has its full intent")),
        Event::NodeCordoned { node: name, cordon } => node(
            name,
            format!(
                "{} cordoned node {name}{}",
                cordon.by,
                because(&cordon.reason)
            ),
        ),
        Event::NodeUncordoned { node: name } => {
            node(name, format!("node {name} takes instances again"))
        }
        Event::ImageRegistered { image } => Sentence {
            subject_id: image.id.to_string(),
            subject_name: image.name.to_string(),
            text: format!(
                "image {} was imported: {}, {}",
                image.name, image.size, image.digest
            ),
            ..Sentence::default()
        },
        Event::ImageRemoved { image, name, .. } => Sentence {
            subject_id: image.to_string(),
            subject_name: name.to_string(),
            text: format!("image {name} was removed"),
            ..Sentence::default()
        },
        Event::InstanceCreated { instance } => Sentence {
            subject_id: instance.id.to_string(),
            subject_name: instance.name.to_string(),
            operation_id: instance.operation.to_string(),
            text: format!(
                "instance {} was created from image {}: {} vCPUs, {}",
                instance.name, instance.image_name, instance.spec.vcpus, instance.spec.memory
            ),
        },
        Event::IncarnationPlaced {
            instance: id,
            incarnation,
        } => {
            let there = fabric.node_names.get(&incarnation.node);
            let there = there.map_or_else(|| incarnation.node.to_string(), ToString::to_string);
            instance(*id, &|name| {
                format!(
                    "instance {name} was placed on node {there} as {}",
                    incarnation.id
                )
            })
        }
        Event::IntentChanged {
            instance: id,
            power,
            operation,
            by_guest,
            ..
        } => {
            let meant = match power {
                Power::Running => "to run",
                Power::Stopped => "to be off",
            };
            let said = instance(*id, &|name| match by_guest {
                true => format!("instance {name} shut itself down and is meant to be off now"),
                false => format!("instance {name} is meant {meant}"),
            });
            let operation_id = operation.map(|id| id.to_string()).unwrap_or_default();
            Sentence {
                operation_id,
                ..said
            }
        }
        Event::InstanceResized {
            instance: id,
            vcpus,
            memory,
            operation,
            ..
        } => Sentence {
            operation_id: operation.to_string(),
            ..instance(*id, &|name| {
                format!("instance {name} is meant to have {vcpus} vCPUs and {memory}")
            })
        },
        Event::ClaimChanged {
            instance: id,
            node,
            claim,
            ..
        } => {
            let there = fabric.node_names.get(node);
            let there = there.map_or_else(|| node.to_string(), ToString::to_string);
            instance(*id, &|name| {
                let (vcpus, memory) = (claim.vcpus, claim.memory.total());
                format!("instance {name} holds {vcpus} vCPUs and {memory} of node {there} now")
            })
        }
        Event::InstanceDeleting {
            instance: id,
            operation,
            ..
        } => Sentence {
            operation_id: operation.to_string(),
            ..instance(*id, &|name| format!("instance {name} is being deleted"))
        },
        Event::IncarnationEnded {
            instance: id,
            incarnation,
            proof,
            ..
        } => instance(*id, &|name| {
            format!("incarnation {incarnation} of instance {name} has ended, by {proof}")
        }),
        Event::InstanceRemoved { instance, name, .. } => Sentence {
            subject_id: instance.to_string(),
            subject_name: name.to_string(),
            text: format!("instance {name} is no more"),
            ..Sentence::default()
        },
        Event::OperationStarted { operation } => Sentence {
            subject_id: operation.instance.to_string(),
            subject_name: operation.instance_name.to_string(),
            operation_id: operation.id.to_string(),
            text: format!(
                "{} asked to {} instance {}",
                operation.by,
                verb(operation.kind),
                operation.instance_name
            ),
        },
        Event::OperationEnded { operation: id, end } => {
            let known = fabric.operations.get(id);
            let what = known.map_or_else(
                || format!("operation {id}"),
                |known| {
                    format!(
                        "the request to {} instance {}",
                        verb(known.kind),
                        known.instance_name
                    )
                },
            );
            let ended = match end.outcome {
                OperationOutcome::Succeeded => "succeeded",
                OperationOutcome::Failed => "failed",
                OperationOutcome::Cancelled => "was cancelled",
                OperationOutcome::Superseded => "was superseded",
                OperationOutcome::Detached => "was detached",
            };
            let why = because(&end.detail);
            Sentence {
                subject_id: known
                    .map(|known| known.instance.to_string())
                    .unwrap_or_default(),
                subject_name: known
                    .map(|known| known.instance_name.to_string())
                    .unwrap_or_default(),
                operation_id: id.to_string(),
                text: format!("{what} {ended}{why}"),
            }
        }
        Event::ConsoleGranted { instance, name } => Sentence {
            subject_id: instance.to_string(),
            subject_name: name.to_string(),
            text: format!("the console of instance {name} may be opened once"),
            ..Sentence::default()
        },
        Event::RequestAnswered { .. }
        | Event::RequestsExpired { .. }
        | Event::OperationsExpired { .. }
        | Event::TokensExpired { .. }
        | Event::CertificatesExpired { .. } => return None,
        _ => {
            return health::of(event, fabric)
                .or_else(|| placement::of(event, fabric))
                .or_else(|| system::of(event))
                .or_else(|| tenant::of(event))
                .or_else(|| trust::of(event, fabric))
                .or_else(|| accounting::of(event, fabric));
        }
    })
}

/// What a node has beyond amounts, counted.
fn has(equipment: &Equipment) -> String {
    let cells = || equipment.cells.iter();
    let threads: usize = cells().map(|cell| cell.dedicated.len()).sum();
    let mut all = vec![format!("{threads} threads for dedicated vCPUs")];
    for size in PageSize::ALL {
        let pages = cells().filter_map(|cell| cell.pages.get(&size));
        let pages = pages.fold(0, |sum: u64, pages| sum.saturating_add(*pages));
        if pages > 0 {
            all.push(format!("{pages} pages of {}", size.as_str()));
        }
    }
    let mut classes = BTreeMap::new();
    for device in &equipment.devices {
        *classes.entry(&device.class).or_insert(0_u32) += 1;
    }
    all.extend((classes.iter()).map(|(class, count)| format!("{count} devices of class {class}")));
    all.extend([
        format!("{} processor features", equipment.cpu_features.len()),
        format!(
            "{} pools and {} networks in reach",
            equipment.pools.len(),
            equipment.networks.len()
        ),
    ]);
    all.join(", ")
}

/// A reason after a colon, or nothing.
fn because(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    }
}

fn verb(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Create => "create",
        OperationKind::Start => "start",
        OperationKind::Stop => "stop",
        OperationKind::Restart => "restart",
        OperationKind::Delete => "delete",
        OperationKind::Resize => "resize",
    }
}
