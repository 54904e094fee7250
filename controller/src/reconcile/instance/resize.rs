//! What an agent's word on a guest's size leads to.

use kapok_types::{
    Vcpus,
    phase::{Size, Status},
};

use crate::fabric::{Command, Incarnation, Instance};

/// The end of a claim's surplus, once the agent has seen how large the guest is under the present
/// intent. An agent that doesn't tell ends none.
pub(super) fn settled(
    instance: &Instance,
    incarnation: &Incarnation,
    status: &Status,
) -> Option<Command> {
    let size = status.size?;
    let counts = status.generation == instance.generation;
    let (claim, own) = (&incarnation.claim, status.assignment.as_deref());
    let surplus = claim.settled(Size::of(&instance.spec), size, own) != *claim;
    (counts && surplus).then_some(Command::SettleClaim {
        node: incarnation.node,
        incarnation: incarnation.id,
        generation: status.generation,
        size,
        assignment: status.assignment.clone(),
    })
}

/// Whether a resize is done: the size is in effect, or it waits for nothing but the next start.
/// Then what is to be said of it.
pub(super) fn reached(instance: &Instance, status: &Status) -> Option<String> {
    let (wanted, size) = (Size::of(&instance.spec), status.size?);
    if size == wanted && !status.resize_pending {
        return Some(String::new());
    }
    status.resize_pending.then(|| {
        let mut waits = Vec::new();
        if size.vcpus != wanted.vcpus {
            let plural = if wanted.vcpus == Vcpus(1) { "" } else { "s" };
            waits.push(format!("{} vCPU{plural}", wanted.vcpus));
        }
        if size.memory != wanted.memory {
            waits.push(format!("{} of memory", wanted.memory));
        }
        if waits.is_empty() {
            // Of that size already, but not with what is its own from then on.
            waits.push("other host threads or memory cells".to_owned());
        }
        format!("{} after its next start", waits.join(" and "))
    })
}
