//! Random life with random faults, by seed: what people do, what breaks, and then rest.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use kapok_agent::driver::sim::Fault;
use kapok_controller::fabric::city;
use kapok_proto::fabric::v1::CreateInstanceRequest;
use kapok_store::redb::Fault as DiskFault;
use kapok_types::{Env as _, IncarnationId};
use tokio::time::Instant;
use tonic::Code;

use crate::{cluster::Cluster, env::SimEnv, people::small};

/// Instances at a time, at most.
const MOST: usize = 8;

/// Runs one seed in a runtime of its own; gives the log's entries.
///
/// # Panics
///
/// When an invariant is broken or the fabric doesn't come to rest.
pub fn in_its_own_time(seed: u64, steps: u32) -> Vec<Bytes> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run(seed, steps))
}

/// Runs one seed: so many random steps, then everything heals and must come to rest.
///
/// # Panics
///
/// As [`in_its_own_time`].
pub async fn run(seed: u64, steps: u32) -> Vec<Bytes> {
    let chance = SimEnv::new(seed ^ 0x5eed, Instant::now());
    let nodes = 2 + usize::try_from(chance.random() % 3).unwrap();
    // Room for three small instances on each node: now and then there is none.
    let builder = Cluster::builder().nodes(nodes).seed(seed);
    let builder = builder
        .shape(|shape| shape.cpus = 3)
        .overcommit_permille(1000);
    let cluster = builder.build().await;
    let foreign = uuid::Uuid::from_u128(77);
    cluster.nodes[0].host.put_foreign(foreign, "handmade", true);
    let before = cluster.nodes[0].host.foreign();
    let mut soak = Soak {
        cluster,
        chance,
        wanted: BTreeMap::new(),
        names: 0,
        shutdowns: 0,
    };
    for _ in 0..steps {
        soak.step().await;
    }
    soak.heal().await;
    soak.cluster.finish().await;
    soak.compare().await;
    assert_eq!(
        soak.cluster.nodes[0].host.foreign(),
        before,
        "a foreign domain was altered"
    );
    let fold = soak.cluster.fold().await;
    fold.payloads.clone()
}

struct Soak {
    cluster: Cluster,
    chance: Arc<SimEnv>,
    /// Acknowledged creates, and whether a delete was asked for (acknowledged or not).
    wanted: BTreeMap<String, Wish>,
    names: u32,
    /// How often a guest shut itself down.
    shutdowns: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// A create was acknowledged.
    There,
    /// A create or a delete was asked for and nobody said what came of it.
    Either,
    /// A delete was acknowledged.
    Gone,
}

impl Soak {
    fn below(&self, limit: usize) -> usize {
        usize::try_from(self.chance.random() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn node(&self) -> usize {
        self.below(self.cluster.nodes.len())
    }

    fn name(&self) -> Option<String> {
        let names: Vec<_> = self
            .wanted
            .iter()
            .filter(|(_, wish)| **wish != Wish::Gone)
            .map(|(name, _)| name)
            .collect();
        (!names.is_empty()).then(|| names[self.below(names.len())].clone())
    }

    /// A guest somewhere, with its node.
    fn guest(&self) -> Option<(usize, IncarnationId)> {
        let node = self.node();
        let domains = self.cluster.nodes[node].host.domains();
        (!domains.is_empty()).then(|| (node, domains[self.below(domains.len())]))
    }

    async fn step(&mut self) {
        match self.below(10) {
            0..=3 => self.people().await,
            4 => self.guests(),
            5 => self.agents(),
            6 => self.hypervisors(),
            7 => self.wires(),
            8 => self.controllers().await,
            _ => self.clocks(),
        }
        let time = Duration::from_millis(self.chance.random() % 8000);
        self.cluster.pass(time).await;
    }

    async fn people(&mut self) {
        let people = self.cluster.people.clone();
        let there = self
            .wanted
            .values()
            .filter(|wish| **wish != Wish::Gone)
            .count();
        match (self.below(6), self.name()) {
            (0..=2, _) | (_, None) if there < MOST => {
                // Some at once, so that they are decided in one batch.
                self.names += 1;
                let round = self.names;
                let names = (0..=self.below(3)).map(|more| format!("web-{round}-{more}"));
                let asked = names.map(|name| {
                    let request_id = name.clone();
                    let wanted = CreateInstanceRequest {
                        request_id,
                        ..small(&name)
                    };
                    let people = &people;
                    async move { (name, people.create_as(wanted).await) }
                });
                for (name, answer) in futures::future::join_all(asked).await {
                    let wish = match answer {
                        Ok(_) => Wish::There,
                        Err(refused) if refused.code() == Code::ResourceExhausted => continue,
                        Err(_) => Wish::Either,
                    };
                    self.wanted.insert(name, wish);
                }
            }
            (3, Some(name)) => drop(people.stop(&name).await),
            (4, Some(name)) => drop(people.start(&name).await),
            (5, Some(name)) => drop(people.restart(&name).await),
            (_, Some(name)) => {
                let wish = match people.delete(&name).await {
                    Ok(_) => Wish::Gone,
                    Err(refused) if refused.code() == Code::NotFound => Wish::Gone,
                    Err(_) => Wish::Either,
                };
                self.wanted.insert(name, wish);
            }
            (_, None) => {}
        }
    }

    fn guests(&mut self) {
        let Some((node, guest)) = self.guest() else {
            return;
        };
        let host = Arc::clone(&self.cluster.nodes[node].host);
        match self.below(7) {
            0 => {
                host.guest_shuts_down(guest);
                self.shutdowns += 1;
            }
            1 => host.crash_guest(guest),
            2 => host.outsider_destroys(guest),
            3 => host.outsider_undefines(guest),
            4 => host.set_ignores_shutdown(guest, self.below(2) == 0),
            5 => host.outsider_edits(guest, "somebody was here"),
            _ => drop(host.inject(Fault::Freeze { incarnation: guest })),
        }
    }

    fn agents(&mut self) {
        let node = self.node();
        let kind = self.below(7);
        match kind {
            0 => self.cluster.nodes[node].kill(),
            1 => self.cluster.nodes[node].start(),
            2 | 3 => self.cluster.nodes[node].restart(),
            4 => self.cluster.nodes[node].boot(),
            5 => self.cluster.lose_local_store(node),
            _ => {
                let full = self.below(2) == 0;
                self.cluster.nodes[node].memory.set_full(full);
            }
        }
    }

    fn hypervisors(&self) {
        use kapok_agent::driver::sim::Stage;

        let host = &self.cluster.nodes[self.node()].host;
        match self.below(4) {
            0 => host.set_up(false),
            1 => host.set_up(true),
            2 => host.release(),
            _ => {
                let passing = u32::try_from(self.below(6)).unwrap();
                let stage = if self.below(2) == 0 {
                    Stage::Before
                } else {
                    Stage::After
                };
                host.inject(Fault::StickAtChange { passing, stage });
            }
        }
    }

    fn wires(&self) {
        let address = &self.cluster.nodes[self.node()].address;
        let network = &self.cluster.network;
        match self.below(8) {
            0 => network.cut(address),
            1 => network.refuse(address),
            2 => network.hang(address),
            3 => network.hang_towards(address),
            4 => network.hang_back(address),
            5 => network.delay(address, Duration::from_millis(300)),
            _ => network.heal(address),
        }
    }

    async fn controllers(&mut self) {
        match self.below(6) {
            0 => self.cluster.kill_controller().await,
            1 => self
                .cluster
                .disk
                .fail(self.chance.random() % 4, DiskFault::Full),
            2 => self
                .cluster
                .disk
                .fail(self.chance.random() % 4, DiskFault::SyncUnheard),
            3 => self.cluster.disk.heal(),
            _ => {
                self.cluster.disk.heal();
                self.cluster.restart_controller().await;
            }
        }
    }

    fn clocks(&self) {
        let jump = Duration::from_secs(self.chance.random() % 600);
        let env = match self.below(2) {
            0 => &self.cluster.env,
            _ => &self.cluster.nodes[self.node()].env,
        };
        if self.below(2) == 0 {
            env.jump(jump);
        } else {
            env.jump_back(jump);
        }
    }

    async fn heal(&mut self) {
        self.cluster.disk.heal();
        for node in &mut self.cluster.nodes {
            self.cluster.network.heal(&node.address);
            node.memory.set_full(false);
            node.host.set_up(true);
            node.host.release();
            node.start();
        }
        if !self.cluster.has_controller() {
            self.cluster.start_controller().await;
        }
        for node in &self.cluster.nodes {
            for guest in node.host.domains() {
                node.host.set_ignores_shutdown(guest, false);
            }
        }
    }

    /// What was acknowledged is so.
    async fn compare(&self) {
        let fabric = self.cluster.fabric().await;
        let told = {
            let fold = self.cluster.fold().await;
            let events = fold.records.iter().flat_map(|record| &record.events);
            events
                .filter(|event| event.kind() == "instance.stopped_by_guest")
                .count()
        };
        assert!(
            told <= self.shutdowns,
            "{told} shutdowns were told, {} were made by guests",
            self.shutdowns
        );
        for (name, wish) in &self.wanted {
            let there = fabric.instance(name, &city()).is_some();
            match wish {
                Wish::There => assert!(there, "{name} was acknowledged and is lost"),
                Wish::Gone => assert!(!there, "{name} was deleted and is there"),
                Wish::Either => {}
            }
        }
    }
}
