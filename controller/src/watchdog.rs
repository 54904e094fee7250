//! What a ping to the service manager's watchdog proves.
//!
//! **Invariant:** a ping depends on the runtime, which has to run this task, and on the ledger's own
//! work ([`Turn`]). A store that hangs, an etcd without a majority, agents that are away, a queue
//! that is full: all of these are answered with errors and shown in metrics, and pings go on.
//! Another process would find the same, and fold the whole log before it did.
//!
//! Absent on purpose: a command through the ledger's queue. It would wait behind the store.

use std::{future::pending, sync::Arc, time::Duration};

use kapok_types::Env;
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use crate::ledger::turn::Turn;

/// Pings three times as often as a watchdog that waits for `bound` needs it, but not while the
/// ledger has computed for a third of that without an end. Never ends.
pub async fn prove(bound: Duration, turn: Turn, env: Arc<dyn Env>, mut ping: impl FnMut()) {
    let every = bound / 3;
    if every.is_zero() {
        return pending().await;
    }
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let computing = turn.computing(env.monotonic());
        if computing < every {
            ping();
        } else {
            error!(?computing, "the ledger doesn't turn");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::mpsc::{Sender, channel},
    };

    use kapok_store::Redb;
    use kapok_types::env::Seeded;
    use tokio::{runtime, time::timeout};

    use super::*;
    use crate::{
        fabric::{Origin, decide::Rules, fixture},
        ledger::Ledger,
    };

    const BOUND: Duration = Duration::from_secs(30);

    /// How often it pings within a minute.
    async fn pings(turn: &Turn, env: &Arc<Seeded>) -> u32 {
        let pings = Cell::new(0);
        let env: Arc<dyn Env> = env.clone();
        let proving = prove(BOUND, turn.clone(), env, || pings.set(pings.get() + 1));
        assert!(timeout(Duration::from_secs(59), proving).await.is_err());
        pings.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_ledger_without_end_gets_no_ping() {
        let (turn, env) = (Turn::default(), Seeded::new(1));
        env.advance(Duration::from_hours(1));
        assert_eq!(pings(&turn, &env).await, 6);
        turn.computes(env.monotonic());
        env.advance(Duration::from_secs(1));
        assert_eq!(pings(&turn, &env).await, 6, "a long decision");
        env.advance(Duration::from_mins(1));
        assert_eq!(pings(&turn, &env).await, 0);
        turn.waits();
        assert_eq!(pings(&turn, &env).await, 6);
    }

    /// Keeps the only thread that may wait for a disk, until the sender is dropped.
    fn hang() -> Sender<()> {
        let (hold, held) = channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        hold
    }

    /// The ledger waits for its store for an hour: that is none of its own time.
    #[test]
    fn a_store_that_hangs_keeps_no_ping_back() {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let env = Seeded::new(1);
            let store = Arc::new(Redb::open(folder.path().join("log")).await.unwrap());
            let floor = kapok_types::Epoch(0);
            let (handle, ledger) = Ledger::start(store, env.clone(), "a", floor, Rules::default())
                .await
                .unwrap();
            let ledger = tokio::spawn(ledger.run());
            let hold = hang();
            let command = fixture::authority(1);
            let mut submitted = Box::pin(handle.submit(Origin::controller(), None, command));
            assert!(futures::poll!(&mut submitted).is_pending());
            // The ledger takes it, decides, and comes to the store without having waited.
            while handle.waiting() > 0 {
                tokio::task::yield_now().await;
            }
            env.advance(Duration::from_hours(1));
            assert_eq!(handle.turn().computing(env.monotonic()), Duration::ZERO);
            drop(hold);
            submitted.await.unwrap();
            drop(handle);
            ledger.await.unwrap().unwrap();
        });
    }
}
