//! Instances that become larger or smaller: quotas, nodes and claims.

use kapok_scheduler::Filter;
use kapok_types::{instance::MemoryClaim, phase::Size};

use super::*;
use crate::fabric::{
    command::ResizeInstance,
    fixture::{change_tenant, flavor, tenant},
    tenant::State,
};

pub(super) fn resize(instance: &str, vcpus: u32, memory: u64) -> Command {
    Command::ResizeInstance(ResizeInstance {
        instance: instance.into(),
        flavor: None,
        vcpus: Vcpus(vcpus),
        memory: MemoryMib(memory),
        etag: String::new(),
    })
}

/// The agent of an instance's node has seen it of this size under the present intent.
pub(super) fn seen(world: &World, instance: &str, vcpus: u32, memory: u64) -> Command {
    let instance = world.instance(instance);
    let one = &instance.incarnations[0];
    Command::SettleClaim {
        node: one.node,
        incarnation: one.id,
        generation: instance.generation,
        size: Size {
            vcpus: Vcpus(vcpus),
            memory: MemoryMib(memory),
        },
    }
}

/// vCPUs and guest memory that an instance claims, and the index of the fleet as well.
#[track_caller]
fn claims(world: &World, instance: &str) -> (u32, u64) {
    let one = &world.instance(instance).incarnations[0];
    let claim = &one.claim;
    assert_eq!(world.fabric.fleet.claim_of(one.node, one.id), Some(claim));
    (claim.vcpus.get(), claim.memory.guest.get())
}

fn used(world: &World) -> (u64, u64) {
    let used = world.fabric.usage.of(&city()).used;
    (used.vcpus, used.memory_mib)
}

/// A node of 4 vCPUs and 4 GiB with one instance of 2 vCPUs and 1 GiB.
fn one() -> World {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(CreateInstance {
        vcpus: Vcpus(2),
        memory: MemoryMib(1024),
        ..create("web")
    }));
    world
}

#[test]
fn growth_is_claimed_at_once_and_supersedes_what_ran() {
    let mut world = one();
    let before = world.instance("web").clone();
    let Outcome::Operation(operation) = world.must(resize("web", 4, 2048)) else {
        panic!("a resize is an operation")
    };
    let after = world.instance("web");
    assert_eq!(Size::of(&after.spec), size(4, 2048));
    assert_eq!((after.operation, after.generation.get()), (operation, 2));
    assert_eq!(claims(&world, "web"), (4, 2048));
    assert_eq!(used(&world), (4, 2048));
    let superseded = world.fabric.operations[&before.operation].ended.as_ref();
    assert_eq!(superseded.unwrap().outcome, OperationOutcome::Superseded);
    let begun = &world.fabric.operations[&operation];
    assert_eq!(
        (begun.kind, begun.is_running()),
        (OperationKind::Resize, true)
    );
    // The agent's word changes nothing of a claim that is as it should be.
    let events = world.events.len();
    let seen = seen(&world, "web", 2, 1024);
    world.must(seen);
    assert_eq!(world.events.len(), events);
}

fn size(vcpus: u32, memory: u64) -> Size {
    Size {
        vcpus: Vcpus(vcpus),
        memory: MemoryMib(memory),
    }
}

/// What shrinks stays claimed until the agent has seen it, and what grows and shrinks at once is
/// claimed part by part.
#[test]
fn a_claim_is_never_less_than_what_may_run() {
    let mut world = one();
    world.must(resize("web", 1, 2048));
    assert_eq!(claims(&world, "web"), (2, 2048));
    assert_eq!(used(&world), (1, 2048));
    // Another intent's word, another node's, and what is still as it was.
    let stale = match seen(&world, "web", 1, 2048) {
        Command::SettleClaim {
            node,
            incarnation,
            size,
            ..
        } => Command::SettleClaim {
            node,
            incarnation,
            size,
            generation: Generation(1),
        },
        other => panic!("{other:?}"),
    };
    world.must(stale);
    let before = seen(&world, "web", 2, 1024);
    world.must(before);
    assert_eq!(claims(&world, "web"), (2, 2048));
    let restarted = seen(&world, "web", 1, 2048);
    world.must(restarted);
    assert_eq!(claims(&world, "web"), (1, 2048));
    let claim = &world.instance("web").incarnations[0].claim;
    assert_eq!(claim.memory, MemoryClaim::of(MemoryMib(2048), Vcpus(1)));
    // Whatever an agent says, a claim only falls, and not below the intent.
    let more = seen(&world, "web", 512, u64::MAX);
    world.must(more);
    assert_eq!(claims(&world, "web"), (1, 2048));
    let less = seen(&world, "web", 1, 1);
    world.must(less);
    assert_eq!(claims(&world, "web"), (1, 2048));
}

/// FAULTS 27, for growth: of two that want a node's last vCPUs, or a quota's, one gets them, and
/// the other changes nothing.
#[test]
fn the_last_vcpu_has_one_taker() {
    let mut world = one();
    world.must(Command::CreateInstance(create("db")));
    let before = world.instance("db").clone();
    world.must(resize("web", 3, 0));
    let Err(Denied::NoRoom { node, why, .. }) = world.submit(None, resize("db", 2, 0)) else {
        panic!("there is no vCPU left")
    };
    assert_eq!((node.as_str(), why.filter()), ("node-1", Filter::Vcpus));
    assert_eq!(*world.instance("db"), before);
    // Given back once it is seen to be gone, and not before.
    world.must(resize("web", 2, 0));
    assert!(world.submit(None, resize("db", 2, 0)).is_err());
    let settled = seen(&world, "web", 2, 1024);
    world.must(settled);
    world.must(resize("db", 2, 0));
    world.must(resize("db", 1, 0));
    let settled = seen(&world, "db", 1, 512);
    world.must(settled);

    let limit = |amount| TenantChange::Limit(Dimension::Vcpus, Some(amount));
    world.must(change_tenant("city", &[limit(4)]));
    world.must(resize("web", 3, 0));
    let Err(Denied::OverQuota { short, .. }) = world.submit(None, resize("db", 2, 0)) else {
        panic!("the quota is full")
    };
    assert_eq!((short[0].held, short[0].asked, short[0].limit), (4, 1, 4));
    // What shrinks needs no room, also above a quota.
    world.must(change_tenant("city", &[limit(2)]));
    world.must(resize("web", 2, 0));
    assert_eq!(used(&world).0, 3);
}

/// FAULTS 28, for growth: no number is zero, negative or too large, and none overflows.
#[test]
fn numbers_have_limits() {
    let mut world = one();
    for (vcpus, memory, field) in [
        (0, 0, "vcpus"),
        (513, 0, "vcpus"),
        (u32::MAX, 0, "vcpus"),
        (0, 15, "memory_mib"),
        (0, u64::MAX, "memory_mib"),
    ] {
        let Err(Denied::Invalid(violations)) = world.submit(None, resize("web", vcpus, memory))
        else {
            panic!("{vcpus} vCPUs and {memory} MiB")
        };
        assert_eq!(violations[0].field, field);
    }
    assert_eq!(claims(&world, "web"), (2, 1024));
}

#[test]
fn a_closed_node_lets_shrink_and_only_a_reliable_one_lets_grow() {
    let mut world = one();
    world.must(Command::CordonNode {
        node: "node-1".into(),
        reason: "test".into(),
    });
    // A cordon keeps new instances away, not what is there.
    world.must(resize("web", 4, 0));
    world.must(Command::LoseNode {
        node: "node-1".parse().unwrap(),
        reason: "silence".into(),
    });
    world.must(resize("web", 1, 0));
    assert_eq!(claims(&world, "web"), (4, 1024));
    // It holds that much still, so nothing is asked of the node.
    world.must(resize("web", 4, 0));
    let Err(Denied::NoRoom { why, .. }) = world.submit(None, resize("web", 5, 0)) else {
        panic!("nobody can be asked")
    };
    assert_eq!(why.filter(), Filter::Reachable);
}

#[test]
fn a_flavor_says_all_numbers_or_none() {
    let mut world = one();
    world.must(flavor("large", &[]));
    let wish = |vcpus| {
        let Command::ResizeInstance(wish) = resize("web", vcpus, 0) else {
            panic!("it is one")
        };
        Command::ResizeInstance(ResizeInstance {
            flavor: Some("large".parse().unwrap()),
            ..wish
        })
    };
    let both = world.submit(None, wish(2));
    assert!(matches!(both, Err(Denied::Invalid(_))), "{both:?}");
    world.must(wish(0));
    let large = &world.fabric.flavors[&"large".parse::<Name>().unwrap()];
    let web = world.instance("web");
    assert_eq!(
        (web.spec.vcpus, web.spec.memory),
        (large.vcpus, large.memory)
    );
    assert_eq!(web.flavor.as_ref(), Some(&large.name));
    let memory = large.memory.get();
    world.must(resize("web", 0, memory));
    assert!(world.instance("web").flavor.is_some(), "it is the same");
    world.must(resize("web", 3, 0));
    assert_eq!(world.instance("web").flavor, None);
}

#[test]
fn what_is_refused_says_why() {
    let mut world = one();
    world.must(tenant("water", None));
    world.must(Command::CreateInstance(CreateInstance {
        tenant: Some("water".parse().unwrap()),
        ..create("gis")
    }));
    world.must(change_tenant(
        "water",
        &[TenantChange::State(State::Closing)],
    ));
    let closing = world.submit(None, resize("water/gis", 2, 0));
    assert!(
        matches!(closing, Err(Denied::TenantState { .. })),
        "{closing:?}"
    );
    world.must(resize("water/gis", 1, 256));

    let stale = match resize("web", 1, 0) {
        Command::ResizeInstance(wish) => Command::ResizeInstance(ResizeInstance {
            etag: "old".into(),
            ..wish
        }),
        other => panic!("{other:?}"),
    };
    let stale = world.submit(None, stale);
    assert!(matches!(stale, Err(Denied::StaleEtag { .. })), "{stale:?}");
    world.must(Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    });
    let deleting = world.submit(None, resize("web", 1, 0));
    assert!(
        matches!(deleting, Err(Denied::Deleting { .. })),
        "{deleting:?}"
    );
}

/// Host threads and memory cells are found by a placement, so another size needs another one.
#[test]
fn an_instance_bound_to_cells_keeps_its_size() {
    let mut world = one();
    let id = world.instance("web").id;
    let mut bound = world.instance("web").clone();
    bound.spec.needs.dedicated_cpus = true;
    world.fabric.instances.insert(id, bound);
    let refused = world.submit(None, resize("web", 1, 0));
    assert!(matches!(refused, Err(Denied::Bound { .. })), "{refused:?}");
}
