//! A whole fabric in one process.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kapok_agent::{agent::Settings, driver::sim::Shape};
use kapok_controller::{
    config::{Config, Timing},
    controller::{Controller, Error, Options},
    fabric::Fabric,
    images::Memory as Blobs,
    ledger,
    trust::Opened,
};
use kapok_proto::{common::v1::Phase, fabric::v1::NodeState};
use kapok_store::{Redb, redb::MemoryDisk, segments::MemorySegments};
use kapok_types::{Epoch, IncarnationId, InstanceId};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    env::SimEnv,
    fold::Fold,
    network::Network,
    node::{self, Node},
    people::People,
    trust,
};

/// Where the controller listens.
pub const CONTROLLER: &str = "127.0.0.1:7700";
/// How often conditions are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How a cluster is made.
#[derive(Debug)]
pub struct Builder {
    nodes: usize,
    seed: u64,
    shape: Shape,
    settings: Settings,
    timing: Timing,
    overcommit_permille: u32,
    image: bool,
}

/// A controller, its nodes, and everything between them.
pub struct Cluster {
    /// The wires.
    pub network: Network,
    /// The nodes, in the order of their names.
    pub nodes: Vec<Node>,
    /// The controller's disk.
    pub disk: MemoryDisk,
    /// The controller's clocks.
    pub env: Arc<SimEnv>,
    /// People who use it.
    pub people: People,
    /// The controller's configuration.
    pub config: Config,
    /// What the next controller's epoch must be above, beside what its log says.
    pub epoch_floor: Epoch,
    opened: Opened,
    segments: MemorySegments,
    blobs: Blobs,
    controller: Option<Running>,
    fold: tokio::sync::Mutex<Fold>,
    pub(crate) seen: Mutex<Seen>,
}

/// What sampling has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) epochs: BTreeMap<usize, Epoch>,
    pub(crate) violations: Vec<String>,
}

/// See [`Cluster::death`].
#[derive(Debug)]
pub struct Death {
    disk: MemoryDisk,
    life: CancellationToken,
}

impl Death {
    /// It is dead.
    pub fn strike(self) {
        self.disk.lose_power(usize::MAX);
        self.life.cancel();
    }

    /// It is dead after so many turns of the one thread, in each of which every task that can go
    /// on makes one step.
    pub async fn strike_after(self, turns: u32) {
        for _ in 0..turns {
            let mut turned = false;
            std::future::poll_fn(|context| {
                if std::mem::replace(&mut turned, true) {
                    return std::task::Poll::Ready(());
                }
                // To the queue's end; tokio's own way to yield waits for the queue to be empty.
                context.waker().wake_by_ref();
                std::task::Poll::Pending
            })
            .await;
        }
        self.strike();
    }
}

struct Running {
    store: Arc<Redb>,
    ledger: ledger::Handle,
    life: CancellationToken,
    stop: CancellationToken,
    task: AbortOnDropHandle<Result<(), Error>>,
}

/// Waits until nothing of a controller that has ended holds its store any more: a process would be gone
/// at once, its tasks go with their next turn.
async fn freed(store: Arc<Redb>) {
    for _ in 0..10_000 {
        if Arc::strong_count(&store) == 1 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("something still holds the store of a controller that has ended");
}

impl Builder {
    /// How many nodes.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// What everything random follows from.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// What the nodes' hardware is like.
    pub fn shape(mut self, change: impl FnOnce(&mut Shape)) -> Self {
        change(&mut self.shape);
        self
    }

    /// How the agents are set.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// The controller's intervals and deadlines.
    pub fn timing(mut self, change: impl FnOnce(&mut Timing)) -> Self {
        change(&mut self.timing);
        self
    }

    /// vCPUs that one thread may carry, in permille.
    pub fn overcommit_permille(mut self, permille: u32) -> Self {
        self.overcommit_permille = permille;
        self
    }

    /// Without the image that instances are made from.
    pub fn without_image(mut self) -> Self {
        self.image = false;
        self
    }

    /// Starts everything and waits until all nodes are ready.
    pub async fn build(self) -> Cluster {
        let start = Instant::now();
        let network = Network::default();
        let nodes: Vec<Node> = (1..=self.nodes)
            .map(|number| {
                let seed = self
                    .seed
                    .wrapping_mul(1000)
                    .wrapping_add(u64::try_from(number).unwrap());
                let (shape, settings) = (self.shape.clone(), self.settings.clone());
                Node::new(number, seed, shape, settings, &network, start)
            })
            .collect();
        let text = format!("listen = \"{CONTROLLER}\"\nstate_dir = \"/nonexistent\"\n");
        let mut config = Config::parse(&text, Path::new("simulated")).unwrap();
        config.timing = self.timing;
        let env = SimEnv::new(self.seed.wrapping_mul(1000).wrapping_add(999), start);
        let disk = MemoryDisk::new();
        let opened = trust::found(Redb::on_disk(&disk).unwrap(), env.clone()).await;
        disk.lose_power(usize::MAX);
        let channel = network
            .dialer(trust::operator(), CancellationToken::new())
            .channel(CONTROLLER);
        let people_env = SimEnv::new(self.seed.wrapping_mul(1000).wrapping_add(998), start);
        let people = People::new(channel, people_env);
        let mut cluster = Cluster {
            network,
            nodes,
            disk,
            env,
            people,
            config,
            epoch_floor: Epoch::ZERO,
            opened,
            segments: MemorySegments::new(),
            blobs: Blobs::default(),
            controller: None,
            fold: tokio::sync::Mutex::default(),
            seen: Mutex::default(),
        };
        cluster.start_controller().await;
        cluster.join(self.overcommit_permille).await;
        cluster.ready().await;
        if self.image {
            cluster.people.import().await.unwrap();
        }
        cluster
    }
}

impl Cluster {
    /// Three nodes, seed 1.
    pub fn builder() -> Builder {
        Builder {
            nodes: 3,
            seed: 1,
            shape: node::shape(),
            settings: Settings::default(),
            timing: Timing::default(),
            overcommit_permille: 4000,
            image: true,
        }
    }

    /// Starts a controller over the disk that is there.
    pub async fn start_controller(&mut self) {
        self.try_start_controller().await.unwrap();
    }

    /// The same where it may be refused.
    ///
    /// # Errors
    ///
    /// Why it can't lead.
    pub async fn try_start_controller(&mut self) -> Result<(), Error> {
        assert!(self.controller.is_none(), "a controller runs already");
        let store = Arc::new(Redb::on_disk(&self.disk).unwrap());
        let life = CancellationToken::new();
        let mut controller = Controller::start(Options {
            config: self.config.clone(),
            store: store.clone(),
            env: self.env.clone(),
            blobs: Arc::new(self.blobs.clone()),
            segments: Arc::new(self.segments.clone()),
            dialer: Arc::new(self.network.dialer(trust::controller(), life.clone())),
            trust: self.opened.clone(),
            epoch_floor: self.epoch_floor,
        })
        .await?;
        let stop = controller.stop_token();
        let ledger = controller.api().ledger.clone();
        let incoming = self.network.listen(CONTROLLER, life.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let served = controller.serve(incoming).await;
            controller.shutdown().await;
            served
        }));
        self.controller = Some(Running {
            store,
            ledger,
            life,
            stop,
            task,
        });
        Ok(())
    }

    /// Lets every node join.
    async fn join(&self, overcommit_permille: u32) {
        let running = self.controller.as_ref().unwrap();
        for node in &self.nodes {
            trust::join(&running.ledger, &*self.env, node, overcommit_permille).await;
        }
    }

    /// A way to take wires and disk from the controller that runs now, from another task and
    /// between any two steps of its own: nothing that it does afterwards has an effect.
    pub fn death(&self) -> Death {
        let life = self.controller.as_ref().map(|running| running.life.clone());
        Death {
            disk: self.disk.clone(),
            life: life.unwrap_or_default(),
        }
    }

    /// Kills the controller: its connections end, its disk takes nothing more from it.
    pub async fn kill_controller(&mut self) {
        let Some(Running {
            life, task, store, ..
        }) = self.controller.take()
        else {
            return;
        };
        // What it was still to write is lost with it.
        self.disk.lose_power(usize::MAX);
        life.cancel();
        task.abort();
        let _ = task.await;
        freed(store).await;
    }

    /// Stops the controller in order.
    pub async fn stop_controller(&mut self) {
        let Some(Running {
            life,
            task,
            store,
            stop,
            ledger: _,
        }) = self.controller.take()
        else {
            return;
        };
        stop.cancel();
        task.await.unwrap().unwrap();
        life.cancel();
        freed(store).await;
        self.disk.lose_power(usize::MAX);
    }

    /// Forgets what was read of the log: the disk is about to be another one.
    pub async fn forget_log(&self) {
        *self.fold.lock().await = Fold::default();
    }

    /// Kills the controller and starts another over the same disk.
    pub async fn restart_controller(&mut self) {
        self.kill_controller().await;
        self.start_controller().await;
    }

    /// Whether a controller runs.
    pub fn has_controller(&self) -> bool {
        self.controller.is_some()
    }

    /// Waits until every node is ready.
    pub async fn ready(&self) {
        for node in &self.nodes {
            self.node_is(node.name.as_str(), NodeState::Ready).await;
        }
    }

    /// Waits until a node stands so.
    pub async fn node_is(&self, name: &str, state: NodeState) {
        self.eventually(
            Duration::from_mins(2),
            &format!("{name} is {state:?}"),
            async || {
                self.people
                    .node(name)
                    .await
                    .is_ok_and(|node| node.state() == state)
            },
        )
        .await;
    }

    /// Waits until an instance stands so.
    pub async fn phase_is(&self, name: &str, phase: Phase) {
        self.eventually(
            Duration::from_mins(3),
            &format!("{name} is {phase:?}"),
            async || {
                self.people
                    .instance(name)
                    .await
                    .is_ok_and(|instance| instance.phase() == phase)
            },
        )
        .await;
    }

    /// Creates a small instance and waits until it runs; gives its incarnation and its node's
    /// index.
    pub async fn run(&self, name: &str) -> (IncarnationId, usize) {
        let accepted = self.people.create(name).await;
        self.people.succeeds(accepted).await;
        self.place(name).await
    }

    /// Creates a small running instance on this node.
    pub async fn run_on(&self, name: &str, index: usize) -> IncarnationId {
        for (other, node) in self.nodes.iter().enumerate() {
            if other != index {
                self.people.cordon(node.name.as_str()).await.unwrap();
            }
        }
        let (incarnation, place) = self.run(name).await;
        assert_eq!(place, index);
        for (other, node) in self.nodes.iter().enumerate() {
            if other != index {
                self.people.uncordon(node.name.as_str()).await.unwrap();
            }
        }
        incarnation
    }

    /// The incarnation of an instance and its node's index.
    pub async fn place(&self, name: &str) -> (IncarnationId, usize) {
        let instance = self.people.instance(name).await.unwrap();
        let incarnation = &instance.incarnations[0];
        let place = |node: &Node| node.name.as_str() == incarnation.node_name;
        (
            incarnation.id.parse().unwrap(),
            self.nodes.iter().position(place).unwrap(),
        )
    }

    /// How often an incarnation's guest was turned on, over all nodes.
    pub fn runs(&self, incarnation: IncarnationId) -> u64 {
        self.nodes
            .iter()
            .map(|node| node.host.runs(incarnation))
            .sum()
    }

    /// Instances that are on, with the nodes' indices where they are.
    pub fn running(&self) -> BTreeMap<InstanceId, Vec<usize>> {
        let mut running: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for incarnation in node.host.domains() {
                if node.host.is_on(incarnation) == Some(true)
                    && let Some(record) = node.host.record(incarnation)
                {
                    running
                        .entry(record.intent.instance)
                        .or_default()
                        .push(index);
                }
            }
        }
        running
    }

    /// Waits for a condition within a bound, and samples the invariants meanwhile.
    #[track_caller]
    pub fn eventually<'a>(
        &'a self,
        bound: Duration,
        what: &str,
        mut condition: impl AsyncFnMut() -> bool + 'a,
    ) -> impl Future<Output = ()> + 'a {
        let what = what.to_owned();
        let caller = std::panic::Location::caller();
        async move {
            let end = Instant::now() + bound;
            loop {
                self.sample();
                if condition().await {
                    return;
                }
                assert!(
                    Instant::now() < end,
                    "in vain for {bound:?}: {what} ({caller})"
                );
                sleep(LOOK).await;
            }
        }
    }

    /// Lets time pass while the invariants are sampled.
    pub async fn pass(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.sample();
            sleep(LOOK.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// The fold of the log, read from the store. Needs a running controller.
    pub async fn fold(&self) -> tokio::sync::MutexGuard<'_, Fold> {
        let mut fold = self.fold.lock().await;
        if let Some(running) = &self.controller {
            fold.advance(&running.store).await;
        }
        fold
    }

    /// The intent, folded from the log. Needs a running controller.
    pub async fn fabric(&self) -> Fabric {
        self.fold().await.fabric.clone()
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
