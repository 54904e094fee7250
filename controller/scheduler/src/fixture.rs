//! Small things that the unit tests place and claim.

use std::{collections::BTreeMap, sync::Arc};

use kapok_types::{
    Equipment, IncarnationId, MemoryMib, NodeId, Vcpus,
    equipment::{Cell, Device, PageSize},
    instance::{Arch, MemoryClaim},
};

use crate::{Capacity, Claim, Delta, Node, Request};

/// The node id of this number.
pub(crate) fn node_id(number: u8) -> NodeId {
    format!("00000000-0000-7000-8000-0000000000{number:02x}")
        .parse()
        .unwrap()
}

/// The incarnation id of this number.
pub(crate) fn incarnation_id(number: u8) -> IncarnationId {
    format!("00000000-0000-7000-9000-0000000000{number:02x}")
        .parse()
        .unwrap()
}

/// A sound node with 4 threads at ratio 4.0 (16 vCPUs) and 64 GiB.
pub(crate) fn node(number: u8) -> Node {
    Node {
        id: node_id(number),
        name: format!("node-{number:02}").parse().unwrap(),
        arch: Arch::X86_64,
        capacity: Capacity {
            vcpus: Vcpus(4),
            memory: MemoryMib(64 * 1024),
            ..Capacity::default()
        },
        vcpu_overcommit_permille: 4000,
        cordoned: false,
        quarantined: false,
        reachable: true,
        resyncing: false,
        distrust: None,
        tier: 0,
        rack: None,
        room: None,
        labels: BTreeMap::new(),
        isolation: None,
        equipment: Arc::default(),
    }
}

/// A claim with QEMU's usual overhead.
pub(crate) fn claim(vcpus: u32, memory_mib: u64) -> Claim {
    Claim {
        vcpus: Vcpus(vcpus),
        memory: MemoryClaim::of(MemoryMib(memory_mib), Vcpus(vcpus)),
        assignment: None,
        surplus: None,
    }
}

/// A request for such a claim on `x86_64`, anywhere.
pub(crate) fn request(vcpus: u32, memory_mib: u64) -> Request {
    let Claim { vcpus, memory, .. } = claim(vcpus, memory_mib);
    Request::new(Arch::X86_64, vcpus, memory)
}

/// A cell with these dedicated threads, and 2 MiB pages that hold so much memory.
pub(crate) fn cell(id: u16, threads: &[u16], huge_mib: u64) -> Cell {
    Cell {
        id,
        dedicated: threads.to_vec(),
        pages: [(PageSize::Mib2, huge_mib / 2)].into(),
    }
}

/// The device of this number.
pub(crate) fn device(number: u8, class: &str, cell: Option<u16>) -> Device {
    Device {
        address: format!("0000:65:00.{number}").parse().unwrap(),
        class: class.parse().unwrap(),
        cell,
    }
}

/// Changes what a node has beyond amounts.
pub(crate) fn with(node: &mut Node, change: impl FnOnce(&mut Equipment)) {
    change(Arc::make_mut(&mut node.equipment));
}

pub(crate) fn put(node: Node) -> Delta {
    Delta::NodePut(node)
}

pub(crate) fn claimed(node: u8, incarnation: u8, claim: Claim) -> Delta {
    Delta::Claimed {
        node: node_id(node),
        incarnation: incarnation_id(incarnation),
        claim,
    }
}

pub(crate) fn released(node: u8, incarnation: u8) -> Delta {
    Delta::Released {
        node: node_id(node),
        incarnation: incarnation_id(incarnation),
    }
}
