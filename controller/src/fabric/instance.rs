//! Instances, the images that they start from, and the operations that change them.

use std::collections::BTreeSet;

use kapok_scheduler::Claim;
use kapok_types::{
    Bytes, Digest, Generation, ImageId, IncarnationId, InstanceId, Name, NodeId, OperationId,
    Timestamp, TraceContext,
    instance::{Arch, Counters, DiskFormat, Power, Spec},
};
use serde::{Deserialize, Serialize};

use super::{Actor, system};

/// A virtual machine: intent, plus its lives on nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity.
    pub id: InstanceId,
    /// The tenant that it belongs to.
    pub tenant: Name,
    /// Its name, unique in its tenant.
    pub name: Name,
    /// The system of the tenant that it belongs to.
    #[serde(
        default = "system::default_system",
        skip_serializing_if = "system::is_default"
    )]
    pub system: Name,
    /// The image it was made from.
    pub image: ImageId,
    /// That image's name at the time.
    pub image_name: Name,
    /// The flavor that its numbers came from, as it was called at the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// The groups of its tenant that it is in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<Name>,
    /// What it is.
    pub spec: Spec,
    /// Whether it is meant to run.
    pub power: Power,
    /// One-time acts so far.
    pub counters: Counters,
    /// Counts changes of the intent.
    pub generation: Generation,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Who asked for it.
    pub created_by: Actor,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The operation that last changed it.
    pub operation: OperationId,
    /// Its lives on nodes.
    pub incarnations: Vec<Incarnation>,
}

/// One instance's life on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Its identity; also its domain's.
    pub id: IncarnationId,
    /// Where.
    pub node: NodeId,
    /// What it is to the instance.
    pub role: Role,
    /// What it holds until its end is proven.
    pub claim: Claim,
}

/// What an incarnation is to its instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that runs.
    Active,
    /// The target of a migration.
    Incoming,
    /// On its way out.
    Leaving,
    /// Its node can't be asked.
    Suspect,
}

/// An image that instances start from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its identity.
    pub id: ImageId,
    /// The tenant that it belongs to: usable there and below.
    pub tenant: Name,
    /// Its name, unique in its tenant.
    pub name: Name,
    /// Its content.
    pub digest: Digest,
    /// Its layout.
    pub format: DiskFormat,
    /// Size of its blob.
    pub size: Bytes,
    /// Size of the disk it holds.
    pub virtual_size: Bytes,
    /// The architecture it was built for.
    pub arch: Arch,
    /// When it was imported.
    pub created_at: Timestamp,
    /// Who imported it.
    pub created_by: Actor,
}

/// A long-running change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its identity.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// To which instance.
    pub instance: InstanceId,
    /// That instance's name.
    pub instance_name: Name,
    /// That instance's tenant: the operation belongs there, too.
    pub tenant: Name,
    /// The generation of the intent that it brings about.
    pub generation: Generation,
    /// Who asked.
    pub by: Actor,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When waiting for it stops making sense.
    pub deadline: Timestamp,
    /// Whether it changed nothing of the intent: a start of what was meant to run already.
    #[serde(default)]
    pub waits_only: bool,
    /// The trace that it belongs to, and what in it began it; none if no request did,
    /// or in a log from before there were traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// How it ended, if it did.
    pub ended: Option<OperationEnd>,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Creates an instance.
    Create,
    /// Turns it on.
    Start,
    /// Turns it off.
    Stop,
    /// Shuts it down and starts it.
    Restart,
    /// Deletes it.
    Delete,
    /// Makes it larger or smaller.
    Resize,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationEnd {
    /// In which way.
    pub outcome: OperationOutcome,
    /// Why, in words; may be empty.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// In which way an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationOutcome {
    /// It reached its goal.
    Succeeded,
    /// It can't reach its goal.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// A later change of the same instance replaced it.
    Superseded,
    /// Its deadline passed; the outcome is unknown and the fabric goes on.
    Detached,
}

impl Instance {
    /// The intent as one opaque text that changes with every generation.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.id.0.simple(), self.generation)
    }

    /// The incarnation that runs, or should.
    pub fn active(&self) -> Option<&Incarnation> {
        self.incarnations
            .iter()
            .find(|one| one.role == Role::Active)
    }
}

impl Operation {
    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.ended.is_none()
    }
}
