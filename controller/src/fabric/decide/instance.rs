//! Instances: create, start, stop, restart, delete, and what agents prove about them.

use kapok_scheduler::{Placement, Request, place};
use kapok_types::{
    Generation, IncarnationId, Name, NodeId, OperationId, Violation,
    instance::{Counters, MemoryClaim, Power, RootDisk, RunPolicy, Spec},
};

use super::{Context, Decision, flavor, fresh, group, operation, quota, system, tenant};
use crate::fabric::{
    Amounts, Denied, Event, Fabric, Fresh, Image, Incarnation, Instance, Operation, OperationKind,
    OperationOutcome, Outcome, Role, command::CreateInstance, tenant::isolation,
};

/// The scheduler's question for an instance of a tenant.
pub fn request(fabric: &Fabric, tenant: &Name, spec: &Spec) -> Request {
    let memory = MemoryClaim::of(spec.memory, spec.vcpus);
    Request {
        needs: spec.needs.clone(),
        isolation: isolation(&fabric.tenants, tenant).cloned(),
        ..Request::new(spec.arch, spec.vcpus, memory)
    }
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
    let flavor::Numbers {
        vcpus,
        memory,
        root_disk,
        needs,
    } = flavor::numbers(fabric, tenant, create)?;
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
        needs,
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

/// An instance that can be made, but for its node.
#[derive(Debug)]
pub(super) struct New {
    /// The making of its system, if it is the first of the default one.
    first: Option<Event>,
    instance: Instance,
    incarnation: IncarnationId,
    /// What is asked of its node.
    pub(super) request: Request,
}

pub(super) fn create(context: Context<'_>, create: &CreateInstance) -> Result<Decision, Denied> {
    let Context {
        fabric, ask, rules, ..
    } = context;
    let new = prepare(context, create, ask.fresh)?;
    let placement =
        place(&fabric.fleet, &new.request, &rules.placement).map_err(Denied::NoCapacity)?;
    let outcome = Outcome::Operation(new.operation());
    let mut events = Vec::from_iter(new.first());
    events.extend(new.on(context, placement));
    Ok(Decision { events, outcome })
}

/// Everything about a new instance but its node.
pub(super) fn prepare(
    context: Context<'_>,
    create: &CreateInstance,
    fresh: Fresh,
) -> Result<New, Denied> {
    let Context { fabric, now, .. } = context;
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
    group::check(context, tenant, &create.groups)?;
    let (system, first) = system::of_new(context, tenant, create.system.as_ref())?;
    let (spec, image) = spec(fabric, tenant, create)?;
    quota::room(context, tenant, Amounts::of_instance(&spec))?;
    let request = request(fabric, tenant, &spec);
    let request = fabric.with_groups(request, tenant, &create.groups, None);
    let starts = u64::from(create.power == Power::Running);
    let instance = Instance {
        id: fresh.instance,
        tenant: tenant.clone(),
        name: create.name.clone(),
        system,
        image: image.id,
        image_name: image.name.clone(),
        flavor: create.flavor.clone(),
        groups: create.groups.clone(),
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
        operation: fresh.operation,
        incarnations: Vec::new(),
    };
    Ok(New {
        first,
        instance,
        incarnation: fresh.incarnation,
        request,
    })
}

impl New {
    pub(super) fn operation(&self) -> OperationId {
        self.instance.operation
    }

    /// The making of its system, if it is the first of the default one.
    pub(super) fn first(&self) -> Option<Event> {
        self.first.clone()
    }

    /// It exists, without a node yet.
    pub(super) fn created(&self) -> Event {
        let instance = Box::new(self.instance.clone());
        Event::InstanceCreated { instance }
    }

    /// It exists, has a node, and its operation has begun.
    pub(super) fn on(self, context: Context<'_>, placement: Placement) -> [Event; 3] {
        let instance = self.instance;
        let (id, kind) = (instance.operation, OperationKind::Create);
        let operation = started(context, id, &instance, kind, instance.generation);
        let incarnation = Incarnation {
            id: self.incarnation,
            node: placement.node,
            role: Role::Active,
            claim: placement.claim,
        };
        let placed = Event::IncarnationPlaced {
            instance: instance.id,
            incarnation,
        };
        let instance = Box::new(instance);
        [Event::InstanceCreated { instance }, placed, operation]
    }
}

/// Another system of its tenant. Its intent is what it was: agents know no systems.
pub(super) fn change_system(
    context: Context<'_>,
    which: &str,
    system: &Name,
    etag: &str,
) -> Result<Decision, Denied> {
    let instance = alterable(context, which)?;
    fresh("instance", &instance.etag(), etag)?;
    let (system, first) = system::of_new(context, &instance.tenant, Some(system))?;
    if system == instance.system {
        return Ok(Decision::done(Vec::new()));
    }
    let mut events = Vec::from_iter(first);
    events.push(Event::InstanceSystemChanged {
        instance: instance.id,
        tenant: instance.tenant.clone(),
        system,
    });
    Ok(Decision::done(events))
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
    begin_delete_as(context, instance, context.ask.fresh.operation)
}

/// The same, by an operation of one's own.
pub(super) fn begin_delete_as(
    context: Context<'_>,
    instance: &Instance,
    operation: OperationId,
) -> Decision {
    let generation = next(instance);
    let mut events = superseded(context, instance);
    let kind = OperationKind::Delete;
    events.push(started(context, operation, instance, kind, generation));
    let outcome = Outcome::Operation(operation);
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

pub(super) fn alterable<'f>(context: Context<'f>, which: &str) -> Result<&'f Instance, Denied> {
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

pub(super) fn begin(
    context: Context<'_>,
    instance: &Instance,
    kind: OperationKind,
    generation: Generation,
) -> (Event, Outcome) {
    let id = context.ask.fresh.operation;
    let started = started(context, id, instance, kind, generation);
    (started, Outcome::Operation(id))
}

/// An operation of an instance begins.
fn started(
    context: Context<'_>,
    id: OperationId,
    instance: &Instance,
    kind: OperationKind,
    generation: Generation,
) -> Event {
    let Context {
        ask, now, rules, ..
    } = context;
    let deadline = now.get().saturating_add(rules.operation_deadline_ms);
    let operation = Operation {
        id,
        kind,
        instance: instance.id,
        instance_name: instance.name.clone(),
        tenant: instance.tenant.clone(),
        generation,
        by: context.by().clone(),
        created_at: now,
        deadline: kapok_types::Timestamp(deadline),
        waits_only: kind == OperationKind::Start && instance.power == Power::Running,
        trace: ask.origin.trace,
        ended: None,
    };
    Event::OperationStarted { operation }
}

/// The end of the operation that an instance's present intent came from, if it still runs.
pub(super) fn superseded(context: Context<'_>, instance: &Instance) -> Vec<Event> {
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

pub(super) fn next(instance: &Instance) -> Generation {
    instance.generation.saturating_add(Generation(1))
}
