//! How slowly an import may come: whoever holds one of the few places has to use it.
//!
//! Pure: the caller measures. Only waiting for the sender counts, never our own disk.

use std::time::Duration;

/// Slowest average rate, in bytes a second.
pub(super) const MIN_RATE: u64 = 256 * 1024;
/// What may be lost on top, for beginnings and hiccups.
const GRACE: Duration = Duration::from_mins(2);

/// What came, and how long it was waited for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    received: u64,
    waited: Duration,
}

impl Pace {
    /// Counts a piece of some bytes and the wait for it.
    pub(super) fn count(&mut self, bytes: usize, waited: Duration) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
    }

    /// How long the next piece may be waited for.
    pub(super) fn left(&self) -> Duration {
        let earned = Duration::from_millis(self.received.saturating_mul(1000) / MIN_RATE);
        (GRACE + earned).saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(bytes: usize, each: Duration) -> usize {
        let mut pace = Pace::default();
        (0..10_000)
            .take_while(|_| {
                let goes_on = pace.left() > each;
                pace.count(bytes, each);
                goes_on
            })
            .count()
    }

    #[test]
    fn dribbling_ends_and_a_fair_sender_goes_on() {
        assert_eq!(waits(1, Duration::from_secs(59)), 2);
        assert!(waits(1, Duration::from_millis(100)) < 1210);
        assert_eq!(waits(256 * 1024, Duration::from_secs(1)), 10_000);
        assert!(waits(255 * 1024, Duration::from_secs(2)) < 130);
        assert_eq!(waits(usize::MAX, Duration::ZERO), 10_000);
    }
}
