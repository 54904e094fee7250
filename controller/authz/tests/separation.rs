//! Who may do what, as one table; and what no mix of roles crosses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fmt::Write as _;

use common::{about, called, directory, holding, tenants, user};
use kapok_authz::{Action, Authz, Directory, Object, Role};

/// Where an object lies, seen from "water".
const PLACES: [&str; 4] = ["water", "pumps", "parks", "city"];

/// Role × action. `+` is permitted, `-` isn't; for tenants' objects four signs: in the own tenant,
/// below it, in another one, above it.
#[test]
fn the_roles_are_these() {
    let authz = Authz::built_in().unwrap();
    let directory = directory();
    let short = ["system", "security", "auditor", "tenant-ad", "member"];
    let mut table = format!("{:20}", "");
    for role in short {
        write!(table, "{role:10}").unwrap();
    }
    table.push_str("nobody\n");
    let who = Role::ALL.map(called);
    for action in Action::ALL {
        write!(table, "{action:20}").unwrap();
        for who in who.iter().chain([&user("nobody")]) {
            let signs: String = PLACES
                .iter()
                .map(|place| about(*action, place))
                .map(|object| {
                    let decision = authz.decide(&directory, who, *action, &object);
                    assert_eq!(decision.failure, None, "{action} on {object}");
                    if decision.allowed { '+' } else { '-' }
                })
                .collect();
            let alike = about(*action, "water") == about(*action, "parks");
            let signs = if alike { &signs[..1] } else { &signs };
            write!(table, "{signs:10}").unwrap();
        }
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}

/// All sets of grants in one tenant: whoever may change what one administrator guards may not
/// change what another does.
#[test]
fn no_mix_of_roles_crosses_the_separation() {
    let authz = Authz::built_in().unwrap();
    for mix in 0_u8..32 {
        let held: Vec<(Role, &str)> = Role::ALL
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| mix & (1 << bit) != 0)
            .map(|(_, role)| (role, "city"))
            .collect();
        let all = [
            holding(user("mixed"), &held),
            holding(user("nobody"), &[]),
            holding(user("tenant-member"), &[(Role::TenantMember, "water")]),
            holding(user("other"), &[(Role::TenantMember, "parks")]),
        ];
        let directory = Directory::build(tenants(), all);
        let may = |wanted: &[&str]| {
            Action::ALL.iter().any(|action| {
                let word = action.as_str();
                wanted.iter().any(|prefix| word.starts_with(prefix))
                    && authz.permits(
                        &directory,
                        &user("mixed"),
                        *action,
                        &about(*action, "water"),
                    )
            })
        };
        let has = |role: Role| held.iter().any(|(held, _)| *held == role);
        let people = may(&[
            "user.",
            "token.",
            "certificate.list",
            "certificate.revoke",
            "authority.",
        ]);
        let fabrics_people = may(&[
            "user.create",
            "token.create",
            "certificate.revoke",
            "authority.rotate",
        ]);
        let guests = may(&["instance.", "system.", "group.", "image.", "operation."]);
        let guests_change = may(&[
            "instance.create",
            "instance.st",
            "instance.re",
            "instance.update",
            "instance.delete",
            "instance.console",
            "group.create",
            "group.delete",
            "system.create",
            "system.update",
            "system.delete",
            "image.import",
            "image.delete",
            "operation.cancel",
        ]);
        let nodes_change = may(&[
            "node.cordon",
            "node.update",
            "node.delete",
            "node.token.create",
            "tenant.isolate",
        ]);
        let audit = may(&["audit."]);
        let changes = guests_change || nodes_change || fabrics_people;

        if has(Role::SystemAdministrator) {
            assert!(!people && !audit, "{held:?}");
        }
        if has(Role::SecurityAdministrator) {
            assert!(!guests && !nodes_change && !audit, "{held:?}");
        }
        if has(Role::Auditor) {
            assert!(!changes, "{held:?}");
        }
        assert!(!(fabrics_people && (guests || nodes_change)), "{held:?}");
        assert!(!(audit && changes), "{held:?}");
    }
}

/// Whoever gives roles can't give themselves one.
#[test]
fn nobody_changes_their_own_roles() {
    let authz = Authz::built_in().unwrap();
    let directory = directory();
    for role in Role::ALL {
        let who = called(role);
        for to in Role::ALL {
            let own = Object::Grant {
                user: who.clone(),
                role: to,
                tenant: to.is_tenants().then(|| common::name("water")),
            };
            assert!(!authz.permits(&directory, &who, Action::UserGrant, &own));
        }
        for action in [Action::UserUpdate, Action::UserDelete] {
            assert!(!authz.permits(&directory, &who, action, &Object::User(who.clone())));
        }
    }
}

/// A tenant's administrator gives their tenant's roles, inside it, and no role of the fabric's.
#[test]
fn a_tenants_administrator_grants_inside_it_alone() {
    let authz = Authz::built_in().unwrap();
    let directory = directory();
    let may = |role: Role, tenant: Option<&str>| {
        let grant = Object::Grant {
            user: user("nobody"),
            role,
            tenant: tenant.map(common::name),
        };
        authz.permits(
            &directory,
            &user("tenant-administrator"),
            Action::UserGrant,
            &grant,
        )
    };
    assert!(may(Role::TenantMember, Some("water")));
    assert!(may(Role::TenantAdministrator, Some("pumps")));
    assert!(!may(Role::TenantMember, Some("parks")));
    assert!(!may(Role::TenantMember, Some("city")));
    for role in [
        Role::SystemAdministrator,
        Role::SecurityAdministrator,
        Role::Auditor,
    ] {
        assert!(!may(role, None));
    }
}

#[test]
fn who_is_disabled_or_unknown_may_nothing() {
    let authz = Authz::built_in().unwrap();
    let mut gone = holding(user("gone"), &[(Role::SystemAdministrator, "")]);
    gone.disabled = true;
    let directory = Directory::build(tenants(), [gone]);
    for action in Action::ALL {
        let object = about(*action, "water");
        let decision = authz.decide(&directory, &user("gone"), *action, &object);
        assert!(!decision.allowed);
        let ids: Vec<&str> = decision.policies.iter().map(|p| p.id.as_str()).collect();
        assert!(ids.contains(&"disabled"), "{ids:?}");
        let unknown = authz.decide(&directory, &user("stranger"), *action, &object);
        assert!(!unknown.allowed && unknown.failure.is_some());
    }
}
