//! The functional core: the fabric's intent as a value, and the only two ways it changes.
//!
//! ```text
//!   Command ──decide(&Fabric, …, now)──▶ Vec<Event> ──append to the log──▶ Fabric::apply(&Event)
//!                    └─▶ Denied
//! ```
//!
//! Owned by the [ledger](crate::ledger), the one task that writes; everybody else reads a
//! published snapshot. Persistent maps make a snapshot a few reference counts.
//!
//! Invariants:
//! - `apply` takes facts, never decides, so that replay is the same in every version.
//! - `decide` reads no clock and makes no id: both come with the command.
//! - Observations (what runs, heartbeats, progress) are absent on purpose: see
//!   [`observed`](crate::observed). Only transitions that change decisions become commands.
//! - A claim counts from `IncarnationPlaced` until `IncarnationEnded`; the [`Fleet`] is that sum
//!   and there is no second ledger.

use imbl::OrdMap;
use kapok_scheduler::{Claim, Fleet};
use kapok_types::{
    Bytes, Digest, Generation, ImageId, IncarnationId, InstanceId, Intent, MemoryMib, Name, NodeId,
    OperationId, Timestamp, Vcpus,
    instance::{Arch, Counters, DiskFormat, Power, Spec},
};
use serde::{Deserialize, Serialize};

mod apply;
pub mod checkpoint;
pub mod command;
pub mod decide;
pub mod denied;
pub mod event;

pub use command::{Actor, Ask, Command, Fresh};
pub use decide::decide;
pub use denied::Denied;
pub use event::Event;

/// Everything that people meant, and every claim that follows from it.
#[derive(Debug, Clone, Default)]
pub struct Fabric {
    /// Nodes by name.
    pub nodes: OrdMap<Name, Node>,
    /// Names of the nodes whose agent was reached at least once.
    pub node_names: OrdMap<NodeId, Name>,
    /// Instances by id.
    pub instances: OrdMap<InstanceId, Instance>,
    /// Instances by name.
    pub instance_names: OrdMap<Name, InstanceId>,
    /// Which instance an incarnation belongs to.
    pub incarnations: OrdMap<IncarnationId, InstanceId>,
    /// Which incarnations a node carries.
    pub on_node: OrdMap<NodeId, OrdMap<IncarnationId, InstanceId>>,
    /// Images by id.
    pub images: OrdMap<ImageId, Image>,
    /// Images by name.
    pub image_names: OrdMap<Name, ImageId>,
    /// Operations by id; ids are time-ordered.
    pub operations: OrdMap<OperationId, Operation>,
    /// Operations that have not ended.
    pub running: OrdMap<OperationId, InstanceId>,
    /// Requests that were answered, by their id.
    pub requests: OrdMap<String, Answered>,
    /// The same by age, for their end.
    pub requests_by_age: OrdMap<(Timestamp, String), ()>,
    /// Claims and capacities, as the scheduler needs them.
    pub fleet: Fleet,
}

/// A physical server that runs an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name in this fabric.
    pub name: Name,
    /// Where its agent listens, "HOST:PORT".
    pub address: String,
    /// Whether the configuration still names it.
    pub configured: bool,
    /// vCPUs that one physical thread may carry, in permille.
    pub vcpu_overcommit_permille: u32,
    /// What its agent said of it, once it was reached.
    pub enrolled: Option<Enrolled>,
    /// Whether its agent answers. *Unreachable* is never *dead*.
    pub reachable: bool,
    /// Whether its agent waits for the full intent.
    pub resyncing: bool,
    /// Why it takes no new instances, if somebody said so.
    pub cordoned: Option<Cordon>,
}

/// What makes a configured node a known one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its identity.
    pub id: NodeId,
    /// When its agent was first reached.
    pub at: Timestamp,
    /// What it can carry.
    pub capacity: Capacity,
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

/// A virtual machine: intent, plus its lives on nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity.
    pub id: InstanceId,
    /// Its name, unique in the fabric.
    pub name: Name,
    /// The image it was made from.
    pub image: ImageId,
    /// That image's name at the time.
    pub image_name: Name,
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
    /// Its name, unique in the fabric.
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

/// An answer that is given again for the same request id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Hash of what was asked.
    pub content: Digest,
    /// What it came to.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
}

/// What an accepted command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A long-running change began.
    Operation(OperationId),
    /// An image was registered, or was there with the same content.
    Image(ImageId),
    /// It is done, and there is nothing to name.
    Done,
}

impl Fabric {
    /// A node by name or id, as people type it.
    pub fn node(&self, which: &str) -> Option<&Node> {
        let by_name = which
            .parse::<Name>()
            .ok()
            .and_then(|name| self.nodes.get(&name));
        by_name.or_else(|| self.node_by_id(which.parse().ok()?))
    }

    /// A node by id.
    pub fn node_by_id(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(self.node_names.get(&id)?)
    }

    /// An instance by name or id, as people type it. A name wins over an id.
    pub fn instance(&self, which: &str) -> Option<&Instance> {
        let by_name = which
            .parse::<Name>()
            .ok()
            .and_then(|name| self.instance_names.get(&name));
        let id = by_name.copied().or_else(|| which.parse().ok())?;
        self.instances.get(&id)
    }

    /// The instance that an incarnation belongs to, with the incarnation.
    pub fn incarnation(&self, id: IncarnationId) -> Option<(&Instance, &Incarnation)> {
        let instance = self.instances.get(self.incarnations.get(&id)?)?;
        Some((
            instance,
            instance.incarnations.iter().find(|one| one.id == id)?,
        ))
    }

    /// An image by name, id or digest, as people type it.
    pub fn image(&self, which: &str) -> Option<&Image> {
        if let Ok(digest) = which.parse::<Digest>() {
            return self.images.values().find(|image| image.digest == digest);
        }
        let by_name = which
            .parse::<Name>()
            .ok()
            .and_then(|name| self.image_names.get(&name));
        let id = by_name.copied().or_else(|| which.parse().ok())?;
        self.images.get(&id)
    }

    /// What an agent is to follow for one of an instance's incarnations.
    ///
    /// The epoch is the sender's and filled in by it.
    pub fn intent(instance: &Instance, incarnation: &Incarnation) -> Intent {
        Intent {
            incarnation: incarnation.id,
            instance: instance.id,
            node: incarnation.node,
            name: instance.name.clone(),
            spec: instance.spec.clone(),
            power: instance.power,
            counters: instance.counters,
            generation: instance.generation,
            epoch: kapok_types::Epoch::ZERO,
            operation: Some(instance.operation),
        }
    }
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
