use kapok_types::Name;

use super::*;
use crate::fixture::{claim, claimed, incarnation_id, node, node_id, put, request};

/// A long time after everything came to its node.
const NOW: Timestamp = Timestamp(100 * 3_600_000);

fn limits() -> Limits {
    Limits {
        moves: 20,
        memory: None,
        cool_down_ms: 3_600_000,
        effort: Effort::default(),
    }
}

/// Guests of these numbers, nodes, vCPUs and GiB, and the fleet of these nodes with them on it.
fn world(
    nodes: impl IntoIterator<Item = crate::Node>,
    guests: &[(u8, u8, u32, u64)],
) -> (Fleet, Guests) {
    let claims = guests
        .iter()
        .map(|(number, on, vcpus, gib)| claimed(*on, *number, claim(*vcpus, gib * 1024)));
    let fleet = Fleet::default()
        .with(nodes.into_iter().map(put))
        .with(claims);
    let guest = |(number, on, vcpus, gib): &(u8, u8, u32, u64)| Guest {
        incarnation: incarnation_id(*number),
        node: node_id(*on),
        request: request(*vcpus, gib * 1024),
        since: Timestamp(0),
        busy: None,
    };
    let guests = Guests {
        guests: guests.iter().map(guest).collect(),
        groups: Vec::new(),
    };
    (fleet, guests)
}

fn group(domain: Domain, apart: bool, members: &[(u8, u8)]) -> Group {
    Group {
        called: None,
        domain,
        strict: true,
        apart,
        members: (members.iter())
            .map(|(number, on)| (incarnation_id(*number), node_id(*on)))
            .collect(),
    }
}

fn run(world: &(Fleet, Guests), kind: Kind, limits: &Limits) -> Plan {
    plan(&world.0, &world.1, kind, limits, &Policy::PACK, NOW)
}

fn moves(plan: &Plan) -> Vec<(IncarnationId, NodeId)> {
    plan.moves
        .iter()
        .map(|one| (one.incarnation, one.to))
        .collect()
}

fn reasons(plan: &Plan) -> Vec<String> {
    plan.stays.iter().map(ToString::to_string).collect()
}

#[test]
fn a_drain_moves_everything_largest_first_or_says_why_not() {
    let world = world(
        (1..=3).map(node),
        &[(1, 1, 2, 1), (2, 1, 8, 1), (3, 2, 12, 1), (4, 3, 8, 1)],
    );
    let plan = run(&world, Kind::Drain(node_id(1)), &limits());
    assert_eq!(
        moves(&plan),
        [2, 1]
            .map(incarnation_id)
            .into_iter()
            .zip([3, 2].map(node_id))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        (plan.freed.as_slice(), plan.stays.len()),
        (&[node_id(1)][..], 0)
    );
    assert_eq!(plan.moves[0].why.to_string(), "its node is drained");
    let mut busy = world.clone();
    busy.1.guests[0].busy = Some("it is being deleted".into());
    busy.1.guests[1].request = request(17, 1024);
    let plan = run(&busy, Kind::Drain(node_id(1)), &limits());
    assert_eq!(plan.moves, []);
    assert_eq!(
        reasons(&plan),
        ["no node fits: 2 lack vCPUs", "it is being deleted"]
    );
    let empty = run(&world, Kind::Drain(node_id(9)), &limits());
    assert_eq!((empty.moves, empty.stays), (Vec::new(), Vec::new()));
}

#[test]
fn budget_and_cool_down_are_kept() {
    let mut world = world(
        (1..=2).map(node),
        &[(1, 1, 4, 4), (2, 1, 2, 2), (3, 1, 1, 1)],
    );
    world.1.guests[1].since = Timestamp(NOW.0 - 10);
    let drain = Kind::Drain(node_id(1));
    let plan = run(&world, drain, &limits());
    assert_eq!(plan.moves.len(), 2);
    assert_eq!(
        reasons(&plan),
        ["it came there lately and may move from 1970-01-05T04:59:59.990Z"]
    );
    let one = Limits {
        moves: 1,
        cool_down_ms: 0,
        ..limits()
    };
    let plan = run(&world, drain, &one);
    assert_eq!(
        (plan.moves.len(), reasons(&plan)[0].as_str()),
        (1, "the plan has as many moves as it may")
    );
    let small = Limits {
        memory: Some(MemoryMib(4 * 1024)),
        cool_down_ms: 0,
        ..limits()
    };
    let plan = run(&world, drain, &small);
    assert_eq!(
        plan.memory(),
        claim(2, 2048)
            .memory
            .total()
            .saturating_add(claim(1, 1024).memory.total())
    );
    assert_eq!(reasons(&plan), ["the plan moves as much memory as it may"]);
}

#[test]
fn consolidation_empties_the_emptiest_and_uses_no_unused_node() {
    let guests = [(1, 1, 10, 1), (2, 2, 4, 1), (3, 3, 1, 1), (4, 3, 1, 1)];
    let world = world((1..=4).map(node), &guests);
    let plan = run(&world, Kind::Consolidate, &limits());
    // Greedily 2 and 3 would be emptied, by 3 moves.
    assert_eq!(
        (plan.method, plan.freed.as_slice()),
        (Method::Solver, &[1, 2].map(node_id)[..])
    );
    let to: Vec<_> = plan.moves.iter().map(|one| one.to).collect();
    assert_eq!(to, [node_id(3); 2]);
    assert_eq!((plan.before.nodes_in_use, plan.after.nodes_in_use), (3, 1));
    // A node on which others' domains run is never empty.
    let mut foreign = node(2);
    foreign.capacity.foreign_memory = MemoryMib(1);
    let with_foreign = (world.0.with([put(foreign)]), world.1.clone());
    let plan = run(&with_foreign, Kind::Consolidate, &limits());
    assert_eq!(plan.freed, [node_id(1), node_id(3)]);
    // And where there is no room for it, it stays and is named.
    let full = self::world((1..=2).map(node), &[(1, 1, 10, 1), (2, 2, 8, 1)]);
    let plan = run(&full, Kind::Consolidate, &limits());
    assert_eq!((plan.moves.len(), plan.stays.len()), (0, 2));
}

/// Node 1's guests of 5 and 4 vCPUs fit only the other way round than largest first into the
/// fullest: into gaps of 9 and 7 that 5 + 4 and 4 + 3 fill.
#[test]
fn the_solver_finds_what_the_greedy_way_misses() {
    let guests = [
        (1, 1, 5, 1),
        (2, 1, 4, 1),
        (3, 1, 4, 1),
        (4, 1, 3, 1),
        (5, 2, 7, 1),
        (6, 3, 9, 1),
    ];
    let world = world((1..=3).map(node), &guests);
    let plan = run(&world, Kind::Drain(node_id(1)), &limits());
    assert_eq!(
        (plan.method, plan.moves.len()),
        (Method::Solver, 4),
        "{plan:?}"
    );
    let without = Limits {
        effort: Effort {
            choices: 0,
            ..Effort::default()
        },
        ..limits()
    };
    let plan = run(&world, Kind::Drain(node_id(1)), &without);
    assert_eq!((plan.method, plan.moves.len()), (Method::Greedy, 3));
    let mut world = world;
    for guest in &mut world.1.guests[4..] {
        guest.busy = Some("busy".into());
    }
    let plan = run(&world, Kind::Consolidate, &limits());
    assert_eq!(
        (plan.method, plan.freed.as_slice()),
        (Method::Solver, &[node_id(1)][..])
    );
}

#[test]
fn rebalancing_relieves_the_sick_then_the_full() {
    let guests = [(1, 1, 8, 1), (2, 1, 6, 1), (3, 2, 1, 1), (4, 3, 2, 1)];
    let mut sick = node(3);
    sick.tier = 2;
    let world = world([node(1), node(2), sick], &guests);
    let plan = run(&world, Kind::Rebalance, &limits());
    let whys: Vec<_> = plan.moves.iter().map(|one| one.why.to_string()).collect();
    assert_eq!(
        whys,
        [
            "its node is of tier 2, the other one of 0",
            "its node goes from 87% to 50% full, the other one to 56%",
        ]
    );
    assert_eq!(
        (plan.before.highest_permille, plan.after.highest_permille),
        (875, 562)
    );
    // What is even stays.
    let even = self::world((1..=2).map(node), &[(1, 1, 4, 1), (2, 2, 4, 1)]);
    assert_eq!(run(&even, Kind::Rebalance, &limits()).moves, []);
}

/// A sick node's guest is no reason to fill another node beyond what the fullest one was.
#[test]
fn relief_makes_no_node_fuller_than_the_fullest() {
    let of = |vcpus| {
        let mut sick = node(1);
        sick.tier = 2;
        let guests = [(1, 1, vcpus, 1), (2, 2, 4, 1), (3, 3, 12, 1)];
        let world = world([sick, node(2), node(3)], &guests);
        moves(&run(&world, Kind::Rebalance, &limits()))
    };
    let there = (incarnation_id(1), node_id(2));
    assert_eq!(of(8), [there]);
    assert_eq!(of(9), []);
}

/// Those that are to be apart stay so although they move in one plan; those together stay together.
#[test]
fn groups_hold_among_those_that_move() {
    let mut apart = world(
        (1..=3).map(node),
        &[(1, 1, 1, 1), (2, 1, 1, 1), (3, 2, 8, 1), (4, 3, 4, 1)],
    );
    apart.1.groups = vec![group(Domain::Node, true, &[(1, 1), (2, 1)])];
    let plan = run(&apart, Kind::Drain(node_id(1)), &limits());
    let to: BTreeSet<_> = plan.moves.iter().map(|one| one.to).collect();
    assert_eq!((plan.moves.len(), to.len()), (2, 2));
    let mut together = apart.clone();
    together.1.groups = vec![group(Domain::Node, false, &[(1, 1), (2, 1)])];
    let plan = run(&together, Kind::Drain(node_id(1)), &limits());
    assert_eq!((plan.moves.len(), plan.stays.len()), (0, 2));
    let racked = |number: u8, rack: &str| {
        let mut node = node(number);
        node.rack = Some(rack.parse::<Name>().unwrap());
        put(node)
    };
    // Not even to a third one in another rack, which would leave the second one behind.
    let three = [(1, 1), (2, 1), (3, 2)];
    together.1.groups = vec![group(Domain::Rack, false, &three)];
    together.0 = together
        .0
        .with([racked(1, "a"), racked(2, "b"), racked(3, "a")]);
    let plan = run(&together, Kind::Drain(node_id(1)), &limits());
    assert!(plan.moves.len() == 2 && plan.moves.iter().all(|one| one.to == node_id(3)));
}
