//! What an agent says of an incarnation: observation, never intent.

use serde::{Deserialize, Serialize};

use crate::{
    Assignment, Epoch, Generation, IncarnationId, InstanceId, MemoryMib, Vcpus,
    instance::{Counters, Spec},
};

/// Where an incarnation stands. *Unknown* is a state of its own: an outcome that isn't known is
/// never called failed, and an unreachable domain is never called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted, nothing done yet.
    Pending,
    /// Its image is on the way to the node.
    Pulling,
    /// Its definition or its disk is being made.
    Creating,
    /// It is being turned on.
    Starting,
    /// It runs.
    Running,
    /// It was asked to shut down.
    Stopping,
    /// It is off.
    Stopped,
    /// It can't reach its intent at present; the reason is in the detail, retries go on.
    Failing,
    /// Off after the host's boot, waiting for the controller's word that it may start here.
    Waiting,
    /// The hypervisor doesn't answer for it.
    Unknown,
    /// It is being taken away.
    Deleting,
    /// Proven gone: no domain and no disk are left. The claim may end.
    Gone,
}

/// Why a domain that was meant to run is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Kapok turned it off.
    ByIntent,
    /// The guest shut itself down.
    ByGuest,
    /// The guest or QEMU crashed.
    ByCrash,
    /// Somebody used the hypervisor directly.
    ByOutsider,
    /// The host went down under it.
    ByHost,
}

/// vCPUs and guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: MemoryMib,
}

impl Size {
    /// What an intent asks for.
    pub const fn of(spec: &Spec) -> Self {
        Self {
            vcpus: spec.vcpus,
            memory: spec.memory,
        }
    }
}

/// One incarnation as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which incarnation.
    pub incarnation: IncarnationId,
    /// Its instance.
    pub instance: InstanceId,
    /// Generation of the intent that the agent holds.
    pub generation: Generation,
    /// Epoch of the intent that the agent holds.
    pub epoch: Epoch,
    /// Where it stands.
    pub phase: Phase,
    /// One-time acts that took effect.
    pub done: Counters,
    /// Why it is off, when it is.
    pub ended: Option<Ended>,
    /// Progress of the present phase in permille, where it has one.
    pub progress_permille: Option<u32>,
    /// Whether the guest's agent answers.
    pub guest_agent: bool,
    /// Differences that somebody made behind Kapok's back, in words.
    pub drift: Vec<String>,
    /// What stands in the way or goes on, in words; empty when there is nothing to say.
    pub detail: String,
    /// What is in effect: while it is on, what runs; else what its definition says. None while that
    /// isn't known, or from an agent that doesn't tell.
    #[serde(default)]
    pub size: Option<Size>,
    /// Whether what is in effect becomes what the intent asks for only with the next start.
    #[serde(default)]
    pub resize_pending: bool,
    /// What of the node the guest has for itself, while any start would give it the same. None while
    /// the next start gives it something else, while that isn't known, from an agent that doesn't
    /// tell, and where it is nothing.
    #[serde(default)]
    pub assignment: Option<Box<Assignment>>,
}
