//! What happened: the facts that the log keeps and that the fabric is a fold of.
//!
//! Serialized for ever. A field or a kind is never renamed or given another meaning; new ones
//! are added, and a version that doesn't know a kind refuses to fold the log.

use kapok_types::{
    Epoch, Generation, ImageId, IncarnationId, InstanceId, Name, NodeId, OperationId, Timestamp,
    instance::{Counters, Power},
};
use serde::{Deserialize, Serialize};

use super::{
    Answered, Capacity, Cordon, Enrolled, Image, Incarnation, Instance, Operation, OperationEnd,
};

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A controller leads from here on.
    LeaderElected {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The configuration names a node, or names it with other values.
    NodeConfigured {
        /// Its name.
        node: Name,
        /// Where its agent listens.
        address: String,
        /// vCPUs a thread may carry, in permille.
        vcpu_overcommit_permille: u32,
    },
    /// The configuration names a node no longer.
    NodeUnconfigured {
        /// Its name.
        node: Name,
    },
    /// A node's agent was reached for the first time.
    NodeEnrolled {
        /// Its name.
        node: Name,
        /// What it said.
        enrolled: Enrolled,
    },
    /// A node can carry something else than before.
    NodeChanged {
        /// Its name.
        node: Name,
        /// What.
        capacity: Capacity,
    },
    /// A node's agent answers.
    NodeReached {
        /// Its name.
        node: Name,
    },
    /// A node's agent doesn't answer. Its instances are taken to run on.
    NodeLost {
        /// Its name.
        node: Name,
        /// What was seen.
        reason: String,
    },
    /// A node's agent waits for the full intent, or has it.
    NodeResyncing {
        /// Its name.
        node: Name,
        /// Whether it waits.
        waits: bool,
    },
    /// A node takes nothing new.
    NodeCordoned {
        /// Its name.
        node: Name,
        /// Why and by whom.
        cordon: Cordon,
    },
    /// A node takes instances again.
    NodeUncordoned {
        /// Its name.
        node: Name,
    },
    /// An image can be used.
    ImageRegistered {
        /// It.
        image: Image,
    },
    /// An image is no more.
    ImageRemoved {
        /// Its id.
        image: ImageId,
        /// Its name.
        name: Name,
    },
    /// An instance exists as intent.
    InstanceCreated {
        /// It, without incarnations.
        instance: Box<Instance>,
    },
    /// An instance has a life on a node, and its claim counts.
    IncarnationPlaced {
        /// Whose.
        instance: InstanceId,
        /// It.
        incarnation: Incarnation,
    },
    /// People, or the guest, changed what an instance is meant to do.
    IntentChanged {
        /// Whose.
        instance: InstanceId,
        /// Whether it is meant to run.
        power: Power,
        /// One-time acts so far.
        counters: Counters,
        /// Which change this is.
        generation: Generation,
        /// The operation that does it; none when the guest did.
        operation: Option<OperationId>,
        /// Whether the guest's own shutdown did it.
        by_guest: bool,
    },
    /// An instance is being deleted.
    InstanceDeleting {
        /// Which.
        instance: InstanceId,
        /// Which change this is.
        generation: Generation,
        /// The operation that does it.
        operation: OperationId,
    },
    /// An incarnation's end is proven; its claim ends.
    IncarnationEnded {
        /// Whose.
        instance: InstanceId,
        /// Which.
        incarnation: IncarnationId,
        /// Where it was.
        node: NodeId,
        /// What proves it, in words.
        proof: String,
    },
    /// An instance is no more.
    InstanceRemoved {
        /// Which.
        instance: InstanceId,
        /// Its name.
        name: Name,
    },
    /// A long-running change began.
    OperationStarted {
        /// It.
        operation: Operation,
    },
    /// A long-running change ended.
    OperationEnded {
        /// Which.
        operation: OperationId,
        /// How.
        end: OperationEnd,
    },
    /// A request was answered; the same again gets the same.
    RequestAnswered {
        /// Its id.
        request_id: String,
        /// With what.
        answered: Answered,
    },
    /// Requests answered before then are forgotten.
    RequestsExpired {
        /// When.
        before: Timestamp,
    },
    /// Ended operations are forgotten.
    OperationsExpired {
        /// Which.
        operations: Vec<OperationId>,
    },
}

impl Event {
    /// A stable word for what happened: "instance.created".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LeaderElected { .. } => "controller.elected",
            Self::NodeConfigured { .. } => "node.configured",
            Self::NodeUnconfigured { .. } => "node.unconfigured",
            Self::NodeEnrolled { .. } => "node.enrolled",
            Self::NodeChanged { .. } => "node.changed",
            Self::NodeReached { .. } => "node.reached",
            Self::NodeLost { .. } => "node.lost",
            Self::NodeResyncing { .. } => "node.resyncing",
            Self::NodeCordoned { .. } => "node.cordoned",
            Self::NodeUncordoned { .. } => "node.uncordoned",
            Self::ImageRegistered { .. } => "image.registered",
            Self::ImageRemoved { .. } => "image.removed",
            Self::InstanceCreated { .. } => "instance.created",
            Self::IncarnationPlaced { .. } => "incarnation.placed",
            Self::IntentChanged { by_guest: true, .. } => "instance.stopped_by_guest",
            Self::IntentChanged { .. } => "instance.changed",
            Self::InstanceDeleting { .. } => "instance.deleting",
            Self::IncarnationEnded { .. } => "incarnation.ended",
            Self::InstanceRemoved { .. } => "instance.removed",
            Self::OperationStarted { .. } => "operation.started",
            Self::OperationEnded { .. } => "operation.ended",
            Self::RequestAnswered { .. } => "request.answered",
            Self::RequestsExpired { .. } => "request.expired",
            Self::OperationsExpired { .. } => "operation.expired",
        }
    }
}
