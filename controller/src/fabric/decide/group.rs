//! Groups: made, and removed when they are empty. Whom they have, their members' creation says.

use std::collections::BTreeSet;

use kapok_types::{Name, Violation};

use super::{Context, Decision, instance, tenant};
use crate::fabric::{Denied, Event, Group, command::CreateGroup, group::MAX_GROUPS};

pub(super) fn create(context: Context<'_>, create: &CreateGroup) -> Result<Decision, Denied> {
    let tenant = instance::tenant(context, create.tenant.as_ref())?;
    let called = (tenant.clone(), create.name.clone());
    if context.fabric.groups.contains_key(&called) {
        return Err(Denied::Exists {
            kind: "group",
            name: create.name.to_string(),
            but: "",
        });
    }
    tenant::takes_new(context, tenant)?;
    let (tenant, name) = called;
    let group = Group {
        tenant,
        name,
        kind: create.kind,
        domain: create.domain,
        strict: create.strict,
        created_at: context.now,
        created_by: context.by().clone(),
    };
    Ok(Decision::done(vec![Event::GroupCreated { group }]))
}

pub(super) fn delete(context: Context<'_>, which: &str) -> Result<Decision, Denied> {
    let group = context
        .fabric
        .group(which, context.home())
        .filter(|group| context.covers(&group.tenant))
        .ok_or_else(|| absent(which))?;
    let mut members = context.fabric.members_of(group);
    if let Some(first) = members.next() {
        return Err(Denied::GroupInUse {
            name: group.name.to_string(),
            instances: 1 + members.count(),
            such_as: first.name.to_string(),
        });
    }
    Ok(Decision::done(vec![Event::GroupRemoved {
        tenant: group.tenant.clone(),
        name: group.name.clone(),
    }]))
}

/// Refuses groups that a tenant doesn't have, and too many of them.
pub(super) fn check(
    context: Context<'_>,
    tenant: &Name,
    groups: &BTreeSet<Name>,
) -> Result<(), Denied> {
    if groups.len() > MAX_GROUPS {
        let reason = format!("are {}; at most {MAX_GROUPS} are allowed", groups.len());
        return Err(Denied::Invalid(vec![Violation::new("groups", reason)]));
    }
    let all = &context.fabric.groups;
    let missing = groups
        .iter()
        .find(|name| !all.contains_key(&(tenant.clone(), (*name).clone())));
    missing.map_or(Ok(()), |name| Err(absent(name.as_str())))
}

fn absent(which: &str) -> Denied {
    Denied::Absent {
        kind: "group",
        which: which.to_owned(),
    }
}
