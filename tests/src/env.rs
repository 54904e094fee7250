//! An environment whose clocks follow tokio's, which tests pause, and whose wall clock can jump.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kapok_types::{Env, Timestamp, env::Seeded};
use tokio::time::Instant;

/// How far the wall clock can be set back: the offset starts here.
const MIDDLE: u64 = 1 << 40;

/// Ids and randomness from a seed; clocks from tokio's time since `start`.
#[derive(Debug)]
pub struct SimEnv {
    seeded: Arc<Seeded>,
    start: Instant,
    /// What the wall clock is wrong by, in milliseconds, plus [`MIDDLE`].
    offset_ms: AtomicU64,
}

impl SimEnv {
    /// An environment with its own sequence, on a clock that began at `start`.
    pub fn new(seed: u64, start: Instant) -> Arc<Self> {
        Arc::new(Self {
            seeded: Seeded::new(seed),
            start,
            offset_ms: AtomicU64::new(MIDDLE),
        })
    }

    /// The wall clock jumps forward.
    pub fn jump(&self, by: Duration) {
        self.offset_ms.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// The wall clock jumps back.
    pub fn jump_back(&self, by: Duration) {
        self.offset_ms.fetch_sub(millis(by), Ordering::SeqCst);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Env for SimEnv {
    fn now(&self) -> Timestamp {
        let right = self.seeded.now().get() + millis(self.start.elapsed());
        Timestamp((right + self.offset_ms.load(Ordering::SeqCst)).saturating_sub(MIDDLE))
    }

    fn monotonic(&self) -> Duration {
        // Whole milliseconds, as tokio's timers count: else a timer fires a hair too early.
        Duration::from_millis(millis(self.start.elapsed()))
    }

    fn random(&self) -> u64 {
        self.seeded.random()
    }
}
