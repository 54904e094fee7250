//! What can be asked of the fabric, by people and by the controller's own reconcilers.

use std::{fmt, sync::Arc};

use kapok_types::{
    Bytes, Digest, Generation, ImageId, IncarnationId, InstanceId, MemoryMib, Name, NodeId,
    OperationId, Vcpus,
    instance::{Arch, DiskFormat, Power, RunPolicy},
};
use serde::{Deserialize, Serialize};

use super::{Capacity, OperationOutcome};

/// A command with everything that a pure decision needs beside the fabric and the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Who asks.
    pub by: Actor,
    /// Where from: an address, or empty for the controller itself.
    pub from: String,
    /// The same one again means the same answer; none for the controller's own commands.
    pub request_id: Option<String>,
    /// What is asked.
    pub command: Command,
    /// Ids for what may come of it.
    pub fresh: Fresh,
}

/// Ids made before the decision, so that deciding is pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// For a new instance.
    pub instance: InstanceId,
    /// For its incarnation.
    pub incarnation: IncarnationId,
    /// For the operation.
    pub operation: OperationId,
    /// For a new image.
    pub image: ImageId,
}

/// Who did something: "user/NAME", "node/NAME", or the controller itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(pub Arc<str>);

/// What can be asked. Serialized only to hash its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Places and creates an instance.
    CreateInstance(CreateInstance),
    /// Turns an instance on.
    StartInstance {
        /// Name or id.
        instance: String,
    },
    /// Turns an instance off.
    StopInstance {
        /// Name or id.
        instance: String,
    },
    /// Shuts an instance down and starts it.
    RestartInstance {
        /// Name or id.
        instance: String,
    },
    /// Deletes an instance with its root disk.
    DeleteInstance {
        /// Name or id.
        instance: String,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Ends an operation early.
    CancelOperation {
        /// Which.
        operation: OperationId,
    },
    /// A node takes nothing new.
    CordonNode {
        /// Name or id.
        node: String,
        /// Why.
        reason: String,
    },
    /// A node takes instances again.
    UncordonNode {
        /// Name or id.
        node: String,
    },
    /// Registers a checked and stored blob as an image.
    RegisterImage {
        /// Its name.
        name: Name,
        /// Its content.
        digest: Digest,
        /// Its layout.
        format: DiskFormat,
        /// Size of its blob.
        size: Bytes,
        /// Size of the disk it holds.
        virtual_size: Bytes,
        /// The architecture it was built for.
        arch: Arch,
    },
    /// Removes an image.
    DeleteImage {
        /// Name, id or digest.
        image: String,
    },

    /// Nodes that the configuration names. Reconciler's.
    ConfigureNodes {
        /// Name, address and vCPU overcommit in permille of each.
        nodes: Vec<(Name, String, u32)>,
    },
    /// Nodes that the configuration names no longer. Reconciler's.
    UnconfigureNodes {
        /// Their names.
        nodes: Vec<Name>,
    },
    /// A node's agent was reached and says what it is. Reconciler's.
    ReportNode {
        /// The configured name.
        node: Name,
        /// Its identity.
        id: NodeId,
        /// What it can carry.
        capacity: Capacity,
        /// Whether it waits for the full intent.
        resyncing: bool,
    },
    /// A node's agent doesn't answer any more. Reconciler's.
    LoseNode {
        /// The configured name.
        node: Name,
        /// What was seen, in words.
        reason: String,
    },
    /// A guest shut itself down. Reconciler's, by its agent's word.
    GuestStopped {
        /// The node that says so; only its own incarnations are believed.
        node: NodeId,
        /// Which incarnation.
        incarnation: IncarnationId,
        /// The generation of the intent under which it did.
        generation: Generation,
    },
    /// An incarnation's end is proven by its agent's word. Reconciler's.
    IncarnationGone {
        /// The node that says so; only its own incarnations are believed.
        node: NodeId,
        /// Which.
        incarnation: IncarnationId,
    },
    /// An operation reached its end. Reconciler's.
    EndOperation {
        /// Which.
        operation: OperationId,
        /// How.
        outcome: OperationOutcome,
        /// Why, in words.
        detail: String,
    },
    /// Forgets answered requests and ended operations past their retention. Reconciler's.
    Expire,
}

/// What a new instance is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateInstance {
    /// Its name.
    pub name: Name,
    /// Its image's name, id or digest.
    pub image: String,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: MemoryMib,
    /// Root disk, or the image's virtual size.
    pub root_disk: Option<Bytes>,
    /// What the guest's own end means.
    pub run_policy: RunPolicy,
    /// Whether it is turned on.
    pub power: Power,
}

impl Actor {
    /// The controller itself.
    pub fn controller() -> Self {
        Self("controller".into())
    }

    /// A person.
    pub fn user(name: &str) -> Self {
        Self(format!("user/{name}").into())
    }

    /// A node's agent.
    pub fn node(name: &Name) -> Self {
        Self(format!("node/{name}").into())
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Command {
    /// Hash of what is asked: a request id may come back only with the same one.
    pub fn content(&self) -> Digest {
        // A command is plain data: writing it can't fail. An empty text would only make equal
        // what is equal anyway.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}
