use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../../tests/tools/ipmi/", $name))
    };
}

fn values(readings: Vec<Reading>) -> BTreeMap<String, f64> {
    readings
        .into_iter()
        .filter_map(|it| {
            Some((
                format!("{} {}", it.component, it.quantity.name),
                it.value()?,
            ))
        })
        .collect()
}

fn with_ipmitool(list: &str, limits: &str) -> BTreeMap<String, f64> {
    values(sensor::readings(&ipmitool::sensors(list, limits)))
}

#[track_caller]
fn check(found: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(found.get(*name), Some(value), "{name} in {found:#?}");
    }
}

#[test]
fn ipmitool_s_sensors() {
    let healthy = with_ipmitool(
        recorded!("healthy-sdr.csv"),
        recorded!("healthy-sensor.txt"),
    );
    check(
        &healthy,
        &[
            ("sensor/Inlet Temp temperature", 24.0),
            ("sensor/Inlet Temp temperature_warning", 42.0),
            ("sensor/Inlet Temp temperature_critical", 47.0),
            ("sensor/Inlet Temp sensor_critical", 0.0),
            ("fan/FAN1 speed", 7200.0),
            ("fan/FAN1 speed_minimum", 600.0),
            ("sensor/12V voltage", 11.97),
            ("sensor/Pwr Consumption power", 160.0),
            ("psu/PS2 present", 1.0),
            ("psu/PS2 input_lost", 0.0),
            ("psu/PS2 failed", 0.0),
            ("psu/PS Redundancy redundancy_lost", 0.0),
            ("sensor/ECC Uncorr Err sensor_critical", 0.0),
        ],
    );
    let broken = with_ipmitool(recorded!("broken-sdr.csv"), recorded!("broken-sensor.txt"));
    check(
        &broken,
        &[
            ("sensor/Inlet Temp temperature", 48.0),
            ("sensor/Inlet Temp sensor_critical", 1.0),
            ("fan/FAN1 speed", 0.0),
            ("fan/FAN1 sensor_critical", 1.0),
            ("fan/FAN2 sensor_critical", 0.0),
            ("psu/PS2 present", 1.0),
            ("psu/PS2 input_lost", 1.0),
            ("psu/PS Redundancy redundancy_lost", 1.0),
            ("sensor/ECC Uncorr Err sensor_critical", 1.0),
        ],
    );
    let names = |it: &BTreeMap<String, f64>| it.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&healthy),
        names(&broken),
        "nothing vanishes with its fault"
    );
}

#[test]
fn ipmitool_s_chassis_and_event_log() {
    let healthy = values(ipmitool::chassis(recorded!("healthy-chassis.txt")));
    assert_eq!(healthy.len(), 5);
    assert!(healthy.values().all(|failed| *failed == 0.0));
    let broken = values(ipmitool::chassis(recorded!("broken-chassis.txt")));
    check(&broken, &[("chassis/cooling failed", 1.0)]);
    let healthy = ipmitool::log(recorded!("healthy-sel.txt"));
    assert_eq!((healthy.entries, healthy.critical), (3, 0));
    let broken = ipmitool::log(recorded!("broken-sel.txt"));
    assert_eq!((broken.entries, broken.critical), (11, 5));
    assert_eq!(ipmitool::log("SEL has no entries\n"), Log::default());
}

#[test]
fn freeipmi_s_sensors_and_event_log() {
    let sensors = freeipmi::sensors(recorded!("freeipmi-sensors.csv"));
    let found = values(sensor::readings(&sensors));
    check(
        &found,
        &[
            ("sensor/Inlet Temp sensor_warning", 1.0),
            ("sensor/Inlet Temp temperature_critical", 47.0),
            ("fan/FAN1 sensor_critical", 1.0),
            ("fan/FAN1 speed_minimum", 600.0),
            ("psu/PS1 present", 1.0),
            ("psu/PS1 failed", 0.0),
            ("psu/PS2 failed", 1.0),
            ("psu/PS Redundancy redundancy_lost", 1.0),
            ("sensor/SEL sensor_critical", 0.0),
        ],
    );
    let log = freeipmi::log(recorded!("freeipmi-sel.csv"));
    assert_eq!((log.entries, log.critical), (3, 1));
}

/// A sensor without a reading is not one of value 0.
#[test]
fn without_a_reading_nothing_is_said() {
    assert_eq!(
        ipmitool::sensors("FAN3,,,ns\nPS3 Status,0Bh,ns,10.3,No Reading\n", ""),
        []
    );
    let gone = with_ipmitool("PS2 Status,08h,ok,10.2,\n", "");
    check(&gone, &[("psu/PS2 present", 0.0)]);
}

#[test]
fn secrets_are_not_arguments() {
    let settings = |arguments: &[&str], tool| Settings {
        tool,
        arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
    };
    let good = [
        "-I",
        "lanplus",
        "-H",
        "bmc7",
        "-p",
        "623",
        "-f",
        "/etc/kapok/bmc",
    ];
    assert_eq!(settings(&good, None).check(), Ok(()));
    for secret in ["-P", "-Psecret", "-k", "--password=x"] {
        assert!(settings(&["-H", "bmc7", secret], None).check().is_err());
    }
    assert!(
        settings(&["-p", "x"], Some(Tool::Freeipmi))
            .check()
            .is_err()
    );
}

proptest! {
    /// FAULTS 63: whatever the tools print, there is an answer, and every value is a number.
    #[test]
    fn garbage_is_read_without_harm(text in "([ -~]|[,|:\n]|é){0,300}", at in 0_usize..600) {
        let cut = |text: &'static str| text.get(..at).unwrap_or(text);
        let lists = [text.as_str(), cut(recorded!("broken-sdr.csv"))];
        for list in lists {
            for limits in [text.as_str(), cut(recorded!("broken-sensor.txt"))] {
                let read = sensor::readings(&ipmitool::sensors(list, limits));
                prop_assert!(read.iter().all(|it| it.value().is_none_or(f64::is_finite)));
            }
            let _ = (ipmitool::chassis(list), ipmitool::log(list), freeipmi::log(list));
            let _ = sensor::readings(&freeipmi::sensors(list));
        }
    }
}
