//! Instances that become larger or smaller where they are.
//!
//! ```text
//!   resize ──▶ InstanceResized, ClaimChanged{enough for both} ──▶ agent ──▶ in effect
//!                                                                              │
//!           ClaimChanged{what is in effect} ◀── settle ◀── its agent's word ◀──┘
//! ```
//!
//! **Invariant:** a claim is never less than what the guest may really hold. Growth is claimed when
//! it is decided, in one decision with the quota's and the node's room for it, so that the last of
//! both has one taker (FAULTS 27). What becomes smaller is given back once the agent has seen it.
//!
//! Growth needs a node that can be relied on: not one that is silent, distrusted or quarantined.
//! A cordon keeps nothing new away here. Shrinking is possible everywhere; where the agent can't
//! be asked, the claim stays until it can.
//!
//! An instance with host threads or memory cells of its own is resized where it is as well, from
//! its next start on: what becomes its own is the scheduler's to choose. Its claim's `assignment` is
//! what the agent is to give it then, and the `surplus` what the guest that runs may have beside it.
//!
//! Absent on purpose: a move to a node that has room.

use kapok_scheduler::Claim;
use kapok_types::{
    Assignment, Generation, IncarnationId, MemoryMib, Name, NodeId, Vcpus, Violation,
    instance::Spec, phase::Size,
};

use super::{Context, Decision, flavor, fresh, instance, operation, quota, tenant};
use crate::fabric::{
    Amounts, Denied, Event, Incarnation, Instance, OperationKind, OperationOutcome, Role,
    command::ResizeInstance,
};

pub(super) fn resize(context: Context<'_>, wish: &ResizeInstance) -> Result<Decision, Denied> {
    let of = instance::alterable(context, &wish.instance)?;
    fresh("instance", &of.etag(), &wish.etag)?;
    let spec = wished(context, of, wish)?;
    spec.validate().map_err(Denied::Invalid)?;
    let more = Amounts::of_instance(&spec).minus(Amounts::of_instance(&of.spec));
    if !more.is_zero() {
        tenant::takes_new(context, &of.tenant)?;
        quota::room(context, &of.tenant, more)?;
    }
    let mut events = instance::superseded(context, of);
    let generation = instance::next(of);
    let (started, outcome) = instance::begin(context, of, OperationKind::Resize, generation);
    events.push(started);
    events.push(Event::InstanceResized {
        instance: of.id,
        vcpus: spec.vcpus,
        memory: spec.memory,
        flavor: flavor_of(of, &spec, wish),
        generation,
        operation: context.ask.fresh.operation,
    });
    for one in of.incarnations.iter().filter(|one| is_kept(one)) {
        let claim = claim(context, of, one, &spec)?;
        if claim != one.claim {
            events.push(changed(of, one, claim));
        }
    }
    if !of.incarnations.iter().any(is_kept) {
        // Nothing runs that could become so: the next placement will be.
        let operation = context.ask.fresh.operation;
        let outcome = OperationOutcome::Succeeded;
        events.push(operation::ended(context, operation, outcome, ""));
    }
    Ok(Decision { events, outcome })
}

/// An agent has seen how large an incarnation is under the present intent: what is claimed beyond
/// that and beyond the intent is given back. Never raises a claim.
pub(super) fn settle(
    context: Context<'_>,
    node: NodeId,
    incarnation: IncarnationId,
    generation: Generation,
    size: Size,
    own: Option<&Assignment>,
) -> Decision {
    let Some((of, one)) = context.fabric.incarnation(incarnation) else {
        return Decision::done(Vec::new());
    };
    let counts = one.node == node && of.generation == generation;
    let settled = one.claim.settled(Size::of(&of.spec), size, own);
    if !counts || settled == one.claim {
        return Decision::done(Vec::new());
    }
    Decision::done(vec![changed(of, one, settled)])
}

/// What an incarnation is to hold of its node while it may be of the old size and of this one.
fn claim(
    context: Context<'_>,
    of: &Instance,
    one: &Incarnation,
    spec: &Spec,
) -> Result<Claim, Denied> {
    let fabric = context.fabric;
    let request = instance::request(fabric, &of.tenant, spec);
    let policy = &context.rules.placement;
    let claim = kapok_scheduler::resize(&fabric.fleet, one.node, one.id, &request, policy);
    claim.map_err(|why| {
        let node = fabric.node_names.get(&one.node);
        Denied::NoRoom {
            instance: of.name.to_string(),
            node: node.map_or_else(|| one.node.to_string(), ToString::to_string),
            why: Box::new(why),
        }
    })
}

/// The size that is asked for: a flavor's, or the stated numbers and the present ones beside them.
fn wished(context: Context<'_>, of: &Instance, wish: &ResizeInstance) -> Result<Spec, Denied> {
    let nothing = (wish.vcpus, wish.memory) == (Vcpus::ZERO, MemoryMib::ZERO);
    let Some(name) = &wish.flavor else {
        if nothing {
            let reason = "state vCPUs, memory or a flavor";
            return Err(Denied::Invalid(vec![Violation::new("vcpus", reason)]));
        }
        let mut spec = of.spec.clone();
        if wish.vcpus != Vcpus::ZERO {
            spec.vcpus = wish.vcpus;
        }
        if wish.memory != MemoryMib::ZERO {
            spec.memory = wish.memory;
        }
        return Ok(spec);
    };
    let flavor = context.fabric.flavor(name, &of.tenant);
    let flavor = flavor.ok_or_else(|| flavor::absent(name))?;
    if !nothing {
        let reason = format!("is the flavor's to say; leave it out, or leave flavor {name} out");
        let fields = [
            ("vcpus", wish.vcpus != Vcpus::ZERO),
            ("memory_mib", wish.memory != MemoryMib::ZERO),
        ];
        let stated = fields.into_iter().filter(|(_, stated)| *stated);
        let violations = stated.map(|(field, _)| Violation::new(field, reason.clone()));
        return Err(Denied::Invalid(violations.collect()));
    }
    if !flavor.needs.is_none() && flavor.needs != of.spec.needs {
        let reason = "needs other things of a node than the instance was placed by; create it anew";
        return Err(Denied::Invalid(vec![Violation::new("flavor", reason)]));
    }
    Ok(Spec {
        vcpus: flavor.vcpus,
        memory: flavor.memory,
        ..of.spec.clone()
    })
}

/// The flavor that the numbers come from: the one that is asked for, or the one that they come from
/// already.
fn flavor_of(of: &Instance, spec: &Spec, wish: &ResizeInstance) -> Option<Name> {
    let same = Size::of(spec) == Size::of(&of.spec);
    let kept = of.flavor.as_ref().filter(|_| same);
    wish.flavor.as_ref().or(kept).cloned()
}

/// Whether it is to follow the intent.
fn is_kept(one: &Incarnation) -> bool {
    one.role != Role::Leaving
}

fn changed(of: &Instance, one: &Incarnation, claim: Claim) -> Event {
    Event::ClaimChanged {
        instance: of.id,
        incarnation: one.id,
        node: one.node,
        claim,
    }
}
