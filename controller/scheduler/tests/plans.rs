//! Plans on random fabrics: what they say is what applying them comes to, and every prefix holds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use kapok_scheduler::{
    Delta, Domain, Fleet, Headroom, Node, Outcome, Policy, Request, audit,
    plan::{Effort, Group, Guest, Guests, Kind, Limits, Plan, plan},
};
use kapok_types::{IncarnationId, MemoryMib, NodeId, Timestamp, Vcpus, instance::Arch};
use proptest::prelude::*;

use self::model::{any_fabric, any_policy, both, incarnation_id, node_id};

mod model;

const NOW: Timestamp = Timestamp(1_000_000);
/// Enough for every search of these sizes.
const STEPS: u32 = 200_000;

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (0_u8..13).prop_map(|node| Kind::Drain(node_id(node))),
        Just(Kind::Consolidate),
        Just(Kind::Rebalance),
    ]
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let memory = prop_oneof![2 => Just(None), 1 => (0_u64..100_000).prop_map(Some)];
    let effort = prop_oneof![
        3 => Just(Effort::default()),
        1 => (0_u32..40, 0_usize..60).prop_map(|(placements, choices)| Effort {
            placements,
            choices,
            branches: 5,
        }),
    ];
    (0_usize..30, memory, 0_u64..800_000, effort).prop_map(
        |(moves, memory, cool_down_ms, effort)| Limits {
            moves,
            memory: memory.map(MemoryMib),
            cool_down_ms,
            effort,
        },
    )
}

/// What a group is but for its members' places: domain, strict, apart, numbers of incarnations.
type Gathering = (Domain, bool, bool, BTreeSet<u8>);

fn any_gathering() -> impl Strategy<Value = Gathering> {
    let domain = prop_oneof![Just(Domain::Node), Just(Domain::Rack), Just(Domain::Room)];
    let members = prop::collection::btree_set(0_u8..40, 2..8);
    (domain, any::<bool>(), any::<bool>(), members)
}

/// Everybody on the fleet's nodes; some are busy, and they came at different times.
fn guests(fleet: &Fleet, gatherings: &[Gathering]) -> Guests {
    let mut guests = Guests::default();
    let mut places = BTreeMap::new();
    for view in fleet.nodes() {
        for (incarnation, claim) in view.claims() {
            let node = view.node();
            places.insert(incarnation, node.id);
            let number = u64::from(incarnation.0.as_bytes()[15]);
            guests.guests.push(Guest {
                incarnation,
                node: node.id,
                request: Request {
                    isolation: node.isolation.clone(),
                    ..Request::new(node.arch, claim.vcpus, claim.memory)
                },
                since: Timestamp(number * 20_000),
                busy: (number % 13 == 12).then(|| "busy".to_owned()),
            });
        }
    }
    for (domain, strict, apart, members) in gatherings {
        let members = members.iter().map(|number| incarnation_id(*number));
        guests.groups.push(Group {
            called: None,
            domain: *domain,
            strict: *strict,
            apart: *apart,
            members: members
                .filter_map(|id| Some((id, *places.get(&id)?)))
                .collect(),
        });
    }
    guests
}

fn share(fleet: &Fleet, domain: Domain, one: NodeId, other: NodeId) -> bool {
    let node = |id| fleet.node(id).unwrap().node().clone();
    let (one, other) = (node(one), node(other));
    match domain {
        Domain::Node => one.id == other.id,
        Domain::Rack => (&one.room, &one.rack) == (&other.room, &other.rack),
        Domain::Room => one.room == other.room,
    }
}

/// How often strict groups are broken: pairs that aren't apart, members that are alone.
fn broken(fleet: &Fleet, guests: &Guests, at: &BTreeMap<IncarnationId, NodeId>) -> usize {
    let broken = guests
        .groups
        .iter()
        .filter(|group| group.strict)
        .map(|group| {
            let members: Vec<_> = group.members.keys().map(|id| at[id]).collect();
            let near = |this: usize| {
                let others = members.iter().enumerate().filter(|(at, _)| *at != this);
                others
                    .filter(|(_, other)| share(fleet, group.domain, members[this], **other))
                    .count()
            };
            let each = 0..members.len();
            if group.apart {
                each.map(near).sum::<usize>()
            } else if members.len() > 1 {
                each.filter(|this| near(*this) == 0).count()
            } else {
                0
            }
        });
    broken.sum()
}

fn in_use(fleet: &Fleet) -> usize {
    fleet.nodes().filter(|view| view.claims().len() > 0).count()
}

fn memory_of(plan: &Plan) -> u64 {
    plan.moves
        .iter()
        .map(|one| one.claim.memory.total().get())
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn applying_a_plan_comes_to_what_it_says_and_every_prefix_holds(
        fabric in any_fabric(),
        gatherings in prop::collection::vec(any_gathering(), 0..4),
        kind in any_kind(),
        limits in any_limits(),
        policy in any_policy(),
    ) {
        let fleet = both(fabric).0;
        let guests = guests(&fleet, &gatherings);
        let plan = plan(&fleet, &guests, kind, &limits, &policy, NOW);
        prop_assert!(plan.moves.len() <= limits.moves);
        prop_assert!(memory_of(&plan) <= limits.memory.map_or(u64::MAX, MemoryMib::get));
        let by_id: BTreeMap<_, _> = guests.guests.iter().map(|one| (one.incarnation, one)).collect();
        let mut at: BTreeMap<_, _> = by_id.iter().map(|(id, guest)| (*id, guest.node)).collect();
        let (mut now, mut moved) = (fleet.clone(), BTreeSet::new());
        for one in &plan.moves {
            let guest = by_id[&one.incarnation];
            prop_assert!(moved.insert(one.incarnation), "it moves twice");
            prop_assert!(guest.busy.is_none());
            prop_assert!(guest.since.0 + limits.cool_down_ms <= NOW.0, "it moves too early");
            prop_assert_eq!(guest.node, one.from);
            prop_assert!(one.from != one.to);
            let target = now.node(one.to).unwrap();
            prop_assert!(target.node().is_open(), "{:?}", target.node());
            prop_assert_eq!(target.node().arch, guest.request.arch);
            let overcommitted = target.overcommitted();
            let before = broken(&fleet, &guests, &at);
            let [claimed, released] = one.deltas();
            now.apply(claimed);
            // While it runs: both claims count.
            let view = now.node(one.to).unwrap();
            prop_assert!(view.claimed_vcpus() <= view.vcpu_limit(), "{:?}", view);
            prop_assert!(view.claimed_memory() <= view.memory_limit(), "{:?}", view);
            prop_assert_eq!(view.overcommitted(), overcommitted);
            prop_assert!(now.claim_of(one.from, one.incarnation).is_some());
            now.apply(released);
            at.insert(one.incarnation, one.to);
            let after = broken(&fleet, &guests, &at);
            prop_assert!(after <= before, "{} breaks of groups become {}", before, after);
        }
        prop_assert_eq!(&plan.apply(&fleet), &now);
        prop_assert_eq!(plan.before.nodes_in_use, in_use(&fleet));
        prop_assert_eq!(plan.after.nodes_in_use, in_use(&now));
        let free = |view: &kapok_scheduler::NodeView<'_>| (view.free_vcpus(), view.free_memory());
        let open: Vec<_> = now.nodes().filter(|view| view.node().is_open()).collect();
        let vcpus = open.iter().map(|view| free(view).0).max().unwrap_or(Vcpus(0));
        let memory = open.iter().map(|view| free(view).1).max().unwrap_or(MemoryMib(0));
        prop_assert_eq!((plan.after.largest_vcpus, plan.after.largest_memory), (vcpus, memory));
        for freed in &plan.freed {
            prop_assert!(fleet.node(*freed).unwrap().claims().len() > 0);
            prop_assert_eq!(now.node(*freed).unwrap().claims().len(), 0);
        }
        // Nothing goes to where everything leaves.
        let from: BTreeSet<_> = plan.moves.iter().map(|one| one.from).collect();
        if kind != Kind::Rebalance {
            prop_assert!(plan.moves.iter().all(|one| !from.contains(&one.to)));
        }
        match kind {
            Kind::Drain(node) => {
                prop_assert!(plan.moves.iter().all(|one| one.from == node));
                let there = fleet.node(node).map_or(0, |view| view.claims().len());
                prop_assert_eq!(plan.moves.len() + plan.stays.len(), there);
            }
            Kind::Consolidate => {
                prop_assert_eq!(in_use(&now) + plan.freed.len(), in_use(&fleet));
            }
            Kind::Rebalance => {
                prop_assert!(plan.after.highest_permille <= plan.before.highest_permille);
            }
        }
    }

    #[test]
    fn equal_fleets_have_equal_plans(
        (fabric, shuffled) in any_fabric()
            .prop_flat_map(|fabric| (Just(fabric.clone()), Just(fabric).prop_shuffle())),
        gatherings in prop::collection::vec(any_gathering(), 0..3),
        kind in any_kind(),
        limits in any_limits(),
        policy in any_policy(),
    ) {
        let (fleet, other) = (both(fabric).0, both(shuffled).0);
        let mut guests = guests(&fleet, &gatherings);
        let first = plan(&fleet, &guests, kind, &limits, &policy, NOW);
        prop_assert_eq!(&first, &plan(&fleet, &guests, kind, &limits, &policy, NOW));
        guests.guests.reverse();
        prop_assert_eq!(first, plan(&other, &guests, kind, &limits, &policy, NOW));
    }

    /// What is emptied may be turned off: the headroom is on the others.
    #[test]
    fn the_headroom_is_there_after_a_plan(
        fabric in any_fabric(),
        kind in any_kind(),
        limits in any_limits(),
        rack in any::<bool>(),
        policy in any_policy(),
    ) {
        let headroom = if rack { Headroom::Rack } else { Headroom::Node };
        let policy = Policy { headroom, ..policy };
        let fleet = both(fabric).0;
        let one_pool = fleet.nodes().map(|view| Node {
            arch: Arch::X86_64,
            isolation: None,
            ..view.node().clone()
        });
        let fleet = fleet.with(one_pool.map(Delta::NodePut).collect::<Vec<_>>());
        let plan = plan(&fleet, &guests(&fleet, &[]), kind, &limits, &policy, NOW);
        if plan.moves.is_empty() {
            return Ok(());
        }
        let mut after = plan.apply(&fleet);
        let emptied: BTreeSet<_> = match kind {
            Kind::Rebalance => BTreeSet::new(),
            Kind::Drain(_) | Kind::Consolidate => plan.moves.iter().map(|one| one.from).collect(),
        };
        for node in emptied {
            let node = after.node(node).unwrap().node().clone();
            after.apply(Delta::NodePut(Node { cordoned: true, ..node }));
        }
        for audited in audit(&after, headroom, STEPS) {
            prop_assert_eq!(audited.outcome, Outcome::Survives, "{:?}", audited);
        }
    }
}
