//! What a ping to the service manager's watchdog proves.
//!
//! ```text
//!   timer ─▶ "are you alive?" ─▶ the dispatch loop answers with a life sign ─▶ ping
//!                                     │ it wakes the actors
//!                                     ╰ it is blocked, spins, or has no thread left: no ping
//! ```
//!
//! **Invariant:** a ping depends on the runtime and on the dispatch loop, which waits for nothing
//! outside this process. A libvirtd that hangs, a stuck lane, a domain in quarantine, a local store
//! whose disk hangs, a controller that is away: the life sign *says* so, and is a ping all the same.
//! Another process would find the same, and would have forgotten what this one knows.
//!
//! Before the server is joined there is no loop yet. Then a ping proves that the runtime turns.

use std::{convert::Infallible, future::pending, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

/// How often a watchdog that waits for this process is to be pinged: three times as often as it
/// has to be. None if none waits.
pub fn interval_asked() -> Option<Duration> {
    let every = sd_notify::watchdog_enabled()? / 3;
    (!every.is_zero()).then_some(every)
}

/// Sends a ping.
pub fn ping() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
        tracing::warn!(%error, "the service manager's watchdog can't be pinged");
    }
}

/// Pings `every` so often, each time after `alive` has answered; not without an answer, and never
/// again after a false one. Does nothing without a watchdog.
pub async fn prove<F>(
    every: Option<Duration>,
    mut alive: impl FnMut() -> F,
    mut ping: impl FnMut(),
) -> Infallible
where
    F: Future<Output = bool>,
{
    let Some(every) = every else {
        return pending().await;
    };
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !alive().await {
            return pending().await;
        }
        ping();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::timeout;

    use super::*;
    use crate::heartbeat::{LifeSign, Pulse, Questions};

    const EVERY: Option<Duration> = Some(Duration::from_secs(1));

    fn sign() -> LifeSign {
        LifeSign {
            node: kapok_types::NodeId(uuid::Uuid::nil()),
            epoch: kapok_types::Epoch(0),
            needs_resync: false,
            lanes: Vec::new(),
            hypervisor_up: false,
            quarantined: Vec::new(),
        }
    }

    /// A loop that answers this many questions and then hangs, holding on to the next.
    async fn hangs_after(answers: usize, mut questions: Questions) {
        for _ in 0..answers {
            let question = questions.recv().await.unwrap();
            question.send(sign()).unwrap();
        }
        let _held = questions.recv().await;
        pending::<()>().await;
    }

    /// A hypervisor that is down is in the life sign, and no reason to be killed; a loop that
    /// doesn't answer is.
    #[tokio::test(start_paused = true)]
    async fn pings_end_when_the_loop_does_not_answer() {
        let (pulse, questions) = Pulse::new();
        let pings = Cell::new(0);
        let alive = || async { pulse.next().await.is_some() };
        let proving = prove(EVERY, alive, || pings.set(pings.get() + 1));
        let both = async { tokio::join!(proving, hangs_after(3, questions)) };
        assert!(timeout(Duration::from_mins(1), both).await.is_err());
        assert_eq!(pings.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_end_with_the_loop() {
        let (pulse, questions) = Pulse::new();
        drop(questions);
        let alive = || async { pulse.next().await.is_some() };
        let proving = prove(EVERY, alive, || panic!("nothing is alive"));
        assert!(timeout(Duration::from_mins(1), proving).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_pinged_who_does_not_wait() {
        let proving = prove(None, || async { true }, || panic!("nobody asked"));
        assert!(timeout(Duration::from_mins(1), proving).await.is_err());
    }
}
