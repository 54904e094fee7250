//! Decisions on small fabrics, and properties of random histories.

use std::sync::Arc;

use kapok_types::{
    Bytes, Digest, Env, ImageId, MemoryMib, NodeId, Vcpus, env,
    instance::{Arch, DiskFormat, Power, RunPolicy},
};
use proptest::prelude::*;

use super::{super::*, *};
use crate::fabric::{command::CreateInstance, denied::Denied};

const GIB: u64 = 1 << 30;

/// A fabric that is changed by commands, with everything that happened to it.
struct World {
    env: Arc<env::Seeded>,
    fabric: Fabric,
    events: Vec<Event>,
}

impl World {
    fn new() -> Self {
        Self {
            env: env::Seeded::new(1),
            fabric: Fabric::default(),
            events: Vec::new(),
        }
    }

    /// Nodes with 4 threads (4 vCPUs each) and 4 GiB, and one image of 1 GiB.
    fn with_nodes(count: u8) -> Self {
        let mut world = Self::new();
        let nodes = (1..=count)
            .map(|n| {
                (
                    format!("node-{n}").parse().unwrap(),
                    format!("127.0.0.1:{n}"),
                    1000,
                )
            })
            .collect();
        world.must(Command::ConfigureNodes { nodes });
        for n in 1..=count {
            world.must(report(n, 4096));
        }
        world.must(image("debian", b"debian"));
        world
    }

    fn ask(&self, request_id: Option<&str>, command: Command) -> Ask {
        Ask {
            by: Actor::user("li"),
            from: "127.0.0.1".into(),
            request_id: request_id.map(Into::into),
            command,
            fresh: Fresh {
                instance: self.env.instance_id(),
                incarnation: self.env.incarnation_id(),
                operation: self.env.operation_id(),
                image: ImageId(self.env.uuid()),
            },
        }
    }

    fn submit(&mut self, request_id: Option<&str>, command: Command) -> Result<Outcome, Denied> {
        let ask = self.ask(request_id, command);
        let context = Context {
            fabric: &self.fabric,
            ask: &ask,
            now: self.env.now(),
            operation_deadline_ms: 600_000,
        };
        let decision = decide(context)?;
        for event in &decision.events {
            self.fabric.apply(event);
        }
        self.events.extend(decision.events);
        Ok(decision.outcome)
    }

    fn must(&mut self, command: Command) -> Outcome {
        self.submit(None, command).unwrap()
    }

    fn instance(&self, name: &str) -> &Instance {
        self.fabric.instance(name).unwrap()
    }

    fn gone(&mut self, name: &str) {
        let Incarnation { id, node, .. } = self.instance(name).incarnations[0];
        self.must(Command::IncarnationGone {
            node,
            incarnation: id,
        });
    }
}

fn node_id(n: u8) -> NodeId {
    format!("00000000-0000-7000-8000-0000000000{n:02x}")
        .parse()
        .unwrap()
}

fn report(n: u8, memory_mib: u64) -> Command {
    Command::ReportNode {
        node: format!("node-{n}").parse().unwrap(),
        id: node_id(n),
        capacity: Capacity {
            arch: Arch::X86_64,
            cpus: 4,
            memory: MemoryMib(memory_mib),
            foreign_vcpus: Vcpus(0),
            foreign_memory: MemoryMib(0),
        },
        resyncing: false,
    }
}

fn image(name: &str, content: &[u8]) -> Command {
    Command::RegisterImage {
        name: name.parse().unwrap(),
        digest: Digest::of(content),
        format: DiskFormat::Qcow2,
        size: Bytes(13 << 20),
        virtual_size: Bytes(GIB),
        arch: Arch::X86_64,
    }
}

fn create(name: &str) -> CreateInstance {
    CreateInstance {
        name: name.parse().unwrap(),
        image: "debian".into(),
        vcpus: Vcpus(1),
        memory: MemoryMib(512),
        root_disk: None,
        run_policy: RunPolicy::default(),
        power: Power::Running,
    }
}

#[test]
fn a_create_places_claims_and_begins_an_operation() {
    let mut world = World::with_nodes(2);
    let Outcome::Operation(operation) = world.must(Command::CreateInstance(create("web"))) else {
        panic!("a create is an operation")
    };
    let instance = world.instance("web");
    assert_eq!(instance.counters.starts, 1);
    let incarnation = &instance.incarnations[0];
    assert_eq!(
        incarnation.claim.memory.total(),
        MemoryMib(512 + 2 + 8 + 128)
    );
    let view = world.fabric.fleet.node(incarnation.node).unwrap();
    assert_eq!(view.claimed_memory(), MemoryMib(650));
    assert!(world.fabric.running.contains_key(&operation));
}

#[test]
fn a_deleted_instance_holds_its_claim_until_its_end_is_proven() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    world.must(Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    });
    let view = world.fabric.fleet.node(node_id(1)).unwrap();
    assert_eq!(
        view.claimed_vcpus(),
        Vcpus(1),
        "the claim counts while the node says nothing"
    );
    world.gone("web");
    assert_eq!(
        world.fabric.fleet.node(node_id(1)).unwrap().claimed_vcpus(),
        Vcpus(0)
    );
    assert!(world.fabric.instance("web").is_none());
    assert!(
        world.fabric.running.is_empty(),
        "every accepted operation ends"
    );
}

#[test]
fn an_agent_cannot_end_a_claim_that_the_fabric_wants() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    world.gone("web");
    assert_eq!(world.instance("web").incarnations.len(), 1);
}

/// FAULTS 33: the same request twice has one effect and the same answer.
#[test]
fn a_repeated_request_has_one_effect() {
    let mut world = World::with_nodes(1);
    let first = world.submit(Some("r1"), Command::CreateInstance(create("web")));
    let events = world.events.len();
    assert_eq!(
        world.submit(Some("r1"), Command::CreateInstance(create("web"))),
        first
    );
    assert_eq!(world.events.len(), events);
}

/// FAULTS 34: the same request id with other content is refused.
#[test]
fn a_request_id_serves_one_content() {
    let mut world = World::with_nodes(1);
    world
        .submit(Some("r1"), Command::CreateInstance(create("web")))
        .unwrap();
    let other = world.submit(Some("r1"), Command::CreateInstance(create("db")));
    assert_eq!(
        other,
        Err(Denied::RequestIdReused {
            request_id: "r1".into()
        })
    );
    assert!(world.fabric.instance("db").is_none());
}

/// FAULTS 28: zero and overflowing sizes are refused with field and limit, and nothing is made.
#[test]
fn bad_numbers_are_named() {
    let mut world = World::with_nodes(1);
    let before = world.events.len();
    let mut wrong = create("web");
    wrong.vcpus = Vcpus(0);
    wrong.memory = MemoryMib(u64::MAX);
    wrong.root_disk = Some(Bytes(1));
    let Err(Denied::Invalid(violations)) = world.submit(None, Command::CreateInstance(wrong))
    else {
        panic!("must be refused")
    };
    let fields: Vec<_> = violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(
        fields,
        ["vcpus", "memory_mib", "root_disk_bytes", "root_disk_bytes"]
    );
    assert_eq!(world.events.len(), before);
}

/// FAULTS 27 for capacity: creates in one batch see each other; the last unit has one winner.
#[test]
fn a_hundred_creates_for_one_place_have_one_winner() {
    let mut world = World::with_nodes(1);
    world.must(report(1, 700));
    let won = (0..100)
        .filter(|n| {
            world
                .submit(None, Command::CreateInstance(create(&format!("web-{n}"))))
                .is_ok()
        })
        .count();
    assert_eq!(won, 1);
}

#[test]
fn a_guest_that_shuts_down_becomes_intent_stopped() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    let incarnation = world.instance("web").incarnations[0].id;
    let generation = Generation(1);
    world.must(Command::GuestStopped {
        node: node_id(1),
        incarnation,
        generation,
    });
    assert_eq!(world.instance("web").power, Power::Stopped);
    assert!(
        world
            .events
            .iter()
            .any(|event| event.kind() == "instance.stopped_by_guest")
    );
    // The report comes late, after somebody started it again: it changes nothing.
    world.must(Command::StartInstance {
        instance: "web".into(),
    });
    world.must(Command::GuestStopped {
        node: node_id(1),
        incarnation,
        generation,
    });
    assert_eq!(world.instance("web").power, Power::Running);
    assert_eq!(world.instance("web").counters.starts, 2);
}

/// FAULTS 22, 23: only the node that carries an incarnation can say that it ended or stopped.
#[test]
fn another_nodes_word_ends_nothing() {
    let mut world = World::with_nodes(2);
    world.must(Command::CreateInstance(create("web")));
    let Incarnation { id, node, .. } = world.instance("web").incarnations[0];
    let other = if node == node_id(1) {
        node_id(2)
    } else {
        node_id(1)
    };
    world.must(Command::GuestStopped {
        node: other,
        incarnation: id,
        generation: Generation(1),
    });
    assert_eq!(world.instance("web").power, Power::Running);
    world.must(Command::DeleteInstance {
        instance: "web".into(),
        etag: String::new(),
    });
    world.must(Command::IncarnationGone {
        node: other,
        incarnation: id,
    });
    assert_eq!(world.instance("web").incarnations.len(), 1);
}

/// A start that comes between the guest's own end and its report is not lost.
#[test]
fn a_start_that_overtakes_the_report_of_the_end_counts() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    let incarnation = world.instance("web").incarnations[0].id;
    let Outcome::Operation(start) = world.must(Command::StartInstance {
        instance: "web".into(),
    }) else {
        panic!("an operation")
    };
    let stopped = |generation| Command::GuestStopped {
        node: node_id(1),
        incarnation,
        generation: Generation(generation),
    };
    world.must(stopped(2));
    let instance = world.instance("web");
    assert_eq!(
        (instance.power, instance.counters.starts),
        (Power::Running, 2)
    );
    assert!(world.fabric.running.contains_key(&start));
    // It starts and ends by itself again: now that is the guest's word.
    world.must(stopped(3));
    assert_eq!(world.instance("web").power, Power::Stopped);
    assert!(world.fabric.running.is_empty());
}

/// However many operations there were, memory keeps a bounded number of ended ones.
#[test]
fn ended_operations_are_bounded() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    for _ in 0..expire::MAX_OPERATIONS + 10 {
        world.must(Command::StopInstance {
            instance: "web".into(),
        });
    }
    assert!(expire::is_due(&world.fabric, world.env.now()));
    world.must(Command::Expire);
    assert!(!expire::is_due(&world.fabric, world.env.now()));
    assert_eq!(world.fabric.operations.len(), expire::MAX_OPERATIONS);
    assert_eq!(world.fabric.running.len(), 1);
}

#[test]
fn an_instance_that_always_runs_is_not_stopped_by_its_guest() {
    let mut world = World::with_nodes(1);
    let mut always = create("web");
    always.run_policy = RunPolicy::Always;
    world.must(Command::CreateInstance(always));
    let incarnation = world.instance("web").incarnations[0].id;
    world.must(Command::GuestStopped {
        node: node_id(1),
        incarnation,
        generation: Generation(1),
    });
    assert_eq!(world.instance("web").power, Power::Running);
}

#[test]
fn a_later_change_supersedes_the_operation_before_it() {
    let mut world = World::with_nodes(1);
    let Outcome::Operation(first) = world.must(Command::CreateInstance(create("web"))) else {
        panic!("an operation")
    };
    world.must(Command::StopInstance {
        instance: "web".into(),
    });
    let end = world.fabric.operations[&first].ended.as_ref().unwrap();
    assert_eq!(end.outcome, OperationOutcome::Superseded);
}

#[test]
fn a_cancelled_create_is_deleted_again() {
    let mut world = World::with_nodes(1);
    let Outcome::Operation(operation) = world.must(Command::CreateInstance(create("web"))) else {
        panic!("an operation")
    };
    world.must(Command::CancelOperation { operation });
    let ends: Vec<_> = world
        .events
        .iter()
        .filter(|event| event.kind() == "operation.ended")
        .collect();
    assert_eq!(ends.len(), 1, "one end only");
    assert!(world.instance("web").deleting);
    world.gone("web");
    assert!(world.fabric.running.is_empty());
}

/// A node that answers with another identity gets nothing (one node's intent for another).
#[test]
fn another_identity_at_a_nodes_address_is_refused() {
    let mut world = World::with_nodes(2);
    let Command::ReportNode { capacity, .. } = report(1, 4096) else {
        panic!()
    };
    let imposter = Command::ReportNode {
        node: "node-1".parse().unwrap(),
        id: node_id(9),
        capacity,
        resyncing: false,
    };
    assert!(matches!(
        world.submit(None, imposter),
        Err(Denied::WrongNode { .. })
    ));
    let twice = Command::ReportNode {
        node: "node-2".parse().unwrap(),
        id: node_id(1),
        capacity,
        resyncing: false,
    };
    assert!(matches!(
        world.submit(None, twice),
        Err(Denied::WrongNode { .. })
    ));
}

#[test]
fn an_image_in_use_stays() {
    let mut world = World::with_nodes(1);
    world.must(Command::CreateInstance(create("web")));
    let refused = world.submit(
        None,
        Command::DeleteImage {
            image: "debian".into(),
        },
    );
    assert!(matches!(
        refused,
        Err(Denied::ImageInUse { instances: 1, .. })
    ));
    let other = world.submit(None, image("debian", b"other"));
    assert!(matches!(other, Err(Denied::Exists { .. })));
}

#[test]
fn retention_forgets_what_is_old_and_nothing_else() {
    let mut world = World::with_nodes(1);
    world
        .submit(Some("r1"), Command::CreateInstance(create("web")))
        .unwrap();
    world.env.advance(std::time::Duration::from_hours(25));
    world
        .submit(
            Some("r2"),
            Command::StopInstance {
                instance: "web".into(),
            },
        )
        .unwrap();
    world.must(Command::Expire);
    assert_eq!(world.fabric.requests.keys().collect::<Vec<_>>(), ["r2"]);
    world.env.advance(std::time::Duration::from_hours(8 * 24));
    world.must(Command::Expire);
    assert_eq!(
        world.fabric.operations.len(),
        1,
        "the ended one went, the running one stays"
    );
}

/// A step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Start(u8),
    Stop(u8),
    Restart(u8),
    Delete(u8),
    Gone(u8),
    GuestStopped(u8),
    Shrink(u8, u64),
    Lose(u8),
    Cordon(u8),
    Cancel(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..6_u8;
    let node = 1..=3_u8;
    prop_oneof![
        4 => name.clone().prop_map(Step::Create),
        1 => name.clone().prop_map(Step::Start),
        1 => name.clone().prop_map(Step::Stop),
        1 => name.clone().prop_map(Step::Restart),
        2 => name.clone().prop_map(Step::Delete),
        2 => name.clone().prop_map(Step::Gone),
        1 => name.clone().prop_map(Step::GuestStopped),
        1 => (node.clone(), 100..5000_u64).prop_map(|(n, memory)| Step::Shrink(n, memory)),
        1 => node.clone().prop_map(Step::Lose),
        1 => node.prop_map(Step::Cordon),
        1 => name.prop_map(Step::Cancel),
        1 => (0..30_u64).prop_map(Step::Wait),
    ]
}

fn play(world: &mut World, step: &Step) {
    let named = |n: &u8| format!("web-{n}");
    let command = match step {
        Step::Create(n) => Command::CreateInstance(create(&named(n))),
        Step::Start(n) => Command::StartInstance { instance: named(n) },
        Step::Stop(n) => Command::StopInstance { instance: named(n) },
        Step::Restart(n) => Command::RestartInstance { instance: named(n) },
        Step::Delete(n) => Command::DeleteInstance {
            instance: named(n),
            etag: String::new(),
        },
        Step::Gone(n) | Step::GuestStopped(n) => {
            let Some(instance) = world.fabric.instance(&named(n)) else {
                return;
            };
            let (incarnation, node) = (instance.incarnations[0].id, instance.incarnations[0].node);
            let generation = instance.generation;
            match step {
                Step::Gone(_) => Command::IncarnationGone { node, incarnation },
                _ => Command::GuestStopped {
                    node,
                    incarnation,
                    generation,
                },
            }
        }
        Step::Shrink(n, memory) => report(*n, *memory),
        Step::Lose(n) => Command::LoseNode {
            node: format!("node-{n}").parse().unwrap(),
            reason: "silence".into(),
        },
        Step::Cordon(n) => Command::CordonNode {
            node: format!("node-{n}"),
            reason: "test".into(),
        },
        Step::Cancel(n) => {
            let Some(instance) = world.fabric.instance(&named(n)) else {
                return;
            };
            Command::CancelOperation {
                operation: instance.operation,
            }
        }
        Step::Wait(days) => {
            world
                .env
                .advance(std::time::Duration::from_secs(days * 24 * 3600));
            Command::Expire
        }
    };
    let _ = world.submit(None, command);
}

/// Every index agrees with the instances, and claims agree with incarnations.
fn check_indexes(fabric: &Fabric) {
    let mut incarnations = 0;
    for instance in fabric.instances.values() {
        assert_eq!(
            fabric.instance_names.get(&instance.name),
            Some(&instance.id)
        );
        assert!(
            instance.incarnations.len() <= 1,
            "an instance runs on at most one node"
        );
        for one in &instance.incarnations {
            incarnations += 1;
            assert_eq!(fabric.incarnations.get(&one.id), Some(&instance.id));
            assert!(fabric.on_node[&one.node].contains_key(&one.id));
            assert_eq!(fabric.fleet.claim_of(one.node, one.id), Some(one.claim));
        }
    }
    assert_eq!(fabric.instance_names.len(), fabric.instances.len());
    assert_eq!(fabric.incarnations.len(), incarnations);
    assert_eq!(
        fabric.on_node.values().map(OrdMap::len).sum::<usize>(),
        incarnations
    );
    let claims: usize = fabric.fleet.nodes().map(|view| view.claims().len()).sum();
    assert_eq!(claims, incarnations);
    for (id, instance) in &fabric.running {
        let operation = &fabric.operations[id];
        assert!(operation.is_running());
        assert!(
            fabric.instances.contains_key(instance),
            "an operation outlived its instance"
        );
    }
}

proptest! {
    /// DESIGN's invariants hold after every step of every history: no decision raises claims
    /// above capacity, indexes agree, and a checkpoint of the end gives the same fabric.
    #[test]
    fn histories_keep_the_invariants(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::with_nodes(3);
        for step in &steps {
            let before: Vec<_> = world.fabric.fleet.nodes().map(kapok_scheduler::NodeView::claimed_memory).collect();
            play(&mut world, step);
            check_indexes(&world.fabric);
            for (view, before) in world.fabric.fleet.nodes().zip(before) {
                if view.claimed_memory() > before {
                    prop_assert!(view.claimed_memory() <= view.memory_limit());
                    prop_assert!(view.claimed_vcpus() <= view.vcpu_limit());
                }
            }
        }
        // Folding the same facts gives the same fabric; so does loading the objects.
        let mut folded = Fabric::default();
        let mut keys = std::collections::BTreeSet::new();
        for event in &world.events {
            checkpoint::touched(&folded, event, &mut keys);
            folded.apply(event);
        }
        prop_assert_eq!(format!("{:?}", &folded), format!("{:?}", &world.fabric));
        let objects: Vec<(String, Vec<u8>)> = keys
            .iter()
            .filter_map(|key| Some((key.encode(), checkpoint::object(&folded, key).unwrap()?)))
            .collect();
        let loaded = checkpoint::load(
            objects.iter().map(|(key, value)| (key.as_str(), value.as_slice())),
        ).unwrap();
        check_indexes(&loaded);
        prop_assert_eq!(loaded.instances, folded.instances);
        prop_assert_eq!(loaded.nodes, folded.nodes);
        prop_assert_eq!(loaded.operations, folded.operations);
        prop_assert_eq!(loaded.running, folded.running);
        prop_assert_eq!(loaded.requests, folded.requests);
        prop_assert_eq!(loaded.requests_by_age, folded.requests_by_age);
        prop_assert_eq!(loaded.images, folded.images);
    }
}
