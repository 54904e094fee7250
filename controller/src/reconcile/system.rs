//! Systems whose end is near: their people are warned, each time once. Nothing is stopped.

use std::{sync::Arc, time::Duration};

use kapok_types::Env;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{Command, Origin, decide::warning_is_due},
    ledger,
};

/// How often ends are looked at.
const ROUND: Duration = Duration::from_mins(1);

/// Warns until stopped. A round without a warning looks at one system and writes nothing.
pub async fn run(ledger: ledger::Handle, env: Arc<dyn Env>, stop: CancellationToken) {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = round.tick() => {}
        }
        // Each decision gives a bounded number; all that are due go in this round.
        while warning_is_due(&ledger.snapshot().fabric, env.now()) && !stop.is_cancelled() {
            let warned = ledger.submit(Origin::controller(), None, Command::ReviewSystems);
            if let Err(error) = warned.await {
                warn!(%error, "warnings of systems' ends could not be recorded yet");
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kapok_store::Redb;
    use kapok_types::{Epoch, Timestamp, env::Seeded};

    use super::*;
    use crate::fabric::{SystemChange, command::CreateSystem, decide::Rules};

    #[tokio::test]
    async fn an_end_is_told_without_being_asked_for() {
        let (env, store) = (Seeded::new(7), Arc::new(Redb::in_memory().unwrap()));
        let (ledger, task) =
            ledger::Ledger::start(store, env.clone(), "test", Epoch(0), Rules::default())
                .await
                .unwrap();
        let task = tokio::spawn(task.run());
        let end = Timestamp(env.now().get() + 3 * 24 * 3_600_000);
        let create = Command::CreateSystem(CreateSystem {
            tenant: None,
            name: "billing".parse().unwrap(),
            facts: vec![SystemChange::EndsAt(Some(end))],
        });
        let made = ledger.submit(Origin::controller(), None, create).await;
        made.unwrap();
        let stop = CancellationToken::new();
        let warning = tokio::spawn(run(ledger.clone(), env.clone(), stop.clone()));
        let mut published = ledger.changes();
        let warned = published.wait_for(|now| {
            let mut systems = now.fabric.systems.values();
            systems.any(|system| system.warned == Some(7))
        });
        let warned = tokio::time::timeout(Duration::from_secs(20), warned).await;
        assert!(!warning_is_due(&warned.unwrap().unwrap().fabric, env.now()));
        stop.cancel();
        warning.await.unwrap();
        drop(ledger);
        task.await.unwrap().unwrap();
    }
}
