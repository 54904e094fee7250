use imbl::OrdMap;

use super::*;
use crate::fabric::accounting::Shape;

const NODE: NodeShape = NodeShape {
    vcpus: Vcpus(16),
    memory: MemoryMib(64 * 1024),
};

fn shapes(of: &[(u32, u64, u32)]) -> OrdMap<Shape, u32> {
    let shape = |(vcpus, memory, count): &(u32, u64, u32)| {
        let shape = Shape {
            vcpus: Vcpus(*vcpus),
            memory: MemoryMib(*memory),
        };
        (shape, *count)
    };
    of.iter().map(shape).collect()
}

fn moment(at: u64, of: &[(u32, u64, u32)]) -> Moment {
    let sum = |each: fn(&(u32, u64, u32)) -> u64| of.iter().map(each).sum();
    Moment {
        at: Timestamp(at),
        vcpus: sum(|one| u64::from(one.0) * u64::from(one.2)),
        memory_mib: sum(|one| one.1 * u64::from(one.2)),
        shapes: shapes(of),
    }
}

#[test]
fn nodes_are_those_that_the_scheduler_fills() {
    let packed = |of: &[(u32, u64, u32)]| {
        let packed = pack(&shapes(of), NODE);
        (packed.nodes, packed.misfits)
    };
    assert_eq!(packed(&[]), (0, 0));
    assert_eq!(packed(&[(8, 1024, 2)]), (1, 0));
    assert_eq!(packed(&[(8, 1024, 3)]), (2, 0));
    // Bounded by memory: QEMU's own counts, so two halves are more than one node.
    assert_eq!(packed(&[(1, 32 * 1024, 2)]), (2, 0));
    assert_eq!(packed(&[(12, 1024, 2), (4, 1024, 2)]), (2, 0));
    assert_eq!(packed(&[(17, 1024, 3), (1, 1024, 1)]), (1, 3));
}

#[test]
fn the_more_demanding_moment_counts_and_one_node_more() {
    let peaks = [Peak {
        vcpus: moment(5, &[(8, 1024, 4)]),
        memory: Some(moment(9, &[(1, 60 * 1024, 5)])),
    }];
    let one = bureau(None, &peaks, NODE);
    assert_eq!((one.vcpus, one.memory_mib), (32, 300 * 1024));
    assert_eq!((one.vcpus_at, one.memory_at), (Timestamp(5), Timestamp(9)));
    assert_eq!((one.packed, one.nodes, one.instances), (5, 6, 4));
    let nothing = bureau(None, &[], NODE);
    assert_eq!((nothing.packed, nothing.nodes), (0, 0));
}

#[test]
fn shares_are_rounded_down_and_deployments_ranked() {
    assert_eq!([saved(0, 0), saved(3, 1), saved(1, 3)], [0, 666, 0]);
    let month = Month::of(Timestamp(1_795_809_600_000));
    let system = |took: Option<u64>| SystemRecord {
        tenant: "water".parse().unwrap(),
        system: "billing".parse().unwrap(),
        requested_at: Some(month.begins()),
        live_at: took.map(|s| Timestamp(month.begins().get() + s * 1000)),
        up_s: 0,
        down_s: 0,
        unseen_s: 0,
        availability_ppm: None,
    };
    let took = [Some(10), None, Some(30), Some(20), Some(40)].map(system);
    let expected = Deployment {
        systems: 4,
        median_s: 20,
        p90_s: 40,
    };
    assert_eq!(deployment(&took, month, month), expected);
    let next = month.next();
    assert_eq!(deployment(&took, next, next), Deployment::default());
}
