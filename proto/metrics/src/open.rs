//! How many of something are open now.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The number. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Open(Arc<AtomicU64>);

/// One of them, for as long as it is kept.
#[derive(Debug)]
#[must_use = "it counts only for as long as it is kept"]
pub struct Held(Arc<AtomicU64>);

impl Open {
    /// One more is open, until what this gives is dropped.
    pub fn hold(&self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(&self.0))
    }

    /// How many are open.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_counts_until_it_is_dropped() {
        let open = Open::default();
        let (one, two) = (open.hold(), open.clone().hold());
        assert_eq!(open.count(), 2);
        drop(one);
        assert_eq!(open.count(), 1);
        drop(two);
        assert_eq!(open.count(), 0);
    }
}
