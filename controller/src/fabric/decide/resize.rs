//! Instances that become larger or smaller where they are.
//!
//! ```text
//!   resize ──▶ InstanceResized, ClaimChanged{the larger of both} ──▶ agent ──▶ in effect
//!                                                                                 │
//!              ClaimChanged{what is in effect} ◀── settle ◀── its agent's word ◀──┘
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
//! Absent on purpose: instances with host threads or memory cells of their own. Another size means
//! another assignment, and so another placement.

use kapok_scheduler::{Claim, grow};
use kapok_types::{
    Generation, IncarnationId, MemoryMib, Name, NodeId, Vcpus, Violation,
    instance::{MemoryClaim, Spec},
    phase::Size,
};

use super::{Context, Decision, flavor, fresh, instance, operation, quota, tenant};
use crate::fabric::{
    Amounts, Denied, Event, Incarnation, Instance, OperationKind, OperationOutcome, Role,
    command::ResizeInstance,
};

pub(super) fn resize(context: Context<'_>, wish: &ResizeInstance) -> Result<Decision, Denied> {
    let of = instance::alterable(context, &wish.instance)?;
    fresh("instance", &of.etag(), &wish.etag)?;
    if is_bound(of) {
        return Err(Denied::Bound {
            name: of.name.to_string(),
        });
    }
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
        let claim = larger(&one.claim, &spec);
        if claim != one.claim {
            room(context, of, one, &claim)?;
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
) -> Decision {
    let Some((of, one)) = context.fabric.incarnation(incarnation) else {
        return Decision::done(Vec::new());
    };
    let counts = one.node == node && of.generation == generation && !is_bound(of);
    let settled = settled(&one.claim, &of.spec, size);
    if !counts || settled == one.claim {
        return Decision::done(Vec::new());
    }
    Decision::done(vec![changed(of, one, settled)])
}

/// What an incarnation's claim is to be once its guest is seen to be of a size: enough for that and
/// for what the intent asks, and no more than it is.
pub fn settled(claim: &Claim, spec: &Spec, seen: Size) -> Claim {
    let vcpus = spec.vcpus.max(seen.vcpus);
    let needed = most(
        MemoryClaim::of(spec.memory, spec.vcpus),
        MemoryClaim::of(seen.memory, seen.vcpus),
        MemoryMib::max,
    );
    Claim {
        vcpus: vcpus.min(claim.vcpus),
        memory: most(needed, claim.memory, MemoryMib::min),
        ..claim.clone()
    }
}

/// What must be claimed while an incarnation may be of either size.
fn larger(claim: &Claim, spec: &Spec) -> Claim {
    let needed = MemoryClaim::of(spec.memory, spec.vcpus);
    Claim {
        vcpus: claim.vcpus.max(spec.vcpus),
        memory: most(claim.memory, needed, MemoryMib::max),
        ..claim.clone()
    }
}

/// Part by part: a guest that gains vCPUs and loses memory may hold the larger part of each.
fn most(
    one: MemoryClaim,
    other: MemoryClaim,
    of: fn(MemoryMib, MemoryMib) -> MemoryMib,
) -> MemoryClaim {
    MemoryClaim {
        guest: of(one.guest, other.guest),
        tables: of(one.tables, other.tables),
        vcpus: of(one.vcpus, other.vcpus),
        fixed: of(one.fixed, other.fixed),
    }
}

fn room(
    context: Context<'_>,
    of: &Instance,
    one: &Incarnation,
    claim: &Claim,
) -> Result<(), Denied> {
    let fabric = context.fabric;
    let mut request = instance::request(fabric, &of.tenant, &of.spec);
    (request.vcpus, request.memory) = (claim.vcpus, claim.memory);
    let policy = &context.rules.placement;
    let grown = grow(&fabric.fleet, one.node, one.id, &request, policy);
    grown.map(drop).map_err(|why| {
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

/// Whether it has host threads or memory cells of its own.
fn is_bound(of: &Instance) -> bool {
    let in_cells = |one: &Incarnation| {
        let assignment = one.claim.assignment.as_ref();
        assignment.is_some_and(|assignment| !assignment.cells.is_empty())
    };
    of.spec.needs.is_bound() || of.incarnations.iter().any(in_cells)
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
