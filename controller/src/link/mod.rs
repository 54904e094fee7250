//! Links to the nodes' agents: one task a node dials, watches and keeps the agent's intent true.
//!
//! ```text
//!            ┌────────── backs off, jittered ◀──────────┐
//!            ▼                                           │ stream ended, error, silence
//!   dial ─▶ GetNode ─▶ (Resync) ─▶ Watch + Heartbeat ─▶ push what is due
//! ```
//!
//! [`Links`] owns the tasks: it starts one for each configured node and ends it when the node is
//! configured no longer. A dispatcher (`dispatch.rs`) wakes exactly the links whose instances
//! changed, by comparing two persistent maps, so a decision's cost doesn't grow with the nodes.
//!
//! Invariants:
//! - A link never decides: it turns what it sees into observations, and transitions into
//!   commands for the ledger.
//! - Silence makes a node *unreachable*, never *dead*: its claims stay, its guests are taken to
//!   run on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kapok_proto::{MAX_MESSAGE_BYTES, agent::v1::node_service_client::NodeServiceClient};
use kapok_types::{Env, Name, NodeId};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tracing::{Instrument as _, error, info_span};

use crate::{ledger, observed};

mod bounds;
mod dispatch;
mod push;
mod session;

/// A client of one agent.
pub type Client = NodeServiceClient<Channel>;

/// How agents are reached.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to "HOST:PORT".
    async fn dial(&self, address: &str) -> Result<Channel, tonic::transport::Error>;
}

/// Over TCP, as in production.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait]
impl Dialer for Tcp {
    async fn dial(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(Duration::from_secs(3))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect()
            .await
    }
}

/// What every link needs.
#[derive(Clone)]
pub struct Shared {
    /// The ledger, for what changes decisions.
    pub ledger: ledger::Handle,
    /// Where observations go.
    pub observed: observed::Table,
    /// Clock and jitter.
    pub env: Arc<dyn Env>,
    /// How agents are reached.
    pub dialer: Arc<dyn Dialer>,
    /// How often agents are asked for life signs.
    pub heartbeat: Duration,
    /// Silence after which a node is unreachable.
    pub lost_after: Duration,
    /// Where agents pull images from: "http://HOST:PORT".
    pub image_source: String,
}

/// All links. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    shared: Shared,
    lines: Arc<Mutex<BTreeMap<Name, Line>>>,
}

/// What the outside knows of one link.
struct Line {
    /// Wakes it when something is due.
    due: Arc<Notify>,
    /// The client while a session is up.
    client: Option<(NodeId, Client)>,
    /// Ends it.
    stop: CancellationToken,
}

impl Links {
    /// Links that [`Links::run`] will keep.
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            lines: Arc::default(),
        }
    }

    /// A client for a node whose agent answers at present.
    pub fn client(&self, node: NodeId) -> Option<Client> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let client = |line: &Line| line.client.clone().filter(|(id, _)| *id == node);
        lines.values().find_map(client).map(|(_, client)| client)
    }

    /// Keeps a link to every configured node until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut snapshots = self.shared.ledger.changes();
        let mut last = self.shared.ledger.snapshot();
        let mut first = true;
        loop {
            let now = snapshots.borrow_and_update().clone();
            if first || !last.fabric.nodes.ptr_eq(&now.fabric.nodes) {
                self.follow_configuration(&now.fabric, &mut tasks, &stop);
            }
            dispatch::wake(&self, &last.fabric, &now.fabric);
            last = now;
            first = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = snapshots.changed() => if changed.is_err() { break },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        // A link that died is never taken for a node that is well: the
                        // controller ends with this task, and starts afresh.
                        error!(%error, "a link died");
                        break;
                    }
                }
            }
        }
        for line in self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            line.stop.cancel();
        }
        while tasks.join_next().await.is_some() {}
    }

    fn follow_configuration(
        &self,
        fabric: &crate::fabric::Fabric,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|name, line| {
            let wanted = fabric.nodes.get(name).is_some_and(|node| node.configured);
            if !wanted {
                line.stop.cancel();
            }
            wanted
        });
        for node in fabric.nodes.values().filter(|node| node.configured) {
            if lines.contains_key(&node.name) {
                continue;
            }
            let line = Line {
                due: Arc::new(Notify::new()),
                client: None,
                stop: stop.child_token(),
            };
            let link = session::Link {
                node: node.name.clone(),
                links: self.clone(),
                shared: self.shared.clone(),
                due: line.due.clone(),
            };
            let span = info_span!("link", node = %node.name);
            let token = line.stop.clone();
            lines.insert(node.name.clone(), line);
            tasks.spawn(
                async move {
                    tokio::select! {
                        biased;
                        () = token.cancelled() => {}
                        () = link.run() => {}
                    }
                }
                .instrument(span),
            );
        }
    }

    /// Says who answers at a node's address, or that nobody does.
    fn set_client(&self, node: &Name, client: Option<(NodeId, Client)>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(node) {
            line.client = client;
        }
    }

    /// Wakes one link: something may be due there.
    fn wake(&self, node: &Name) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(node) {
            line.due.notify_one();
        }
    }
}

/// A client over a channel, with the project's message limit.
fn client(channel: Channel) -> Client {
    NodeServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
