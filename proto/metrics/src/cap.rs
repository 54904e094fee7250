//! A bound on series of things whose number others choose.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// How many series one page may have of such things, and how many were left out so far. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct Cap {
    most: usize,
    dropped: Arc<AtomicU64>,
}

impl Cap {
    /// At most so many series a page.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            dropped: Arc::default(),
        }
    }

    /// The budget of one page.
    pub fn budget(&self) -> Budget {
        Budget {
            left: self.most,
            dropped: Arc::clone(&self.dropped),
        }
    }

    /// Series that were left out of all pages together.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What is left for one page.
#[derive(Debug)]
pub struct Budget {
    left: usize,
    dropped: Arc<AtomicU64>,
}

impl Budget {
    /// Takes so many series, all or none; none are counted as dropped.
    pub fn take(&mut self, series: usize) -> bool {
        let fits = series <= self.left;
        if fits {
            self.left -= series;
        } else {
            let series = u64::try_from(series).unwrap_or(u64::MAX);
            self.dropped.fetch_add(series, Ordering::Relaxed);
        }
        fits
    }
}
