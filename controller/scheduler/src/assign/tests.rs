//! What is given to whom, on nodes of two cells.

use kapok_types::{Needs, NodeId, equipment::PciAddress};

use super::*;
use crate::{
    Claim, Fleet, Node, Policy, explain,
    fixture::{cell, claim, device, incarnation_id, node, node_id, put, request, with},
    fleet::Delta,
    node::Overcommit,
    place,
};

const GIB: u64 = 1024;

/// Node 1 with these cells and devices.
fn equipped(cells: &[Cell], devices: &[Device]) -> Node {
    let mut one = node(1);
    with(&mut one, |equipment| {
        equipment.cells = cells.to_vec();
        equipment.devices = devices.to_vec();
    });
    one
}

fn dedicated(vcpus: u32, cells: u8) -> Request {
    let mut asked = request(vcpus, GIB);
    asked.needs = Needs {
        dedicated_cpus: true,
        cells,
        ..Needs::default()
    };
    asked
}

fn huge(gib: u64, cells: u8) -> Request {
    let mut asked = request(2, gib * GIB);
    asked.needs = Needs {
        huge_pages: Some(PageSize::Mib2),
        cells,
        ..Needs::default()
    };
    asked
}

fn devices(mut request: Request, class: &str, count: u32) -> Request {
    (request.needs.devices).insert(class.parse().unwrap(), count);
    request
}

/// Places requests one after the other: what each is given, or why not.
fn all(fleet: &mut Fleet, requests: &[Request]) -> Vec<Result<Claim, String>> {
    let each = (1..).zip(requests).map(|(number, request)| {
        let placed = place(fleet, request, &Policy::PACK);
        let placed = placed.map_err(|no_fit| no_fit.rejections().lines().next().unwrap())?;
        fleet.apply(Delta::Claimed {
            node: placed.node,
            incarnation: incarnation_id(number),
            claim: placed.claim.clone(),
        });
        Ok(placed.claim)
    });
    each.collect()
}

/// Cells, with the vCPUs, threads and memory in each.
fn shares(claim: &Result<Claim, String>) -> Vec<(u16, u32, Vec<u16>, u64)> {
    let assignment = claim.as_ref().unwrap().assignment.as_ref();
    let cells = assignment.map_or(&[][..], |own| &own.cells);
    let each = cells.iter().map(|share| {
        let threads = share.threads.clone();
        (share.cell, share.vcpus.get(), threads, share.memory.get())
    });
    each.collect()
}

fn addresses(claim: &Result<Claim, String>) -> Vec<PciAddress> {
    let assignment = claim.as_ref().unwrap().assignment.as_ref();
    assignment.map_or(Vec::new(), |own| own.devices.clone())
}

fn of(numbers: &[u8]) -> Vec<PciAddress> {
    let each = numbers.iter().map(|number| device(*number, "vf", None));
    each.map(|one| one.address).collect()
}

#[test]
fn the_tightest_cell_gives_its_threads_in_order() {
    let cells = [cell(0, &[0, 8, 1, 9, 2, 10], 0), cell(1, &[4, 12, 5], 0)];
    let mut fleet = Fleet::default().with([put(equipped(&cells, &[]))]);
    let given = all(
        &mut fleet,
        &[dedicated(2, 1), dedicated(2, 1), dedicated(4, 1)],
    );
    assert_eq!(shares(&given[0]), [(1, 2, vec![4, 12], GIB)]);
    assert_eq!(shares(&given[1]), [(0, 2, vec![0, 8], GIB)]);
    assert_eq!(shares(&given[2]), [(0, 4, vec![1, 9, 2, 10], GIB)]);
    let refused = &all(&mut fleet, &[dedicated(2, 1)])[0];
    assert_eq!(
        refused.as_ref().unwrap_err(),
        "node-01: dedicated CPUs 1 free of 2 asked in one cell; cell 0 0, cell 1 1"
    );
}

/// Neither threads nor huge pages are any of what others share.
#[test]
fn what_is_its_own_takes_nothing_of_the_shared_amounts() {
    let one = equipped(&[cell(0, &[0, 1, 2, 3], 8 * GIB)], &[]);
    let mut fleet = Fleet::default().with([put(one)]);
    let mut both = huge(4, 0);
    both.needs.dedicated_cpus = true;
    let placed = place(&fleet, &both, &Policy::PACK).unwrap();
    assert_eq!(placed.score.vcpus_left, Vcpus(16));
    let overhead = both.memory.overhead().get();
    assert_eq!(placed.score.memory_left, MemoryMib(64 * GIB - overhead));
    assert_eq!(
        (placed.claim.shared_vcpus(), placed.claim.common_memory()),
        (Vcpus(0), MemoryMib(overhead))
    );
    let given = all(&mut fleet, &[both, dedicated(2, 0), huge(4, 0), huge(1, 0)]);
    assert_eq!(shares(&given[0]), [(0, 2, vec![0, 1], 4 * GIB)]);
    assert_eq!(shares(&given[1]), [(0, 2, vec![2, 3], GIB)]);
    assert_eq!(shares(&given[2]), [(0, 2, vec![], 4 * GIB)]);
    assert_eq!(
        given[3].as_ref().unwrap_err(),
        "node-01: 2MiB pages 0 MiB free of 1 GiB asked in one cell; cell 0 0 MiB"
    );
    let view = fleet.node(node_id(1)).unwrap();
    assert_eq!(view.claimed_vcpus(), Vcpus(2));
    let left = view.free_equipment();
    assert_eq!(left.cells, [cell(0, &[], 0)]);
    assert_eq!(
        place(&fleet, &request(14, GIB), &Policy::PACK)
            .unwrap()
            .claim,
        claim(14, GIB)
    );
}

#[test]
fn a_split_is_even_and_as_small_as_can_be() {
    let cells = [
        cell(0, &[0, 1, 2], 6 * GIB + 2),
        cell(1, &[4, 5, 6], 6 * GIB),
        cell(2, &[8, 9], 64 * GIB),
    ];
    let fleet = Fleet::default().with([put(equipped(&cells, &[]))]);
    let split = |request: Request| shares(&all(&mut fleet.clone(), &[request])[0]);
    // Whatever is over goes to the first ones.
    assert_eq!(
        split(dedicated(5, 3)),
        [(0, 3, vec![0, 1, 2], 512), (2, 2, vec![8, 9], 512)]
    );
    assert_eq!(
        split(dedicated(8, 8)),
        [
            (0, 3, vec![0, 1, 2], 342),
            (1, 3, vec![4, 5, 6], 341),
            (2, 2, vec![8, 9], 341)
        ]
    );
    // Whole pages: 3 GiB and one page, and 3 GiB.
    let mut odd = huge(6, 2);
    odd.vcpus = Vcpus(5);
    odd.memory.guest = MemoryMib(12 * GIB + 2);
    odd.needs.dedicated_cpus = true;
    assert_eq!(
        split(odd.clone()),
        [
            (0, 3, vec![0, 1, 2], 6 * GIB + 2),
            (2, 2, vec![8, 9], 6 * GIB)
        ]
    );
    odd.vcpus = Vcpus(6);
    assert_eq!(
        split(odd.clone()),
        [
            (0, 3, vec![0, 1, 2], 6 * GIB + 2),
            (1, 3, vec![4, 5, 6], 6 * GIB)
        ]
    );
    let refused = |request: &Request| all(&mut fleet.clone(), std::slice::from_ref(request));
    odd.memory.guest = MemoryMib(12 * GIB + 4);
    assert_eq!(
        refused(&odd)[0].as_ref().unwrap_err(),
        "node-01: 6 dedicated CPUs and 12292 MiB of 2MiB pages aren't free evenly in at most 2 \
         cells; cell 0 3 and 6146 MiB, cell 1 3 and 6 GiB, cell 2 2 and 64 GiB"
    );
    assert_eq!(
        refused(&dedicated(7, 2))[0].as_ref().unwrap_err(),
        "node-01: dedicated CPUs 8 free of 7 asked evenly in at most 2 cells; cell 0 3, cell 1 3, \
         cell 2 2"
    );
}

/// One page can't be split, and a cell without memory is none.
#[test]
fn no_cell_is_without_memory() {
    let cells = [0, 1].map(|id| Cell {
        pages: [(PageSize::Gib1, 2)].into(),
        ..cell(id, &[2 * id, 2 * id + 1], 0)
    });
    let of = |gib: u64| {
        let mut asked = dedicated(4, 2);
        asked.memory.guest = MemoryMib(gib * GIB);
        asked.needs.huge_pages = Some(PageSize::Gib1);
        let mut fleet = Fleet::default().with([put(equipped(&cells, &[]))]);
        all(&mut fleet, &[asked]).remove(0)
    };
    assert_eq!(
        shares(&of(2)),
        [(0, 2, vec![0, 1], GIB), (1, 2, vec![2, 3], GIB)]
    );
    let why = of(1).unwrap_err();
    assert!(
        why.contains("1 GiB of 1GiB pages aren't free evenly"),
        "{why}"
    );
}

#[test]
fn cells_near_to_the_devices_come_first_and_devices_near_to_the_cells() {
    let cells = [cell(0, &[0, 1, 2, 3], 0), cell(1, &[4, 5], 0)];
    let there = [
        device(0, "gpu-a100", Some(1)),
        device(1, "gpu-a100", Some(0)),
        device(2, "vf", None),
        device(3, "vf", Some(1)),
    ];
    let mut fleet = Fleet::default().with([put(equipped(&cells, &there))]);
    let gpu = |request| devices(request, "gpu-a100", 1);
    let asked = [
        devices(gpu(dedicated(2, 0)), "vf", 1),
        gpu(dedicated(2, 0)),
        devices(request(1, GIB), "vf", 1),
    ];
    let given = all(&mut fleet, &asked);
    assert_eq!(shares(&given[0]), [(1, 2, vec![4, 5], GIB)]);
    assert_eq!(addresses(&given[0]), of(&[0, 3]));
    assert_eq!(shares(&given[1]), [(0, 2, vec![0, 1], GIB)]);
    assert_eq!(addresses(&given[1]), of(&[1]));
    // Whoever isn't bound takes the lowest address.
    assert_eq!(
        (shares(&given[2]), addresses(&given[2])),
        (vec![], of(&[2]))
    );
    let refused = explain(&fleet, &gpu(request(1, GIB)), &Policy::PACK).rejections();
    assert_eq!(
        format!("{refused:#}"),
        "no node fits: 1 lacks devices\n  node-01: devices gpu-a100 0 free of 1 asked (2 there, 2 \
         in use)"
    );
}

/// Facts count, whatever they say; what is too much closes the node to more of it, and to nothing
/// else.
#[test]
fn claims_of_what_is_gone_or_has_two_owners_show_and_block() {
    let full = equipped(
        &[cell(0, &[0, 1, 2, 3], 8 * GIB)],
        &[device(0, "vf", None), device(1, "vf", None)],
    );
    let mut fleet = Fleet::default().with([put(full.clone())]);
    let mut both = devices(huge(4, 0), "vf", 1);
    both.needs.dedicated_cpus = true;
    let given = all(&mut fleet, std::slice::from_ref(&both));
    let before = fleet.clone();
    let twice = Delta::Claimed {
        node: node_id(1),
        incarnation: incarnation_id(9),
        claim: given[0].clone().unwrap(),
    };
    fleet.apply(twice);
    let over = |fleet: &Fleet| fleet.node(node_id(1)).unwrap().overcommitted();
    // There are pages enough for both.
    assert_eq!(
        over(&fleet),
        [Overcommit::DedicatedCpus(Vcpus(2)), Overcommit::Devices(1)]
    );
    let said: Vec<_> = over(&fleet).iter().map(ToString::to_string).collect();
    assert_eq!(said, ["2 dedicated CPUs", "1 devices"]);
    let line = |fleet: &Fleet, request: &Request| {
        let placed: Result<NodeId, _> =
            place(fleet, request, &Policy::PACK).map(|placed| placed.node);
        placed.map_err(|refused| refused.rejections().lines().next().unwrap())
    };
    assert_eq!(
        line(&fleet, &dedicated(1, 0)).unwrap_err(),
        "node-01: dedicated CPUs 2 free of 1 asked in one cell; cell 0 2; overcommitted by 2"
    );
    assert_eq!(
        line(&fleet, &devices(request(1, GIB), "vf", 1)).unwrap_err(),
        "node-01: devices vf 1 free of 1 asked; overcommitted by 1"
    );
    assert_eq!(line(&fleet, &request(1, GIB)), Ok(node_id(1)));
    // What was taken away counts on as well.
    let mut smaller = full;
    with(&mut smaller, |equipment| {
        equipment.cells = vec![cell(0, &[0], GIB)];
        equipment.devices.clear();
    });
    fleet.apply(put(smaller));
    assert_eq!(
        over(&fleet),
        [
            Overcommit::DedicatedCpus(Vcpus(3)),
            Overcommit::HugePages(MemoryMib(7 * GIB)),
            Overcommit::Devices(2)
        ]
    );
    assert_eq!(
        line(&fleet, &huge(1, 0)).unwrap_err(),
        "node-01: 2MiB pages 0 MiB free of 1 GiB asked in one cell; cell 0 0 MiB; overcommitted by \
         7 GiB"
    );
    assert_eq!(line(&fleet, &request(1, GIB)), Ok(node_id(1)));
    let restored = fleet.with([
        put(before.node(node_id(1)).unwrap().node().clone()),
        crate::fixture::released(1, 9),
    ]);
    assert_eq!(restored, before);
}

#[test]
fn a_node_without_any_of_it_says_so() {
    let fleet = Fleet::default().with([put(node(1))]);
    let said = |request: &Request| {
        let refused = place(&fleet, request, &Policy::PACK).unwrap_err();
        refused.rejections().lines().next().unwrap()
    };
    assert_eq!(
        said(&dedicated(2, 0)),
        "node-01: dedicated CPUs 0 free of 2 asked in one cell; none are set aside"
    );
    assert_eq!(
        said(&devices(request(1, GIB), "gpu", 2)),
        "node-01: devices gpu 0 free of 2 asked"
    );
}
