//! How many streams are open.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The number. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<AtomicU64>);

impl Streams {
    /// Counts one, for as long as what it gives is kept.
    pub(crate) fn count(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.0))
    }

    pub(super) fn open(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One open stream.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
