//! How long the server was suspended since its boot.
//!
//! One clock of the kernel goes on in that time and another stands still; the difference is it. The
//! two can't be read in one moment, so the difference is a little off, either way: whole seconds
//! are given, and never fewer than before.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use nix::{errno::Errno, time::ClockId};

use super::{CADENCE, DEADLINE, float};
use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// The clock that goes on, and the one that stands still.
type Clocks = fn() -> Result<(Duration, Duration), Errno>;

/// The source.
#[derive(Debug)]
pub struct Suspend {
    clocks: Clocks,
    most: AtomicU64,
}

impl Default for Suspend {
    fn default() -> Self {
        Self::with_clocks(kernel)
    }
}

impl Suspend {
    fn with_clocks(clocks: Clocks) -> Self {
        let most = AtomicU64::new(0);
        Self { clocks, most }
    }
}

#[async_trait]
impl Source for Suspend {
    fn name(&self) -> &'static str {
        "suspend"
    }

    fn cadence(&self) -> Duration {
        CADENCE
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    async fn read(&self, _: &Host) -> Result<Vec<Reading>, Failure> {
        let clocks = (self.clocks)();
        let (boottime, monotonic) =
            clocks.map_err(|error| Failure::Unreadable(format!("the kernel's clocks: {error}")))?;
        let now = boottime.saturating_sub(monotonic).as_secs();
        let most = self.most.fetch_max(now, Ordering::Relaxed).max(now);
        let component = Component::only(Kind::Kernel);
        let reading = Reading::new(&component, quantity::SUSPENDED, float(most));
        Ok(vec![reading])
    }
}

fn kernel() -> Result<(Duration, Duration), Errno> {
    let now = |clock: ClockId| Ok::<_, Errno>(Duration::from(clock.now()?));
    Ok((
        now(ClockId::CLOCK_BOOTTIME)?,
        now(ClockId::CLOCK_MONOTONIC)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    /// FAULTS 52.
    #[tokio::test]
    async fn a_suspended_server_says_so_and_never_takes_it_back() {
        let tree = Tree::new();
        let mut suspend = Suspend::default();
        let awake = render(&suspend.read(tree.host()).await.unwrap());
        assert!(awake.starts_with("kernel suspended "), "{awake}");
        let slept: Clocks = || Ok((Duration::from_mins(160), Duration::from_mins(100)));
        // The second clock was read a little later.
        let rather_less: Clocks = || {
            let late = Duration::from_mins(100) + Duration::from_micros(1);
            Ok((Duration::from_mins(160), late))
        };
        for clocks in [slept, rather_less] {
            suspend.clocks = clocks;
            let readings = render(&suspend.read(tree.host()).await.unwrap());
            assert_eq!(readings, "kernel suspended 3600\n");
        }
    }
}
