//! Flavors: sizes that instances are made of and keep.

use super::*;
use crate::fabric::fixture::{flavor, tenant};

/// A wish for an instance of a flavor.
pub(super) fn of(flavor: &str, name: &str) -> CreateInstance {
    CreateInstance {
        flavor: Some(flavor.parse().unwrap()),
        vcpus: Vcpus::ZERO,
        memory: MemoryMib::ZERO,
        ..create(name)
    }
}

/// A step of a random history with one flavor.
pub(super) fn step(name: &str, how: u8) -> Command {
    match how {
        0 | 1 => flavor(name, &[]),
        2 => update(name, &[FlavorChange::Vcpus(Vcpus(1))]),
        _ => Command::DeleteFlavor {
            flavor: name.parse().unwrap(),
            etag: String::new(),
        },
    }
}

fn update(name: &str, changes: &[FlavorChange]) -> Command {
    Command::UpdateFlavor {
        flavor: name.parse().unwrap(),
        changes: changes.to_vec(),
        etag: String::new(),
    }
}

fn fields(refused: Result<Outcome, Denied>) -> Vec<String> {
    let Err(Denied::Invalid(violations)) = refused else {
        panic!("{refused:?}");
    };
    violations.into_iter().map(|one| one.field).collect()
}

#[test]
fn an_instance_keeps_its_numbers_whatever_becomes_of_the_flavor() {
    let mut world = World::with_nodes(1);
    world.must(flavor("small", &[]));
    world.must(Command::CreateInstance(of("small", "web")));
    let numbers = |world: &World| {
        let Instance { flavor, spec, .. } = world.instance("web");
        let flavor = flavor.as_ref().map(ToString::to_string);
        (flavor, spec.vcpus, spec.memory, spec.root.size)
    };
    let kept = (
        Some("small".to_owned()),
        Vcpus(2),
        MemoryMib(1024),
        Bytes(GIB),
    );
    assert_eq!(numbers(&world), kept);
    world.must(update("small", &[FlavorChange::Vcpus(Vcpus(4))]));
    assert_eq!(numbers(&world), kept);
    world.must(Command::DeleteFlavor {
        flavor: "small".parse().unwrap(),
        etag: String::new(),
    });
    assert_eq!(numbers(&world), kept);
    let again = world.submit(None, Command::CreateInstance(of("small", "db")));
    let absent = Denied::Absent {
        kind: "flavor",
        which: "small".into(),
    };
    assert_eq!(again, Err(absent));
}

#[test]
fn no_number_is_stated_twice() {
    let mut world = World::with_nodes(1);
    world.must(flavor("open", &[]));
    world.must(flavor("whole", &[]));
    world.must(update(
        "whole",
        &[FlavorChange::RootDisk(Some(Bytes(2 * GIB)))],
    ));
    let twice = CreateInstance {
        vcpus: Vcpus(1),
        memory: MemoryMib(512),
        root_disk: Some(Bytes(3 * GIB)),
        ..of("whole", "web")
    };
    let refused = world.submit(None, Command::CreateInstance(twice));
    assert_eq!(fields(refused), ["vcpus", "memory_mib", "root_disk_bytes"]);
    world.must(Command::CreateInstance(of("whole", "web")));
    assert_eq!(world.instance("web").spec.root.size, Bytes(2 * GIB));
    // A flavor that says nothing of the disk leaves it open.
    let more = CreateInstance {
        root_disk: Some(Bytes(3 * GIB)),
        ..of("open", "db")
    };
    world.must(Command::CreateInstance(more));
    assert_eq!(world.instance("db").spec.root.size, Bytes(3 * GIB));
}

/// FAULTS 25: a flavor of another tenant's is none, in exactly the words of one that isn't there;
/// tenants below see what those above do.
#[test]
fn another_tenants_flavor_is_absent() {
    let mut world = World::with_nodes(1);
    world.must(tenant("finance", None));
    world.must(tenant("tax", Some("finance")));
    world.must(tenant("parks", None));
    world.must(flavor("big", &["finance"]));
    let mut ask = |who: &str, flavor: &str| {
        let wish = Command::CreateInstance(of(flavor, "web"));
        world.submit_as(member("li", who), None, wish)
    };
    let absent = |which: &str| {
        Err(Denied::Absent {
            kind: "flavor",
            which: which.into(),
        })
    };
    assert_eq!(ask("parks", "big"), absent("big"));
    assert_eq!(ask("parks", "none"), absent("none"));
    // Not even somebody who reaches everything makes one for a tenant that may not use it.
    assert!(ask("tax", "big").is_ok());
    let wish = CreateInstance {
        tenant: Some("parks".parse().unwrap()),
        ..of("big", "web")
    };
    let refused = world.submit(None, Command::CreateInstance(wish));
    assert_eq!(refused, absent("big"));
}

/// FAULTS 28: zero, overflowing and out-of-limit numbers, and tenants that aren't there.
#[test]
fn a_flavor_has_an_instances_limits() {
    let mut world = World::with_nodes(1);
    let Command::CreateFlavor(mut wrong) = flavor("small", &[]) else {
        panic!("a flavor");
    };
    wrong.vcpus = Vcpus(0);
    wrong.memory = MemoryMib(u64::MAX);
    wrong.root_disk = Some(Bytes(1));
    let refused = world.submit(None, Command::CreateFlavor(wrong));
    assert_eq!(fields(refused), ["vcpus", "memory_mib", "root_disk_bytes"]);
    let nowhere = world.submit(None, flavor("small", &["moon"]));
    assert!(matches!(
        nowhere,
        Err(Denied::Absent { kind: "tenant", .. })
    ));
    world.must(flavor("small", &[]));
    let taken = world.submit(None, flavor("small", &[]));
    assert!(matches!(taken, Err(Denied::Exists { .. })), "{taken:?}");
    let refused = world.submit(None, update("small", &[FlavorChange::Vcpus(Vcpus(513))]));
    assert_eq!(fields(refused), ["vcpus"]);
    let long = FlavorChange::Description("城".repeat(100));
    assert_eq!(
        fields(world.submit(None, update("small", &[long]))),
        ["description"]
    );
}

#[test]
fn a_flavor_is_the_whole_fabrics_to_change() {
    let mut world = World::with_nodes(1);
    world.must(tenant("finance", None));
    world.must(flavor("small", &["finance"]));
    let delete = Command::DeleteFlavor {
        flavor: "small".parse().unwrap(),
        etag: String::new(),
    };
    let change = update("small", &[FlavorChange::Vcpus(Vcpus(1))]);
    for command in [flavor("own", &["finance"]), change, delete] {
        let refused = world.submit_as(member("li", "finance"), None, command);
        assert!(matches!(refused, Err(Denied::Forbidden { .. })));
    }
}

#[test]
fn a_change_of_nothing_is_none_and_an_old_picture_is_refused() {
    let mut world = World::with_nodes(1);
    world.must(flavor("small", &[]));
    let etag = world.fabric.flavors[&"small".parse::<Name>().unwrap()].etag();
    let before = world.events.len();
    // Naming nobody means everybody.
    let nothing = [
        FlavorChange::Vcpus(Vcpus(2)),
        FlavorChange::VisibleTo([].into()),
    ];
    world.must(update("small", &nothing));
    assert_eq!(world.events.len(), before);
    let with = |etag: &str| Command::UpdateFlavor {
        flavor: "small".parse().unwrap(),
        changes: vec![FlavorChange::Description("小".into())],
        etag: etag.into(),
    };
    world.must(with(&etag));
    let stale = world.submit(None, with(&etag));
    assert!(matches!(
        stale,
        Err(Denied::StaleEtag { kind: "flavor", .. })
    ));
    // A request that says what it always said has the hash that it always had.
    let old = serde_json::to_value(Command::CreateInstance(create("web"))).unwrap();
    assert!(old["create_instance"].get("flavor").is_none(), "{old}");
}
