//! What agents report: in memory only, rebuilt from their snapshots, never in the log.
//!
//! Written by the [links](crate::link), one task a node; read by everybody. Sharded, so that a
//! report from one node waits for no other. A change marks its incarnation dirty: reconcilers
//! take the dirty ones, so their work grows with what changed, not with the fabric.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use kapok_proto::{
    agent::v1::{ForeignDomain, HeartbeatResponse, Lane, NodeFacts, PartList},
    common::v1::NodeHealth,
};
use kapok_trust::{Serial, TlsFailure};
use kapok_types::{
    Env, Epoch, IncarnationId, Name, NodeId, Timestamp,
    phase::{Phase, Status},
};
use tokio::sync::watch;

/// Shards of the table of incarnations.
const SHARDS: usize = 64;

/// The table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Table(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    env: Arc<dyn Env>,
    nodes: RwLock<BTreeMap<Name, Arc<Mutex<Reported>>>>,
    shards: [RwLock<BTreeMap<IncarnationId, Report>>; SHARDS],
    dirty: Mutex<BTreeSet<IncarnationId>>,
    moved: Mutex<BTreeSet<IncarnationId>>,
    dirty_nodes: Mutex<BTreeSet<Name>>,
    changes: watch::Sender<u64>,
}

/// A status with the node whose agent gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The node that said so.
    pub node: NodeId,
    /// What it said.
    pub status: Status,
}

/// What one node's agent said, and when.
#[derive(Debug, Clone, Default)]
pub struct Reported {
    /// When the last life sign came, on the monotonic clock.
    pub heard_at: Option<Duration>,
    /// What the node is.
    pub facts: Option<NodeFacts>,
    /// Whether its hypervisor answers.
    pub hypervisor_up: bool,
    /// Its lanes of calls.
    pub lanes: Vec<Lane>,
    /// Domains on which a call is stuck.
    pub quarantined: Vec<String>,
    /// Incarnations there that the fabric doesn't know.
    pub strays: BTreeSet<IncarnationId>,
    /// Domains that Kapok did not make, by UUID.
    pub foreign: BTreeMap<String, ForeignDomain>,
    /// Incarnations that it reported.
    pub incarnations: BTreeSet<IncarnationId>,
    /// The highest epoch that it has stored.
    pub epoch: Epoch,
    /// The agent's run.
    pub run_id: String,
    /// What is wrong with the link, in words; empty when nothing is.
    pub trouble: String,
    /// Why the last dial failed because of certificates; none when the node answers, or when it
    /// failed of something else. A certificate problem is never taken for a node that is down.
    pub refused: Option<TlsFailure>,
    /// The certificate that the node showed last.
    pub certificate: Option<Seen>,
    /// How its server does: condition and verdicts.
    pub health: Option<Arc<NodeHealth>>,
    /// What its server is made of.
    pub parts: Option<Arc<PartList>>,
}

/// A certificate that a node showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its serial number.
    pub serial: Serial,
    /// When it ends.
    pub not_after: Timestamp,
}

/// [`Reported`] with its age.
#[derive(Debug, Clone)]
pub struct NodeObserved {
    /// What the agent said.
    pub reported: Reported,
    /// Time since the last life sign; none when there was none since the controller started.
    pub heartbeat_age: Option<Duration>,
}

impl Table {
    /// An empty table.
    pub fn new(env: Arc<dyn Env>) -> Self {
        Self(Arc::new(Inner {
            env,
            nodes: RwLock::default(),
            shards: std::array::from_fn(|_| RwLock::default()),
            dirty: Mutex::default(),
            moved: Mutex::default(),
            dirty_nodes: Mutex::default(),
            changes: watch::Sender::new(0),
        }))
    }

    /// What a node's agent said, if it ever did since the controller started.
    pub fn node(&self, name: &Name) -> Option<NodeObserved> {
        let entry = self.entry_if_present(name)?;
        let reported = entry.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let heartbeat_age = reported
            .heard_at
            .map(|at| self.0.env.monotonic().saturating_sub(at));
        Some(NodeObserved {
            reported,
            heartbeat_age,
        })
    }

    /// How a node's server does, by its agent's last word, and whether there was a life sign since
    /// the controller started. Cheaper than all that is known of the node.
    pub fn health(&self, name: &Name) -> (Option<Arc<NodeHealth>>, bool) {
        let Some(entry) = self.entry_if_present(name) else {
            return (None, false);
        };
        let reported = entry.lock().unwrap_or_else(PoisonError::into_inner);
        (reported.health.clone(), reported.heard_at.is_some())
    }

    /// The last status of an incarnation.
    pub fn status(&self, incarnation: IncarnationId) -> Option<Status> {
        self.report(incarnation).map(|report| report.status)
    }

    /// The last status of an incarnation, with the node that gave it.
    pub fn report(&self, incarnation: IncarnationId) -> Option<Report> {
        let shard = self
            .shard(incarnation)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(&incarnation).cloned()
    }

    /// Wakes at each change; the number only grows.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Incarnations whose status changed since this was last called.
    pub fn take_dirty(&self) -> BTreeSet<IncarnationId> {
        std::mem::take(&mut *self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Incarnations of which a report came since this was last called, changed or not: after an
    /// absence the same word is news.
    pub fn take_moved(&self) -> BTreeSet<IncarnationId> {
        std::mem::take(&mut *self.0.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Marks incarnations for the reconcilers: after a change of intent, or for a full round.
    pub fn mark_dirty(&self, incarnations: impl IntoIterator<Item = IncarnationId>) {
        let mut dirty = self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let before = dirty.len();
        dirty.extend(incarnations);
        let grew = dirty.len() > before;
        drop(dirty);
        if grew {
            self.bump();
        }
    }

    /// Nodes whose health or parts changed since this was last called.
    pub fn take_dirty_nodes(&self) -> BTreeSet<Name> {
        let dirty = &self.0.dirty_nodes;
        std::mem::take(&mut *dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Marks nodes for the reconciler of health.
    pub fn mark_nodes_dirty(&self, nodes: impl IntoIterator<Item = Name>) {
        let dirty = &self.0.dirty_nodes;
        let mut dirty = dirty.lock().unwrap_or_else(PoisonError::into_inner);
        let before = dirty.len();
        dirty.extend(nodes);
        let grew = dirty.len() > before;
        drop(dirty);
        if grew {
            self.bump();
        }
    }

    /// A node's agent judges its server.
    pub(crate) fn judged(&self, node: &Name, health: NodeHealth) {
        self.change(node, |reported| reported.health = Some(Arc::new(health)));
        self.mark_nodes_dirty([node.clone()]);
    }

    /// A node's agent says what its server is made of.
    pub(crate) fn made_of(&self, node: &Name, parts: PartList) {
        self.change(node, |reported| reported.parts = Some(Arc::new(parts)));
        self.mark_nodes_dirty([node.clone()]);
    }

    /// A life sign came.
    pub(crate) fn heard(&self, node: &Name, sign: &HeartbeatResponse) {
        let now = self.0.env.monotonic();
        let changed = self.change(node, |reported| {
            let changed = reported.hypervisor_up != sign.hypervisor_up
                || reported.quarantined != sign.quarantined
                || reported.run_id != sign.run_id;
            reported.heard_at = Some(now);
            reported.hypervisor_up = sign.hypervisor_up;
            reported.lanes.clone_from(&sign.lanes);
            reported.quarantined.clone_from(&sign.quarantined);
            reported.epoch = Epoch(sign.epoch);
            reported.run_id.clone_from(&sign.run_id);
            changed
        });
        if changed {
            self.bump();
        }
    }

    /// A node's status of one incarnation; whether the fabric knows that incarnation.
    pub(crate) fn put(&self, name: &Name, node: NodeId, status: Status, known: bool) {
        let id = status.incarnation;
        let gone = status.phase == Phase::Gone;
        self.change(name, |reported| {
            reported.incarnations.insert(id);
            if known || gone {
                reported.strays.remove(&id);
            } else {
                reported.strays.insert(id);
            }
        });
        let report = Report { node, status };
        let mut shard = self
            .shard(id)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = shard.get(&id) != Some(&report);
        shard.insert(id, report);
        drop(shard);
        if known {
            let moved = &self.0.moved;
            moved
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id);
        }
        if changed {
            self.mark_dirty([id]);
        }
    }

    /// Nothing is left of an incarnation and nothing will be said of it any more.
    pub(crate) fn forget(&self, node: &Name, id: IncarnationId) {
        self.change(node, |reported| {
            reported.incarnations.remove(&id);
            reported.strays.remove(&id);
        });
        self.shard(id)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        self.mark_dirty([id]);
    }

    /// A whole snapshot came: what it doesn't name is no more.
    pub(crate) fn keep_only(
        &self,
        node: &Name,
        named: &BTreeSet<IncarnationId>,
        foreign: BTreeMap<String, ForeignDomain>,
    ) {
        let lost: Vec<_> = self
            .entry(node)
            .lock()
            .map(|reported| reported.incarnations.difference(named).copied().collect())
            .unwrap_or_default();
        for id in lost {
            self.forget(node, id);
        }
        self.change(node, |reported| reported.foreign = foreign);
        self.bump();
    }

    /// Changes what is known of a node's link.
    pub(crate) fn change<T>(&self, node: &Name, change: impl FnOnce(&mut Reported) -> T) -> T {
        let entry = self.entry(node);
        let mut reported = entry.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut reported)
    }

    /// Says what is wrong with a node's link, or that nothing is.
    pub(crate) fn trouble(&self, node: &Name, trouble: impl Into<String>) {
        let trouble = trouble.into();
        let changed = self.change(node, |reported| {
            let changed = reported.trouble != trouble;
            reported.trouble = trouble;
            changed
        });
        if changed {
            self.bump();
        }
    }

    /// Says what a dial showed of a node's certificate.
    pub(crate) fn shown(&self, node: &Name, refused: Option<TlsFailure>, seen: Option<Seen>) {
        let changed = self.change(node, |reported| {
            let changed =
                reported.refused != refused || (seen.is_some() && reported.certificate != seen);
            reported.refused = refused;
            reported.certificate = seen.or(reported.certificate);
            changed
        });
        if changed {
            self.bump();
        }
    }

    /// Forgets a node that the fabric doesn't know any more.
    pub(crate) fn forget_node(&self, node: &Name) {
        let mut nodes = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.remove(node);
        drop(nodes);
        self.bump();
    }

    /// Tells waiters that something changed.
    pub(crate) fn bump(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn shard(&self, id: IncarnationId) -> &RwLock<BTreeMap<IncarnationId, Report>> {
        // The tail of a version 7 UUID is random.
        let tail = id.0.as_bytes()[15];
        &self.0.shards[usize::from(tail) % SHARDS]
    }

    fn entry_if_present(&self, name: &Name) -> Option<Arc<Mutex<Reported>>> {
        self.0
            .nodes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn entry(&self, name: &Name) -> Arc<Mutex<Reported>> {
        if let Some(entry) = self.entry_if_present(name) {
            return entry;
        }
        let mut nodes = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.entry(name.clone()).or_default().clone()
    }
}
