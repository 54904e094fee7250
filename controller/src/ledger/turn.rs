//! Whether the ledger turns: what a service manager's watchdog is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// For how long the ledger has computed without having waited for anything. Cheap to clone; clones
/// tell the same.
///
/// Only its own work counts: a decision, a fold of events. While it waits for commands or for the
/// store it doesn't compute, however long that takes: a store that doesn't answer is no fault of
/// the process, and another process would wait for it just as well.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// By the boot clock, in milliseconds; 0 while it waits.
    since: Arc<AtomicU64>,
}

impl Turn {
    /// It computes anew: the next decision, or what follows on an append.
    pub(crate) fn computes(&self, now: Duration) {
        self.since.store(millis(now).max(1), Ordering::SeqCst);
    }

    /// It waits.
    pub(crate) fn waits(&self) {
        self.since.store(0, Ordering::SeqCst);
    }

    /// For how long it has computed; zero while it waits.
    pub fn computing(&self, now: Duration) -> Duration {
        match self.since.load(Ordering::SeqCst) {
            0 => Duration::ZERO,
            since => Duration::from_millis(millis(now).saturating_sub(since)),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
