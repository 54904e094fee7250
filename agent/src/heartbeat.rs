//! Life signs: what a heartbeat says, and the way to ask the dispatch loop for one.
//!
//! A life sign is made by the loop itself, never by the stream that carries it: if the loop is
//! stuck, so is the heartbeat.

use std::time::Duration;

use kapok_types::{Epoch, IncarnationId, NodeId};
use tokio::sync::{mpsc, oneshot};

use crate::{
    driver::{Health, Lane},
    local::Local,
};

/// Life signs that may wait to be made.
const QUEUE: usize = 64;

/// The lane of the local store's writes.
pub const STORE: &str = "store";

/// The agent's condition at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifeSign {
    /// Who speaks.
    pub node: NodeId,
    /// The highest epoch stored.
    pub epoch: Epoch,
    /// Whether creates wait for the controller's full intent.
    pub needs_resync: bool,
    /// Lanes of calls, the local store's writes last.
    pub lanes: Vec<Lane>,
    /// Whether the hypervisor answers.
    pub hypervisor_up: bool,
    /// Domains with a stuck call.
    pub quarantined: Vec<IncarnationId>,
}

impl LifeSign {
    /// The condition that driver and store are in.
    pub fn of(health: Health, local: &Local) -> Self {
        let (depth, stuck) = local.load();
        let mut lanes = health.lanes;
        lanes.push(Lane {
            name: STORE,
            stuck_ms: millis(stuck),
            depth,
        });
        Self {
            node: local.node_id(),
            epoch: local.epoch(),
            needs_resync: local.needs_resync(),
            lanes,
            hypervisor_up: health.up,
            quarantined: health.quarantined,
        }
    }
}

/// Asks the loop.
#[derive(Debug, Clone)]
pub struct Pulse {
    queue: mpsc::Sender<oneshot::Sender<LifeSign>>,
}

/// The loop's side.
pub type Questions = mpsc::Receiver<oneshot::Sender<LifeSign>>;

impl Pulse {
    /// A way to ask, and the loop's side of it.
    pub fn new() -> (Self, Questions) {
        let (queue, questions) = mpsc::channel(QUEUE);
        (Self { queue }, questions)
    }

    /// The loop's next life sign; none when the agent has stopped.
    pub async fn next(&self) -> Option<LifeSign> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(reply).await.ok()?;
        answer.await.ok()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
