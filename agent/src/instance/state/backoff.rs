//! Waits that double.

use std::time::Duration;

use super::Now;

/// How many waits there were in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    count: u32,
}

impl Backoff {
    /// The next wait: 1 s, 2 s, 4 s… up to `most`, spread by the jitter.
    pub(super) fn next(&mut self, now: Now, most: Duration) -> Duration {
        let wait = Duration::from_secs(1 << self.count.min(12)).min(most);
        self.count = self.count.saturating_add(1);
        wait * now.jitter_permille / 1000
    }
}
