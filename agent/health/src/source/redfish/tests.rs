use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const THERMAL: &str = include_str!("../../../tests/tools/redfish/thermal.json");
const POWER: &str = include_str!("../../../tests/tools/redfish/power.json");

fn alone() -> Names {
    Names::of(&json!({"Id": "1"}), false)
}

fn values(readings: &[Reading]) -> BTreeMap<String, f64> {
    readings
        .iter()
        .filter_map(|it| {
            Some((
                format!("{} {}", it.component, it.quantity.name),
                it.value()?,
            ))
        })
        .collect()
}

#[track_caller]
fn check(readings: &[Reading], expected: &[(&str, f64)], without: &[&str]) {
    let found = values(readings);
    for (name, value) in expected {
        assert_eq!(found.get(*name), Some(value), "{name} in {found:#?}");
    }
    for name in without {
        assert!(!found.contains_key(*name), "{name} in {found:#?}");
    }
}

#[test]
fn older_lists() {
    let thermal: Value = serde_json::from_str(THERMAL).unwrap();
    check(
        &resource::thermal(&thermal, &alone()),
        &[
            ("sensor/CPU1 Temp temperature", 51.0),
            ("sensor/CPU1 Temp temperature_critical", 100.0),
            ("sensor/CPU1 Temp sensor_critical", 0.0),
            ("sensor/Inlet Temp temperature", 48.5),
            ("sensor/Inlet Temp temperature_critical", 47.0),
            ("sensor/Inlet Temp sensor_critical", 1.0),
            ("sensor/Inlet Temp 3 temperature", 23.0),
            ("fan/FAN1 speed", 0.0),
            ("fan/FAN1 speed_minimum", 600.0),
            ("fan/FAN1 sensor_critical", 1.0),
            ("fan/FAN2 present", 1.0),
            ("fan/FAN3 present", 0.0),
            ("chassis/Fan Redundancy redundancy_lost", 1.0),
        ],
        &["sensor/CPU2 Temp temperature", "fan/FAN2 speed"],
    );
    let power: Value = serde_json::from_str(POWER).unwrap();
    check(
        &resource::power(&power, &alone()),
        &[
            ("sensor/System Power Control power", 344.0),
            ("sensor/12V voltage", 12.06),
            ("psu/PS1 Status input_lost", 0.0),
            ("psu/PS2 Status present", 1.0),
            ("psu/PS2 Status input_lost", 1.0),
            ("psu/PS2 Status sensor_critical", 1.0),
            ("psu/PS3 Status present", 0.0),
            ("chassis/PSU Redundancy redundancy_lost", 1.0),
        ],
        &["psu/PS3 Status sensor_critical"],
    );
}

#[test]
fn newer_resources_and_roll_ups() {
    let several = Names::of(&json!({"Id": "Blade2"}), true);
    let sensor = json!({"Id": "InletTemp", "Name": "Inlet", "Reading": 31.5, "ReadingUnits": "Cel",
        "Status": {"State": "Enabled", "Health": "Warning"},
        "Thresholds": {"UpperCaution": {"Reading": 30}, "UpperCritical": {"Reading": 40}}});
    check(
        &resource::sensor(&sensor, &several),
        &[
            ("sensor/Blade2/Inlet temperature", 31.5),
            ("sensor/Blade2/Inlet temperature_warning", 30.0),
            ("sensor/Blade2/Inlet sensor_warning", 1.0),
        ],
        &[],
    );
    let supply = json!({"Id": "PSU1", "Status": {"State": "Enabled", "Health": "Critical"},
        "LineInputStatus": "LossOfInput"});
    check(
        &resource::supply(&supply, &several),
        &[
            ("psu/Blade2/PSU1 input_lost", 1.0),
            ("psu/Blade2/PSU1 sensor_critical", 1.0),
        ],
        &[],
    );
    let fan = json!({"Id": "F1", "Status": {"Health": "OK"}, "SpeedPercent": {"SpeedRPM": 3200}});
    check(
        &resource::fan(&fan, &several),
        &[("fan/Blade2/F1 speed", 3200.0)],
        &[],
    );
    let system = json!({"Id": "437XR", "Status": {"Health": "OK", "HealthRollup": "Warning"}});
    check(
        &resource::system(&system),
        &[("chassis/system 437XR sensor_warning", 1.0)],
        &[],
    );
    let strange = resource::manager(&json!({"Id": "BMC", "Status": {"Health": "Fine"}}));
    assert_eq!(strange.len(), 1);
    assert_eq!(strange[0].value(), None, "an unknown word is not healthy");
}

#[test]
fn settings_say_one_way_to_trust() {
    let parse = |text: &str| -> Result<Settings, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map(|()| settings)
    };
    let hex = "ab:".repeat(31) + "cd";
    for good in [
        "address = \"bmc7\"\nca_file = \"/ca.pem\"".to_owned(),
        format!("address = \"[fd00::7]:8443\"\nfingerprint = \"{hex}\""),
        "address = \"10.0.0.7:444\"\ninsecure = true\nuser = \"u\"\npassword_file = \"/p\""
            .to_owned(),
    ] {
        parse(&good).unwrap();
    }
    for bad in [
        "address = \"bmc7\"",
        "address = \"bmc7\"\ninsecure = true\nca_file = \"/ca.pem\"",
        "address = \"bmc7\"\nfingerprint = \"abcd\"",
        "address = \"https://bmc7\"\ninsecure = true",
        "address = \"bmc7\"\ninsecure = true\nuser = \"u\"",
        "address = \"bmc7\"\ninsecure = true\npassword = \"p\"",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<f64>().prop_map(|it| json!(it)),
        ".{0,8}".prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "Temperatures",
        "Fans",
        "Status",
        "State",
        "Health",
        "Name",
        "ReadingCelsius",
        "PowerSupplies",
        "Redundancy",
        "Id",
        "Voltages",
        "Reading",
        "ReadingUnits",
    ]);
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// FAULTS 63: resources of any shape are read without harm.
    #[test]
    fn resources_of_any_shape(resource in any_json()) {
        let names = alone();
        let mut readings = resource::thermal(&resource, &names);
        readings.extend(resource::power(&resource, &names));
        readings.extend(resource::fan(&resource, &names));
        readings.extend(resource::sensor(&resource, &names));
        readings.extend(resource::system(&resource));
        prop_assert!(readings.iter().all(|it| it.value().is_none_or(f64::is_finite)));
    }
}
