//! What the ledger did since this controller's start, for monitoring.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kapok_scheduler::{Filter, Rejections};
use prometheus_client::metrics::histogram::Histogram;

use crate::fabric::{Denied, Dimension, Event, OperationKind, OperationOutcome};

/// Bounds of durations, in seconds.
const DURATIONS: [f64; 9] = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
/// Bounds of batches, in commands.
const BATCHES: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

/// The counts. Cheap to clone; clones are the same counts.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Commands a batch.
    pub batches: Histogram,
    /// How long decisions took, each.
    pub decisions: Histogram,
    /// How long appends to the store took, those that failed as well.
    pub appends: Histogram,
    counts: Arc<Mutex<Counts>>,
}

/// What is counted one by one.
#[derive(Debug, Default)]
pub struct Counts {
    /// Commands that were taken.
    pub taken: u64,
    /// Commands that were refused.
    pub refused: u64,
    /// Appends that failed, or whose outcome wasn't known.
    pub failed_appends: u64,
    /// Incarnations that the scheduler has placed.
    pub placed: u64,
    /// Requests for which no node had room.
    pub unplaced: u64,
    /// Requests for which a quota had no room, by the dimension in which it had none.
    pub over_quota: BTreeMap<Dimension, u64>,
    /// Nodes that were passed over for those, by the filter that did.
    pub passed_over: BTreeMap<Filter, u64>,
    /// Operations that ended, by outcome.
    pub operations: BTreeMap<&'static str, u64>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            batches: Histogram::new(BATCHES),
            decisions: Histogram::new(DURATIONS),
            appends: Histogram::new(DURATIONS),
            counts: Arc::default(),
        }
    }
}

impl Stats {
    /// The counts, for a moment.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn decided(&self, took: Duration) {
        self.decisions.observe(took.as_secs_f64());
    }

    pub(super) fn denied(&self, denied: &Denied) {
        let mut counts = self.counts();
        counts.refused += 1;
        let dimensions: Vec<Dimension> = match denied.cause() {
            Denied::NoCapacity(_) => {
                counts.unplaced += 1;
                return;
            }
            Denied::OverQuota { short, .. } => short.iter().map(|one| one.dimension).collect(),
            Denied::OverQuotaAbove { dimensions, .. } => dimensions.clone(),
            _ => return,
        };
        for dimension in dimensions {
            *counts.over_quota.entry(dimension).or_default() += 1;
        }
    }

    /// Somebody has asked why no node had room. Looking at every node isn't the ledger's work.
    pub(super) fn passed_over(&self, rejections: &Rejections) {
        let mut counts = self.counts();
        for (filter, nodes) in &rejections.counts {
            let nodes = u64::try_from(*nodes).unwrap_or(u64::MAX);
            *counts.passed_over.entry(*filter).or_default() += nodes;
        }
    }

    pub(super) fn appended(&self, took: Duration, done: bool) {
        self.appends.observe(took.as_secs_f64());
        if !done {
            self.counts().failed_appends += 1;
        }
    }

    /// A batch is durable.
    pub(super) fn published(&self, batch: &Batch) {
        self.batches.observe(f64::from(batch.commands));
        let mut counts = self.counts();
        counts.taken += u64::from(batch.commands);
        counts.placed += batch.placed;
        for outcome in &batch.ended {
            *counts.operations.entry(outcome).or_default() += 1;
        }
    }
}

/// What a batch comes to, once it is durable.
#[derive(Debug, Default)]
pub(super) struct Batch {
    commands: u32,
    placed: u64,
    ended: Vec<&'static str>,
}

impl Batch {
    /// Takes in a command's events.
    pub(super) fn take(&mut self, events: &[Event]) {
        self.commands += 1;
        for event in events {
            match event {
                Event::IncarnationPlaced { .. } => self.placed += 1,
                Event::OperationEnded { end, .. } => self.ended.push(outcome(end.outcome)),
                _ => {}
            }
        }
    }
}

/// An outcome's word.
const fn outcome(outcome: OperationOutcome) -> &'static str {
    match outcome {
        OperationOutcome::Succeeded => "succeeded",
        OperationOutcome::Failed => "failed",
        OperationOutcome::Cancelled => "cancelled",
        OperationOutcome::Superseded => "superseded",
        OperationOutcome::Detached => "detached",
    }
}

/// A kind's word.
pub const fn kind(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Create => "create",
        OperationKind::Start => "start",
        OperationKind::Stop => "stop",
        OperationKind::Restart => "restart",
        OperationKind::Delete => "delete",
        OperationKind::Resize => "resize",
    }
}
