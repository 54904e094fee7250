//! Instances that become larger or smaller: quotas, nodes and claims.

use kapok_scheduler::{Claim, Filter};
use kapok_types::{Assignment, equipment::Cell, instance::MemoryClaim, phase::Size};

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

/// The agent of an instance's node has seen it of this size under the present intent, with what is
/// to be its own.
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
        assignment: one.claim.assignment.clone(),
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
            assignment,
            ..
        } => Command::SettleClaim {
            node,
            incarnation,
            size,
            generation: Generation(1),
            assignment,
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

/// A node with four threads for dedicated vCPUs, and two instances that have one each.
fn bound() -> World {
    let mut world = World::with_nodes(1);
    world.must(threads(&[2, 3, 4, 5]));
    for name in ["web", "db"] {
        world.must(Command::CreateInstance(CreateInstance {
            needs: Needs {
                dedicated_cpus: true,
                ..Needs::default()
            },
            ..create(name)
        }));
    }
    world
}

/// The first node says that it sets these threads aside.
pub(super) fn threads(dedicated: &[u16]) -> Command {
    let mut command = report(1, 4096);
    if let Command::ReportNode { equipment, .. } = &mut command {
        Arc::make_mut(equipment).cells = vec![Cell {
            id: 0,
            dedicated: dedicated.to_vec(),
            ..Cell::default()
        }];
    }
    command
}

/// The threads that an instance's agent is to give it, and those that stay its own besides.
fn own(world: &World, instance: &str) -> (Vec<u16>, Vec<u16>) {
    let instance = world.instance(instance);
    let one = &instance.incarnations[0];
    let of = |own: Option<&Assignment>| {
        let cells = own.map_or(&[][..], |own| &own.cells);
        cells
            .iter()
            .flat_map(|share| share.threads.clone())
            .collect()
    };
    let next = Fabric::intent(instance, one).assignment;
    assert_eq!(Some(&next), one.claim.assignment.as_deref());
    (of(Some(&next)), of(one.claim.surplus.as_deref()))
}

/// Its agent is told what it is to have from its next start on, and what the guest may have till
/// then is nobody else's.
#[test]
fn a_bound_instance_has_both_until_its_next_start() {
    let mut world = bound();
    assert_eq!(own(&world, "web"), (vec![2], vec![]));
    let before = world.instance("web").incarnations[0].claim.clone();
    world.must(resize("web", 3, 0));
    assert_eq!(own(&world, "web"), (vec![2, 4, 5], vec![]));
    world.must(resize("web", 2, 1024));
    assert_eq!(own(&world, "web"), (vec![2, 4], vec![5]));
    assert_eq!((claims(&world, "web"), used(&world).0), ((3, 1024), 3));
    let Err(Denied::NoRoom { why, .. }) = world.submit(None, resize("db", 2, 0)) else {
        panic!("what a guest may have is nobody else's")
    };
    assert_eq!(why.filter(), Filter::DedicatedCpus);

    // It was started since, and its agent says with what: not with what it is to have.
    let tell = |world: &mut World, own: Option<&Assignment>, vcpus, memory| {
        let mut seen = seen(world, "web", vcpus, memory);
        if let Command::SettleClaim { assignment, .. } = &mut seen {
            *assignment = own.cloned().map(Box::new);
        }
        world.must(seen);
    };
    let pending = world.instance("web").incarnations[0].claim.clone();
    for other in [None, before.assignment.as_deref()] {
        tell(&mut world, other, 2, 1024);
        assert_eq!(world.instance("web").incarnations[0].claim, pending);
    }
    tell(&mut world, pending.assignment.as_deref(), 2, 1024);
    assert_eq!(own(&world, "web"), (vec![2, 4], vec![]));
    assert_eq!(claims(&world, "web"), (2, 1024));
    world.must(resize("db", 2, 0));
    assert_eq!(own(&world, "db"), (vec![3, 5], vec![]));

    // What the log says of it is what is kept.
    let text = serde_json::to_string(&pending).unwrap();
    assert_eq!(serde_json::from_str::<Claim>(&text).unwrap(), pending);
}

/// FAULTS 27, for threads of one's own: of two that want the last ones, one gets them.
#[test]
fn the_last_dedicated_thread_has_one_taker() {
    let mut world = bound();
    world.must(resize("web", 2, 0));
    world.must(resize("db", 2, 0));
    assert_eq!(
        (own(&world, "web").0, own(&world, "db").0),
        (vec![2, 4], vec![3, 5])
    );
    let before = world.instance("web").clone();
    let Err(Denied::NoRoom { node, why, .. }) = world.submit(None, resize("web", 3, 0)) else {
        panic!("there is no thread left")
    };
    assert_eq!(
        (node.as_str(), why.filter()),
        ("node-1", Filter::DedicatedCpus)
    );
    assert_eq!(*world.instance("web"), before);
    // One that is off has what it is to have once its agent has seen that.
    world.must(resize("db", 1, 0));
    assert_eq!(own(&world, "db"), (vec![3], vec![5]));
    let settled = seen(&world, "db", 1, 512);
    world.must(settled);
    world.must(resize("web", 3, 0));
    assert_eq!(own(&world, "web"), (vec![2, 4, 5], vec![]));
    assert!(
        world
            .fabric
            .fleet
            .node(node_id(1))
            .unwrap()
            .overcommitted()
            .is_empty()
    );
}
