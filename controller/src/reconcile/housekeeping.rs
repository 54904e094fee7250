//! Retention: answered requests and ended operations go when their time is over.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{Actor, Command},
    ledger,
};

/// How often retention is looked at.
const ROUND: Duration = Duration::from_mins(10);

/// Keeps house until stopped. An idle fabric with nothing to forget writes nothing.
pub async fn run(ledger: ledger::Handle, stop: CancellationToken) {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = round.tick() => {}
        }
        let command = Command::Expire;
        if let Err(error) = ledger
            .submit(Actor::controller(), String::new(), None, command)
            .await
        {
            warn!(%error, "retention could not be kept yet");
        }
    }
}
