//! Small fabrics for tests, made by commands as the ledger makes them.

use std::{sync::Arc, time::Duration};

use kapok_types::{
    Bytes, Digest, Env, Epoch, ImageId, MemoryMib, Timestamp, Vcpus, env,
    instance::{Arch, DiskFormat, Power, RunPolicy},
    phase::{Phase, Status},
};

use crate::fabric::{
    Actor, Ask, Capacity, Command, Fabric, Fresh, HostFingerprint, Instance, Origin, Outcome, city,
    command::CreateInstance,
    decide::{Context, Rules, decide},
    fixture,
};

/// How long operations are waited for here.
pub(crate) const DEADLINE: Duration = Duration::from_mins(10);

pub(crate) use crate::fabric::fixture::node_id;

/// A fabric with its clock.
pub(crate) struct World {
    pub(crate) env: Arc<env::Seeded>,
    pub(crate) fabric: Fabric,
}

impl World {
    /// Nodes of 16 threads and 16 GiB that are reached, and an image.
    pub(crate) fn new(nodes: u8) -> Self {
        let mut world = Self {
            env: env::Seeded::new(1),
            fabric: Fabric::default(),
        };
        world.must(fixture::authority(1));
        for n in 1..=nodes {
            let address = format!("127.0.0.1:{n}");
            for command in fixture::new_node(n, &format!("node-{n}"), &address) {
                world.must(command);
            }
            world.must(Command::ReportNode {
                node: format!("node-{n}").parse().unwrap(),
                id: node_id(n),
                capacity: Capacity {
                    arch: Arch::X86_64,
                    cpus: 16,
                    memory: MemoryMib(16 * 1024),
                    foreign_vcpus: Vcpus(0),
                    foreign_memory: MemoryMib(0),
                },
                equipment: Arc::default(),
                host: HostFingerprint::default(),
                resyncing: false,
            });
        }
        world.must(Command::RegisterImage {
            tenant: None,
            name: "debian".parse().unwrap(),
            digest: Digest::of(b"debian"),
            format: DiskFormat::Raw,
            size: Bytes(1 << 20),
            virtual_size: Bytes(1 << 20),
            arch: Arch::X86_64,
        });
        world
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// Decides and applies a command that must be accepted.
    pub(crate) fn must(&mut self, command: Command) -> Outcome {
        let ask = Ask {
            origin: Origin {
                by: Actor::user("li"),
                ..Origin::controller()
            },
            request_id: None,
            content: command.content(),
            command,
            fresh: Fresh {
                instance: self.env.instance_id(),
                incarnation: self.env.incarnation_id(),
                operation: self.env.operation_id(),
                image: ImageId(self.env.uuid()),
            },
        };
        let context = Context {
            fabric: &self.fabric,
            ask: &ask,
            now: self.env.now(),
            rules: Rules::default(),
        };
        let decision = decide(context).unwrap();
        for event in &decision.events {
            self.fabric.apply(event);
        }
        decision.outcome
    }

    /// Creates a running instance.
    pub(crate) fn create(&mut self, name: &str) {
        self.create_as(name, Power::Running, RunPolicy::RestartOnCrash);
    }

    /// Creates an instance.
    pub(crate) fn create_as(&mut self, name: &str, power: Power, run_policy: RunPolicy) {
        self.must(Command::CreateInstance(CreateInstance {
            tenant: None,
            name: name.parse().unwrap(),
            image: "debian".into(),
            system: None,
            flavor: None,
            groups: std::collections::BTreeSet::new(),
            vcpus: Vcpus(1),
            memory: MemoryMib(512),
            root_disk: None,
            run_policy,
            power,
            needs: kapok_types::Needs::default(),
        }));
    }

    /// An instance by name.
    pub(crate) fn instance(&self, name: &str) -> &Instance {
        self.fabric.instance(name, &city()).unwrap()
    }

    /// What an agent that has followed the whole intent of an instance says.
    pub(crate) fn status(&self, name: &str, phase: Phase) -> Status {
        let instance = self.instance(name);
        Status {
            incarnation: instance.incarnations[0].id,
            instance: instance.id,
            generation: instance.generation,
            epoch: Epoch(1),
            phase,
            done: instance.counters,
            ended: None,
            progress_permille: None,
            guest_agent: false,
            drift: Vec::new(),
            detail: String::new(),
            size: None,
            resize_pending: false,
            assignment: None,
        }
    }
}
