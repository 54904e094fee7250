//! An environment whose clock is tokio's, so that paused time moves both.

use std::{sync::Arc, time::Duration};

use kapok_types::{Env, Timestamp, env::Seeded};
use tokio::time::Instant;

/// Ids and randomness from a seed, clocks from tokio's time since it was made.
#[derive(Debug)]
pub struct VirtualEnv {
    seeded: Arc<Seeded>,
    start: Instant,
}

impl VirtualEnv {
    /// An environment that starts now. Needs a tokio runtime around it when time is paused.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seeded: Seeded::new(seed),
            start: Instant::now(),
        })
    }
}

impl Env for VirtualEnv {
    fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.seeded.now().get().saturating_add(elapsed))
    }

    fn monotonic(&self) -> Duration {
        // Whole milliseconds, as tokio's timers count: else a timer fires a hair too early.
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(elapsed)
    }

    fn random(&self) -> u64 {
        self.seeded.random()
    }
}
