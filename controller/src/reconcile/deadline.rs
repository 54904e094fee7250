//! Operations past their deadline become *detached*: the outcome is unknown, the fabric goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kapok_types::{Env, OperationId, Timestamp};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{Command, Fabric, OperationOutcome, Origin},
    ledger,
};

/// Watches the deadlines until stopped.
pub async fn run(ledger: ledger::Handle, env: Arc<dyn Env>, stop: CancellationToken) {
    let mut round = interval(Duration::from_secs(1));
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deadlines = Deadlines::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = round.tick() => {}
        }
        let fabric = &ledger.snapshot().fabric;
        for operation in deadlines.passed(fabric, env.now(), env.monotonic()) {
            let command = Command::EndOperation {
                operation,
                outcome: OperationOutcome::Detached,
                detail: "its deadline passed; the fabric goes on, see the instance".into(),
            };
            let ended = ledger.submit(Origin::controller(), None, command);
            if let Err(error) = ended.await {
                warn!(%error, %operation, "the deadline could not be recorded yet");
            }
        }
    }
}

/// When each running operation is due, on the monotonic clock: a wall clock that jumps detaches
/// nothing (FAULTS 51). The wall clock counts once, when an operation is first seen, so that one
/// from before a restart keeps its deadline.
#[derive(Debug, Default)]
struct Deadlines {
    due: BTreeMap<OperationId, Duration>,
}

impl Deadlines {
    /// Running operations whose deadline has passed; only those that run are looked at.
    fn passed(&mut self, fabric: &Fabric, now: Timestamp, monotonic: Duration) -> Vec<OperationId> {
        self.due.retain(|id, _| fabric.running.contains_key(id));
        let mut passed = Vec::new();
        for id in fabric.running.keys() {
            let Some(operation) = fabric.operations.get(id) else {
                continue;
            };
            let due = *self.due.entry(*id).or_insert_with(|| {
                // Never more than it was given, should the clock have gone back meanwhile.
                let given = operation.deadline.millis_since(operation.created_at);
                let left = operation.deadline.millis_since(now).min(given);
                monotonic + Duration::from_millis(left)
            });
            if due < monotonic {
                passed.push(*id);
            }
        }
        passed
    }
}

#[cfg(test)]
mod tests;
