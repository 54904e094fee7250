//! Tenants: what of another one's is there, and what isn't.

use super::*;
use crate::fabric::{fixture::tenant, tenant::MAX_DEPTH};

/// The city with finance (and its office tax) and parks below it; "debian" is the city's, and
/// each of the two has an image of its own.
fn city_of_two() -> World {
    let mut world = World::with_nodes(2);
    world.must(tenant("finance", None));
    world.must(tenant("tax", Some("finance")));
    world.must(tenant("parks", None));
    for owner in ["finance", "parks"] {
        let own = image(&format!("{owner}-image"), owner.as_bytes());
        world.submit_as(member("wang", owner), None, own).unwrap();
    }
    world
}

fn create_in(tenant: Option<&str>, name: &str, image: &str) -> Command {
    Command::CreateInstance(CreateInstance {
        tenant: tenant.map(|tenant| tenant.parse().unwrap()),
        image: image.into(),
        ..create(name)
    })
}

fn absent(kind: &'static str, which: &str) -> Result<Outcome, Denied> {
    Err(Denied::Absent {
        kind,
        which: which.into(),
    })
}

#[test]
fn a_name_is_unique_in_its_tenant_alone() {
    let mut world = city_of_two();
    for owner in ["finance", "parks"] {
        let create = || create_in(None, "web", "debian");
        world
            .submit_as(member("wang", owner), None, create())
            .unwrap();
        let again = world.submit_as(member("wang", owner), None, create());
        assert!(matches!(again, Err(Denied::Exists { .. })));
    }
    let home = |tenant: &str| tenant.parse::<Name>().unwrap();
    let of = |which: &str, tenant: &str| {
        let instance = world.fabric.instance(which, &home(tenant))?;
        Some(instance.tenant.to_string())
    };
    assert_eq!(of("web", "finance"), Some("finance".into()));
    assert_eq!(of("web", "parks"), Some("parks".into()));
    assert_eq!(of("parks/web", "finance"), Some("parks".into()));
    assert_eq!(of("web", "city"), None);
}

/// FAULTS 25: another tenant's instance, operation and image are refused in exactly the words of
/// ones that aren't there; nothing tells them apart.
#[test]
fn what_is_anothers_is_absent() {
    let mut world = city_of_two();
    let create = create_in(None, "web", "parks-image");
    let Ok(Outcome::Operation(operation)) = world.submit_as(member("wang", "parks"), None, create)
    else {
        panic!("an operation")
    };
    let id = world.fabric.operations[&operation].instance.to_string();
    let image = world.fabric.image("parks/parks-image", &city()).unwrap();
    let (image, digest) = (image.id.to_string(), image.digest.to_string());
    let before = world.events.len();
    let mut refused = |command: Command| world.submit_as(member("li", "finance"), None, command);
    for which in [&*id, "parks/web", "parks/none", "none/web"] {
        let instance = || which.to_owned();
        for command in [
            Command::StartInstance {
                instance: instance(),
            },
            Command::StopInstance {
                instance: instance(),
            },
            Command::RestartInstance {
                instance: instance(),
            },
            Command::GrantConsole {
                instance: instance(),
            },
            Command::DeleteInstance {
                instance: instance(),
                etag: "wrong".into(),
            },
        ] {
            assert_eq!(refused(command), absent("instance", which));
        }
    }
    for which in [
        &*image,
        &*digest,
        "parks/parks-image",
        "parks-image",
        "parks/none",
    ] {
        let delete = Command::DeleteImage {
            image: which.into(),
        };
        assert_eq!(refused(delete), absent("image", which));
        let create = create_in(None, "mine", which);
        assert_eq!(refused(create), absent("image", which));
    }
    assert_eq!(
        refused(Command::CancelOperation { operation }),
        absent("operation", &operation.to_string())
    );
    for tenant in ["parks", "none", "city"] {
        let create = create_in(Some(tenant), "mine", "debian");
        assert_eq!(refused(create), absent("tenant", tenant));
    }
    assert_eq!(world.events.len(), before, "nothing happened");
}

#[test]
fn a_tenant_reaches_what_is_below_it_and_uses_the_images_above() {
    let mut world = city_of_two();
    let mut by =
        |tenant: &str, command: Command| world.submit_as(member("li", tenant), None, command);
    by("finance", create_in(Some("tax"), "web", "finance-image")).unwrap();
    by("tax", create_in(None, "db", "debian")).unwrap();
    let stop = |instance: &str| Command::StopInstance {
        instance: instance.into(),
    };
    by("finance", stop("tax/db")).unwrap();
    by("tax", stop("web")).unwrap();
    // Up and sideways there is nothing.
    by("finance", create_in(None, "web", "debian")).unwrap();
    assert_eq!(
        by("tax", stop("finance/web")),
        absent("instance", "finance/web")
    );
    // An image of a tenant doesn't serve those above it.
    by("tax", image("tax-image", b"tax")).unwrap();
    let above = by("finance", create_in(None, "new", "tax/tax-image"));
    assert_eq!(above, absent("image", "tax/tax-image"));
    // The nearest of a name counts.
    by("finance", image("debian", b"finance's own")).unwrap();
    let nearest = world
        .fabric
        .image("debian", &"tax".parse().unwrap())
        .unwrap();
    assert_eq!(nearest.tenant.as_str(), "finance");
    let city = world
        .fabric
        .image("city/debian", &"tax".parse().unwrap())
        .unwrap();
    assert_eq!(city.tenant.as_str(), "city");
}

/// Nobody's request id answers somebody else's, even with the same content.
#[test]
fn a_request_id_is_its_askers_own() {
    let mut world = city_of_two();
    let create = || create_in(None, "web", "debian");
    let first = world.submit_as(member("li", "finance"), Some("r1"), create());
    let other = world.submit_as(member("wang", "parks"), Some("r1"), create());
    assert_ne!(first.as_ref().unwrap(), other.as_ref().unwrap());
    let something_else = create_in(None, "db", "debian");
    world
        .submit_as(member("zhao", "parks"), Some("r1"), something_else)
        .unwrap();
    let again = world.submit_as(member("li", "finance"), Some("r1"), create());
    assert_eq!(again, first);
}

/// FAULTS 26: what a tenant may say of an instance names neither a node nor an identity: such a
/// binding can't be edited because no command can carry it.
#[test]
fn no_command_of_a_tenants_carries_a_binding() {
    let instance = || "web".to_owned();
    let commands = [
        Command::CreateInstance(CreateInstance {
            needs: Needs {
                dedicated_cpus: true,
                ..Needs::default()
            },
            ..create("web")
        }),
        Command::StartInstance {
            instance: instance(),
        },
        Command::StopInstance {
            instance: instance(),
        },
        Command::RestartInstance {
            instance: instance(),
        },
        Command::DeleteInstance {
            instance: instance(),
            etag: String::new(),
        },
        Command::GrantConsole {
            instance: instance(),
        },
    ];
    let mut fields = std::collections::BTreeSet::new();
    for command in &commands {
        let value = serde_json::to_value(command).unwrap();
        let (_, body) = value.as_object().unwrap().iter().next().unwrap();
        fields.extend(body.as_object().unwrap().keys().cloned());
    }
    let expected = [
        "etag",
        "image",
        "instance",
        "memory",
        "name",
        "needs",
        "power",
        "root_disk",
        "run_policy",
        "tenant",
        "vcpus",
    ];
    assert_eq!(fields.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn tenants_form_a_tree_with_a_bottom() {
    let mut world = city_of_two();
    let again = world.submit(None, tenant("finance", Some("parks")));
    assert!(matches!(again, Err(Denied::Exists { .. })));
    assert_eq!(
        world.submit(None, tenant("a", Some("none"))),
        absent("tenant", "none")
    );
    let sideways = world.submit_as(member("li", "finance"), None, tenant("a", Some("parks")));
    assert_eq!(sideways, absent("tenant", "parks"));
    world
        .submit_as(
            member("li", "finance"),
            None,
            tenant("t-2", Some("finance")),
        )
        .unwrap();
    for depth in 3..MAX_DEPTH {
        let above = format!("t-{}", depth - 1);
        world.must(tenant(&format!("t-{depth}"), Some(&above)));
    }
    let last = format!("t-{}", MAX_DEPTH - 1);
    let too_deep = world.submit(None, tenant("too-deep", Some(&last)));
    assert!(matches!(too_deep, Err(Denied::Invalid(_))), "{too_deep:?}");
    let bottom: Name = last.parse().unwrap();
    assert!(Scope::Tenants(["finance".parse().unwrap()].into()).covers(&world.fabric, &bottom));
}
