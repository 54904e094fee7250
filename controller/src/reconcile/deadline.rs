//! Operations past their deadline become *detached*: the outcome is unknown, the fabric goes on.

use std::{sync::Arc, time::Duration};

use kapok_types::{Env, OperationId, Timestamp};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{Actor, Command, Fabric, OperationOutcome},
    ledger,
};

/// Watches the deadlines until stopped.
pub async fn run(ledger: ledger::Handle, env: Arc<dyn Env>, stop: CancellationToken) {
    let mut round = interval(Duration::from_secs(1));
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = round.tick() => {}
        }
        for operation in overdue(&ledger.snapshot().fabric, env.now()) {
            let command = Command::EndOperation {
                operation,
                outcome: OperationOutcome::Detached,
                detail: "its deadline passed; the fabric goes on, see the instance".into(),
            };
            if let Err(error) = ledger
                .submit(Actor::controller(), String::new(), None, command)
                .await
            {
                warn!(%error, %operation, "the deadline could not be recorded yet");
            }
        }
    }
}

/// Running operations whose deadline has passed; only those that run are looked at.
pub fn overdue(fabric: &Fabric, now: Timestamp) -> Vec<OperationId> {
    let passed = |id: &OperationId| {
        fabric
            .operations
            .get(id)
            .is_some_and(|operation| operation.deadline < now)
    };
    fabric.running.keys().copied().filter(passed).collect()
}

#[cfg(test)]
mod tests;
