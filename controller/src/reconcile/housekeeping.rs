//! Retention: requests, operations, tokens and certificates go when their time is over, and
//! authorities that nobody needs are trusted no longer.

use std::{sync::Arc, time::Duration};

use kapok_types::Env;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    fabric::{Command, Origin, decide::expire},
    ledger,
};

/// How often retention is looked at.
const ROUND: Duration = Duration::from_mins(1);

/// Keeps house until stopped. An idle fabric with nothing to forget writes nothing.
pub async fn run(ledger: ledger::Handle, env: Arc<dyn Env>, stop: CancellationToken) {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = round.tick() => {}
        }
        // Each decision forgets a bounded number; all that is due goes in this round.
        while expire::is_due(&ledger.snapshot().fabric, env.now()) && !stop.is_cancelled() {
            let expired = ledger.submit(Origin::controller(), None, Command::Expire);
            if let Err(error) = expired.await {
                warn!(%error, "retention could not be kept yet");
                break;
            }
        }
    }
}
