//! Users: who there is, and what they may do.

use std::collections::BTreeSet;

use kapok_trust::Subject;
use kapok_types::Violation;

use super::{Context, Decision, certificate, or_name, printable, tenant, token};
use crate::fabric::{
    Denied, Event, External, Fabric, Grant, Scope, TokenSubject, User, people::Role,
};

/// Grants that one user may have.
const MAX_GRANTS: usize = 64;

pub(super) fn create(
    context: Context<'_>,
    subject: &Subject,
    display: &str,
    grants: &BTreeSet<Grant>,
    external: Option<&External>,
) -> Result<Decision, Denied> {
    let fabric = context.fabric;
    let Some(name) = subject.person() else {
        return Err(Denied::Invalid(vec![Violation::new(
            "subject",
            "must be user/NAME or machine/NAME",
        )]));
    };
    printable("display_name", display)?;
    may_give(context, grants)?;
    sound(context, grants)?;
    // Nobody is made whom their maker couldn't see.
    if grants.is_empty() && *context.scope() != Scope::Everything {
        return Err(Denied::Invalid(vec![Violation::new(
            "grants",
            "must have at least one role in a tenant",
        )]));
    }
    if fabric.users.contains_key(subject) {
        return Err(Denied::Exists {
            kind: "user",
            name: subject.to_string(),
            but: "",
        });
    }
    if let Some(external) = external {
        printable("external.issuer", &external.issuer)?;
        printable("external.subject", &external.subject)?;
        if let Some(other) = fabric.user_by_external(external) {
            return Err(Denied::Exists {
                kind: "user",
                name: other.subject.to_string(),
                but: " for the same person of the identity provider",
            });
        }
    }
    Ok(Decision::done(vec![Event::UserCreated {
        user: User {
            subject: subject.clone(),
            display: or_name(display, name),
            grants: grants.clone(),
            external: external.cloned(),
            disabled: false,
            created_at: context.now,
            created_by: context.by().clone(),
        },
    }]))
}

pub(super) fn update(
    context: Context<'_>,
    subject: &Subject,
    grant: &BTreeSet<Grant>,
    revoke: &BTreeSet<Grant>,
    disabled: Option<bool>,
) -> Result<Decision, Denied> {
    let before = seen(context, subject)?;
    if *context.by() == subject.into() {
        return Err(Denied::Forbidden {
            reason: "nobody changes what they may do themselves; ask another administrator",
        });
    }
    may_give(context, grant)?;
    may_give(context, revoke)?;
    let mut after = before.clone();
    after.grants.retain(|one| !revoke.contains(one));
    after.grants.extend(grant.iter().cloned());
    sound(context, &after.grants)?;
    if let Some(disabled) = disabled {
        wholly(context, before)?;
        after.disabled = disabled;
    }
    if after == *before {
        return Ok(Decision::done(Vec::new()));
    }
    keeps_security(context.fabric, before, Some(&after))?;
    let mut events = Vec::new();
    if after.disabled {
        events.extend(certificate::revoked(
            context,
            subject,
            "the user is disabled",
        ));
    }
    events.push(Event::UserChanged { user: after });
    Ok(Decision::done(events))
}

pub(super) fn delete(context: Context<'_>, subject: &Subject) -> Result<Decision, Denied> {
    let user = seen(context, subject)?;
    wholly(context, user)?;
    keeps_security(context.fabric, user, None)?;
    let mut events = certificate::revoked(context, subject, "the user was removed");
    if let Some(subject) = token_subject(subject) {
        events.extend(token::taken_back(context, &subject));
    }
    events.push(Event::UserDeleted {
        user: subject.clone(),
    });
    Ok(Decision::done(events))
}

/// A user for whom the caller may speak.
pub(super) fn governed<'s>(
    context: Context<'_>,
    subject: &'s Subject,
) -> Result<&'s Subject, Denied> {
    wholly(context, seen(context, subject)?)?;
    Ok(subject)
}

/// Whether the caller may end what proves somebody.
pub(super) fn is_governed(context: Context<'_>, subject: &Subject) -> bool {
    match (context.scope(), context.fabric.users.get(subject)) {
        (Scope::Everything, _) => true,
        (scope, Some(user)) => scope.governs(context.fabric, user),
        (Scope::Tenants(_), None) => false,
    }
}

/// A user who may do something at present.
pub(super) fn enabled<'f>(fabric: &'f Fabric, subject: &Subject) -> Result<&'f User, Denied> {
    let user = fabric.users.get(subject).ok_or_else(|| absent(subject))?;
    if user.disabled {
        return Err(Denied::Disabled {
            user: subject.to_string(),
        });
    }
    Ok(user)
}

fn seen<'f>(context: Context<'f>, subject: &Subject) -> Result<&'f User, Denied> {
    let fabric = context.fabric;
    fabric
        .users
        .get(subject)
        .filter(|user| context.scope().sees(fabric, user))
        .ok_or_else(|| absent(subject))
}

/// Refuses a change of somebody who has roles that the caller doesn't reach.
fn wholly(context: Context<'_>, user: &User) -> Result<(), Denied> {
    if context.scope().governs(context.fabric, user) {
        return Ok(());
    }
    Err(Denied::Forbidden {
        reason: "the user has roles that the caller doesn't reach; take away those in reach \
                 instead",
    })
}

/// Refuses roles that the caller may neither give nor take.
fn may_give(context: Context<'_>, grants: &BTreeSet<Grant>) -> Result<(), Denied> {
    for grant in grants {
        match &grant.tenant {
            Some(tenant) => drop(tenant::known(context, tenant)?),
            None if *context.scope() == Scope::Everything => {}
            None => {
                return Err(Denied::Forbidden {
                    reason: "the fabric's roles are given by its security administrators",
                });
            }
        }
    }
    Ok(())
}

/// Refuses what doesn't go together. The fabric's roles are kept apart: who has one has nothing
/// else.
fn sound(context: Context<'_>, grants: &BTreeSet<Grant>) -> Result<(), Denied> {
    let refused = |reason: String| Err(Denied::Invalid(vec![Violation::new("grants", reason)]));
    if grants.len() > MAX_GRANTS {
        return refused(format!(
            "are {}; at most {MAX_GRANTS} are allowed",
            grants.len()
        ));
    }
    for grant in grants {
        let role = grant.role.as_str();
        match (&grant.tenant, grant.role.is_tenants()) {
            (None, true) => return refused(format!("{role} needs a tenant")),
            (Some(_), false) => return refused(format!("{role} has no tenant")),
            (None, false) if grants.len() > 1 => {
                return refused(format!(
                    "{role} is kept apart from every other role; give them to somebody else"
                ));
            }
            (Some(tenant), true) if !context.fabric.tenants.contains_key(tenant) => {
                return Err(tenant::absent(tenant));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses to leave the fabric without anybody who can give roles.
fn keeps_security(fabric: &Fabric, before: &User, after: Option<&User>) -> Result<(), Denied> {
    let secures = |user: &User| user.has(Role::SecurityAdministrator) && !user.disabled;
    let stays = after.is_some_and(secures);
    let others = || {
        let mut others = fabric.users.values();
        others.any(|other| other.subject != before.subject && secures(other))
    };
    if secures(before) && !stays && !others() {
        return Err(Denied::LastSecurityAdministrator {
            user: before.subject.to_string(),
        });
    }
    Ok(())
}

fn absent(subject: &Subject) -> Denied {
    Denied::Absent {
        kind: "user",
        which: subject.to_string(),
    }
}

fn token_subject(subject: &Subject) -> Option<TokenSubject> {
    match subject {
        Subject::User(name) => Some(TokenSubject::User(name.clone())),
        Subject::Machine(name) => Some(TokenSubject::Machine(name.clone())),
        Subject::Node(_) | Subject::Controller(_) => None,
    }
}
