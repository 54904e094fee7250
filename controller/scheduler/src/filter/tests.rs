//! Each filter with its numbers, on nodes of 16 vCPUs (4 threads × 4.0) and 64 GiB.

use kapok_types::{Needs, instance::MemoryClaim};

use super::*;
use crate::{
    Fleet, Group, Node, Policy,
    fixture::{cell, claim, claimed, device, node, node_id, put, request, with},
    place,
};

/// The first rejection of node 1 in `fleet`.
fn ask(fleet: &Fleet, request: &Request) -> Result<(), Rejection> {
    let question = Question::new(fleet, request, Policy::PACK);
    Filter::check_all(fleet.node(node_id(1)).unwrap(), &question)
}

/// The first rejection of node 1 after `change`, with 6 vCPUs and 20 GiB claimed.
fn check(change: impl FnOnce(&mut Node), request: &Request) -> Result<(), Rejection> {
    let mut one = node(1);
    change(&mut one);
    let fleet = Fleet::default().with([put(one), claimed(1, 1, claim(6, 20 * 1024))]);
    ask(&fleet, request)
}

fn as_is(_: &mut Node) {}

#[test]
fn a_sound_node_passes_every_filter() {
    assert_eq!(check(as_is, &request(2, 4096)), Ok(()));
}

#[test]
fn state_filters() {
    let small = request(1, 64);
    assert_eq!(
        check(|node| node.reachable = false, &small),
        Err(Rejection::Unreachable)
    );
    assert_eq!(
        check(|node| node.resyncing = true, &small),
        Err(Rejection::NeedsResync)
    );
    let changed = Distrust::FingerprintChanged;
    assert_eq!(
        check(|node| node.distrust = Some(changed), &small),
        Err(Rejection::Distrusted { why: changed })
    );
    assert_eq!(
        check(|node| node.cordoned = true, &small),
        Err(Rejection::Cordoned)
    );
    assert_eq!(
        check(|node| node.quarantined = true, &small),
        Err(Rejection::Quarantined)
    );
    let mut elsewhere = small;
    elsewhere.avoid.insert(node_id(1));
    assert_eq!(check(as_is, &elsewhere), Err(Rejection::Avoided));
    elsewhere.avoid = [node_id(2)].into();
    assert_eq!(check(as_is, &elsewhere), Ok(()));
}

#[test]
fn architecture() {
    let arm = check(|node| node.arch = Arch::Aarch64, &request(1, 64)).unwrap_err();
    assert_eq!(
        arm,
        Rejection::Architecture {
            asked: Arch::X86_64,
            node: Arch::Aarch64
        }
    );
    assert_eq!(
        arm.to_string(),
        "architecture aarch64 where x86_64 is asked"
    );
}

#[test]
fn vcpus_up_to_the_last_one() {
    let foreign = |node: &mut Node| node.capacity.foreign_vcpus = Vcpus(3);
    assert_eq!(check(foreign, &request(7, 64)), Ok(()));
    let short = check(foreign, &request(8, 64)).unwrap_err();
    assert_eq!(
        short,
        Rejection::Vcpus {
            asked: Vcpus(8),
            free: Vcpus(7),
            physical: Vcpus(4),
            overcommit_permille: 4000,
            claimed: Vcpus(6),
            foreign: Vcpus(3),
        }
    );
    assert_eq!(short.to_string(), "vCPUs 7 free of 8 asked");
    assert_eq!(
        format!("{short:#}"),
        "vCPUs 7 free of 8 asked (4 physical × 4, 6 claimed, 3 foreign)"
    );
    let ratio = check(|node| node.vcpu_overcommit_permille = 1750, &request(2, 64)).unwrap_err();
    assert!(
        format!("{ratio:#}").contains("4 physical × 1.75,"),
        "{ratio:#}"
    );
}

/// The claim counts, not the guest's memory: QEMU's overhead must fit too.
#[test]
fn memory_up_to_the_last_mib() {
    let held = claim(6, 20 * 1024).memory.total().get();
    let asked = MemoryClaim::of(MemoryMib(10 * 1024), Vcpus(2));
    let leave = |free: u64| {
        move |node: &mut Node| node.capacity.foreign_memory = MemoryMib(64 * 1024 - held - free)
    };
    let enough = asked.total().get();
    assert_eq!(check(leave(enough), &request(2, 10 * 1024)), Ok(()));
    let short = check(leave(enough - 1), &request(2, 10 * 1024)).unwrap_err();
    assert_eq!(
        short,
        Rejection::Memory {
            asked: asked.total(),
            guest: MemoryMib(10 * 1024),
            overhead: MemoryMib(40 + 16 + 128),
            free: MemoryMib(enough - 1),
            capacity: MemoryMib(64 * 1024),
            claimed: MemoryMib(held),
            foreign: MemoryMib(64 * 1024 - held - enough + 1),
        }
    );
    assert_eq!(
        short.to_string(),
        "memory 10423 MiB free of 10424 MiB asked"
    );
    assert!(
        format!("{short:#}").contains("(10 GiB guest + 184 MiB overhead; 64 GiB capacity, "),
        "{short:#}"
    );
}

/// FAULTS 28: a request whose parts overflow fits nowhere, not even on the largest node.
#[test]
fn an_overflowing_request_fits_nowhere() {
    let most = MemoryMib(u64::MAX);
    let endless = |node: &mut Node| {
        node.capacity.memory = most;
        node.capacity.vcpus = Vcpus(u32::MAX);
        node.vcpu_overcommit_permille = u32::MAX;
    };
    let mut wrong = request(1, 0);
    wrong.memory = MemoryClaim {
        guest: most,
        tables: most,
        vcpus: most,
        fixed: most,
    };
    let Err(Rejection::Memory {
        asked, overhead, ..
    }) = check(endless, &wrong)
    else {
        panic!("it fits");
    };
    assert_eq!((asked, overhead), (most, most));
    // The sum saturates at exactly the node's memory: still one MiB too much.
    wrong.memory = MemoryClaim {
        guest: most,
        tables: MemoryMib(1),
        ..claim(0, 0).memory
    };
    let empty = Fleet::default().with([put({
        let mut one = node(1);
        endless(&mut one);
        one
    })]);
    let view = empty.node(node_id(1)).unwrap();
    let wrong = Question::new(&empty, &wrong, Policy::PACK);
    assert!(Filter::Memory.check(view, &wrong).is_err());
    let many = request(u32::MAX, 1);
    let many = Question::new(&empty, &many, Policy::PACK);
    assert_eq!(Filter::Vcpus.check(view, &many), Ok(()));
}

/// An overcommitted node takes nothing more, not even a request for none of what it lacks.
#[test]
fn an_overcommitted_node_is_closed() {
    let shrunk = |node: &mut Node| node.capacity.vcpus = Vcpus(1);
    let closed = check(shrunk, &request(0, 64)).unwrap_err();
    assert_eq!(closed.filter(), Filter::Vcpus);
    let mut one = node(1);
    shrunk(&mut one);
    let fleet = Fleet::default().with([put(one), claimed(1, 1, claim(6, 1024))]);
    assert!(place(&fleet, &request(0, 64), &Policy::PACK).is_err());
}

/// Who fails several filters is told the first, in the order of the enum.
#[test]
fn the_order_is_fixed() {
    let mut asked = request(2, 64);
    asked.isolation = Some("secret".parse().unwrap());
    asked.needs = Needs {
        dedicated_cpus: true,
        huge_pages: Some(PageSize::Mib2),
        cpu_features: ["avx2".parse().unwrap()].into(),
        devices: [("gpu".parse().unwrap(), 1)].into(),
        pool: Some("fast".parse().unwrap()),
        network: Some("dmz".parse().unwrap()),
        ..Needs::default()
    };
    asked.avoid.insert(node_id(1));
    asked
        .needs
        .labels
        .insert("disk".parse().unwrap(), "nvme".into());
    let group = |domain, with: u8| Group {
        called: None,
        domain,
        strict: true,
        with: [node_id(with)].into(),
    };
    asked.apart.push(group(Domain::Room, 2));
    asked.together.push(group(Domain::Node, 2));
    let policy = Policy {
        headroom: Headroom::Node,
        ..Policy::PACK
    };
    let mut worst = node(1);
    (worst.reachable, worst.resyncing, worst.cordoned) = (false, true, true);
    worst.quarantined = true;
    worst.distrust = Some(Distrust::Revoked);
    worst.arch = Arch::Aarch64;
    worst.capacity.memory = MemoryMib(0);
    // Claims that are above the vCPUs close a node even to those that ask for none.
    worst.capacity.vcpus = Vcpus(0);
    let own = claimed(1, 1, claim(1, 0));
    let mut seen = Vec::new();
    while seen.len() <= Filter::ALL.len() {
        let mut full = node(2);
        full.capacity.vcpus = Vcpus(0);
        let mut deltas = vec![put(worst.clone()), put(full), own.clone()];
        if seen.last() == Some(&Filter::Headroom) {
            let mut spare = node(3);
            spare.isolation = asked.isolation.clone();
            deltas.push(put(spare));
        }
        let fleet = Fleet::default().with(deltas);
        let view = fleet.node(node_id(1)).unwrap();
        let question = Question::new(&fleet, &asked, policy);
        let Err(rejection) = Filter::check_all(view, &question) else {
            break;
        };
        seen.push(rejection.filter());
        match rejection {
            Rejection::Unreachable => worst.reachable = true,
            Rejection::NeedsResync => worst.resyncing = false,
            Rejection::Distrusted { .. } => worst.distrust = None,
            Rejection::Cordoned => worst.cordoned = false,
            Rejection::Quarantined => worst.quarantined = false,
            Rejection::Architecture { .. } => worst.arch = Arch::X86_64,
            Rejection::Labels { .. } => worst.labels = asked.needs.labels.clone(),
            Rejection::Isolation { .. } => worst.isolation = asked.isolation.clone(),
            Rejection::CpuFeatures { missing } => with(&mut worst, |equipment| {
                equipment.cpu_features = missing.into_iter().collect();
            }),
            Rejection::Pool { pool } => with(&mut worst, |equipment| {
                equipment.pools.insert(pool);
            }),
            Rejection::Network { network } => with(&mut worst, |equipment| {
                equipment.networks.insert(network);
            }),
            Rejection::Vcpus { .. } => worst.capacity.vcpus = Vcpus(4),
            Rejection::Memory { .. } => worst.capacity.memory = MemoryMib(64 * 1024),
            Rejection::DedicatedCpus { .. } => with(&mut worst, |equipment| {
                equipment.cells = vec![cell(0, &[1, 2], 0), cell(1, &[], 0)];
            }),
            Rejection::HugePages { .. } => with(&mut worst, |equipment| {
                equipment.cells = vec![cell(0, &[1, 2], 0), cell(1, &[], 1024)];
            }),
            Rejection::Cells { .. } => with(&mut worst, |equipment| {
                equipment.cells = vec![cell(0, &[1, 2], 1024)];
            }),
            Rejection::Devices { .. } => with(&mut worst, |equipment| {
                equipment.devices = vec![device(0, "gpu", None)];
            }),
            Rejection::Avoided => asked.avoid.clear(),
            Rejection::Apart { .. } => worst.room = Some("r1".parse().unwrap()),
            Rejection::Together { .. } => asked.together.clear(),
            Rejection::Headroom { .. } => {}
        }
    }
    assert_eq!(seen, Filter::ALL);
    assert!(seen.is_sorted());
}

#[test]
fn labels_have_names_and_values() {
    let mut nvme = request(1, 64);
    nvme.needs
        .labels
        .insert("disk".parse().unwrap(), "nvme".into());
    let labelled = |value: &'static str| {
        move |node: &mut Node| drop(node.labels.insert("disk".parse().unwrap(), value.into()))
    };
    assert_eq!(check(labelled("nvme"), &nvme), Ok(()));
    let other = check(labelled("sata"), &nvme).unwrap_err();
    assert_eq!(
        other.to_string(),
        r#"label disk is "sata" where "nvme" is asked"#
    );
    let none = check(as_is, &nvme).unwrap_err();
    assert_eq!(none.to_string(), r#"no label disk where "nvme" is asked"#);
    assert_eq!(none.filter(), Filter::Labels);
}

#[test]
fn strict_groups_say_where_the_others_are() {
    let placed = |number: u8, room: &str, rack: Option<&str>| {
        let mut placed = node(number);
        placed.room = Some(room.parse().unwrap());
        placed.rack = rack.map(|rack| rack.parse().unwrap());
        put(placed)
    };
    let fleet = Fleet::default().with([
        placed(1, "east", Some("a")),
        placed(2, "east", Some("a")),
        placed(3, "east", None),
        placed(4, "west", Some("a")),
    ]);
    let group = |domain, with: &[u8]| Group {
        called: None,
        domain,
        strict: true,
        with: with.iter().copied().map(node_id).collect(),
    };
    let answer = |apart: bool, group: Group| {
        let mut asked = request(1, 64);
        if apart {
            asked.apart.push(group);
        } else {
            asked.together.push(group);
        }
        ask(&fleet, &asked).map_err(|rejection| rejection.to_string())
    };
    let refused = |text: &str| Err(text.to_owned());
    assert_eq!(answer(true, group(Domain::Node, &[2, 3])), Ok(()));
    assert_eq!(
        answer(true, group(Domain::Node, &[1])),
        refused("another of its group is on it")
    );
    assert_eq!(
        answer(true, group(Domain::Rack, &[2])),
        refused("another of its group is in rack a")
    );
    // The same rack's name in another room, and a node without one.
    assert_eq!(answer(true, group(Domain::Rack, &[3, 4])), Ok(()));
    assert_eq!(
        answer(false, group(Domain::Rack, &[3, 4])),
        refused("none of its group is in rack a")
    );
    assert_eq!(answer(false, group(Domain::Room, &[3, 4])), Ok(()));
    // A node that isn't known says nothing, and so does an empty group.
    assert_eq!(answer(false, group(Domain::Node, &[9])), Ok(()));
    assert_eq!(answer(false, group(Domain::Room, &[])), Ok(()));
}

#[test]
fn sorts_of_equipment_and_isolation() {
    let said = |change: &dyn Fn(&mut Node), asked: &dyn Fn(&mut Request)| {
        let mut request = request(1, 64);
        asked(&mut request);
        let answer = check(change, &request);
        answer.map_err(|rejection| (rejection.filter(), rejection.to_string()))
    };
    let refused = |filter, text: &str| Err((filter, text.to_owned()));
    let secret = || Some("secret".parse().unwrap());
    let classed = |node: &mut Node| node.isolation = secret();
    assert_eq!(said(&classed, &|asked| asked.isolation = secret()), Ok(()));
    assert_eq!(
        said(&classed, &|_| ()),
        refused(
            Filter::Isolation,
            "isolation class secret where none is asked"
        )
    );
    assert_eq!(
        said(&classed, &|asked| asked.isolation =
            Some("open".parse().unwrap())),
        refused(
            Filter::Isolation,
            "isolation class secret where open is asked"
        )
    );
    assert_eq!(
        said(&as_is, &|asked| asked.isolation = secret()),
        refused(
            Filter::Isolation,
            "no isolation class where secret is asked"
        )
    );
    let features = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    let modern = |node: &mut Node| {
        with(node, |equipment| {
            equipment.cpu_features = features(&["avx", "avx2"]);
            equipment.pools.insert("fast".parse().unwrap());
        });
    };
    assert_eq!(
        said(&modern, &|asked| asked.needs.cpu_features =
            features(&["avx2"])),
        Ok(())
    );
    assert_eq!(
        said(&modern, &|asked| asked.needs.cpu_features =
            features(&["avx2", "avx512f"])),
        refused(Filter::CpuFeatures, "CPU feature avx512f is missing")
    );
    assert_eq!(
        said(&as_is, &|asked| asked.needs.cpu_features =
            features(&["avx2", "avx512f"])),
        refused(
            Filter::CpuFeatures,
            "CPU features avx2, avx512f are missing"
        )
    );
    let pool = |asked: &mut Request| asked.needs.pool = Some("fast".parse().unwrap());
    assert_eq!(said(&modern, &pool), Ok(()));
    assert_eq!(
        said(&as_is, &pool),
        refused(Filter::Pool, "pool fast isn't reachable")
    );
    assert_eq!(
        said(&modern, &|asked| asked.needs.network =
            Some("dmz".parse().unwrap())),
        refused(Filter::Network, "network dmz isn't reachable")
    );
}
