//! Tenants: made, changed and removed; and what their state keeps from happening in them.

use kapok_types::{Name, Violation};

use super::{Context, Decision, fresh, or_name, printable, quota};
use crate::fabric::{
    Denied, Dimension, Event, Fabric, Tenant, TenantChange, city,
    quota::MAX_AMOUNT,
    system::default_system,
    tenant::{self, MAX_DEPTH, State},
};

/// Contacts that one tenant has at most.
const MAX_CONTACTS: usize = 16;

pub(super) fn create(
    context: Context<'_>,
    name: &Name,
    display: &str,
    parent: Option<&Name>,
    contacts: &[String],
) -> Result<Decision, Denied> {
    let fabric = context.fabric;
    let parent = parent.cloned().unwrap_or_else(city);
    known(context, &parent)?;
    if fabric.tenants.contains_key(name) {
        return Err(Denied::Exists {
            kind: "tenant",
            name: name.to_string(),
            but: "",
        });
    }
    takes_new(context, &parent)?;
    if fabric.upwards(&parent).count() >= MAX_DEPTH {
        return Err(Denied::Invalid(vec![Violation::new(
            "parent",
            format!("is {MAX_DEPTH} tenants deep already; nothing can be below it"),
        )]));
    }
    let tenant = Tenant {
        contacts: contacts.to_vec(),
        ..Tenant::new(name.clone(), or_name(display, name), Some(parent))
    };
    sound(&tenant)?;
    Ok(Decision::done(vec![Event::TenantCreated { tenant }]))
}

pub(super) fn update(
    context: Context<'_>,
    name: &Name,
    changes: &[TenantChange],
    etag: &str,
) -> Result<Decision, Denied> {
    let before = known(context, name)?;
    if changes.iter().any(TenantChange::is_from_above) {
        from_above(context, before)?;
    }
    fresh("tenant", &before.etag(), etag)?;
    let after = changes.iter().fold(before.clone(), Tenant::with);
    sound(&after)?;
    if after.reserved != before.reserved {
        quota::reserve(context, before, after.reserved)?;
    }
    let mut events = Vec::new();
    let tenant = || name.clone();
    if after.display != before.display || after.contacts != before.contacts {
        events.push(Event::TenantUpdated {
            tenant: tenant(),
            display: after.display,
            contacts: after.contacts,
        });
    }
    if after.quota != before.quota || after.reserved != before.reserved {
        events.push(Event::TenantQuotaSet {
            tenant: tenant(),
            quota: after.quota,
            reserved: after.reserved,
        });
    }
    if after.isolation != before.isolation {
        events.push(Event::TenantIsolationSet {
            tenant: tenant(),
            isolation: after.isolation,
        });
    }
    if after.state != before.state {
        events.push(Event::TenantStateChanged {
            tenant: tenant(),
            state: after.state,
        });
    }
    Ok(Decision::done(events))
}

pub(super) fn delete(context: Context<'_>, name: &Name, etag: &str) -> Result<Decision, Denied> {
    let tenant = known(context, name)?;
    let Some(parent) = tenant.parent.clone() else {
        return Err(Denied::Forbidden {
            reason: "the root of the tenants stays",
        });
    };
    from_above(context, tenant)?;
    fresh("tenant", &tenant.etag(), etag)?;
    empty(context.fabric, name)?;
    let mut events = Vec::new();
    // It came with the first instance, and goes with the tenant.
    if context.fabric.systems.contains_key(&default(name)) {
        let (tenant, name) = default(name);
        events.push(Event::SystemRemoved { tenant, name });
    }
    let tenant = name.clone();
    events.push(Event::TenantDeleted { tenant, parent });
    Ok(Decision::done(events))
}

/// Refuses something new in a tenant that isn't active, or below one that isn't.
pub(super) fn takes_new(context: Context<'_>, tenant: &Name) -> Result<(), Denied> {
    let refused = "nothing new can be made in it";
    not_while(context, tenant, refused, |state| !state.is_active())
}

/// Refuses to turn something on in a tenant that is suspended, or below one that is.
pub(super) fn may_start(context: Context<'_>, tenant: &Name) -> Result<(), Denied> {
    let refused = "nothing can be turned on in it";
    not_while(context, tenant, refused, |state| state == State::Suspended)
}

/// A tenant that the caller may speak of. One that is out of reach is refused as one that isn't
/// there.
pub(super) fn known<'f>(context: Context<'f>, name: &Name) -> Result<&'f Tenant, Denied> {
    let tenant = context.fabric.tenants.get(name);
    tenant
        .filter(|tenant| context.covers(&tenant.name))
        .ok_or_else(|| absent(name))
}

/// A tenant that isn't there.
pub(super) fn absent(name: &Name) -> Denied {
    Denied::Absent {
        kind: "tenant",
        which: name.to_string(),
    }
}

fn not_while(
    context: Context<'_>,
    tenant: &Name,
    refused: &'static str,
    is_kept: impl Fn(State) -> bool,
) -> Result<(), Denied> {
    // Whoever is below a tenant may know its name and its state.
    let mut path = tenant::upwards(&context.fabric.tenants, tenant);
    match path.find(|tenant| is_kept(tenant.state)) {
        None => Ok(()),
        Some(keeping) => Err(Denied::TenantState {
            tenant: keeping.name.clone(),
            state: keeping.state,
            refused,
        }),
    }
}

/// Refuses whoever doesn't reach the tenant above one: how much a tenant may have and whether it
/// may do anything is never its own to say.
fn from_above(context: Context<'_>, tenant: &Tenant) -> Result<(), Denied> {
    match &tenant.parent {
        None => context.whole_fabric(),
        Some(parent) if context.covers(parent) => Ok(()),
        Some(_) => Err(Denied::Forbidden {
            reason: "a tenant's state, quota and reservation are set from above it, and so is it \
                     removed",
        }),
    }
}

/// Refuses what no tenant can be (FAULTS 28).
fn sound(tenant: &Tenant) -> Result<(), Denied> {
    printable("display_name", &tenant.display)?;
    let mut violations = Vec::new();
    let mut refuse = |field: String, reason: String| violations.push(Violation::new(field, reason));
    let contacts = tenant.contacts.len();
    if contacts > MAX_CONTACTS {
        let reason = format!("are {contacts}; at most {MAX_CONTACTS} are allowed");
        refuse("contacts".into(), reason);
    }
    if tenant.contacts.iter().any(String::is_empty) {
        refuse("contacts".into(), "must not be empty".into());
    }
    if tenant.parent.is_none() && !tenant.state.is_active() {
        refuse("state".into(), "must be active: it is the root".into());
    }
    if tenant.parent.is_none() && !tenant.reserved.is_zero() {
        let reason = "must be 0: nothing is above the root that could keep it";
        refuse("reserved".into(), reason.into());
    }
    for dimension in Dimension::ALL {
        let (word, reserved) = (dimension.as_str(), tenant.reserved.get(dimension));
        let limit = tenant.quota.get(dimension);
        for (field, amount) in [("quota", limit), ("reserved", Some(reserved))] {
            if let Some(amount) = amount.filter(|amount| *amount > MAX_AMOUNT) {
                let reason = format!("is {amount}; must be 0 to {MAX_AMOUNT}");
                refuse(format!("{field}.{word}"), reason);
            }
        }
        if let Some(limit) = limit.filter(|limit| reserved > *limit) {
            let [reserved, limit] = [reserved, limit].map(|amount| dimension.amount(amount));
            let reason = format!("is {reserved}; must be at most its own quota, {limit}");
            refuse(format!("reserved.{word}"), reason);
        }
    }
    if !violations.is_empty() {
        return Err(Denied::Invalid(violations));
    }
    let mut contacts = tenant.contacts.iter();
    contacts.try_for_each(|contact| printable("contacts", contact))
}

/// How a tenant's default system is called.
fn default(tenant: &Name) -> (Name, Name) {
    (tenant.clone(), default_system())
}

/// Refuses to remove a tenant in which there is something, or whose name somebody's right hangs
/// on: the next tenant of that name would inherit it.
fn empty(fabric: &Fabric, name: &Name) -> Result<(), Denied> {
    fn none(
        tenant: &Name,
        what: &str,
        mut all: impl Iterator<Item = String>,
    ) -> Result<(), Denied> {
        let Some(such_as) = all.next() else {
            return Ok(());
        };
        Err(Denied::TenantInUse {
            tenant: tenant.clone(),
            has: format!("{} {what}", all.count() + 1),
            such_as,
        })
    }
    let named = |(tenant, called): &(Name, Name)| (tenant == name).then(|| called.to_string());
    let below = fabric.below(name).map(|one| one.name.to_string());
    none(name, "tenants below it", below)?;
    none(
        name,
        "instances",
        fabric.instance_names.keys().filter_map(named),
    )?;
    none(name, "images", fabric.image_names.keys().filter_map(named))?;
    let own = fabric
        .systems
        .keys()
        .filter(|called| **called != default(name));
    none(name, "systems", own.filter_map(named))?;
    none(name, "groups", fabric.groups.keys().filter_map(named))?;
    let users = fabric.users.values();
    let users = users.filter(|user| {
        let mut grants = user.grants.iter();
        grants.any(|grant| grant.tenant.as_ref() == Some(name))
    });
    none(
        name,
        "users with roles in it",
        users.map(|user| user.subject.to_string()),
    )?;
    let flavors = fabric.flavors.values();
    let flavors = flavors.filter(|flavor| flavor.visible_to.contains(name));
    none(
        name,
        "flavors made for it",
        flavors.map(|flavor| flavor.name.to_string()),
    )
}
