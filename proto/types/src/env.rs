//! The one place that clock, randomness and ids come from.
//!
//! Pure code takes `now` as an argument; everything else is handed an [`Env`]. The production
//! one is [`System`]; [`Seeded`] gives the same ids and the same random numbers for the same
//! seed, with a clock that its owner moves, so a simulated fabric replays byte for byte.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use crate::{IncarnationId, InstanceId, NodeId, OperationId, Timestamp};

/// Clock, randomness and ids, injected.
pub trait Env: fmt::Debug + Send + Sync + 'static {
    /// Wall-clock time, for records and people. May jump in either direction.
    fn now(&self) -> Timestamp;

    /// Time since boot including suspend (`CLOCK_BOOTTIME`): for leases, deadlines, back-off.
    fn monotonic(&self) -> Duration;

    /// A uniformly random number.
    fn random(&self) -> u64;

    /// A new time-ordered (version 7) UUID.
    fn uuid(&self) -> Uuid {
        let (high, low) = (self.random(), self.random());
        let mut random = [0_u8; 10];
        random[..8].copy_from_slice(&high.to_be_bytes());
        random[8..].copy_from_slice(&low.to_be_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(self.now().get(), &random).into_uuid()
    }

    /// A new instance's id.
    fn instance_id(&self) -> InstanceId {
        InstanceId(self.uuid())
    }

    /// A new incarnation's id.
    fn incarnation_id(&self) -> IncarnationId {
        IncarnationId(self.uuid())
    }

    /// A new operation's id.
    fn operation_id(&self) -> OperationId {
        OperationId(self.uuid())
    }

    /// A new node's id; made once a server.
    fn node_id(&self) -> NodeId {
        NodeId(self.uuid())
    }

    /// `base` spread by ±20 %, so that many waiters don't wake at once.
    fn jittered(&self, base: Duration) -> Duration {
        let permille = 800 + u32::try_from(self.random() % 401).unwrap_or(200);
        base * permille / 1000
    }
}

/// The machine's own clocks and a generator seeded by the kernel.
#[derive(Debug)]
pub struct System {
    rng: Mutex<ChaCha8Rng>,
}

impl System {
    /// An environment for production, seeded from the kernel's random source.
    pub fn new() -> Arc<Self> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that may ask the kernel"
        )]
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        let mut seed = [0_u8; 32];
        seed[..16].copy_from_slice(first.as_bytes());
        seed[16..].copy_from_slice(second.as_bytes());
        Arc::new(Self {
            rng: Mutex::new(ChaCha8Rng::from_seed(seed)),
        })
    }
}

impl Env for System {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that may read the clock"
        )]
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    fn monotonic(&self) -> Duration {
        // The call can't fail on Linux for this clock; zero would only make waits longer.
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(Duration::ZERO, Duration::from)
    }

    fn random(&self) -> u64 {
        self.rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64()
    }
}

/// A reproducible environment: one seed, one sequence; the clock moves only when told.
#[derive(Debug)]
pub struct Seeded {
    rng: Mutex<ChaCha8Rng>,
    start: Timestamp,
    elapsed_ms: AtomicU64,
}

impl Seeded {
    /// An environment whose ids and random numbers follow from `seed`, starting at a fixed date.
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            start: Timestamp(1_790_000_000_000),
            elapsed_ms: AtomicU64::new(0),
        })
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.elapsed_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Env for Seeded {
    fn now(&self) -> Timestamp {
        Timestamp(self.start.get() + self.elapsed_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst))
    }

    fn random(&self) -> u64 {
        self.rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let env = Seeded::new(seed);
            env.advance(Duration::from_secs(1));
            (
                env.now(),
                env.uuid(),
                env.jittered(Duration::from_secs(10)),
                env.random(),
            )
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn uuids_are_time_ordered() {
        let env = Seeded::new(1);
        let first = env.uuid();
        env.advance(Duration::from_millis(1));
        assert!(first < env.uuid());
        assert_eq!(first.get_version_num(), 7);
    }
}
