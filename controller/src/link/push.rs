//! What is due to one node: pure, from the intent and what the session has already had accepted.

use std::collections::BTreeMap;

use kapok_proto::agent::v1::{ApplyInstanceRequest, DeleteInstanceRequest};
use kapok_types::{
    Digest, Epoch, Generation, IncarnationId, NodeId, TraceContext,
    phase::{Phase, Status},
};

use crate::{
    fabric::{Fabric, Role},
    observed,
};

/// Incarnations that one acknowledgement names at most.
pub(super) const MAX_ACKNOWLEDGED: usize = 1000;

/// What the agent has accepted in this session. A new session starts with nothing, so each one
/// says the whole intent once, at the present epoch.
pub(super) type Accepted = BTreeMap<IncarnationId, Held>;

/// What the agent holds for one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// This generation of its intent.
    Intent(Generation),
    /// The wish to delete it.
    Deletion,
}

/// One thing to send.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Due {
    /// An intent, and the blob that it needs. Where to get it, and by what right, is added when
    /// it is sent.
    Apply(IncarnationId, Generation, Digest, Box<ApplyInstanceRequest>),
    /// A deletion.
    Delete(IncarnationId, DeleteInstanceRequest),
}

impl Due {
    /// Which incarnation it is about.
    pub(super) fn incarnation(&self) -> IncarnationId {
        match self {
            Self::Apply(id, ..) | Self::Delete(id, _) => *id,
        }
    }
}

/// Everything that the node should hold and has not accepted yet.
pub(super) fn due(fabric: &Fabric, node: NodeId, epoch: Epoch, accepted: &Accepted) -> Vec<Due> {
    let Some(there) = fabric.on_node.get(&node) else {
        return Vec::new();
    };
    // Until it is adopted the record has no say there.
    if fabric.is_adopting_id(node) {
        return Vec::new();
    }
    let mut due = Vec::new();
    for (id, instance) in there {
        let Some(instance) = fabric.instances.get(instance) else {
            continue;
        };
        let Some(incarnation) = instance.incarnations.iter().find(|one| one.id == *id) else {
            continue;
        };
        if instance.deleting || incarnation.role == Role::Leaving {
            if accepted.get(id) != Some(&Held::Deletion) {
                due.push(Due::Delete(
                    *id,
                    DeleteInstanceRequest {
                        incarnation_id: id.to_string(),
                        instance_id: instance.id.to_string(),
                        node_id: node.to_string(),
                        generation: instance.generation.get(),
                        epoch: epoch.get(),
                    },
                ));
            }
        } else if accepted.get(id) != Some(&Held::Intent(instance.generation)) {
            let mut intent = Fabric::intent(instance, incarnation);
            intent.epoch = epoch;
            due.push(Due::Apply(
                *id,
                instance.generation,
                instance.spec.root.image,
                Box::new(ApplyInstanceRequest::from(&intent)),
            ));
        }
    }
    due
}

/// The trace of the operation that goes on with an incarnation's instance: what is said again once
/// that has ended is no part of it.
pub(super) fn trace(fabric: &Fabric, incarnation: IncarnationId) -> Option<TraceContext> {
    let (instance, _) = fabric.incarnation(incarnation)?;
    let running = fabric.running_operation(instance)?;
    fabric.operations.get(&running)?.trace
}

/// Whether an incarnation may still need its image's blob, by its agent's word.
pub(super) fn may_pull(status: Option<&Status>) -> bool {
    status.is_none_or(|status| {
        matches!(
            status.phase,
            Phase::Pending | Phase::Pulling | Phase::Failing
        )
    })
}

/// Incarnations that the node proved gone and whose end is in the log: their tombstones may go.
pub(super) fn to_acknowledge(
    fabric: &Fabric,
    observed: &observed::Table,
    reported: impl IntoIterator<Item = IncarnationId>,
) -> Vec<IncarnationId> {
    let gone = |id: &IncarnationId| {
        !fabric.incarnations.contains_key(id)
            && observed
                .status(*id)
                .is_some_and(|status| status.phase == Phase::Gone)
    };
    reported
        .into_iter()
        .filter(gone)
        .take(MAX_ACKNOWLEDGED)
        .collect()
}

#[cfg(test)]
mod tests;
