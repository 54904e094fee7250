//! One simulated node: hardware that stays, and an agent that comes and goes above it.

use std::{sync::Arc, time::Duration};

use kapok_agent::{
    agent::{Agent, ImageSource, Options, Settings},
    driver::sim::{Host, Shape},
    fingerprint::Fingerprint,
    health::{self, Health},
    local::{Local, Memory},
    trust::Trust,
    watch::facts,
};
use kapok_types::{Env, Epoch, Name, NodeId};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    env::SimEnv,
    network::{Network, fabric},
};

/// A server with its agent.
pub struct Node {
    /// Its name in the fabric.
    pub name: Name,
    /// Where its agent listens.
    pub address: String,
    /// Its identity.
    pub id: NodeId,
    /// Its hypervisor, domains and disks.
    pub host: Arc<Host>,
    /// Its state directory.
    pub memory: Memory,
    /// Its clocks.
    pub env: Arc<SimEnv>,
    /// How its agent is set.
    pub settings: Settings,
    /// How its server is watched; it isn't unless a test asks for it.
    pub health: Option<health::Options>,
    network: Network,
    agent: Option<Running>,
}

struct Running {
    agent: Agent,
    local: Local,
    life: CancellationToken,
    _serving: AbortOnDropHandle<()>,
}

impl Node {
    /// A node whose agent runs.
    pub(crate) fn new(
        number: usize,
        seed: u64,
        shape: Shape,
        settings: Settings,
        network: &Network,
        start: Instant,
    ) -> Self {
        let env = SimEnv::new(seed, start);
        let id = env.node_id();
        let mut node = Self {
            name: format!("node-{number}").parse().unwrap(),
            address: format!("127.0.1.{number}:7701"),
            id,
            host: Host::new(shape),
            memory: Memory::new(id),
            env,
            settings,
            health: None,
            network: network.clone(),
            agent: None,
        };
        node.start();
        node
    }

    /// Starts the agent, if it doesn't run.
    pub fn start(&mut self) {
        if self.agent.is_some() {
            return;
        }
        let local = Local::in_memory(&self.memory, self.env.clone());
        let agent = Agent::start(Options {
            driver: self.host.driver(),
            env: self.env.clone(),
            local: local.clone(),
            trust: Trust::vouched(fabric(), self.id, self.env.clone()),
            images: ImageSource::OnPool,
            host: facts::Host {
                name: self.name.to_string(),
                boot: self.host.boot(),
                kernel: "simulated".into(),
                fingerprint: Fingerprint::default(),
            },
            settings: self.settings.clone(),
            health: self.health.clone(),
        });
        let life = CancellationToken::new();
        let serving = agent.serve(self.network.listen(&self.address, life.clone()));
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = serving.await;
        }));
        self.agent = Some(Running {
            agent,
            local,
            life,
            _serving: serving,
        });
    }

    /// Kills the agent: nothing is finished. Guests run on.
    pub fn kill(&mut self) {
        if let Some(Running { life, agent, .. }) = self.agent.take() {
            life.cancel();
            drop(agent);
        }
    }

    /// Stops the agent in order. Guests run on.
    pub async fn stop(&mut self) {
        if let Some(Running { life, agent, .. }) = self.agent.take() {
            agent.shutdown().await;
            life.cancel();
        }
    }

    /// Kills the agent and starts another.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// The power fails and comes back: guests and agent are gone, then the agent starts.
    pub fn boot(&mut self) {
        self.kill();
        self.host.reboot();
        self.start();
    }

    /// Has the server watched from now on, by a new agent: by nobody but [`Health::report`].
    pub fn watch_health(&mut self) {
        self.health = Some(health::Options::simulated());
        self.restart();
    }

    /// How the server does, as its agent says; none if it isn't watched, or the agent doesn't run.
    pub fn health(&self) -> Option<&Health> {
        self.agent.as_ref()?.agent.health()
    }

    /// Whether the agent runs.
    pub fn is_up(&self) -> bool {
        self.agent.is_some()
    }

    /// The highest epoch that the agent has stored.
    pub fn epoch(&self) -> Option<Epoch> {
        self.agent.as_ref().map(|running| running.local.epoch())
    }

    /// Whether the agent waits for the full intent.
    pub fn needs_resync(&self) -> bool {
        self.agent
            .as_ref()
            .is_some_and(|running| running.local.needs_resync())
    }
}

/// What a node of the tests is like unless it is said otherwise.
pub fn shape() -> Shape {
    Shape {
        cpus: 16,
        memory: kapok_types::MemoryMib(17 * 1024),
        latency: Duration::from_millis(2),
        ..Shape::default()
    }
}
