//! Adopting: how the fabric and its nodes come together after the record was restored or rebuilt.
//!
//! ```text
//!   restore ─▶ AdoptionBegan{nodes} ─▶ compare each node's intents with the record ─▶ people look
//!                                                                                        │
//!   the node follows the record again ◀── NodeAdopted, with what settles it ◀── confirm ◀┘
//! ```
//!
//! A record from a backup is behind what the nodes hold. Until a node is adopted, the record has no
//! say there: nothing is created, changed or deleted on it, what its agent says changes no intent, and
//! it takes nothing new (DESIGN's safety rule 10). [`compare`] is pure, and what people confirm is what
//! they were shown: the list's etag goes with the wish.
//!
//! **Invariant:** adopting a node ends no claim. What isn't there any more is deleted as ever, and its
//! end is proven as ever.
//!
//! Absent on purpose: guesses. What agents don't hold (tenants, systems, groups, owners, image names)
//! isn't made up: such an instance goes to the tenant that people name.

use std::collections::BTreeSet;

use kapok_scheduler::Claim;
use kapok_types::{
    Generation, IncarnationId, InstanceId, Intent, Name, NodeId, Timestamp,
    instance::{MemoryClaim, Power, Spec},
    phase::Size,
};
use serde::{Deserialize, Serialize};

use super::{Fabric, Instance};

/// Nodes that are still to be adopted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// What happened to the record.
    pub cause: Cause,
    /// When it began.
    pub began_at: Timestamp,
    /// When the backup was made, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_at: Option<Timestamp>,
    /// Nodes that are still to be adopted; never empty.
    pub nodes: BTreeSet<Name>,
}

/// What happened to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was restored from a backup.
    Restored,
    /// It was made anew from what agents report.
    Rebuilt,
}

/// What a node holds of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The intent that it follows.
    pub intent: Intent,
    /// How large the guest is, as far as its agent says.
    pub size: Option<Size>,
}

/// What the fabric and a node hold differently of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which way.
    pub kind: Kind,
    /// Its instance.
    pub instance: InstanceId,
    /// It.
    pub incarnation: IncarnationId,
    /// Its instance's name.
    pub name: Name,
    /// The generations: the fabric's, and the node's.
    pub generations: (Option<Generation>, Option<Generation>),
}

/// Which way something is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The node has it, and the fabric doesn't know it.
    Unknown,
    /// The fabric knows it, and the node has it no more.
    Missing,
    /// The node's intent is a later one.
    Ahead,
    /// The fabric's intent is a later one.
    Behind,
    /// The node has an incarnation of an instance that has another one by the record.
    Conflict,
}

impl Cause {
    /// Its stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Rebuilt => "rebuilt",
        }
    }
}

impl Fabric {
    /// Whether a node is still to be adopted.
    pub fn is_adopting(&self, node: &Name) -> bool {
        let adoption = self.adoption.as_ref();
        adoption.is_some_and(|adoption| adoption.nodes.contains(node))
    }

    /// The same of a node's id. Cheap while nothing is adopted.
    pub fn is_adopting_id(&self, node: NodeId) -> bool {
        self.adoption.is_some()
            && self
                .node_names
                .get(&node)
                .is_some_and(|name| self.is_adopting(name))
    }

    /// Whether any node of an instance is still to be adopted.
    pub fn is_adopting_any(&self, instance: &Instance) -> bool {
        let nodes = instance.incarnations.iter().map(|one| one.node);
        self.adoption.is_some() && nodes.into_iter().any(|node| self.is_adopting_id(node))
    }
}

/// What a node holds differently from the record, by incarnation.
pub fn compare(fabric: &Fabric, node: NodeId, held: &[Held]) -> Vec<Difference> {
    let mut differences = Vec::new();
    for Held { intent, .. } in held {
        let known = fabric.incarnation(intent.incarnation);
        let theirs = Some(intent.generation);
        let mut differs = |kind, ours| {
            differences.push(Difference {
                kind,
                instance: intent.instance,
                incarnation: intent.incarnation,
                name: intent.name.clone(),
                generations: (ours, theirs),
            });
        };
        match known {
            Some((instance, there)) => {
                let ours = Some(instance.generation);
                if there.node != node || instance.id != intent.instance {
                    differs(Kind::Conflict, ours);
                } else if instance.generation < intent.generation {
                    differs(Kind::Ahead, ours);
                } else if instance.generation > intent.generation {
                    differs(Kind::Behind, ours);
                }
            }
            None => match fabric.instances.get(&intent.instance) {
                Some(instance) => differs(Kind::Conflict, Some(instance.generation)),
                None => differs(Kind::Unknown, None),
            },
        }
    }
    let named: BTreeSet<_> = held.iter().map(|held| held.intent.incarnation).collect();
    for (id, instance) in fabric.on_node.get(&node).into_iter().flatten() {
        let instance = fabric.instances.get(instance);
        let Some(instance) = instance.filter(|_| !named.contains(id)) else {
            continue;
        };
        differences.push(Difference {
            kind: Kind::Missing,
            instance: instance.id,
            incarnation: *id,
            name: instance.name.clone(),
            generations: (Some(instance.generation), None),
        });
    }
    differences.sort_by_key(|one| one.incarnation);
    differences
}

/// A node's differences as one opaque text.
pub fn etag(differences: &[Difference]) -> String {
    super::etag(&differences)
}

impl Held {
    /// What it holds of its node: enough for the intent, and for what the guest may have.
    pub fn claim(&self) -> Claim {
        let Spec { vcpus, memory, .. } = self.intent.spec;
        let size = self.size.unwrap_or(Size { vcpus, memory });
        let vcpus = vcpus.max(size.vcpus);
        let assignment = &self.intent.assignment;
        Claim {
            vcpus,
            memory: MemoryClaim::of(memory.max(size.memory), vcpus),
            assignment: (!assignment.is_none()).then(|| Box::new(assignment.clone())),
            surplus: None,
        }
    }
}

impl Difference {
    /// What is different and what adopting the node does about it, for people.
    pub fn words(&self, fabric: &Fabric, held: &[Held]) -> String {
        let held = held
            .iter()
            .find(|held| held.intent.incarnation == self.incarnation);
        let meant = |power, spec: &Spec| {
            let power = match power {
                Power::Running => "running",
                Power::Stopped => "stopped",
            };
            format!("{power}, {} vCPUs, {}", spec.vcpus, spec.memory)
        };
        let theirs = held.map_or_else(String::new, |held| {
            meant(held.intent.power, &held.intent.spec)
        });
        let ours = fabric.instances.get(&self.instance);
        let is_deleting = ours.is_some_and(|ours| ours.deleting);
        let ours = ours.map_or_else(String::new, |ours| meant(ours.power, &ours.spec));
        match self.kind {
            Kind::Unknown => format!("the node has it ({theirs}): it is taken up as it is there"),
            Kind::Missing if is_deleting => {
                "it was being deleted, and the node has it no more: its end is asked for".to_owned()
            }
            Kind::Missing => {
                format!("the node has it no more ({ours}): it is deleted here, too")
            }
            Kind::Ahead => format!("{ours} here, changed later to {theirs}: that counts"),
            Kind::Behind if is_deleting => {
                format!("the node has it ({theirs}): it is deleted there, as was asked")
            }
            Kind::Behind => format!("{theirs} there: it becomes {ours}"),
            Kind::Conflict => "it has another incarnation by the record: it stays as it is, and \
                               unknown to the fabric"
                .to_owned(),
        }
    }
}
