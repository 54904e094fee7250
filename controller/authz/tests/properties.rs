//! What holds for every fabric, every user and every set of policies.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::Cell;

use common::{TENANTS, about, directory, holding, name, tenants, user};
use kapok_authz::{Action, Authz, Cache, Directory, Object, Principal, Role};
use proptest::prelude::*;

fn tenant() -> impl Strategy<Value = &'static str> {
    prop::sample::select(TENANTS.map(|(tenant, _)| tenant).to_vec())
}

fn roles() -> impl Strategy<Value = Vec<(Role, &'static str)>> {
    prop::collection::vec((prop::sample::select(Role::ALL.to_vec()), tenant()), 0..4)
}

fn action() -> impl Strategy<Value = Action> {
    prop::sample::select(Action::ALL.to_vec())
}

/// A clause in Cedar that the strict validator takes for every action.
fn condition() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec![
        "true".to_owned(),
        "principal is Machine".to_owned(),
        "principal in Role::\"auditor\"".to_owned(),
        "principal.disabled".to_owned(),
        "!principal.administers.isEmpty()".to_owned(),
    ]);
    let placed = tenant().prop_map(|tenant| format!("principal in Tenant::\"{tenant}\""));
    prop_oneof![plain, placed]
}

fn permit() -> impl Strategy<Value = String> {
    (action(), condition()).prop_map(|(action, when)| {
        format!("permit (principal, action == Action::\"{action}\", resource) when {{ {when} }};\n")
    })
}

fn forbid() -> impl Strategy<Value = String> {
    permit().prop_map(|text| text.replacen("permit", "forbid", 1))
}

fn city(held: &[(Role, &'static str)]) -> Directory {
    let machine = Principal::Machine(name("ci"));
    let all = [
        holding(user("asking"), held),
        holding(machine, held),
        holding(user("nobody"), &[]),
        holding(user("tenant-member"), &[(Role::TenantMember, "water")]),
        holding(user("other"), &[(Role::TenantMember, "parks")]),
    ];
    Directory::build(tenants(), all)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Adding a forbid never permits, and adding a permit never forbids.
    #[test]
    fn forbids_only_take_and_permits_only_give(
        held in roles(),
        base in prop::collection::vec(permit(), 0..3),
        more in forbid(),
        given in permit(),
        place in tenant(),
    ) {
        let text = base.concat();
        let before = Authz::load([("a", text.clone())]).unwrap();
        let fewer = Authz::load([("a", format!("{text}{more}"))]).unwrap();
        let wider = Authz::load([("a", format!("{text}{given}"))]).unwrap();
        let directory = city(&held);
        for action in Action::ALL {
            for who in [user("asking"), Principal::Machine(name("ci"))] {
                let object = about(*action, place);
                let may = |authz: &Authz| authz.permits(&directory, &who, *action, &object);
                prop_assert!(may(&before) || !may(&fewer), "{action} with {more}");
                prop_assert!(may(&wider) || !may(&before), "{action} with {given}");
            }
        }
    }

    /// What tenants' roles permit on tenants' objects is about where these are, and nothing else.
    #[test]
    fn tenants_roles_reach_down_and_never_aside(
        held in prop::collection::vec((prop::sample::select(vec![
            Role::TenantAdministrator, Role::TenantMember,
        ]), tenant()), 0..4),
        action in action(),
        place in tenant(),
    ) {
        let authz = Authz::built_in().unwrap();
        let directory = city(&held);
        let object = about(action, place);
        let guests = ["instance.", "system.", "image.", "operation."];
        prop_assume!(guests.iter().any(|kind| action.as_str().starts_with(kind)));
        let covers = |from: &str, to: &str| {
            let mut at = Some(to);
            while let Some(tenant) = at {
                if tenant == from {
                    return true;
                }
                at = TENANTS.iter().find(|(name, _)| *name == tenant).unwrap().1;
            }
            false
        };
        let below = held.iter().any(|(_, tenant)| covers(tenant, place));
        let above = held.iter().any(|(_, tenant)| covers(place, tenant));
        let shared = matches!(action, Action::ImageGet | Action::ImageList);
        let expected = below || (shared && above);
        prop_assert_eq!(authz.permits(&directory, &user("asking"), action, &object), expected);
    }

    /// Whoever may do something with an object may also know of it.
    #[test]
    fn what_may_be_changed_may_be_seen(held in roles(), action in action(), place in tenant()) {
        let authz = Authz::built_in().unwrap();
        let directory = city(&held);
        let object = about(action, place);
        // A tenant's administrator adds people by name whom they can't look up.
        prop_assume!(!matches!(object, Object::Grant { .. }));
        if let Some(seeing) = object.seen_by()
            && authz.permits(&directory, &user("asking"), action, &object)
        {
            prop_assert!(authz.permits(&directory, &user("asking"), seeing, &object));
        }
    }
}

/// Deciding builds nothing: the directory is built once per state.
#[test]
fn decisions_build_no_directory_again() {
    let authz = Authz::built_in().unwrap();
    let cache = Cache::<u64>::default();
    let built = Cell::new(0);
    let of = |version: u64| {
        cache.get(version, || {
            built.set(built.get() + 1);
            directory()
        })
    };
    for _ in 0..100 {
        for action in Action::ALL {
            authz.decide(&of(1), &user("auditor"), *action, &about(*action, "water"));
        }
    }
    assert_eq!((built.get(), cache.builds()), (1, 1));
    of(2);
    of(2);
    assert_eq!((built.get(), cache.builds()), (2, 2));
}

/// The schema's actions and ours are the same, each with the objects that it is about.
#[test]
fn the_schema_has_exactly_these_actions() {
    let authz = Authz::built_in().unwrap();
    let groups: Vec<_> = authz.schema().action_groups().cloned().collect();
    let in_schema = authz
        .schema()
        .actions()
        .filter(|uid| !groups.contains(uid))
        .map(|uid| uid.id().unescaped().to_owned());
    let mut in_schema: Vec<String> = in_schema.collect();
    in_schema.sort();
    let mut ours: Vec<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    ours.sort_unstable();
    assert_eq!(in_schema, ours);
    for action in Action::ALL {
        assert!(
            authz.is_about(*action, &about(*action, "water")),
            "{action}"
        );
    }
    assert!(!authz.is_about(Action::InstanceDelete, &Object::Fabric));
    assert!(!authz.is_about(Action::UserGrant, &Object::User(user("other"))));
}
