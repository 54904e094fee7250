//! What nodes have beyond amounts, what instances need of it, and what they are given.

use kapok_types::{
    Equipment, Violation,
    equipment::{Cell, Device, PageSize},
};

use super::{flavors::of, *};
use crate::fabric::fixture::{change_tenant, flavor, tenant};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Two threads for dedicated vCPUs, 1 GiB of huge pages, and as many GPUs.
fn with_gpus(count: u8) -> Equipment {
    Equipment {
        cells: vec![Cell {
            id: 0,
            dedicated: vec![2, 3],
            pages: [(PageSize::Mib2, 512)].into(),
        }],
        cpu_features: ["avx2".parse().unwrap()].into(),
        devices: (0..count)
            .map(|n| Device {
                address: format!("0000:65:00.{n}").parse().unwrap(),
                class: name("gpu-a100"),
                cell: Some(0),
            })
            .collect(),
        ..Equipment::default()
    }
}

fn equip(n: u8, has: Equipment) -> Command {
    let mut command = report(n, 4096);
    if let Command::ReportNode { equipment, .. } = &mut command {
        *equipment = Arc::new(has);
    }
    command
}

fn gpus(count: u32) -> Needs {
    Needs {
        devices: [(name("gpu-a100"), count)].into(),
        ..Needs::default()
    }
}

fn needing(called: &str, needs: Needs) -> Command {
    Command::CreateInstance(CreateInstance {
        needs,
        ..create(called)
    })
}

#[track_caller]
fn fields(refused: Result<Outcome, Denied>) -> Vec<String> {
    let Err(Denied::Invalid(violations)) = refused else {
        panic!("{refused:?}");
    };
    violations
        .into_iter()
        .map(|Violation { field, .. }| field)
        .collect()
}

#[test]
fn what_an_agent_says_of_its_equipment_is_known_once_said() {
    let mut world = World::with_nodes(1);
    let equipped = |world: &World| {
        let kinds = world.events.iter().map(Event::kind);
        kinds.filter(|kind| *kind == "node.equipped").count()
    };
    assert_eq!(equipped(&world), 0, "nothing is the same as nothing");
    for _ in 0..3 {
        world.must(equip(1, with_gpus(1)));
        assert_eq!(equipped(&world), 1);
    }
    let known = &world.fabric.nodes[&name("node-1")].equipment;
    assert_eq!(**known, with_gpus(1));
    let placed_by = world.fabric.fleet.node(node_id(1)).unwrap();
    assert_eq!(placed_by.node().equipment, *known);
    world.must(report(1, 4096));
    assert_eq!(equipped(&world), 2);
}

/// A node and a flavor from before there was any of this are written as they were, and read.
#[test]
fn an_old_log_folds() {
    let mut world = World::with_nodes(1);
    world.must(flavor("small", &[]));
    let node = &world.fabric.nodes[&name("node-1")];
    let old = serde_json::to_value(node).unwrap();
    assert_eq!(old.get("equipment"), None);
    assert_eq!(serde_json::from_value::<Node>(old).unwrap(), *node);
    let flavor = &world.fabric.flavors[&name("small")];
    let old = serde_json::to_value(flavor).unwrap();
    assert_eq!(old.get("needs"), None);
    assert_eq!(serde_json::from_value::<Flavor>(old).unwrap(), *flavor);
    let create = serde_json::to_value(create("web")).unwrap();
    assert_eq!(
        create.get("needs"),
        None,
        "a request from before hashes alike"
    );
}

#[test]
fn what_is_given_is_claimed_and_told_to_the_agent() {
    let mut world = World::with_nodes(2);
    world.must(equip(2, with_gpus(1)));
    let needs = Needs {
        dedicated_cpus: true,
        huge_pages: Some(PageSize::Mib2),
        cpu_features: ["avx2".parse().unwrap()].into(),
        ..gpus(1)
    };
    world.must(needing("web", needs.clone()));
    let instance = world.instance("web");
    assert_eq!(instance.spec.needs, needs);
    let incarnation = &instance.incarnations[0];
    assert_eq!(incarnation.node, node_id(2));
    let own = incarnation.claim.assignment.as_deref().unwrap();
    assert_eq!(own.huge_pages, Some(PageSize::Mib2));
    assert_eq!(own.devices, ["0000:65:00.0".parse().unwrap()]);
    let [share] = &own.cells[..] else {
        panic!("{own:?}")
    };
    assert_eq!(
        (share.cell, share.vcpus, share.threads.len()),
        (0, Vcpus(1), 1)
    );
    assert_eq!(share.memory, MemoryMib(512));
    let intent = Fabric::intent(instance, incarnation);
    assert_eq!(intent.assignment, *own);
    assert_eq!(intent.spec.needs, needs);
}

/// FAULTS 27 for claims: creates in one batch see each other; the last GPU has one winner, and who
/// gives it back makes room for one more.
#[test]
fn a_hundred_creates_for_the_last_gpu_have_one_winner() {
    let mut world = World::with_nodes(3);
    world.must(equip(2, with_gpus(1)));
    for round in 0..2 {
        let won: Vec<_> = (0..100)
            .map(|n| format!("web-{round}-{n}"))
            .filter(|called| world.submit(None, needing(called, gpus(1))).is_ok())
            .collect();
        let [won] = &won[..] else { panic!("{won:?}") };
        world.must(Command::DeleteInstance {
            instance: won.clone(),
            etag: String::new(),
        });
        let refused = world.submit(None, needing("early", gpus(1)));
        assert!(matches!(refused, Err(Denied::NoCapacity(_))), "{refused:?}");
        world.gone(won);
    }
}

#[test]
fn a_flavors_needs_are_its_instances_and_no_kind_is_stated_twice() {
    let mut world = World::with_nodes(1);
    world.must(equip(1, with_gpus(4)));
    let Command::CreateFlavor(mut cad) = flavor("cad", &[]) else {
        panic!("a flavor");
    };
    cad.needs = Needs {
        dedicated_cpus: true,
        ..gpus(1)
    };
    world.must(Command::CreateFlavor(cad.clone()));
    world.must(Command::CreateInstance(of("cad", "web")));
    assert_eq!(world.instance("web").spec.needs, cad.needs);
    let beside = |needs: Needs| {
        Command::CreateInstance(CreateInstance {
            needs,
            ..of("cad", "db")
        })
    };
    let twice = Needs {
        dedicated_cpus: true,
        huge_pages: Some(PageSize::Mib2),
        ..gpus(2)
    };
    let refused = world.submit(None, beside(twice));
    assert_eq!(fields(refused), ["needs.dedicated_cpus", "needs.devices"]);
    // No thread is left, but what it needs is put together.
    let more = Needs {
        cpu_features: ["avx2".parse().unwrap()].into(),
        ..Needs::default()
    };
    let refused = world.submit(None, beside(more));
    assert!(matches!(refused, Err(Denied::NoCapacity(_))), "{refused:?}");
    let nothing = FlavorChange::Needs(Needs::default());
    world.must(Command::UpdateFlavor {
        flavor: name("cad"),
        changes: vec![nothing],
        etag: String::new(),
    });
    world.must(beside(gpus(3)));
    assert_eq!(world.instance("db").spec.needs, gpus(3));
    assert_eq!(world.instance("web").spec.needs, cad.needs, "it keeps them");
}

/// FAULTS 28: needs beyond their limits are refused with field and limit, of an instance and of a
/// flavor, and nothing is made.
#[test]
fn bad_needs_are_named() {
    let mut world = World::with_nodes(1);
    let before = world.events.len();
    let wrong = Needs {
        huge_pages: Some(PageSize::Gib1),
        cells: 9,
        devices: [(name("gpu"), u32::MAX), (name("vf"), 0)].into(),
        labels: [(name("room"), "a\n".to_owned())].into(),
        ..Needs::default()
    };
    let all = [
        "needs.cells",
        "needs.cells",
        "needs.huge_pages",
        "needs.devices",
        "needs.labels",
    ];
    assert_eq!(
        fields(world.submit(None, needing("web", wrong.clone()))),
        all
    );
    let Command::CreateFlavor(mut cad) = flavor("cad", &[]) else {
        panic!("a flavor");
    };
    cad.memory = MemoryMib(1000);
    cad.needs = wrong;
    let refused = world.submit(None, Command::CreateFlavor(cad));
    assert_eq!(fields(refused), all);
    let alone = Needs {
        cells: 2,
        ..Needs::default()
    };
    let refused = world.submit(None, needing("web", alone));
    assert_eq!(fields(refused), ["needs.cells", "needs.cells"]);
    assert_eq!(world.events.len(), before);
}

#[test]
fn gpus_and_addresses_count_against_a_quota() {
    let mut world = World::with_nodes(1);
    world.must(equip(1, with_gpus(4)));
    let limit = |dimension, amount| {
        let changes = [TenantChange::Limit(dimension, Some(amount))];
        change_tenant("city", &changes)
    };
    world.must(limit(Dimension::Gpus, 2));
    world.must(needing("web", gpus(2)));
    let used = world.fabric.usage.of(&city()).used;
    assert_eq!((used.gpus, used.addresses), (2, 1));
    let short = |refused: Result<Outcome, Denied>| match refused {
        Err(Denied::OverQuota { short, .. }) => short[0].to_string(),
        other => panic!("{other:?}"),
    };
    let refused = world.submit(None, needing("db", gpus(1)));
    assert_eq!(
        short(refused),
        "GPUs: 2 of 2 used or reserved, 1 more asked"
    );
    world.must(limit(Dimension::Addresses, 1));
    let refused = world.submit(None, needing("db", Needs::default()));
    assert_eq!(
        short(refused),
        "addresses: 1 of 1 used or reserved, 1 more asked"
    );
}

/// Nobody is promised what no node has: dedicated threads and huge pages count, GPUs as well.
#[test]
fn reservations_count_what_nodes_are_equipped_with() {
    let mut world = World::with_nodes(1);
    world.must(equip(1, with_gpus(2)));
    world.must(tenant("parks", None));
    let mut reserve = |dimension, amount| {
        let changes = [TenantChange::Reserve(dimension, amount)];
        world.submit(None, change_tenant("parks", &changes))
    };
    for (dimension, most) in [
        (Dimension::Vcpus, 4 + 2),
        (Dimension::MemoryMib, 4096 + 1024),
        (Dimension::Gpus, 2),
    ] {
        reserve(dimension, most).unwrap();
        let refused = reserve(dimension, most + 1);
        let Err(Denied::OverCapacity { short }) = refused else {
            panic!("{dimension:?}: {refused:?}")
        };
        assert_eq!((short[0].dimension, short[0].limit), (dimension, most));
    }
}
