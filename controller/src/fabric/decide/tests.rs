//! Decisions on small fabrics, and properties of random histories.

use std::sync::Arc;

use kapok_types::{
    Bytes, Digest, Env, Generation, ImageId, MemoryMib, Needs, Vcpus, env,
    instance::{Arch, DiskFormat, Power, RunPolicy},
};

use super::{super::*, *};
use crate::fabric::{
    command::CreateInstance,
    denied::Denied,
    fixture::{authority, new_node, node_id},
};

mod adoption;
mod credentials;
mod flavors;
mod groups;
mod health;
mod histories;
mod needs;
mod nodes;
mod quotas;
mod resize;
mod systems;
mod tenants;
mod users;

const GIB: u64 = 1 << 30;

/// A fabric that is changed by commands, with everything that happened to it.
struct World {
    env: Arc<env::Seeded>,
    rules: Rules,
    fabric: Fabric,
    events: Vec<Event>,
}

impl World {
    fn new() -> Self {
        Self {
            env: env::Seeded::new(1),
            rules: Rules::default(),
            fabric: Fabric::default(),
            events: Vec::new(),
        }
    }

    /// Nodes with 4 threads (4 vCPUs each) and 4 GiB, and one image of 1 GiB.
    fn with_nodes(count: u8) -> Self {
        let mut world = Self::new();
        world.must(authority(1));
        for n in 1..=count {
            let address = format!("127.0.0.1:{n}");
            for command in new_node(n, &format!("node-{n}"), &address) {
                world.must(command);
            }
            world.must(report(n, 4096));
        }
        world.must(image("debian", b"debian"));
        world
    }

    fn ask(&self, origin: Origin, request_id: Option<&str>, command: Command) -> Ask {
        Ask {
            origin,
            request_id: request_id.map(Into::into),
            content: command.content(),
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
        self.submit_as(origin("li"), request_id, command)
    }

    fn submit_as(
        &mut self,
        origin: Origin,
        request_id: Option<&str>,
        command: Command,
    ) -> Result<Outcome, Denied> {
        let ask = self.ask(origin, request_id, command);
        let context = Context {
            fabric: &self.fabric,
            ask: &ask,
            now: self.env.now(),
            rules: self.rules,
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
        self.fabric.instance(name, &city()).unwrap()
    }

    fn gone(&mut self, name: &str) {
        let Incarnation { id, node, .. } = self.instance(name).incarnations[0];
        self.must(Command::IncarnationGone {
            node,
            incarnation: id,
        });
    }
}

/// Somebody who reaches the whole fabric.
fn origin(name: &str) -> Origin {
    Origin {
        by: Actor::user(name),
        from: "127.0.0.1".into(),
        ..Origin::controller()
    }
}

/// Somebody of a tenant.
fn member(name: &str, tenant: &str) -> Origin {
    let tenant: Name = tenant.parse().unwrap();
    Origin {
        home: tenant.clone(),
        scope: Scope::Tenants([tenant].into()),
        ..origin(name)
    }
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
        equipment: Arc::default(),
        host: HostFingerprint::default(),
        resyncing: false,
    }
}

fn image(name: &str, content: &[u8]) -> Command {
    Command::RegisterImage {
        tenant: None,
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
        tenant: None,
        name: name.parse().unwrap(),
        image: "debian".into(),
        system: None,
        flavor: None,
        groups: std::collections::BTreeSet::new(),
        vcpus: Vcpus(1),
        memory: MemoryMib(512),
        root_disk: None,
        run_policy: RunPolicy::default(),
        power: Power::Running,
        needs: Needs::default(),
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
    assert!(world.fabric.instances.is_empty());
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
    assert!(world.fabric.instances.len() == 1);
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
    let kept = (Actor::user("li"), "r2".to_owned());
    assert_eq!(world.fabric.requests.keys().collect::<Vec<_>>(), [&kept]);
    world.env.advance(std::time::Duration::from_hours(8 * 24));
    world.must(Command::Expire);
    assert_eq!(
        world.fabric.operations.len(),
        1,
        "the ended one went, the running one stays"
    );
}
