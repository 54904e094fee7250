//! From what agents report to commands: guests that stopped, incarnations that ended, operations
//! that reached their goal.

use std::time::Duration;

use kapok_types::{
    instance::Power,
    phase::{Ended, Phase, Status},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{Actor, Command, Fabric, Instance, Operation, OperationKind, OperationOutcome},
    ledger, observed,
};

/// How often everything is looked at, changed or not.
const FULL_ROUND: Duration = Duration::from_secs(30);

/// Follows the reports until stopped.
pub async fn run(ledger: ledger::Handle, observed: observed::Table, stop: CancellationToken) {
    let mut changes = observed.changes();
    let mut full = interval(FULL_ROUND);
    full.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            _ = full.tick() => {
                observed.mark_dirty(ledger.snapshot().fabric.incarnations.keys().copied());
            }
        }
        changes.borrow_and_update();
        for incarnation in observed.take_dirty() {
            let Some(status) = observed.status(incarnation) else {
                continue;
            };
            for command in due(&ledger.snapshot().fabric, &status) {
                let answer = ledger
                    .submit(Actor::controller(), String::new(), None, command)
                    .await;
                if let Err(error) = answer {
                    // The next report or full round brings it again.
                    warn!(%error, %incarnation, "a report could not be recorded yet");
                }
            }
        }
    }
}

/// The commands that follow from one incarnation's status.
pub fn due(fabric: &Fabric, status: &Status) -> Vec<Command> {
    let Some((instance, incarnation)) = fabric.incarnation(status.incarnation) else {
        return Vec::new();
    };
    let mut due = Vec::new();
    if status.phase == Phase::Gone {
        due.push(Command::IncarnationGone {
            incarnation: incarnation.id,
        });
        return due;
    }
    let operation = fabric
        .running_operation(instance)
        .and_then(|operation| fabric.operations.get(&operation));
    if let Some(operation) = operation
        && let Some(detail) = reached(instance, operation, status)
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
            incarnation: incarnation.id,
            generation: status.generation,
        });
    }
    due
}

/// Whether an operation's goal is reached; then what is to be said of it.
fn reached(instance: &Instance, operation: &Operation, status: &Status) -> Option<String> {
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
        (OperationKind::Stop, _) | (OperationKind::Create, Power::Stopped) => off.then(String::new),
        (OperationKind::Create | OperationKind::Start | OperationKind::Restart, _) => {
            if ended_since {
                return Some("it started, and the guest shut itself down since".into());
            }
            up.then(String::new)
        }
    }
}

#[cfg(test)]
mod tests;
