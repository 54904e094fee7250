//! How many nodes of one size some instances need, by the scheduler's own packing.

use imbl::OrdMap;
use kapok_scheduler::{Capacity, Delta, Fleet, Node, Policy, Request, place};
use kapok_types::{IncarnationId, Name, NodeId, instance::Arch};
use uuid::Uuid;

use super::NodeShape;
use crate::fabric::accounting::Shape;

/// What came of packing. Ordered by nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Packed {
    /// Nodes.
    pub nodes: u32,
    /// Instances that fit on no such node, even an empty one.
    pub misfits: u32,
}

/// Places instances one by one, the largest share of a node first, on empty nodes of one size;
/// opens another when none fits.
pub fn pack(shapes: &OrdMap<Shape, u32>, node: NodeShape) -> Packed {
    // By the larger share of a node, exactly: vcpus/V against memory/M over the same V·M.
    let share = |shape: &Shape| {
        let vcpus = u128::from(shape.vcpus.get()) * u128::from(node.memory.get());
        let memory = u128::from(shape.claim().total().get()) * u128::from(node.vcpus.get());
        vcpus.max(memory)
    };
    let mut largest_first: Vec<_> = shapes.iter().collect();
    largest_first.sort_by_key(|(shape, _)| std::cmp::Reverse((share(shape), **shape)));
    let (mut fleet, mut packed, mut placed) = (Fleet::default(), Packed::default(), 0_u128);
    for (shape, count) in largest_first {
        let claim = shape.claim();
        if shape.vcpus > node.vcpus || claim.total() > node.memory {
            packed.misfits += count;
            continue;
        }
        let request = Request::new(Arch::X86_64, shape.vcpus, claim);
        for _ in 0..*count {
            let mut found = place(&fleet, &request, &Policy::PACK);
            if found.is_err() {
                packed.nodes += 1;
                let id = NodeId(Uuid::from_u128(u128::from(packed.nodes)));
                fleet.apply(Delta::NodePut(empty(id, node)));
                found = place(&fleet, &request, &Policy::PACK);
            }
            let Ok(found) = found else {
                // What fits an empty node is placed on it.
                packed.misfits += 1;
                continue;
            };
            placed += 1;
            fleet.apply(Delta::Claimed {
                node: found.node,
                incarnation: IncarnationId(Uuid::from_u128(placed)),
                claim: found.claim,
            });
        }
    }
    packed
}

fn empty(id: NodeId, shape: NodeShape) -> Node {
    #[expect(clippy::expect_used, reason = "a constant that is a name")]
    let name: Name = "node".parse().expect("\"node\" is a name");
    Node {
        id,
        name,
        arch: Arch::X86_64,
        capacity: Capacity {
            vcpus: shape.vcpus,
            memory: shape.memory,
            ..Capacity::default()
        },
        vcpu_overcommit_permille: 1000,
        cordoned: false,
        quarantined: false,
        reachable: true,
        resyncing: false,
        distrust: None,
        tier: 0,
        rack: None,
        room: None,
        labels: std::collections::BTreeMap::new(),
        isolation: None,
        equipment: std::sync::Arc::default(),
    }
}
