//! The fleet and the decision against naive recomputations, on random fabrics.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use kapok_scheduler::{
    Capacity, Claim, Delta, Distrust, Fleet, Goal, Node, Overcommit, Policy, Request, explain,
    place,
};
use kapok_types::{
    IncarnationId, MemoryMib, NodeId, Vcpus,
    instance::{Arch, MemoryClaim},
};
use proptest::prelude::*;

// ------------------------------------------------------------------ the naive model

/// Nodes and claims without any sum.
#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<NodeId, Node>,
    claims: BTreeMap<(NodeId, IncarnationId), Claim>,
}

impl Model {
    fn apply(&mut self, delta: Delta) {
        match delta {
            Delta::NodePut(node) => {
                self.nodes.insert(node.id, node);
            }
            Delta::NodeRemoved(id) => {
                self.nodes.remove(&id);
            }
            Delta::Claimed {
                node,
                incarnation,
                claim,
            } => {
                self.claims.insert((node, incarnation), claim);
            }
            Delta::Released { node, incarnation } => {
                self.claims.remove(&(node, incarnation));
            }
        }
    }

    /// vCPUs and MiB that are claimed of a node.
    fn used(&self, id: NodeId) -> (u128, u128) {
        let of_node = self.claims.iter().filter(|((node, _), _)| *node == id);
        of_node.fold((0, 0), |(vcpus, memory_mib), (_, claim)| {
            (
                vcpus + u128::from(claim.vcpus.get()),
                memory_mib + total_mib(claim.memory),
            )
        })
    }

    /// What a node has free, negative where it is overcommitted.
    fn left(&self, node: &Node) -> (i128, i128) {
        let (used_vcpus, used_mib) = self.used(node.id);
        let (limit_vcpus, limit_mib) = limit(node);
        let signed = |amount: u128| i128::try_from(amount).unwrap();
        (
            signed(limit_vcpus) - signed(used_vcpus),
            signed(limit_mib) - signed(used_mib),
        )
    }

    /// The node that a scan without any cleverness chooses.
    fn choice(&self, request: &Request, goal: Goal) -> Option<NodeId> {
        let fitting = self.nodes.values().filter_map(|node| {
            let (vcpus, memory_mib) = self.left(node);
            let vcpus = vcpus - i128::from(request.vcpus.get());
            let memory_mib = memory_mib - i128::try_from(total_mib(request.memory)).unwrap();
            let open = node.reachable
                && !node.resyncing
                && node.distrust.is_none()
                && !node.cordoned
                && !node.quarantined;
            (open
                && node.arch == request.arch
                && !request.avoid.contains(&node.id)
                && vcpus >= 0
                && memory_mib >= 0)
                .then_some((vcpus, memory_mib, node.id))
        });
        match goal {
            Goal::Pack => fitting.min().map(|(.., id)| id),
            Goal::Spread => fitting
                .max_by_key(|(vcpus, mib, id)| (*vcpus, *mib, Reverse(*id)))
                .map(|(.., id)| id),
        }
    }
}

fn limit(node: &Node) -> (u128, u128) {
    let Capacity {
        vcpus,
        memory,
        foreign_memory,
        foreign_vcpus,
    } = node.capacity;
    let handed_out = u128::from(vcpus.get()) * u128::from(node.vcpu_overcommit_permille) / 1000;
    (
        handed_out.saturating_sub(foreign_vcpus.get().into()),
        memory.get().saturating_sub(foreign_memory.get()).into(),
    )
}

fn total_mib(claim: MemoryClaim) -> u128 {
    let MemoryClaim {
        guest,
        tables,
        vcpus,
        fixed,
    } = claim;
    [guest, tables, vcpus, fixed]
        .iter()
        .map(|part| u128::from(part.get()))
        .sum()
}

fn vcpus(amount: u128) -> Vcpus {
    Vcpus(amount.try_into().unwrap_or(u32::MAX))
}

fn memory(amount: u128) -> MemoryMib {
    MemoryMib(amount.try_into().unwrap_or(u64::MAX))
}

// ------------------------------------------------------------------ generators

fn node_id(number: u8) -> NodeId {
    format!("00000000-0000-7000-8000-0000000000{number:02x}")
        .parse()
        .unwrap()
}

fn incarnation_id(number: u8) -> IncarnationId {
    format!("00000000-0000-7000-9000-0000000000{number:02x}")
        .parse()
        .unwrap()
}

/// Mostly usual sizes, at times a hostile one.
fn any_claim() -> impl Strategy<Value = Claim> {
    let usual = usual_claim();
    let hostile =
        (any::<u32>(), any::<[u64; 4]>(), any::<bool>()).prop_map(|(vcpus, parts, most)| {
            let [guest, tables, for_vcpus, fixed] =
                parts.map(|part| MemoryMib(if most { u64::MAX } else { part }));
            Claim {
                vcpus: Vcpus(if most { u32::MAX } else { vcpus }),
                memory: MemoryClaim {
                    guest,
                    tables,
                    vcpus: for_vcpus,
                    fixed,
                },
            }
        });
    prop_oneof![5 => usual, 1 => hostile]
}

fn usual_claim() -> impl Strategy<Value = Claim> {
    (1_u32..=8, 1_u64..=16).prop_map(|(vcpus, gib)| Claim {
        vcpus: Vcpus(vcpus),
        memory: MemoryClaim::of(MemoryMib(gib * 1024), Vcpus(vcpus)),
    })
}

fn any_arch() -> impl Strategy<Value = Arch> {
    prop_oneof![4 => Just(Arch::X86_64), 1 => Just(Arch::Aarch64)]
}

/// A node of this number: few sizes, so that equal ranks are frequent.
fn any_node(number: u8) -> impl Strategy<Value = Node> {
    let rarely = || prop::bool::weighted(0.1);
    let capacity = (
        prop_oneof![Just(2_u32), Just(4), Just(8)],
        prop_oneof![Just(16_u64), Just(32), Just(64)],
        prop_oneof![4 => Just((0_u32, 0_u64)), 1 => (0_u32..12, 0_u64..80)],
    );
    let flags = (rarely(), rarely(), rarely(), rarely(), rarely());
    let ratio = prop_oneof![Just(1000_u32), Just(1500), Just(4000)];
    (capacity, ratio, any_arch(), flags).prop_map(
        move |((threads, gib, (foreign_vcpus, foreign_gib)), ratio, arch, flags)| Node {
            id: node_id(number),
            name: format!("node-{number:02}").parse().unwrap(),
            arch,
            capacity: Capacity {
                vcpus: Vcpus(threads),
                memory: MemoryMib(gib * 1024),
                foreign_memory: MemoryMib(foreign_gib * 1024),
                foreign_vcpus: Vcpus(foreign_vcpus),
            },
            vcpu_overcommit_permille: ratio,
            cordoned: flags.0,
            quarantined: flags.4,
            reachable: !flags.1,
            resyncing: flags.2,
            distrust: flags.3.then_some(Distrust::FingerprintChanged),
        },
    )
}

fn any_delta(claim: impl Strategy<Value = Claim>) -> impl Strategy<Value = Delta> {
    prop_oneof![
        3 => (0_u8..6).prop_flat_map(any_node).prop_map(Delta::NodePut),
        1 => (0_u8..6).prop_map(|node| Delta::NodeRemoved(node_id(node))),
        5 => (0_u8..6, 0_u8..6, claim).prop_map(|(node, incarnation, claim)| Delta::Claimed {
            node: node_id(node),
            incarnation: incarnation_id(incarnation),
            claim,
        }),
        3 => (0_u8..6, 0_u8..6).prop_map(|(node, incarnation)| Delta::Released {
            node: node_id(node),
            incarnation: incarnation_id(incarnation),
        }),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    (
        any_arch(),
        usual_claim(),
        prop::collection::btree_set(0_u8..12, 0..3),
    )
        .prop_map(|(arch, claim, avoid)| Request {
            arch,
            vcpus: claim.vcpus,
            memory: claim.memory,
            avoid: avoid.into_iter().map(node_id).collect(),
        })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::PACK), Just(Policy::SPREAD)]
}

/// A dozen nodes, and claims of which most fit their node.
fn any_fabric() -> impl Strategy<Value = Vec<Delta>> {
    let nodes: Vec<_> = (0..12)
        .map(|number| any_node(number).prop_map(Delta::NodePut))
        .collect();
    let claims = prop::collection::vec((0_u8..12, 0_u8..40, usual_claim()), 0..24);
    (nodes, claims).prop_map(|(mut deltas, claims)| {
        let mut taken = BTreeSet::new();
        for (node, incarnation, claim) in claims {
            if taken.insert(incarnation) {
                let (node, incarnation) = (node_id(node), incarnation_id(incarnation));
                deltas.push(Delta::Claimed {
                    node,
                    incarnation,
                    claim,
                });
            }
        }
        deltas
    })
}

fn both(deltas: Vec<Delta>) -> (Fleet, Model) {
    let (mut fleet, mut model) = (Fleet::default(), Model::default());
    for delta in deltas {
        fleet.apply(delta.clone());
        model.apply(delta);
    }
    (fleet, model)
}

// ------------------------------------------------------------------ properties

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
            prop_assert_eq!(view.overcommitted(), over);
        }
        let held: BTreeMap<_, _> = fleet
            .nodes()
            .flat_map(|view| {
                view.claims().map(move |(incarnation, claim)| ((view.node().id, incarnation), claim))
            })
            .chain(fleet.strays().map(|(node, incarnation, claim)| ((node, incarnation), claim)))
            .collect();
        prop_assert_eq!(&held, &model.claims);
        // The exact sums too: a fleet made anew is equal.
        let claims = model.claims.iter().map(|((node, incarnation), claim)| Delta::Claimed {
            node: *node,
            incarnation: *incarnation,
            claim: *claim,
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
        let expected = model.choice(&request, policy.goal);
        let placed = place(&fleet, &request, &policy);
        prop_assert_eq!(placed.as_ref().ok().map(|placed| placed.node), expected);
        let explanation = explain(&fleet, &request, &policy);
        prop_assert_eq!(explanation.chosen().map(|chosen| chosen.node), expected);
        let rejections = match &placed {
            Ok(placed) => &placed.rejections,
            Err(rejections) => rejections,
        };
        prop_assert_eq!(&explanation.rejections(), rejections);
        prop_assert_eq!(rejections.counts.values().sum::<usize>(), rejections.per_node.len());
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
                let delta = Delta::Claimed {
                    node: placed.node,
                    incarnation: incarnation_id(number),
                    claim: request.claim(),
                };
                fleet.apply(delta.clone());
                model.apply(delta);
                let node = &model.nodes[&placed.node];
                let ((used_vcpus, used_mib), (limit_vcpus, limit_mib)) =
                    (model.used(node.id), limit(node));
                prop_assert!(used_vcpus <= limit_vcpus, "{used_vcpus} of {limit_vcpus} vCPUs");
                prop_assert!(used_mib <= limit_mib, "{used_mib} of {limit_mib} MiB");
                prop_assert_eq!(fleet.node(placed.node).unwrap().overcommitted(), []);
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
