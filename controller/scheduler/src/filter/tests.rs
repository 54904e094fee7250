//! Each filter with its numbers, on nodes of 16 vCPUs (4 threads × 4.0) and 64 GiB.

use kapok_types::instance::MemoryClaim;

use super::*;
use crate::{
    Fleet, Node,
    fixture::{claim, claimed, node, node_id, put, request},
};

/// The first rejection of node 1 after `change`, with 6 vCPUs and 20 GiB claimed.
fn check(change: impl FnOnce(&mut Node), request: &Request) -> Result<(), Rejection> {
    let mut one = node(1);
    change(&mut one);
    let fleet = Fleet::default().with([put(one), claimed(1, 1, claim(6, 20 * 1024))]);
    Filter::check_all(fleet.node(node_id(1)).unwrap(), request)
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
    assert!(Filter::Memory.check(view, &wrong).is_err());
    assert_eq!(Filter::Vcpus.check(view, &request(u32::MAX, 1)), Ok(()));
}

/// An overcommitted node takes nothing more, not even a request for none of what it lacks.
#[test]
fn an_overcommitted_node_is_closed() {
    let shrunk = |node: &mut Node| node.capacity.vcpus = Vcpus(1);
    let closed = check(shrunk, &request(0, 64)).unwrap_err();
    assert_eq!(closed.filter(), Filter::Vcpus);
}

/// Who fails several filters is told the first, in the order of the enum.
#[test]
fn the_order_is_fixed() {
    let mut asked = request(99, 1 << 40);
    asked.avoid.insert(node_id(1));
    let mut worst = node(1);
    (worst.reachable, worst.resyncing, worst.cordoned) = (false, true, true);
    worst.quarantined = true;
    worst.distrust = Some(Distrust::Revoked);
    worst.arch = Arch::Aarch64;
    let mut seen = Vec::new();
    loop {
        let fleet = Fleet::default().with([put(worst.clone())]);
        let view = fleet.node(node_id(1)).unwrap();
        let Err(rejection) = Filter::check_all(view, &asked) else {
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
            Rejection::Vcpus { .. } => worst.capacity.vcpus = Vcpus(99),
            Rejection::Memory { .. } => worst.capacity.memory = MemoryMib(1 << 41),
            Rejection::Avoided => asked.avoid.clear(),
        }
    }
    assert_eq!(seen, Filter::ALL);
    assert!(seen.is_sorted());
}
