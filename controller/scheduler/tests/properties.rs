//! The fleet and the decision against naive recomputations, on random fabrics.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{cmp::Reverse, collections::BTreeMap};

use kapok_scheduler::{Delta, Fleet, Overcommit, Policy, explain, place, place_all};
use kapok_types::NodeId;
use proptest::prelude::*;

use self::model::{
    any_claim, any_delta, any_fabric, any_node, any_policy, any_request, both, incarnation_id,
    limit, lone_request, memory, node_id, usual_claim, vcpus,
};

mod model;

/// What fabrics begin with may have two owners; shared amounts only run out when nodes shrink.
fn shared_excess(fleet: &Fleet, node: NodeId) -> Vec<Overcommit> {
    let mut over = fleet.node(node).unwrap().overcommitted();
    over.retain(|one| matches!(one, Overcommit::Vcpus(_) | Overcommit::Memory(_)));
    over
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Sums kept by deltas equal sums made anew, after any sequence: repeated and early
    /// releases, replaced claims, claims without a node, nodes that go and come back.
    #[test]
    fn the_incremental_fleet_equals_a_recomputation(
        deltas in prop::collection::vec(any_delta(any_claim()), 0..60),
    ) {
        let (fleet, model) = both(deltas);
        prop_assert_eq!(fleet.len(), model.nodes.len());
        for (view, node) in fleet.nodes().zip(model.nodes.values()) {
            prop_assert_eq!(view.node(), node);
            let (used_vcpus, used_mib) = model.used(node.id);
            prop_assert_eq!(view.claimed_vcpus(), vcpus(used_vcpus));
            prop_assert_eq!(view.claimed_memory(), memory(used_mib));
            let (limit_vcpus, limit_mib) = limit(node);
            prop_assert_eq!(view.free_vcpus(), vcpus(limit_vcpus.saturating_sub(used_vcpus)));
            prop_assert_eq!(view.free_memory(), memory(limit_mib.saturating_sub(used_mib)));
            let mut over = Vec::new();
            if used_vcpus > limit_vcpus {
                over.push(Overcommit::Vcpus(vcpus(used_vcpus - limit_vcpus)));
            }
            if used_mib > limit_mib {
                over.push(Overcommit::Memory(memory(used_mib - limit_mib)));
            }
            let (threads, pages, devices) = model.named(node.id).excess(&node.equipment);
            if threads > 0 {
                over.push(Overcommit::DedicatedCpus(vcpus(threads.into())));
            }
            let huge_mib = u128::from(pages[0]) * 2 + u128::from(pages[1]) * 1024;
            if huge_mib > 0 {
                over.push(Overcommit::HugePages(memory(huge_mib)));
            }
            if devices > 0 {
                over.push(Overcommit::Devices(devices.try_into().unwrap()));
            }
            prop_assert_eq!(view.overcommitted(), over);
        }
        let held: BTreeMap<_, _> = fleet
            .nodes()
            .flat_map(|view| {
                view.claims().map(move |(incarnation, claim)| ((view.node().id, incarnation), claim))
            })
            .chain(fleet.strays().map(|(node, incarnation, claim)| ((node, incarnation), claim)))
            .map(|(of, claim)| (of, claim.clone()))
            .collect();
        prop_assert_eq!(&held, &model.claims);
        // The exact sums too: a fleet made anew is equal.
        let claims = model.claims.iter().map(|((node, incarnation), claim)| Delta::Claimed {
            node: *node,
            incarnation: *incarnation,
            claim: claim.clone(),
        });
        let anew = Fleet::default()
            .with(claims)
            .with(model.nodes.values().cloned().map(Delta::NodePut));
        prop_assert_eq!(fleet, anew);
    }

    #[test]
    fn the_decision_equals_a_naive_scan(
        fabric in any_fabric(),
        request in any_request(),
        policy in any_policy(),
    ) {
        let (fleet, model) = both(fabric);
        let expected = model.choice(&request, policy);
        let placed = place(&fleet, &request, &policy);
        prop_assert_eq!(placed.as_ref().ok().map(|placed| placed.node), expected);
        let explanation = explain(&fleet, &request, &policy);
        prop_assert_eq!(explanation.chosen().map(|chosen| chosen.node), expected);
        let rejections = explanation.rejections();
        match &placed {
            Err(no_fit) => prop_assert_eq!(no_fit.rejections(), &rejections),
            Ok(placed) => {
                let node = &model.nodes[&placed.node];
                model.named(node.id).check(node, &request, &placed.claim);
            }
        }
        prop_assert_eq!(rejections.counts.values().sum::<usize>(), rejections.per_node.len());
    }

    /// The same after any history: the index follows every change.
    #[test]
    fn the_decision_equals_a_naive_scan_after_any_changes(
        deltas in prop::collection::vec(any_delta(usual_claim()), 0..60),
        request in any_request(),
        policy in any_policy(),
    ) {
        let (fleet, model) = both(deltas);
        let placed = place(&fleet, &request, &policy).ok().map(|placed| placed.node);
        prop_assert_eq!(placed, model.choice(&request, policy));
    }

    /// What was there before is there again, for decisions as well.
    #[test]
    fn a_release_restores_every_answer(
        fabric in any_fabric(),
        (node, claim) in (0_u8..12, any_claim()),
        request in any_request(),
        policy in any_policy(),
    ) {
        let before = both(fabric).0;
        let (node, incarnation) = (node_id(node), incarnation_id(99_u8));
        let after = before.with([
            Delta::Claimed { node, incarnation, claim },
            Delta::Released { node, incarnation },
        ]);
        prop_assert_eq!(&before, &after);
        prop_assert_eq!(place(&before, &request, &policy), place(&after, &request, &policy));
    }

    /// Without groups: those are limits on how instances spread, which one more node can break.
    #[test]
    fn a_further_node_makes_nothing_infeasible(
        fabric in any_fabric(),
        further in any_node(200),
        request in lone_request(),
        spread in any::<bool>(),
    ) {
        let policy = if spread { Policy::SPREAD } else { Policy::PACK };
        let fleet = both(fabric).0;
        let larger = fleet.with([Delta::NodePut(further)]);
        if place(&fleet, &request, &policy).is_ok() {
            prop_assert!(place(&larger, &request, &policy).is_ok());
        }
    }

    /// A batch is placed as its members would be, largest first, and not at all if one isn't.
    #[test]
    fn a_batch_is_all_or_nothing(
        fabric in any_fabric(),
        requests in prop::collection::vec(any_request(), 0..8),
        policy in any_policy(),
    ) {
        let (mut fleet, mut model) = both(fabric);
        let placed = place_all(&fleet, &requests, &policy);
        let mut order: Vec<_> = (0..requests.len()).collect();
        order.sort_by_key(|at| Reverse((requests[*at].vcpus, requests[*at].memory.total())));
        for (number, at) in (100_u8..).zip(order) {
            let expected = model.choice(&requests[at], policy);
            match &placed {
                Ok(placed) => prop_assert_eq!(Some(placed[at].node), expected),
                Err(refused) if refused.request == at => {
                    prop_assert_eq!(expected, None);
                    break;
                }
                Err(_) => {}
            }
            let node = expected.unwrap();
            let alone = place(&fleet, &requests[at], &policy).unwrap();
            if let Ok(placed) = &placed {
                prop_assert_eq!(&placed[at].claim, &alone.claim);
            }
            let delta = Delta::Claimed {
                node,
                incarnation: incarnation_id(number),
                claim: alone.claim,
            };
            fleet.apply(delta.clone());
            model.apply(delta);
        }
        for node in placed.iter().flatten().map(|placed| placed.node) {
            prop_assert_eq!(shared_excess(&fleet, node), []);
        }
    }

    /// No decision raises the claims on a node above its limit, whatever shrinks in between.
    #[test]
    fn no_decision_overcommits(
        fabric in any_fabric(),
        steps in prop::collection::vec((any_request(), (0_u8..12).prop_flat_map(any_node)), 1..40),
        shrink in any::<u64>(),
        policy in any_policy(),
    ) {
        let (mut fleet, mut model) = both(fabric);
        for (number, (request, changed)) in (100_u8..).zip(steps) {
            if let Ok(placed) = place(&fleet, &request, &policy) {
                let named = model.named(placed.node);
                let node = &model.nodes[&placed.node];
                let before = named.excess(&node.equipment);
                named.check(node, &request, &placed.claim);
                let delta = Delta::Claimed {
                    node: placed.node,
                    incarnation: incarnation_id(number),
                    claim: placed.claim.clone(),
                };
                fleet.apply(delta.clone());
                model.apply(delta);
                let node = &model.nodes[&placed.node];
                let ((used_vcpus, used_mib), (limit_vcpus, limit_mib)) =
                    (model.used(node.id), limit(node));
                prop_assert!(used_vcpus <= limit_vcpus, "{used_vcpus} of {limit_vcpus} vCPUs");
                prop_assert!(used_mib <= limit_mib, "{used_mib} of {limit_mib} MiB");
                prop_assert_eq!(shared_excess(&fleet, placed.node), []);
                prop_assert_eq!(model.named(node.id).excess(&node.equipment), before);
                prop_assert_eq!(placed.score.vcpus_left, vcpus(limit_vcpus - used_vcpus));
                prop_assert_eq!(placed.score.memory_left, memory(limit_mib - used_mib));
            }
            if shrink >> (number % 64) & 1 == 1 {
                fleet.apply(Delta::NodePut(changed.clone()));
                model.apply(Delta::NodePut(changed));
            }
        }
    }

    /// The order in which nodes and claims became known changes neither fleet nor decision.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (fabric, shuffled) in any_fabric()
            .prop_flat_map(|fabric| (Just(fabric.clone()), Just(fabric).prop_shuffle())),
        request in any_request(),
        policy in any_policy(),
    ) {
        let (fleet, other) = (both(fabric).0, both(shuffled).0);
        prop_assert_eq!(&fleet, &other);
        let placed = place(&fleet, &request, &policy);
        prop_assert_eq!(&placed, &place(&other, &request, &policy));
        prop_assert_eq!(placed, place(&fleet, &request, &policy));
    }
}
