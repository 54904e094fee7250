//! Sensors that the kernel has drivers for: temperatures, fans, voltages, currents, power.
//!
//! A chip is called by its device (`platform_coretemp_0`), which stays the same over boots, as
//! `node_exporter` calls it. Limits and alarms are the chip's own; whether they mean anything on
//! this board isn't known here. Source: the kernel's Documentation/hwmon/sysfs-interface.rst.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{found, number_of, part};
use crate::{Component, Failure, Host, Kind, Quantity, Reading, quantity};

const CHIPS: &str = "/sys/class/hwmon";

/// What a sensor's files mean.
struct Type {
    prefix: &'static str,
    kind: Kind,
    /// How many of the files' unit are one of ours.
    per: f64,
    /// Files and what they hold; of several for one quantity the first that is there.
    values: &'static [(&'static str, Quantity)],
    /// Whether a limit is one: drivers have numbers where a chip has no limit.
    is_limit: fn(f64) -> bool,
}

const TYPES: &[Type] = &[
    Type {
        prefix: "temp",
        kind: Kind::Sensor,
        per: 1000.0,
        values: &[
            ("input", quantity::TEMPERATURE),
            ("max", quantity::TEMPERATURE_WARNING),
            ("crit", quantity::TEMPERATURE_CRITICAL),
        ],
        is_limit,
    },
    Type {
        prefix: "fan",
        kind: Kind::Fan,
        per: 1.0,
        values: &[("input", quantity::SPEED), ("min", quantity::SPEED_MINIMUM)],
        is_limit: |rpm| rpm > 0.0,
    },
    Type {
        prefix: "in",
        kind: Kind::Sensor,
        per: 1000.0,
        values: &[
            ("input", quantity::VOLTAGE),
            ("min", quantity::VOLTAGE_MINIMUM),
            ("max", quantity::VOLTAGE_MAXIMUM),
        ],
        is_limit: |_| true,
    },
    Type {
        prefix: "curr",
        kind: Kind::Sensor,
        per: 1000.0,
        values: &[
            ("input", quantity::CURRENT),
            ("max", quantity::CURRENT_MAXIMUM),
        ],
        is_limit: |amperes| amperes > 0.0,
    },
    Type {
        prefix: "power",
        kind: Kind::Sensor,
        per: 1_000_000.0,
        values: &[("input", quantity::POWER), ("average", quantity::POWER)],
        is_limit: |_| true,
    },
];

/// Files in which a chip says that something is wrong.
const FLAGS: &[(&str, Quantity)] = &[
    ("alarm", quantity::SENSOR_WARNING),
    ("min_alarm", quantity::SENSOR_WARNING),
    ("max_alarm", quantity::SENSOR_WARNING),
    ("lcrit_alarm", quantity::SENSOR_CRITICAL),
    ("crit_alarm", quantity::SENSOR_CRITICAL),
    ("emergency_alarm", quantity::SENSOR_CRITICAL),
    ("fault", quantity::FAILED),
];

/// Whether a temperature can be a limit. Drivers give 0, 65,262 or -273 °C where there is none.
pub(super) fn is_limit(celsius: f64) -> bool {
    celsius > 0.0 && celsius < 250.0
}

/// Reads all chips.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let (mut readings, mut names) = (Vec::new(), BTreeSet::new());
    for number in host.list(CHIPS)? {
        let mut name = name(host, &number);
        // Two chips that nothing tells apart but the order of their discovery.
        if !names.insert(name.clone()) {
            name = format!("{name}_{number}");
        }
        let of_chip = chip(host, &number, &name);
        let component = Component::new(Kind::Sensor, name);
        readings.extend(part(of_chip, &component, quantity::TEMPERATURE));
    }
    found(readings, "no sensors")
}

fn chip(host: &Host, number: &str, name: &str) -> Result<Vec<Reading>, Failure> {
    let mut folder = format!("{CHIPS}/{number}");
    let mut files = host.list(&folder)?;
    if sensors(&files).is_empty() {
        // Drivers of old have the files at the device.
        folder.push_str("/device");
        files = host.list(&folder)?;
    }
    let sensors = sensors(&files).into_iter();
    let readings =
        sensors.flat_map(|(sensor, files)| self::sensor(host, &folder, name, sensor, &files));
    Ok(readings.collect())
}

/// Sensors, each with its files: `temp1_input` is the file `input` of `temp1`.
fn sensors(names: &[String]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut sensors: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (sensor, file) in names.iter().filter_map(|name| name.split_once('_')) {
        if type_of(sensor).is_some() {
            sensors.entry(sensor).or_default().insert(file);
        }
    }
    sensors
}

fn type_of(sensor: &str) -> Option<&'static Type> {
    TYPES
        .iter()
        .find(|of| number_of(sensor, of.prefix).is_some())
}

fn sensor(
    host: &Host,
    folder: &str,
    chip: &str,
    sensor: &str,
    files: &BTreeSet<&str>,
) -> Vec<Reading> {
    let Some(of) = type_of(sensor) else {
        return Vec::new();
    };
    let stem = format!("{folder}/{sensor}");
    let label = host.text(format!("{stem}_label")).ok().flatten();
    let name = format!("{chip}/{sensor} {}", label.unwrap_or_default());
    let component = Component::new(of.kind, name);
    let mut readings: Vec<Reading> = Vec::new();
    for (file, quantity) in of.values.iter().filter(|(file, _)| files.contains(file)) {
        if readings.iter().any(|known| known.quantity == *quantity) {
            continue;
        }
        let tried = host.number(format!("{stem}_{file}"));
        let tried = tried.map(|number| number.map(|number| number / of.per));
        let is_value = matches!(*file, "input" | "average");
        let none = |number: &f64| !is_value && !(of.is_limit)(*number);
        readings.extend(match tried {
            // Somebody may set it, and take it back.
            Ok(Some(number)) if none(&number) => {
                Some(Reading::absent(&component, quantity.clone()))
            }
            tried => Reading::tried(&component, quantity.clone(), tried),
        });
    }
    for (file, quantity) in FLAGS.iter().filter(|(file, _)| files.contains(file)) {
        let tried = host.number(format!("{stem}_{file}"));
        let tried = tried.map(|number| number.map(|number| f64::from(u8::from(number != 0.0))));
        let Some(reading) = Reading::tried(&component, quantity.clone(), tried) else {
            continue;
        };
        match readings.iter_mut().find(|it| it.quantity == *quantity) {
            // Any one of several alarms is one.
            Some(known) if reading.value() == Some(1.0) => *known = reading,
            Some(_) => {}
            None => readings.push(reading),
        }
    }
    readings
}

/// What a chip is called: by its device, else by its name, else by its number.
fn name(host: &Host, number: &str) -> String {
    let folder = format!("{CHIPS}/{number}");
    let device = fs::canonicalize(host.path(format!("{folder}/device"))).ok();
    let device = device.and_then(|device| {
        let part = |path: &std::path::Path| Some(clean(path.file_name()?.to_str()?));
        let name = part(&device).filter(|name| !name.is_empty())?;
        let bus = device.parent().and_then(part).unwrap_or_default();
        Some(if bus.is_empty() {
            name
        } else {
            format!("{bus}_{name}")
        })
    });
    let named = || {
        let name = host.text(format!("{folder}/name")).ok().flatten()?;
        Some(clean(&name)).filter(|name| !name.is_empty())
    };
    device.or_else(named).unwrap_or_else(|| clean(number))
}

/// Lower case, and an underscore for everything that a metric's name can't have.
fn clean(name: &str) -> String {
    let fits = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == ':';
    let name: String = name
        .to_lowercase()
        .chars()
        .map(|c| Some(c).filter(fits).unwrap_or('_'))
        .collect();
    name.trim_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    #[test]
    fn a_chip_is_called_by_its_device_and_limits_that_are_none_are_absent() {
        let device = "sys/devices/platform/Core-temp.0";
        let hwmon = |file: &str| format!("sys/class/hwmon/hwmon3/{file}");
        let tree = Tree::new()
            .file(&format!("{device}/uevent"), "")
            .link(&hwmon("device"), "../../../devices/platform/Core-temp.0")
            .file(&hwmon("name"), "coretemp")
            .file(&hwmon("temp1_label"), "Package id 0")
            .file(&hwmon("temp1_input"), "45500")
            .file(&hwmon("temp1_max"), "65261850")
            .file(&hwmon("temp1_crit"), "100000")
            .file(&hwmon("temp1_max_alarm"), "0")
            .file(&hwmon("temp1_crit_alarm"), "1")
            .file(&hwmon("temp10_input"), "x")
            .file(&hwmon("temp2_fault"), "1")
            .file(&hwmon("pwm1"), "128")
            .file(&hwmon("update_interval"), "1000");
        let expected = "\
            sensor/platform_core_temp_0/temp1 Package id 0 temperature 45.5\n\
            sensor/platform_core_temp_0/temp1 Package id 0 temperature_warning absent\n\
            sensor/platform_core_temp_0/temp1 Package id 0 temperature_critical 100\n\
            sensor/platform_core_temp_0/temp1 Package id 0 sensor_warning 0\n\
            sensor/platform_core_temp_0/temp1 Package id 0 sensor_critical 1\n\
            sensor/platform_core_temp_0/temp10 temperature unreadable: \
            /sys/class/hwmon/hwmon3/temp10_input holds \"x\"\n\
            sensor/platform_core_temp_0/temp2 failed 1\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }

    #[test]
    fn every_type_has_its_unit() {
        let hwmon = |file: &str| format!("sys/class/hwmon/hwmon0/{file}");
        let tree = Tree::new()
            .file(&hwmon("name"), "nct6775")
            .file(&hwmon("fan1_input"), "1200")
            .file(&hwmon("fan1_min"), "0")
            .file(&hwmon("fan2_input"), "0")
            .file(&hwmon("fan2_min"), "300")
            .file(&hwmon("fan2_alarm"), "1")
            .file(&hwmon("in1_input"), "1848")
            .file(&hwmon("in1_min"), "1744")
            .file(&hwmon("curr1_input"), "2500")
            .file(&hwmon("power1_average"), "215000000")
            .file("sys/class/hwmon/hwmon1/name", "nct6775")
            .file("sys/class/hwmon/hwmon1/device/temp1_input", "30000");
        let expected = "\
            sensor/nct6775/curr1 current 2.5\n\
            fan/nct6775/fan1 speed 1200\n\
            fan/nct6775/fan1 speed_minimum absent\n\
            fan/nct6775/fan2 speed 0\n\
            fan/nct6775/fan2 speed_minimum 300\n\
            fan/nct6775/fan2 sensor_warning 1\n\
            sensor/nct6775/in1 voltage 1.848\n\
            sensor/nct6775/in1 voltage_minimum 1.744\n\
            sensor/nct6775/power1 power 215\n";
        let readings = render(&read(tree.host()).unwrap());
        assert!(readings.starts_with(expected), "{readings}");
        // Its device has no stable name in this tree; it is still told from the first.
        assert!(readings.contains("temp1 temperature 30\n"), "{readings}");
    }

    #[test]
    fn a_chip_that_can_t_be_looked_at_hides_no_other() {
        let tree = Tree::new()
            .link("sys/class/hwmon/hwmon0", "hwmon0")
            .file("sys/class/hwmon/hwmon1/name", "nvme")
            .file("sys/class/hwmon/hwmon1/temp1_input", "30000");
        let readings = render(&read(tree.host()).unwrap());
        let (lost, other) = readings.split_once('\n').unwrap();
        let expected = "sensor/hwmon0 temperature unreadable: /sys/class/hwmon/hwmon0: ";
        assert!(lost.starts_with(expected), "{lost}");
        assert_eq!(other, "sensor/nvme/temp1 temperature 30\n");
    }
}
