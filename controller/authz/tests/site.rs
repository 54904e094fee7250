//! A site's own policies: what they add, and how bad ones are refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{about, directory, user};
use kapok_authz::{Action, Authz, Object, Source, load::Error};

fn with(text: &str) -> Result<Authz, Error> {
    Authz::load([("site.cedar", text)])
}

#[test]
fn a_site_forbids_more_and_the_answer_names_the_policy() {
    let authz = with(
        r#"@id("keep-web")
        forbid (principal, action == Action::"instance.delete", resource)
        when { resource.name like "web*" };"#,
    )
    .unwrap();
    let directory = directory();
    let (who, web) = (
        user("tenant-member"),
        about(Action::InstanceDelete, "water"),
    );
    let decision = authz.decide(&directory, &who, Action::InstanceDelete, &web);
    assert!(!decision.allowed);
    let [policy] = &decision.policies[..] else {
        panic!("{decision:?}")
    };
    assert_eq!(policy.id, "site.cedar:keep-web");
    assert_eq!(policy.source, Source::Site("site.cedar".into()));
    assert!(
        policy.forbids && policy.text.contains("like \"web*\""),
        "{policy:?}"
    );
    assert_eq!(
        decision.summary(&who, Action::InstanceDelete, &web),
        "user/tenant-member may not instance.delete on instance/water/web: \
         forbidden by site.cedar:keep-web"
    );
    assert!(authz.permits(&directory, &who, Action::InstanceStop, &web));
}

#[test]
fn a_site_permits_more_except_what_is_separated() {
    let authz = with("permit (principal, action, resource);").unwrap();
    let directory = directory();
    let may = |who: &str, action: Action| {
        authz.permits(&directory, &user(who), action, &about(action, "parks"))
    };
    assert!(may("nobody", Action::InstanceDelete));
    assert!(may("tenant-member", Action::NodeCordon));
    for action in Action::ALL {
        let word = action.as_str();
        if word.starts_with("audit.") {
            for who in ["system-administrator", "security-administrator", "nobody"] {
                assert!(!may(who, *action), "{who} {action}");
            }
        }
        if ["user.", "token."]
            .iter()
            .any(|kind| word.starts_with(kind))
        {
            assert!(!may("system-administrator", *action), "{action}");
        }
        if ["instance.", "image.", "operation."]
            .iter()
            .any(|kind| word.starts_with(kind))
        {
            assert!(!may("security-administrator", *action), "{action}");
        }
    }
    assert!(!may("auditor", Action::InstanceStop));
    assert!(!may("auditor", Action::UserCreate));
}

/// A tenant that only a policy names still has its place in the tree.
#[test]
fn a_policy_can_ask_about_a_tenant_that_the_object_is_not_in() {
    let authz = with(
        r#"permit (principal, action == Action::"node.list", resource)
        when { Tenant::"pumps" in principal.administers };"#,
    )
    .unwrap();
    let directory = directory();
    let may = |who: &str| authz.permits(&directory, &user(who), Action::NodeList, &Object::Fabric);
    assert!(may("tenant-administrator"));
    assert!(!may("tenant-member"));
}

/// Cedar alone would pass over the forbid and permit.
#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    let authz = with(
        r#"@id("overflows")
        forbid (principal, action == Action::"instance.stop", resource)
        when { 9223372036854775807 + (if resource.name == "web" then 1 else 0) == 0 };"#,
    )
    .unwrap();
    let (who, web) = (user("tenant-member"), about(Action::InstanceStop, "water"));
    let decision = authz.decide(&directory(), &who, Action::InstanceStop, &web);
    assert!(!decision.allowed);
    assert!(decision.failure.unwrap().contains("overflows"));
}

#[test]
fn a_bad_set_is_refused_with_file_policy_and_reason() {
    let good = (
        "good.cedar",
        "permit (principal, action == Action::\"node.list\", resource);",
    );
    let invalid = |text: &str| {
        let refused = Authz::load([good, ("bad.cedar", text)]).unwrap_err();
        match refused {
            Error::Invalid {
                file,
                policy,
                reason,
            } => {
                assert_eq!(file, "bad.cedar");
                assert!(!reason.contains('\n'), "{reason}");
                (policy, reason)
            }
            other => panic!("{other}"),
        }
    };
    let (policy, reason) = invalid(
        "permit (principal, action == Action::\"node.list\", resource);\n\
         forbid (principal, action == Action::\"node.explode\", resource);",
    );
    assert_eq!(policy, "bad.cedar#2");
    assert!(reason.contains("node.explode"), "{reason}");

    let (policy, reason) = invalid(
        "@id(\"typo\") forbid (principal, action == Action::\"instance.delete\", resource)\n\
         when { resource.nam like \"web*\" };",
    );
    assert_eq!(policy, "bad.cedar:typo");
    assert!(reason.contains("nam"), "{reason}");

    // Never true: an action about instances is never about a node.
    let (_, reason) = invalid(
        "forbid (principal, action == Action::\"instance.delete\", resource) when { resource is Node };",
    );
    assert!(!reason.is_empty());

    let (_, reason) = invalid(
        "@id(\"a\") permit (principal, action == Action::\"node.list\", resource);\n\
         @id(\"a\") permit (principal, action == Action::\"node.list\", resource);",
    );
    assert!(reason.contains("another one"), "{reason}");

    for text in [
        "permit (principal,",
        "permit (principal == ?principal, action, resource);",
    ] {
        let refused = Authz::load([good, ("bad.cedar", text)]).unwrap_err();
        assert!(
            matches!(&refused, Error::Syntax { file, .. } if file == "bad.cedar"),
            "{refused}"
        );
    }
    let long = " ".repeat(kapok_authz::load::MAX_FILE_BYTES + 1);
    let refused = with(&long).unwrap_err();
    assert!(matches!(refused, Error::TooLong { .. }));
    let many = "permit (principal, action == Action::\"node.list\", resource);\n".repeat(1001);
    assert!(matches!(with(&many), Err(Error::TooMany { count: 1001 })));
}

/// A built-in policy's place can't be taken.
#[test]
fn a_site_policy_with_a_built_ins_id_is_another_one() {
    let authz = with("@id(\"disabled\") permit (principal, action, resource);").unwrap();
    let ids: Vec<&str> = authz.policies().map(|policy| policy.id.as_str()).collect();
    assert!(ids.contains(&"disabled") && ids.contains(&"site.cedar:disabled"));
}
