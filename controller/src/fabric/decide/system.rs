//! Systems: recorded, found live, warned of their end, removed when they are empty.

use kapok_types::{Name, OperationId, Timestamp, Violation};

use super::{Context, Decision, fresh, instance, or_name, printable, tenant};
use crate::fabric::{
    Denied, Event, Fabric, OperationKind, System, SystemChange, command::CreateSystem,
    system::default_system,
};

/// Contacts that one system has at most.
const MAX_CONTACTS: usize = 16;
/// Warnings after which a review stops; the next one goes on.
const AT_ONCE: usize = 512;

pub(super) fn create(context: Context<'_>, create: &CreateSystem) -> Result<Decision, Denied> {
    let Context { fabric, now, .. } = context;
    let tenant = instance::tenant(context, create.tenant.as_ref())?;
    let called = (tenant.clone(), create.name.clone());
    if fabric.systems.contains_key(&called) {
        return Err(Denied::Exists {
            kind: "system",
            name: create.name.to_string(),
            but: "",
        });
    }
    tenant::takes_new(context, tenant)?;
    let (tenant, name) = called;
    let bare = System::bare(tenant, name, now, context.by().clone());
    let system = create.facts.iter().fold(bare, System::with);
    let system = sound(context, system)?;
    Ok(Decision::done(vec![Event::SystemCreated {
        system: Box::new(system),
    }]))
}

pub(super) fn update(
    context: Context<'_>,
    which: &str,
    changes: &[SystemChange],
    etag: &str,
) -> Result<Decision, Denied> {
    let before = present(context, which)?;
    fresh("system", &before.etag(), etag)?;
    let system = changes.iter().fold(before.clone(), System::with);
    let system = sound(context, system)?;
    if system == *before {
        return Ok(Decision::done(Vec::new()));
    }
    Ok(Decision::done(vec![Event::SystemChanged {
        system: Box::new(system),
    }]))
}

pub(super) fn delete(context: Context<'_>, which: &str, etag: &str) -> Result<Decision, Denied> {
    let system = present(context, which)?;
    fresh("system", &system.etag(), etag)?;
    let mut instances = context.fabric.instances_of(system);
    if let Some(first) = instances.next() {
        return Err(Denied::SystemInUse {
            name: system.name.to_string(),
            instances: 1 + instances.count(),
            such_as: first.name.to_string(),
        });
    }
    Ok(Decision::done(vec![Event::SystemRemoved {
        tenant: system.tenant.clone(),
        name: system.name.clone(),
    }]))
}

/// Whether somebody is to be warned of a system's end. Looks at the first of them alone.
pub fn warning_is_due(fabric: &Fabric, now: Timestamp) -> bool {
    let next = fabric.system_ends.get_min();
    next.is_some_and(|(at, ..)| *at <= now)
}

/// Warns of ends that are near. What was missed meanwhile isn't caught up: the nearest counts.
pub(super) fn review(context: Context<'_>) -> Decision {
    let Context { fabric, now, .. } = context;
    let due = fabric.system_ends.iter().take_while(|(at, ..)| *at <= now);
    let warnings = due.take(AT_ONCE).filter_map(|(_, tenant, name)| {
        let system = fabric.systems.get(&(tenant.clone(), name.clone()))?;
        Some(Event::SystemEnding {
            tenant: tenant.clone(),
            name: name.clone(),
            ends_at: system.ends_at?,
            days: system.warning(now)?,
        })
    });
    Decision::done(warnings.collect())
}

/// The system that a new instance of a tenant belongs to, and its making if it is the first to
/// belong to the default one.
pub(super) fn of_new(
    context: Context<'_>,
    tenant: &Name,
    named: Option<&Name>,
) -> Result<(Name, Option<Event>), Denied> {
    let default = default_system();
    let name = named.unwrap_or(&default);
    let called = (tenant.clone(), name.clone());
    if context.fabric.systems.contains_key(&called) {
        return Ok((name.clone(), None));
    }
    if *name != default {
        return Err(absent(name.as_str()));
    }
    let (at, by) = (context.now, context.by().clone());
    let system = Box::new(System::bare(tenant.clone(), default.clone(), at, by));
    Ok((default, Some(Event::SystemCreated { system })))
}

/// The first creation that succeeds is when a system goes live, unless somebody said when.
pub(super) fn goes_live(context: Context<'_>, operation: OperationId) -> Option<Event> {
    let fabric = context.fabric;
    let operation = fabric.operations.get(&operation)?;
    let instance = fabric.instances.get(&operation.instance)?;
    let called = (instance.tenant.clone(), instance.system.clone());
    let system = fabric.systems.get(&called)?;
    let goes = operation.kind == OperationKind::Create && system.live_at.is_none();
    goes.then(|| Event::SystemLive {
        tenant: system.tenant.clone(),
        name: system.name.clone(),
        at: context.now,
    })
}

fn absent(which: &str) -> Denied {
    Denied::Absent {
        kind: "system",
        which: which.to_owned(),
    }
}

/// A system that the caller may speak of. Another tenant's is refused as one that isn't there.
fn present<'f>(context: Context<'f>, which: &str) -> Result<&'f System, Denied> {
    context
        .fabric
        .system(which, context.home())
        .filter(|system| context.covers(&system.tenant))
        .ok_or_else(|| absent(which))
}

/// The system with a name for people, if it is one that can be recorded.
fn sound(context: Context<'_>, mut system: System) -> Result<System, Denied> {
    system.display = or_name(&system.display, &system.name);
    printable("display_name", &system.display)?;
    printable("owner", &system.owner)?;
    for contact in &system.contacts {
        printable("contacts", contact)?;
    }
    let mut violations = Vec::new();
    let mut refuse = |field: &str, reason: String| violations.push(Violation::new(field, reason));
    if system.contacts.len() > MAX_CONTACTS {
        let count = system.contacts.len();
        refuse(
            "contacts",
            format!("are {count}; at most {MAX_CONTACTS} are allowed"),
        );
    }
    if system.contacts.iter().any(String::is_empty) {
        refuse("contacts", "must not be empty".into());
    }
    let happened = [
        ("request_time", Some(system.requested_at)),
        ("live_time", system.live_at),
    ];
    for (field, at) in happened {
        if let Some(at) = at.filter(|at| *at > context.now) {
            refuse(field, format!("is {at}; must not be in the future"));
        }
    }
    let after = [("live_time", system.live_at), ("end_time", system.ends_at)];
    for (field, at) in after {
        if let Some(at) = at.filter(|at| *at < system.requested_at) {
            let requested = system.requested_at;
            refuse(
                field,
                format!("is {at}; must not be before the request time, {requested}"),
            );
        }
    }
    if violations.is_empty() {
        Ok(system)
    } else {
        Err(Denied::Invalid(violations))
    }
}
