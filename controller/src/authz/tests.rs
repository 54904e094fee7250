//! The directory follows the fabric, and bad policies change nothing.

use std::fs;

use super::*;
use crate::fabric::{Actor, Grant};

fn user(name: &str, grants: &[(people::Role, Option<&str>)]) -> people::User {
    let grants = grants.iter().map(|(role, tenant)| Grant {
        role: *role,
        tenant: tenant.map(|tenant| tenant.parse().unwrap()),
    });
    people::User {
        subject: Subject::User(name.parse().unwrap()),
        display: name.into(),
        grants: grants.collect(),
        external: None,
        disabled: false,
        created_at: kapok_types::Timestamp(0),
        created_by: Actor::controller(),
    }
}

fn with(fabric: &mut Fabric, user: people::User) {
    fabric.users.insert(user.subject.clone(), user);
}

fn may(access: &Access, fabric: &Fabric, action: Action) -> bool {
    let li = Principal::User("li".parse().unwrap());
    let city = about::tenant(&crate::fabric::city());
    let object = if access.is_about(action, &city) {
        city
    } else {
        Object::Fabric
    };
    access.decide(fabric, &li, action, &object).allowed
}

/// Built when people or tenants change, and by nothing else.
#[test]
fn the_directory_is_built_once_per_change() {
    let access = Access::load(None).unwrap();
    let mut fabric = Fabric::default();
    with(
        &mut fabric,
        user("li", &[(people::Role::SystemAdministrator, None)]),
    );
    for _ in 0..100 {
        assert!(may(&access, &fabric, Action::InstanceCreate));
        // Another snapshot of the same people.
        fabric = fabric.clone();
        fabric
            .revoked
            .insert(kapok_trust::Serial::new(&*kapok_types::env::System::new()));
    }
    assert_eq!(access.cache.builds(), 1);
    with(&mut fabric, user("li", &[(people::Role::Auditor, None)]));
    assert!(!may(&access, &fabric, Action::InstanceCreate));
    assert!(may(&access, &fabric, Action::AuditRead));
    assert_eq!(access.cache.builds(), 2);
}

#[test]
fn a_bad_set_of_policies_is_refused_and_the_old_one_stays() {
    let access = Access::load(None).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut fabric = Fabric::default();
    with(
        &mut fabric,
        user("li", &[(people::Role::SystemAdministrator, None)]),
    );
    let put = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();

    put(
        "10-freeze.cedar",
        "forbid (principal, action == Action::\"instance.create\", resource);",
    );
    put("README", "not a policy");
    assert_eq!(access.reload(Some(directory.path())).unwrap(), 1);
    assert!(!may(&access, &fabric, Action::InstanceCreate));

    put(
        "20-typo.cedar",
        "permit (principal, action == Action::\"instance.creat\", resource);",
    );
    let refused = access
        .reload(Some(directory.path()))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("20-typo.cedar") && refused.contains("instance.creat"),
        "{refused}"
    );
    assert!(
        !may(&access, &fabric, Action::InstanceCreate),
        "the old set stays"
    );

    put(
        "20-typo.cedar",
        &" ".repeat(kapok_authz::load::MAX_FILE_BYTES + 1),
    );
    assert!(access.reload(Some(directory.path())).is_err());
    let absent = directory.path().join("absent");
    assert!(matches!(
        access.reload(Some(&absent)),
        Err(Error::Read { .. })
    ));
    assert!(matches!(
        Access::load(Some(&absent)),
        Err(Error::Read { .. })
    ));

    fs::remove_file(directory.path().join("20-typo.cedar")).unwrap();
    fs::remove_file(directory.path().join("10-freeze.cedar")).unwrap();
    assert_eq!(access.reload(Some(directory.path())).unwrap(), 0);
    assert!(may(&access, &fabric, Action::InstanceCreate));
}
