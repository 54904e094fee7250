//! Pressure: how long tasks waited for processors, memory and disks (PSI).

use super::{decimal, found};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

/// Reads all resources. A kernel may count no pressure.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    for name in ["cpu", "memory", "io"] {
        let component = Component::new(Kind::Pressure, name);
        let path = format!("/proc/pressure/{name}");
        let text = match host.text(&path) {
            Ok(Some(text)) => text,
            Ok(None) => continue,
            Err(failure) => {
                let reading = Reading::unreadable(&component, quantity::WAITING, failure);
                readings.push(reading);
                continue;
            }
        };
        let before = readings.len();
        for (line, share, time) in [
            ("some", quantity::WAITING, quantity::WAITING_TIME),
            ("full", quantity::STALLED, quantity::STALLED_TIME),
        ] {
            if let Some((ratio, seconds)) = parse(&text, line) {
                readings.push(Reading::new(&component, share, ratio));
                readings.push(Reading::new(&component, time, seconds));
            }
        }
        if readings.len() == before {
            let reason = format!("{path} holds something else");
            readings.push(Reading::unreadable(&component, quantity::WAITING, reason));
        }
    }
    found(readings, "the kernel counts no pressure")
}

/// The share of the last minute, and the seconds since the boot, of the line that begins with
/// `name`. Source: the kernel's Documentation/accounting/psi.rst.
fn parse(text: &str, name: &str) -> Option<(f64, f64)> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let value = |key: &str| {
        let word = |word: &str| decimal(word.strip_prefix(key)?.strip_prefix('=')?);
        line.split_whitespace().find_map(word)
    };
    Some((value("avg60")? / 100.0, value("total")? / 1_000_000.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const MEMORY: &str = "some avg10=0.00 avg60=12.50 avg300=3.00 total=2500000\n\
        full avg10=0.00 avg60=1.00 avg300=0.10 total=1000000";

    #[test]
    fn shares_are_of_a_minute_and_times_in_seconds() {
        let tree = Tree::new()
            .file("proc/pressure/memory", MEMORY)
            .file(
                "proc/pressure/cpu",
                "some avg10=0.00 avg60=50.00 avg300=0.00 total=7",
            )
            .file("proc/pressure/io", "none");
        let expected = "\
            pressure/cpu waiting 0.5\n\
            pressure/cpu waiting_time 0.000007\n\
            pressure/memory waiting 0.125\n\
            pressure/memory waiting_time 2.5\n\
            pressure/memory stalled 0.01\n\
            pressure/memory stalled_time 1\n\
            pressure/io waiting unreadable: /proc/pressure/io holds something else\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
        assert!(matches!(read(Tree::new().host()), Err(Failure::Absent(_))));
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(MEMORY)) {
            let _ = (parse(&text, "some"), parse(&text, "full"));
        }
    }
}
