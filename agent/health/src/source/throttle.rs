//! How often processors were slowed down by heat: by package, and by core.
//!
//! The threads of a core, and the cores of a package, each have the same counter: the first one's
//! is taken, as `node_exporter` does.

use std::collections::BTreeSet;

use super::{found, number_of, part};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

const CPUS: &str = "/sys/devices/system/cpu";

/// Reads all cores and packages.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let (mut readings, mut seen) = (Vec::new(), BTreeSet::new());
    for cpu in host.list(CPUS)? {
        if number_of(&cpu, "cpu").is_none() {
            continue;
        }
        let of_cpu = thread(host, &cpu, &mut seen);
        let component = Component::new(Kind::Cpu, cpu);
        readings.extend(part(of_cpu, &component, quantity::THROTTLES));
    }
    found(readings, "no counters of throttling")
}

/// The counters of a thread's package and core, if no other thread gave them.
fn thread(host: &Host, cpu: &str, seen: &mut BTreeSet<Component>) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    let folder = format!("{CPUS}/{cpu}");
    // One that is offline has no topology.
    let id = |of: &str| host.text(format!("{folder}/topology/{of}"));
    let (Some(package), Some(core)) = (id("physical_package_id")?, id("core_id")?) else {
        return Ok(readings);
    };
    let package = format!("package{package}");
    for (name, file) in [
        (package.clone(), "package_throttle_count"),
        (format!("{package}/core{core}"), "core_throttle_count"),
    ] {
        let component = Component::new(Kind::Cpu, name);
        if seen.contains(&component) {
            continue;
        }
        let tried = host.number(format!("{folder}/thermal_throttle/{file}"));
        if let Some(reading) = Reading::tried(&component, quantity::THROTTLES, tried) {
            readings.push(reading);
            seen.insert(component);
        }
    }
    Ok(readings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    #[test]
    fn threads_of_a_core_count_once() {
        let mut tree = Tree::new().file("sys/devices/system/cpu/cpufreq/boost", "1");
        for (cpu, core, throttles) in [(0, 0, 5), (1, 1, 6), (2, 0, 5)] {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}");
            let throttle = format!("{folder}/thermal_throttle");
            tree = tree
                .file(&format!("{folder}/topology/physical_package_id"), "0")
                .file(&format!("{folder}/topology/core_id"), &core.to_string())
                .file(
                    &format!("{throttle}/core_throttle_count"),
                    &throttles.to_string(),
                )
                .file(&format!("{throttle}/package_throttle_count"), "9");
        }
        let expected = "\
            cpu/package0 throttles 9\n\
            cpu/package0/core0 throttles 5\n\
            cpu/package0/core1 throttles 6\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }
}
