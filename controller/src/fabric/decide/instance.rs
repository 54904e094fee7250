//! Instances: create, start, stop, restart, delete, and what agents prove about them.

use kapok_scheduler::{Claim, Policy, Request, place};
use kapok_types::{
    Generation, IncarnationId, Name, Needs, NodeId, OperationId, Violation,
    instance::{Counters, MemoryClaim, Power, RootDisk, RunPolicy, Spec},
};

use super::{Context, Decision, flavor, fresh, operation, quota, system, tenant};
use crate::fabric::{
    Amounts, Denied, Event, Fabric, Image, Incarnation, Instance, Operation, OperationKind,
    OperationOutcome, Outcome, Role, command::CreateInstance,
};

/// The scheduler's question for an instance of this size.
pub fn request(spec: &Spec) -> Request {
    let memory = MemoryClaim::of(spec.memory, spec.vcpus);
    Request::new(spec.arch, spec.vcpus, memory)
}

/// The tenant that something new is to belong to: the one that was named, or the caller's home.
pub(super) fn tenant<'a>(
    context: Context<'a>,
    named: Option<&'a Name>,
) -> Result<&'a Name, Denied> {
    let name = named.unwrap_or(context.home());
    let tenant = context.fabric.tenants.get(name);
    tenant
        .map(|tenant| &tenant.name)
        .filter(|tenant| context.covers(tenant))
        .ok_or_else(|| Denied::Absent {
            kind: "tenant",
            which: name.to_string(),
        })
}

/// The numbers of a new instance of a tenant, checked.
///
/// # Errors
///
/// The image or the flavor is absent there, or fields break their limits.
pub fn spec<'f>(
    fabric: &'f Fabric,
    tenant: &Name,
    create: &CreateInstance,
) -> Result<(Spec, &'f Image), Denied> {
    let image = fabric
        .image(&create.image, tenant)
        .filter(|image| fabric.is_usable(image, tenant))
        .ok_or_else(|| Denied::Absent {
            kind: "image",
            which: create.image.clone(),
        })?;
    let (vcpus, memory, root_disk) = flavor::numbers(fabric, tenant, create)?;
    let size = root_disk.unwrap_or(image.virtual_size);
    let spec = Spec {
        arch: image.arch,
        vcpus,
        memory,
        root: RootDisk {
            image: image.digest,
            image_format: image.format,
            image_bytes: image.size,
            size,
        },
        run_policy: create.run_policy,
        needs: Needs::default(),
    };
    let mut violations = spec.validate().err().unwrap_or_default();
    for violation in &mut violations {
        if violation.field == "root.size_bytes" {
            violation.field = "root_disk_bytes".into();
        }
    }
    if size < image.virtual_size {
        violations.push(Violation::new(
            "root_disk_bytes",
            format!(
                "is {}; must be at least {}, the size of image {}",
                size.get(),
                image.virtual_size.get(),
                image.name
            ),
        ));
    }
    if violations.is_empty() {
        Ok((spec, image))
    } else {
        Err(Denied::Invalid(violations))
    }
}

pub(super) fn create(context: Context<'_>, create: &CreateInstance) -> Result<Decision, Denied> {
    let Context {
        fabric, ask, now, ..
    } = context;
    let tenant = tenant(context, create.tenant.as_ref())?;
    let called = (tenant.clone(), create.name.clone());
    if fabric.instance_names.contains_key(&called) {
        return Err(Denied::Exists {
            kind: "instance",
            name: create.name.to_string(),
            but: "",
        });
    }
    tenant::takes_new(context, tenant)?;
    let (system, first) = system::of_new(context, tenant, create.system.as_ref())?;
    let (spec, image) = spec(fabric, tenant, create)?;
    quota::room(context, tenant, Amounts::of_instance(&spec))?;
    let request = request(&spec);
    let placement =
        place(&fabric.fleet, &request, &Policy::default()).map_err(Denied::NoCapacity)?;
    let starts = u64::from(create.power == Power::Running);
    let instance = Instance {
        id: ask.fresh.instance,
        tenant: tenant.clone(),
        name: create.name.clone(),
        system,
        image: image.id,
        image_name: image.name.clone(),
        flavor: create.flavor.clone(),
        spec,
        power: create.power,
        counters: Counters {
            starts,
            ..Counters::default()
        },
        generation: Generation(1),
        created_at: now,
        created_by: context.by().clone(),
        deleting: false,
        operation: ask.fresh.operation,
        incarnations: Vec::new(),
    };
    let incarnation = Incarnation {
        id: ask.fresh.incarnation,
        node: placement.node,
        role: Role::Active,
        claim: Claim {
            vcpus: request.vcpus,
            memory: request.memory,
        },
    };
    let (operation, outcome) = begin(context, &instance, OperationKind::Create, Generation(1));
    let placed = Event::IncarnationPlaced {
        instance: instance.id,
        incarnation,
    };
    let created = Event::InstanceCreated {
        instance: Box::new(instance),
    };
    let events = first.into_iter().chain([created, placed, operation]);
    Ok(Decision {
        events: events.collect(),
        outcome,
    })
}

pub(super) fn start(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let instance = alterable(context, which)?;
    tenant::may_start(context, &instance.tenant)?;
    let mut counters = instance.counters;
    // Already meant to run: nothing to count; the operation only waits for it.
    if instance.power == Power::Stopped {
        counters.starts += 1;
    }
    Ok(change(
        context,
        instance,
        OperationKind::Start,
        Power::Running,
        counters,
    ))
}

pub(super) fn stop(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let instance = alterable(context, which)?;
    Ok(change(
        context,
        instance,
        OperationKind::Stop,
        Power::Stopped,
        instance.counters,
    ))
}

pub(super) fn restart(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let instance = alterable(context, which)?;
    if instance.power == Power::Stopped {
        return Err(Denied::NotRunning {
            name: instance.name.to_string(),
        });
    }
    let mut counters = instance.counters;
    counters.restarts += 1;
    Ok(change(
        context,
        instance,
        OperationKind::Restart,
        Power::Running,
        counters,
    ))
}

pub(super) fn delete(context: Context<'_>, which: &str, etag: &str) -> Result<Decision, Denied> {
    let instance = present(context, which)?;
    fresh("instance", &instance.etag(), etag)?;
    if instance.deleting {
        // The same wish again: the operation that runs answers it.
        return Ok(Decision {
            events: Vec::new(),
            outcome: Outcome::Operation(instance.operation),
        });
    }
    Ok(begin_delete(context, instance))
}

/// The right to open a console goes on record with whoever has it.
pub(super) fn grant_console(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let instance = present(context, which)?;
    Ok(Decision::done(vec![Event::ConsoleGranted {
        instance: instance.id,
        name: instance.name.clone(),
    }]))
}

/// The facts of a deletion: what runs is superseded, and what has no incarnation is gone at once.
pub(super) fn begin_delete(context: Context<'_>, instance: &Instance) -> Decision {
    let generation = next(instance);
    let mut events = superseded(context, instance);
    let (started, outcome) = begin(context, instance, OperationKind::Delete, generation);
    let operation = context.ask.fresh.operation;
    events.push(started);
    events.push(Event::InstanceDeleting {
        instance: instance.id,
        generation,
        operation,
    });
    if instance.incarnations.is_empty() {
        events.push(Event::InstanceRemoved {
            instance: instance.id,
            tenant: instance.tenant.clone(),
            name: instance.name.clone(),
        });
        events.push(operation::ended(
            context,
            operation,
            OperationOutcome::Succeeded,
            "",
        ));
    }
    Decision { events, outcome }
}

/// A guest's own shutdown becomes intent *stopped*, unless the intent has moved on meanwhile.
pub(super) fn guest_stopped(
    context: Context<'_>,
    node: NodeId,
    incarnation: IncarnationId,
    generation: Generation,
) -> Decision {
    let Some((instance, there)) = context.fabric.incarnation(incarnation) else {
        return Decision::done(Vec::new());
    };
    let meant = there.node == node
        && instance.power == Power::Running
        && instance.generation == generation
        && !instance.deleting
        && instance.spec.run_policy != RunPolicy::Always;
    if !meant {
        return Decision::done(Vec::new());
    }
    // Somebody asked for a start while the fabric still took it to run. That wish is younger
    // than the guest's end: the start counts now.
    if let Some(start) = pending_start(context.fabric, instance) {
        let mut counters = instance.counters;
        counters.starts += 1;
        return Decision::done(vec![Event::IntentChanged {
            instance: instance.id,
            power: Power::Running,
            counters,
            generation: next(instance),
            operation: Some(start),
            by_guest: false,
        }]);
    }
    let mut events = superseded(context, instance);
    events.push(Event::IntentChanged {
        instance: instance.id,
        power: Power::Stopped,
        counters: instance.counters,
        generation: next(instance),
        operation: None,
        by_guest: true,
    });
    Decision::done(events)
}

/// An incarnation's end ends its claim; a deleted instance's last one ends the instance.
///
/// Only the node that carries it can say so.
pub(super) fn gone(context: Context<'_>, node: NodeId, incarnation: IncarnationId) -> Decision {
    let Some((instance, ended)) = context.fabric.incarnation(incarnation) else {
        return Decision::done(Vec::new());
    };
    // A node's word that something is gone ends a claim only where the fabric let it go.
    let let_go = instance.deleting || ended.role == Role::Leaving;
    if ended.node != node || !let_go {
        return Decision::done(Vec::new());
    }
    let mut events = vec![Event::IncarnationEnded {
        instance: instance.id,
        incarnation,
        node: ended.node,
        proof: "its own agent's word".into(),
    }];
    if instance.deleting && instance.incarnations.len() == 1 {
        if let Some(operation) = context.fabric.running_operation(instance) {
            events.push(operation::ended(
                context,
                operation,
                OperationOutcome::Succeeded,
                "",
            ));
        }
        events.push(Event::InstanceRemoved {
            instance: instance.id,
            tenant: instance.tenant.clone(),
            name: instance.name.clone(),
        });
    }
    Decision::done(events)
}

/// The start that was asked for when the instance was meant to run already, and that nothing has
/// followed yet.
pub fn pending_start(fabric: &Fabric, instance: &Instance) -> Option<OperationId> {
    let operation = fabric
        .operations
        .get(&fabric.running_operation(instance)?)?;
    let pending = operation.kind == OperationKind::Start
        && operation.waits_only
        && operation.generation == instance.generation;
    pending.then_some(operation.id)
}

/// An instance that the caller may speak of. Another tenant's is refused as one that isn't there.
fn present<'f>(context: Context<'f>, which: &str) -> Result<&'f Instance, Denied> {
    context
        .fabric
        .instance(which, context.home())
        .filter(|instance| context.covers(&instance.tenant))
        .ok_or_else(|| Denied::Absent {
            kind: "instance",
            which: which.to_owned(),
        })
}

fn alterable<'f>(context: Context<'f>, which: &str) -> Result<&'f Instance, Denied> {
    let instance = present(context, which)?;
    if instance.deleting {
        return Err(Denied::Deleting {
            name: instance.name.to_string(),
        });
    }
    Ok(instance)
}

fn change(
    context: Context<'_>,
    instance: &Instance,
    kind: OperationKind,
    power: Power,
    counters: Counters,
) -> Decision {
    let generation = next(instance);
    let mut events = superseded(context, instance);
    let (started, outcome) = begin(context, instance, kind, generation);
    events.push(started);
    events.push(Event::IntentChanged {
        instance: instance.id,
        power,
        counters,
        generation,
        operation: Some(context.ask.fresh.operation),
        by_guest: false,
    });
    Decision { events, outcome }
}

fn begin(
    context: Context<'_>,
    instance: &Instance,
    kind: OperationKind,
    generation: Generation,
) -> (Event, Outcome) {
    let Context {
        ask,
        now,
        operation_deadline_ms,
        ..
    } = context;
    let operation = Operation {
        id: ask.fresh.operation,
        kind,
        instance: instance.id,
        instance_name: instance.name.clone(),
        tenant: instance.tenant.clone(),
        generation,
        by: context.by().clone(),
        created_at: now,
        deadline: kapok_types::Timestamp(now.get().saturating_add(operation_deadline_ms)),
        waits_only: kind == OperationKind::Start && instance.power == Power::Running,
        trace: ask.origin.trace,
        ended: None,
    };
    (
        Event::OperationStarted { operation },
        Outcome::Operation(ask.fresh.operation),
    )
}

/// The end of the operation that an instance's present intent came from, if it still runs.
fn superseded(context: Context<'_>, instance: &Instance) -> Vec<Event> {
    let running = context.fabric.running_operation(instance);
    running
        .map(|id| {
            operation::ended(
                context,
                id,
                OperationOutcome::Superseded,
                "a later change replaced it",
            )
        })
        .into_iter()
        .collect()
}

fn next(instance: &Instance) -> Generation {
    instance.generation.saturating_add(Generation(1))
}
