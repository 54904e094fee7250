//! Energy that processors say they have used (RAPL).
//!
//! The counters begin anew after a range of their own, every few minutes under load. This source
//! remembers how often, and nothing else: else each time would look like a restart.
//!
//! Since 2020 kernels let only root read them, so an unprivileged agent finds them *unreadable*.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{CADENCE, DEADLINE, found};
use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

const ZONES: &str = "/sys/class/powercap";

/// The source.
#[derive(Debug, Default)]
pub struct Rapl {
    zones: Mutex<BTreeMap<Component, Unwrapped>>,
}

/// A counter and what it had counted before it last began anew, both in microjoules.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Unwrapped {
    before: f64,
    last: f64,
}

impl Unwrapped {
    /// With what the counter shows now; `range` is where it begins anew, if that is known.
    fn next(self, now: f64, range: Option<f64>) -> Self {
        let anew = now < self.last;
        let before = self.before + range.filter(|_| anew).unwrap_or(0.0);
        Self { before, last: now }
    }

    fn joules(self) -> f64 {
        (self.before + self.last) / 1_000_000.0
    }
}

#[async_trait]
impl Source for Rapl {
    fn name(&self) -> &'static str {
        "rapl"
    }

    fn cadence(&self) -> Duration {
        CADENCE
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let mut readings = Vec::new();
        for zone in host.list(ZONES)? {
            // The control types themselves have no colon and no counter.
            if !zone.contains("rapl") || !zone.contains(':') {
                continue;
            }
            let folder = format!("{ZONES}/{zone}");
            let name = host.text(format!("{folder}/name")).ok().flatten();
            let name = format!("{zone} {}", name.unwrap_or_default());
            let component = Component::new(Kind::Sensor, name);
            let now = host.number(format!("{folder}/energy_uj"));
            let range = host.number(format!("{folder}/max_energy_range_uj"));
            let joules =
                now.map(|now| Some(self.unwrapped(&component, now?, range.ok().flatten())));
            readings.extend(Reading::tried(&component, quantity::ENERGY, joules));
        }
        found(readings, "no RAPL")
    }
}

impl Rapl {
    fn unwrapped(&self, zone: &Component, now: f64, range: Option<f64>) -> f64 {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        let known = zones.entry(zone.clone()).or_default();
        *known = known.next(now, range);
        known.joules()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    #[tokio::test]
    async fn a_counter_that_begins_anew_goes_on() {
        let zone = |file: &str| format!("sys/class/powercap/intel-rapl:0/{file}");
        let mut tree = Tree::new()
            .file("sys/class/powercap/intel-rapl/enabled", "1")
            .file(&zone("name"), "package-0")
            .file(&zone("max_energy_range_uj"), "5000000");
        let rapl = Rapl::default();
        for (counter, joules) in [("4000000", "4"), ("1000000", "6"), ("1500000", "6.5")] {
            tree = tree.file(&zone("energy_uj"), counter);
            let expected = format!("sensor/intel-rapl:0 package-0 energy {joules}\n");
            assert_eq!(render(&rapl.read(tree.host()).await.unwrap()), expected);
        }
    }
}
