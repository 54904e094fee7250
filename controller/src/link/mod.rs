//! Links to the nodes' agents: one task a node dials, watches and keeps the agent's intent true.
//!
//! ```text
//!            ┌────────── backs off, jittered ◀──────────┐
//!            ▼                                           │ stream ended, error, silence
//!   dial ─▶ GetNode ─▶ (Resync) ─▶ Watch + Heartbeat ─▶ push what is due
//! ```
//!
//! [`Links`] owns the tasks: it starts one for each node that is trusted and ends it when the node
//! is revoked or gone. A dispatcher (`dispatch.rs`) wakes exactly the links whose instances
//! changed, by comparing two persistent maps, so a decision's cost doesn't grow with the nodes.
//!
//! However many nodes there are, so many are dialled at a time: after a failure of the network, or when
//! another controller takes over, all want to be at once (FAULTS 59).
//!
//! Invariants:
//! - A link never decides: it turns what it sees into observations, and transitions into
//!   commands for the ledger.
//! - Silence makes a node *unreachable*, never *dead*: its claims stay, its guests are taken to
//!   run on. A certificate that isn't believed is said as such, and is no silence.
//! - A node is dialled by the name that only its own certificate carries, and what it says counts
//!   for itself alone (FAULTS 22).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kapok_proto::{MAX_MESSAGE_BYTES, agent::v1::node_service_client::NodeServiceClient};
use kapok_trust::{Certificate, Credentials, connector, dns};
use kapok_types::{Env, Name, NodeId};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tracing::{Instrument as _, error, info_span};

use crate::{
    fabric::{self, CertificateRecord},
    ledger, observed,
    trust::Trust,
};

mod bounds;
mod call;
mod dispatch;
mod ended;
mod push;
mod session;
mod sources;
mod survey;
mod tend;

pub(crate) use session::CALL_DEADLINE;
pub(crate) use survey::{held_intents, highest_epoch};

/// Agents that are dialled at a time.
const DIALS: usize = 128;

/// A client of one agent.
pub type Client = NodeServiceClient<Channel>;

/// How agents are reached.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects to a node's agent at "HOST:PORT". Whoever answers is that node.
    ///
    /// # Errors
    ///
    /// Nobody answers, or one of both sides doesn't believe the other.
    async fn dial(&self, address: &str, node: NodeId) -> Result<Channel, connector::Error>;

    /// Connects to another controller at "HOST:PORT". Whoever answers is that one.
    ///
    /// # Errors
    ///
    /// As [`Dialer::dial`].
    async fn dial_controller(
        &self,
        address: &str,
        name: &Name,
    ) -> Result<Channel, connector::Error>;

    /// The certificate that a node shows now; none if nobody answers, or none is shown.
    async fn certificate(&self, _address: &str, _node: NodeId) -> Option<Arc<Certificate>> {
        None
    }
}

/// Over TCP and TLS, as in production.
#[derive(Debug, Clone)]
pub struct Tls(pub Credentials);

#[async_trait]
impl Dialer for Tls {
    async fn dial(&self, address: &str, node: NodeId) -> Result<Channel, connector::Error> {
        let own = self.0.certificate();
        let name = dns::node(&own.identity.fabric, node);
        connector::connect(&self.0, address, &name, tuned).await
    }

    async fn dial_controller(
        &self,
        address: &str,
        name: &Name,
    ) -> Result<Channel, connector::Error> {
        let own = self.0.certificate();
        let name = dns::one_controller(&own.identity.fabric, name);
        // Many people's streams share it: a slow reader of one must not keep the others waiting.
        connector::connect(&self.0, address, &name, |endpoint| {
            tuned(endpoint)
                .initial_connection_window_size(CONTROLLER_WINDOW)
                .initial_stream_window_size(CONTROLLER_WINDOW / 64)
        })
        .await
    }

    async fn certificate(&self, address: &str, node: NodeId) -> Option<Arc<Certificate>> {
        let own = self.0.certificate();
        let name = dns::node(&own.identity.fabric, node);
        let stream = connector::stream(&self.0, address, &name).await.ok()?;
        stream.peer().certificate().cloned()
    }
}

/// What may be on its way from another controller unread, in bytes.
const CONTROLLER_WINDOW: u32 = 16 * 1024 * 1024;

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
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
    /// Where agents pull images from: "HOST:PORT".
    pub advertise: String,
    /// What nodes are to believe, their certificates, and tickets for blobs.
    pub trust: Trust,
}

/// All links. Cheap to clone.
#[derive(Clone)]
pub struct Links {
    shared: Shared,
    /// Who may dial: so many at a time.
    dials: Arc<Semaphore>,
    lines: Arc<Mutex<BTreeMap<Name, Line>>>,
}

/// What the outside knows of one link.
struct Line {
    /// Which node it goes to.
    node: NodeId,
    /// Wakes it when something is due.
    due: Arc<Notify>,
    /// The client while a session is up.
    client: Option<Client>,
    /// Ends it.
    stop: CancellationToken,
}

impl Links {
    /// Links that [`Links::run`] will keep.
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            dials: Arc::new(Semaphore::new(DIALS)),
            lines: Arc::default(),
        }
    }

    /// A client for a node whose agent answers at present.
    pub fn client(&self, node: NodeId) -> Option<Client> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.values().find(|line| line.node == node)?;
        line.client.clone()
    }

    /// Clients for all nodes whose agents answer at present.
    pub fn clients(&self) -> Vec<(NodeId, Client)> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let up = lines
            .values()
            .filter_map(|line| Some((line.node, line.client.clone()?)));
        up.collect()
    }

    /// The certificate that a node shows now, as it would be on record.
    pub(crate) async fn certificate(
        &self,
        address: &str,
        node: NodeId,
    ) -> Option<CertificateRecord> {
        let dialer = &self.shared.dialer;
        let shown = dialer.certificate(address, node).await?;
        Some(CertificateRecord {
            serial: shown.serial,
            subject: shown.subject().clone(),
            authority: shown.authority,
            issued_at: shown.not_before,
            not_after: shown.not_after,
            token: None,
            revoked: None,
        })
    }

    /// Keeps a link to every trusted node until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut snapshots = self.shared.ledger.changes();
        let mut last = self.shared.ledger.snapshot();
        let mut first = true;
        loop {
            let now = snapshots.borrow_and_update().clone();
            if first || !last.fabric.nodes.ptr_eq(&now.fabric.nodes) {
                self.follow_nodes(&now.fabric, &mut tasks, &stop);
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

    fn follow_nodes(
        &self,
        fabric: &fabric::Fabric,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let trusted = |node: &&fabric::Node| node.revoked.is_none();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|name, line| {
            let known = fabric.nodes.get(name).filter(|node| node.id == line.node);
            if known.is_none() {
                self.shared.observed.forget_node(name);
            }
            let wanted = known.as_ref().is_some_and(trusted);
            if !wanted {
                line.stop.cancel();
            }
            wanted
        });
        for node in fabric.nodes.values().filter(trusted) {
            if lines.contains_key(&node.name) {
                continue;
            }
            let line = Line {
                node: node.id,
                due: Arc::new(Notify::new()),
                client: None,
                stop: stop.child_token(),
            };
            let link = session::Link {
                node: node.name.clone(),
                id: node.id,
                links: self.clone(),
                shared: self.shared.clone(),
                due: line.due.clone(),
                care: tend::Care::default(),
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

    /// Says that a node's agent answers, or that it doesn't.
    fn set_client(&self, node: &Name, client: Option<Client>) {
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
pub(crate) fn client(channel: Channel) -> Client {
    NodeServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
