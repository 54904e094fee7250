//! Users: who may give what to whom.

use kapok_trust::Subject;

use super::*;
use crate::fabric::{
    fixture::{certificate, grants, serial, tenant, token, user},
    people::Role,
};

fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

/// A fabric with two tenants and the first three people.
fn staffed() -> World {
    let mut world = World::new();
    world.must(authority(1));
    world.must(tenant("finance", None));
    world.must(tenant("tax", Some("finance")));
    world.must(tenant("parks", None));
    world.must(user("user/sys", &["system_administrator"]));
    world.must(user("user/sec", &["security_administrator"]));
    world.must(user("user/aud", &["auditor"]));
    world
}

fn update(whom: &str, grant: &[&str], revoke: &[&str], disabled: Option<bool>) -> Command {
    Command::UpdateUser {
        user: subject(whom),
        grant: grants(grant),
        revoke: grants(revoke),
        disabled,
    }
}

fn delete(whom: &str) -> Command {
    Command::DeleteUser {
        user: subject(whom),
    }
}

fn issue(n: u32, whom: &str) -> Command {
    Command::RecordCertificate {
        certificate: certificate(n, subject(whom)),
        grounds: command::Grounds::Own,
    }
}

#[track_caller]
fn forbidden(answer: &Result<Outcome, Denied>) {
    assert!(
        matches!(answer, Err(Denied::Forbidden { .. })),
        "{answer:?}"
    );
}

#[test]
fn the_last_security_administrator_stays() {
    let mut world = staffed();
    let last = || {
        Err(Denied::LastSecurityAdministrator {
            user: "user/sec".into(),
        })
    };
    assert_eq!(world.submit(None, delete("user/sec")), last());
    let disable = update("user/sec", &[], &[], Some(true));
    assert_eq!(world.submit(None, disable.clone()), last());
    let demote = update("user/sec", &[], &["security_administrator"], None);
    assert_eq!(world.submit(None, demote), last());
    world.must(user("user/sec-2", &["security_administrator"]));
    world.must(disable);
    // One that is disabled doesn't count.
    let other = world.submit(None, delete("user/sec-2"));
    assert!(matches!(
        other,
        Err(Denied::LastSecurityAdministrator { .. })
    ));
    world.must(delete("user/sec"));
}

#[test]
fn the_three_administrators_are_kept_apart() {
    let mut world = staffed();
    for wrong in [
        &["system_administrator", "auditor"][..],
        &["security_administrator", "tenant_member in parks"],
        &["tenant_member"],
        &["auditor in parks"],
    ] {
        let refused = world.submit(None, user("user/li", wrong));
        assert!(matches!(refused, Err(Denied::Invalid(_))), "{wrong:?}");
    }
    let second = update("user/sys", &["auditor"], &[], None);
    assert!(matches!(
        world.submit(None, second),
        Err(Denied::Invalid(_))
    ));
    // In place of the first it is fine.
    world.must(update(
        "user/sys",
        &["auditor"],
        &["system_administrator"],
        None,
    ));
    let own = update("user/sec", &["auditor"], &["security_administrator"], None);
    forbidden(&world.submit_as(origin("sec"), None, own));
}

#[test]
fn a_tenants_administrator_gives_roles_there_and_nowhere_else() {
    let mut world = staffed();
    let mut by = |command: Command| world.submit_as(member("admin", "finance"), None, command);
    by(user(
        "user/li",
        &["tenant_member in finance", "tenant_administrator in tax"],
    ))
    .unwrap();
    by(update(
        "user/li",
        &["tenant_administrator in finance"],
        &[],
        None,
    ))
    .unwrap();
    forbidden(&by(user("user/wang", &["auditor"])));
    forbidden(&by(update("user/li", &["system_administrator"], &[], None)));
    let absent = |kind, which: &str| {
        Err(Denied::Absent {
            kind,
            which: which.into(),
        })
    };
    for tenant in ["parks", "city", "none"] {
        let role = format!("tenant_member in {tenant}");
        assert_eq!(by(user("user/wang", &[&role])), absent("tenant", tenant));
        assert_eq!(
            by(update("user/li", &[&role], &[], None)),
            absent("tenant", tenant)
        );
    }
    assert!(matches!(
        by(user("user/wang", &[])),
        Err(Denied::Invalid(_))
    ));
    // Whoever has nothing there isn't there: to change, to speak for, to remove.
    for whom in ["user/sec", "user/none"] {
        let grant = ["tenant_member in finance"];
        assert_eq!(by(update(whom, &grant, &[], None)), absent("user", whom));
        assert_eq!(by(token(1, whom)), absent("user", whom));
        assert_eq!(by(delete(whom)), absent("user", whom));
    }
}

/// Who speaks for somebody has all that they have: a tenant's administrator speaks only for those
/// who are wholly theirs.
#[test]
fn somebody_of_two_tenants_is_neithers_to_speak_for() {
    let mut world = staffed();
    world.must(user(
        "user/li",
        &["tenant_member in finance", "tenant_administrator in parks"],
    ));
    let own = issue(1, "user/li");
    world.submit_as(Origin::controller(), None, own).unwrap();
    let mut by = |command: Command| world.submit_as(member("admin", "finance"), None, command);
    forbidden(&by(token(1, "user/li")));
    forbidden(&by(update("user/li", &[], &[], Some(true))));
    forbidden(&by(delete("user/li")));
    let revoke = Command::RevokeCertificate {
        serial: serial(1),
        reason: String::new(),
    };
    assert!(matches!(by(revoke), Err(Denied::Absent { .. })));
    by(update("user/li", &[], &["tenant_member in finance"], None)).unwrap();
    assert!(world.fabric.users[&subject("user/li")].has(Role::TenantAdministrator));
}

#[test]
fn who_is_disabled_or_removed_proves_nothing_any_more() {
    let mut world = staffed();
    let own = |world: &mut World, n, whom: &str| {
        world.submit_as(Origin::controller(), None, issue(n, whom))
    };
    world.must(user("machine/ci", &["tenant_member in parks"]));
    own(&mut world, 1, "machine/ci").unwrap();
    own(&mut world, 2, "user/aud").unwrap();
    world.must(update("machine/ci", &[], &[], Some(true)));
    let now = world.env.now();
    assert!(!world.fabric.certificates[&serial(1)].is_live(now));
    assert!(world.fabric.certificates[&serial(2)].is_live(now));
    let disabled = Err(Denied::Disabled {
        user: "machine/ci".into(),
    });
    assert_eq!(own(&mut world, 3, "machine/ci"), disabled);
    assert_eq!(world.submit(None, token(1, "machine/ci")), disabled);
    world.must(update("machine/ci", &[], &[], Some(false)));
    world.must(token(2, "machine/ci"));
    own(&mut world, 4, "machine/ci").unwrap();
    world.must(delete("machine/ci"));
    assert!(!world.fabric.certificates[&serial(4)].is_live(now));
    assert!(world.fabric.tokens.is_empty());
    assert!(matches!(
        own(&mut world, 5, "machine/ci"),
        Err(Denied::Absent { .. })
    ));
    // The same name again is somebody new; the old proofs stay dead.
    world.must(user("machine/ci", &["auditor"]));
    assert_eq!(
        world
            .fabric
            .certificates_of(&subject("machine/ci"))
            .filter(|one| one.is_live(now))
            .count(),
        0
    );
}

#[test]
fn one_person_of_the_identity_provider_is_one_user() {
    let mut world = staffed();
    let external = External {
        issuer: "https://id.example".into(),
        subject: "4711".into(),
    };
    let create = |whom: &str| Command::CreateUser {
        subject: subject(whom),
        display: "李伟".into(),
        grants: grants(&["auditor"]),
        external: Some(external.clone()),
    };
    world.must(create("user/li"));
    let second = world.submit(None, create("user/wang"));
    assert!(matches!(second, Err(Denied::Exists { .. })));
    let login = |n, whom: &str| Command::RecordCertificate {
        certificate: certificate(n, subject(whom)),
        grounds: command::Grounds::External(external.clone()),
    };
    world.must(login(1, "user/li"));
    let other = world.submit(None, login(2, "user/sec"));
    assert!(matches!(other, Err(Denied::Absent { .. })));
}

#[test]
fn home_is_the_only_tenant_or_the_city() {
    let home = |roles: &[&str]| {
        let mut world = staffed();
        world.must(user("user/li", roles));
        world.fabric.users[&subject("user/li")].home().to_string()
    };
    assert_eq!(home(&["tenant_member in tax"]), "tax");
    assert_eq!(
        home(&["tenant_member in tax", "tenant_administrator in tax"]),
        "tax"
    );
    assert_eq!(
        home(&["tenant_member in tax", "tenant_member in parks"]),
        "city"
    );
    assert_eq!(home(&["auditor"]), "city");
}
