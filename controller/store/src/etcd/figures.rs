//! What the calls of this process cost, counted.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::health::CallFigures;

#[derive(Debug, Default)]
pub(super) struct Counted {
    count: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

/// A call on its way. One that is given up counts as failed.
pub(super) struct Counting<'a> {
    counted: &'a Counted,
    since: Instant,
    ended: bool,
}

impl Counted {
    pub(super) fn begin(&self) -> Counting<'_> {
        Counting {
            counted: self,
            since: Instant::now(),
            ended: false,
        }
    }

    pub(super) fn figures(&self) -> CallFigures {
        CallFigures {
            count: self.count.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            took: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }

    fn add(&self, took: Duration, failed: bool) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.failed.fetch_add(failed.into(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counting<'_> {
    pub(super) fn end(mut self, well: bool) {
        self.ended = true;
        self.counted.add(self.since.elapsed(), !well);
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.counted.add(self.since.elapsed(), true);
        }
    }
}
