//! Sizes that change on a node of two cells.

use std::collections::BTreeSet;

use kapok_types::{
    Assignment, MemoryMib, Needs, Vcpus,
    equipment::{Cell, Device, PageSize},
    phase::Size,
};

use crate::{
    Claim, Filter, Fleet, Policy, Rejection, Request,
    fixture::{cell, claimed, device, incarnation_id, node, node_id, put, request, with},
    place, resize,
};

const GIB: u64 = 1024;

fn fleet(cells: &[Cell], devices: &[Device]) -> Fleet {
    let mut one = node(1);
    with(&mut one, |equipment| {
        equipment.cells = cells.to_vec();
        equipment.devices = devices.to_vec();
    });
    Fleet::default().with([put(one)])
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

fn huge(gib: u64) -> Request {
    let mut asked = request(2, gib * GIB);
    asked.needs.huge_pages = Some(PageSize::Mib2);
    asked
}

/// Places an incarnation of this number.
fn placed(fleet: &mut Fleet, number: u8, request: &Request) -> Claim {
    let claim = place(fleet, request, &Policy::PACK).unwrap().claim;
    fleet.apply(claimed(1, number, claim.clone()));
    claim
}

/// Resizes it, and takes what comes of it.
fn resized(fleet: &mut Fleet, number: u8, request: &Request) -> Result<Claim, Rejection> {
    let (node, incarnation) = (node_id(1), incarnation_id(number));
    let claim = resize(fleet, node, incarnation, request, &Policy::PACK)?;
    fleet.apply(claimed(1, number, claim.clone()));
    Ok(claim)
}

/// Its agent says that the guest has this of the node, and is of the requested size.
fn settled(fleet: &mut Fleet, number: u8, request: &Request, own: &Assignment) -> Claim {
    let size = Size {
        vcpus: request.vcpus,
        memory: request.memory.guest,
    };
    let claim = fleet.claim_of(node_id(1), incarnation_id(number));
    let claim = claim.unwrap().settled(size, size, Some(own));
    fleet.apply(claimed(1, number, claim.clone()));
    claim
}

/// Cells with the threads in each.
fn threads(own: Option<&Assignment>) -> Vec<(u16, Vec<u16>)> {
    let shares = own.map_or(&[][..], |own| &own.cells).iter();
    shares
        .map(|share| (share.cell, share.threads.clone()))
        .collect()
}

/// Cells with the memory in each.
fn memory(own: Option<&Assignment>) -> Vec<(u16, u64)> {
    let shares = own.map_or(&[][..], |own| &own.cells).iter();
    shares
        .map(|share| (share.cell, share.memory.get()))
        .collect()
}

#[test]
fn what_grows_keeps_its_threads_and_what_shrinks_keeps_the_first_of_them() {
    let cells = [
        cell(0, &[0, 8, 1, 9, 2, 10], 0),
        cell(1, &[4, 12, 5, 13], 0),
    ];
    let mut fleet = fleet(&cells, &[]);
    let two = placed(&mut fleet, 1, &dedicated(2, 1));
    assert_eq!(threads(two.assignment.as_deref()), [(1, vec![4, 12])]);
    let four = resized(&mut fleet, 1, &dedicated(4, 1)).unwrap();
    placed(&mut fleet, 2, &dedicated(6, 1));
    let all = [(1, vec![4, 12, 5, 13])];
    assert_eq!(threads(four.assignment.as_deref()), all);
    assert_eq!((four.vcpus, &four.surplus), (Vcpus(4), &None));

    let three = resized(&mut fleet, 1, &dedicated(3, 1)).unwrap();
    assert_eq!(threads(three.assignment.as_deref()), [(1, vec![4, 12, 5])]);
    assert_eq!(threads(three.surplus.as_deref()), [(1, vec![13])]);
    // Its guest may have it still, so nobody else gets it.
    let refused = place(&fleet, &dedicated(1, 1), &Policy::PACK).unwrap_err();
    let refused = &refused.rejections().per_node;
    assert_eq!(refused[0].2.filter(), Filter::DedicatedCpus);
    // Another word of the agent's ends nothing, nor does an agent that says none.
    let old = *four.assignment.clone().unwrap();
    assert_eq!(settled(&mut fleet, 1, &dedicated(3, 1), &old), three);
    let new = *three.assignment.clone().unwrap();
    let after = settled(&mut fleet, 1, &dedicated(3, 1), &new);
    assert_eq!((after.vcpus, after.surplus), (Vcpus(3), None));
    assert_eq!(after.assignment, three.assignment);
    assert!(place(&fleet, &dedicated(1, 1), &Policy::PACK).is_ok());
}

/// Who asks for the old size again is given what the guest has.
#[test]
fn a_guest_that_would_move_has_both_and_can_stay() {
    let cells = [cell(0, &[0, 1, 2, 3, 6], 0), cell(1, &[4, 5], 0)];
    let mut fleet = fleet(&cells, &[]);
    let two = placed(&mut fleet, 1, &dedicated(2, 1));
    let more = resized(&mut fleet, 1, &dedicated(3, 1)).unwrap();
    assert_eq!(threads(more.assignment.as_deref()), [(0, vec![0, 1, 2])]);
    assert_eq!(threads(more.surplus.as_deref()), [(1, vec![4, 5])]);
    let again = resized(&mut fleet, 1, &dedicated(2, 1)).unwrap();
    assert_eq!(again.assignment, two.assignment);
    assert_eq!(threads(again.surplus.as_deref()), [(0, vec![0, 1, 2])]);
    let own = *two.assignment.clone().unwrap();
    assert_eq!(settled(&mut fleet, 1, &dedicated(2, 1), &own), two);
    // All of both cells are taken by one that may be in both.
    resized(&mut fleet, 1, &dedicated(5, 1)).unwrap();
    let refused = place(&fleet, &dedicated(1, 1), &Policy::PACK);
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn a_cell_that_is_too_small_is_split_as_a_placement_would() {
    let cells = [cell(0, &[0, 1, 2, 3], 0), cell(1, &[4, 5], 0)];
    let mut fleet = fleet(&cells, &[]);
    let two = placed(&mut fleet, 1, &dedicated(2, 2));
    assert_eq!(threads(two.assignment.as_deref()), [(1, vec![4, 5])]);
    placed(&mut fleet, 2, &dedicated(1, 1));
    let four = resized(&mut fleet, 1, &dedicated(4, 2)).unwrap();
    assert_eq!(
        threads(four.assignment.as_deref()),
        [(1, vec![4, 5]), (0, vec![1, 2])]
    );
    assert_eq!(four.surplus, None);
    let refused = resized(&mut fleet, 1, &dedicated(6, 2)).unwrap_err();
    assert_eq!(
        format!("{refused:#}"),
        "dedicated CPUs 5 free of 6 asked evenly in at most 2 cells; cell 0 3, cell 1 2"
    );
    let (node, one) = (node_id(1), incarnation_id(1));
    assert_eq!(fleet.claim_of(node, one), Some(&four), "nothing changed");
}

/// A guest has the pages of one size or of the other.
#[test]
fn of_a_cells_pages_the_larger_part_is_claimed() {
    let mut fleet = fleet(&[cell(0, &[], 8 * GIB), cell(1, &[], 2 * GIB)], &[]);
    placed(&mut fleet, 1, &huge(4));
    let less = resized(&mut fleet, 1, &huge(1)).unwrap();
    assert_eq!(memory(less.assignment.as_deref()), [(0, GIB)]);
    assert_eq!(memory(less.surplus.as_deref()), [(0, 3 * GIB)]);
    let more = resized(&mut fleet, 1, &huge(6)).unwrap();
    assert_eq!(memory(more.assignment.as_deref()), [(0, 6 * GIB)]);
    assert_eq!(
        (&more.surplus, more.memory.guest),
        (&None, MemoryMib(6 * GIB))
    );
    let refused = resized(&mut fleet, 1, &huge(9)).unwrap_err();
    assert_eq!(refused.filter(), Filter::HugePages);
}

/// The agent refuses what its node doesn't offer (any more): it isn't given again.
#[test]
fn what_the_node_has_lost_is_given_up() {
    let own = [device(0, "gpu", Some(0))];
    let mut fleet = fleet(&[cell(0, &[0, 1, 2, 3], 0)], &own);
    let mut asked = dedicated(3, 1);
    asked.needs.devices = [("gpu".parse().unwrap(), 1)].into();
    placed(&mut fleet, 1, &asked);
    let mut poorer = node(1);
    with(&mut poorer, |equipment| {
        equipment.cells = vec![cell(0, &[1, 2, 3], 0)];
        equipment.devices = own.to_vec();
    });
    fleet.apply(put(poorer.clone()));
    asked.vcpus = Vcpus(2);
    let less = resized(&mut fleet, 1, &asked).unwrap();
    assert_eq!(threads(less.assignment.as_deref()), [(0, vec![1, 2])]);
    assert_eq!(threads(less.surplus.as_deref()), [(0, vec![0])]);

    with(&mut poorer, |equipment| equipment.devices.clear());
    fleet.apply(put(poorer.clone()));
    let refused = resized(&mut fleet, 1, &asked).unwrap_err();
    assert_eq!(refused.filter(), Filter::Devices);
    let other = device(3, "gpu", None);
    with(&mut poorer, |equipment| {
        equipment.devices = vec![other.clone()];
    });
    fleet.apply(put(poorer));
    let swapped = resized(&mut fleet, 1, &asked).unwrap();
    let devices = |own: &Option<Box<Assignment>>| own.as_ref().unwrap().devices.clone();
    assert_eq!(devices(&swapped.assignment), [other.address]);
    assert_eq!(devices(&swapped.surplus), [own[0].address]);
}

#[test]
fn a_silent_node_lets_shrink_and_not_grow() {
    let mut fleet = fleet(&[cell(0, &[0, 1, 2, 3], 0)], &[]);
    placed(&mut fleet, 1, &dedicated(2, 1));
    let mut silent = node(1);
    silent.equipment = fleet.node(node_id(1)).unwrap().node().equipment.clone();
    silent.reachable = false;
    fleet.apply(put(silent));
    let refused = resized(&mut fleet, 1, &dedicated(3, 1)).unwrap_err();
    assert_eq!(refused, Rejection::Unreachable);
    let less = resized(&mut fleet, 1, &dedicated(1, 1)).unwrap();
    let named: BTreeSet<_> = less.owned().flat_map(|own| threads(Some(own))).collect();
    assert_eq!(named, [(0, vec![0]), (0, vec![1])].into());
}
