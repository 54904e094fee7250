//! From what agents report to commands: guests that stopped, incarnations that ended, operations
//! that reached their goal.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream};
use kapok_types::{
    NodeId,
    instance::Power,
    phase::{Ended, Phase, Status},
};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{
        Command, Fabric, Instance, Operation, OperationKind, OperationOutcome, Origin,
        decide::pending_start,
    },
    ledger, observed,
};

mod resize;

/// How often everything is looked at, changed or not: a net under the marks.
const FULL_ROUND: Duration = Duration::from_mins(10);
/// Pause before a report that could not be recorded is looked at again.
const RETRY: Duration = Duration::from_secs(1);
/// Commands that wait for the ledger at the same time: it takes them in one batch.
const AT_ONCE: usize = 256;

/// Follows the reports until stopped.
pub async fn run(ledger: ledger::Handle, observed: observed::Table, stop: CancellationToken) {
    let mut changes = observed.changes();
    let mut full = interval(FULL_ROUND);
    full.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = BTreeSet::new();
    loop {
        let retry = async {
            if failed.is_empty() {
                std::future::pending::<()>().await;
            } else {
                sleep(RETRY).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = retry => observed.mark_dirty(std::mem::take(&mut failed)),
            _ = full.tick() => {
                observed.mark_dirty(ledger.snapshot().fabric.incarnations.keys().copied());
            }
        }
        changes.borrow_and_update();
        let snapshot = ledger.snapshot();
        let reports = observed
            .take_dirty()
            .into_iter()
            .filter_map(|id| observed.report(id));
        let commands = reports.flat_map(|report| {
            let id = report.status.incarnation;
            due(&snapshot.fabric, report.node, &report.status)
                .into_iter()
                .map(move |command| (id, command))
        });
        let answers: Vec<_> = stream::iter(commands.collect::<Vec<_>>())
            .map(|(id, command)| {
                let answer = ledger.submit(Origin::controller(), None, command);
                async move { (id, answer.await) }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        for (id, answer) in answers {
            if let Err(error) = answer {
                warn!(%error, incarnation = %id, "a report could not be recorded yet");
                failed.insert(id);
            }
        }
    }
}

/// The commands that follow from what a node says of one incarnation.
pub fn due(fabric: &Fabric, node: NodeId, status: &Status) -> Vec<Command> {
    let Some((instance, incarnation)) = fabric.incarnation(status.incarnation) else {
        return Vec::new();
    };
    // A node's word counts for what it carries (FAULTS 22, 23).
    if incarnation.node != node {
        return Vec::new();
    }
    // It changes nothing before the node is adopted.
    if fabric.is_adopting_id(node) {
        return Vec::new();
    }
    let mut due = Vec::new();
    if status.phase == Phase::Gone {
        due.push(Command::IncarnationGone {
            node,
            incarnation: incarnation.id,
        });
        return due;
    }
    due.extend(resize::settled(instance, incarnation, status));
    let operation = fabric
        .running_operation(instance)
        .and_then(|operation| fabric.operations.get(&operation));
    if let Some(operation) = operation
        && let Some(detail) = reached(fabric, instance, operation, status)
    {
        due.push(Command::EndOperation {
            operation: operation.id,
            outcome: OperationOutcome::Succeeded,
            detail,
        });
    }
    let by_guest = status.phase == Phase::Stopped
        && status.ended == Some(Ended::ByGuest)
        && status.generation == instance.generation
        && instance.power == Power::Running
        && status.done.starts == instance.counters.starts
        && status.done.restarts == instance.counters.restarts;
    if by_guest {
        due.push(Command::GuestStopped {
            node,
            incarnation: incarnation.id,
            generation: status.generation,
        });
    }
    due
}

/// Whether an operation's goal is reached; then what is to be said of it.
fn reached(
    fabric: &Fabric,
    instance: &Instance,
    operation: &Operation,
    status: &Status,
) -> Option<String> {
    if status.generation < operation.generation {
        return None;
    }
    let started = status.done.starts >= instance.counters.starts
        && status.done.restarts >= instance.counters.restarts;
    let up = started && status.phase == Phase::Running;
    let ended_since =
        started && status.phase == Phase::Stopped && status.ended == Some(Ended::ByGuest);
    let off = status.phase == Phase::Stopped;
    match (operation.kind, instance.power) {
        (OperationKind::Delete, _) => None,
        (OperationKind::Resize, _) => resize::reached(instance, status),
        (OperationKind::Stop, _) | (OperationKind::Create, Power::Stopped) => off.then(String::new),
        (OperationKind::Create | OperationKind::Start | OperationKind::Restart, _) => {
            // A start that has not counted yet is followed by one that does.
            if ended_since && pending_start(fabric, instance).is_none() {
                return Some("it started, and the guest shut itself down since".into());
            }
            up.then(String::new)
        }
    }
}

#[cfg(test)]
mod tests;
