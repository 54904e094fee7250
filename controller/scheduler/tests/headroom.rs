//! The bound of the headroom against the exact search: it never admits what that refuses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use kapok_scheduler::{Delta, Fleet, Headroom, Outcome, Policy, Request, audit, capacity, place};
use kapok_types::instance::Arch;
use proptest::prelude::*;

use self::model::{any_fabric, any_policy, both, incarnation_id, lone_request};

mod model;

/// Enough for every search of these sizes.
const STEPS: u32 = 200_000;

/// A fabric of one pool: what the others carry is no concern of a decision.
fn one_pool(fabric: Vec<Delta>) -> Fleet {
    let mut fleet = both(fabric).0;
    let nodes: Vec<_> = fleet.nodes().map(|view| view.node().clone()).collect();
    for mut node in nodes {
        node.arch = Arch::X86_64;
        node.isolation = None;
        fleet.apply(Delta::NodePut(node));
    }
    fleet
}

fn of_the_pool(request: Request) -> Request {
    Request {
        arch: Arch::X86_64,
        isolation: None,
        ..request
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_admitted_survives_any_loss(
        fabric in any_fabric(),
        requests in prop::collection::vec(lone_request().prop_map(of_the_pool), 1..24),
        rack in any::<bool>(),
        policy in any_policy(),
    ) {
        let headroom = if rack { Headroom::Rack } else { Headroom::Node };
        let policy = Policy { headroom, ..policy };
        let mut fleet = one_pool(fabric);
        for (number, request) in (100_u8..).zip(requests) {
            let Ok(placed) = place(&fleet, &request, &policy) else {
                continue;
            };
            fleet.apply(Delta::Claimed {
                node: placed.node,
                incarnation: incarnation_id(number),
                claim: placed.claim,
            });
            for audited in audit(&fleet, headroom, STEPS) {
                prop_assert_eq!(audited.outcome, Outcome::Survives, "{:?}", audited);
            }
        }
    }

    /// The count within the headroom is what decisions would admit, and ends with the numbers.
    #[test]
    fn capacity_counts_what_decisions_admit(
        fabric in any_fabric(),
        shape in lone_request(),
        policy in any_policy(),
    ) {
        let mut fleet = both(fabric).0;
        let counted = capacity(&fleet, std::slice::from_ref(&shape), &policy).fits[0];
        let mut placed = 0_u64;
        while let Ok(placement) = place(&fleet, &shape, &policy) {
            fleet.apply(Delta::Claimed {
                node: placement.node,
                incarnation: incarnation_id(1000 + placed),
                claim: placement.claim,
            });
            placed += 1;
        }
        prop_assert_eq!(counted.within_headroom.unwrap_or(counted.in_all), placed);
        prop_assert!(placed <= counted.in_all);
    }
}
