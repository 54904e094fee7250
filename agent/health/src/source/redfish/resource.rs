//! Redfish's resources, read. Source: DMTF DSP0268, the schemas of Chassis, Thermal, Power, Fan,
//! `PowerSupply` and Sensor.

use serde_json::Value;

use crate::{Component, Kind, Quantity, Reading, quantity};

/// How the parts of a chassis are called: by their own names, behind the chassis' where a server
/// has several.
#[derive(Debug, Clone)]
pub(super) struct Names {
    id: String,
    several: bool,
}

impl Names {
    pub(super) fn of(chassis: &Value, several: bool) -> Self {
        let id = chassis["Id"].as_str().unwrap_or("unnamed").to_owned();
        Self { id, several }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn part(&self, kind: Kind, resource: &Value, names: &[&str]) -> Option<Component> {
        let name = names.iter().find_map(|key| resource[*key].as_str());
        let name = name.filter(|name| !name.trim().is_empty())?;
        if self.several {
            return Some(Component::new(kind, format!("{}/{name}", self.id)));
        }
        Some(Component::new(kind, name))
    }
}

/// The chassis as a whole.
pub(super) fn chassis(chassis: &Value) -> Vec<Reading> {
    rollup(chassis, &Component::new(Kind::Chassis, text(chassis, "Id")))
}

/// A system's roll-up of all that is in it.
pub(super) fn system(system: &Value) -> Vec<Reading> {
    let name = format!("system {}", text(system, "Id"));
    rollup(system, &Component::new(Kind::Chassis, name))
}

/// The management controller itself.
pub(super) fn manager(manager: &Value) -> Vec<Reading> {
    rollup(manager, &Component::new(Kind::Bmc, text(manager, "Id")))
}

fn rollup(resource: &Value, of: &Component) -> Vec<Reading> {
    let status = &resource["Status"];
    let worst = [&status["HealthRollup"], &status["Health"]]
        .into_iter()
        .filter_map(Value::as_str)
        .max_by_key(|word| ["Warning", "Critical"].iter().position(|it| it == word));
    worst.map_or_else(Vec::new, |word| flags(of, word))
}

/// The list of cooling in one resource, as older controllers have it.
pub(super) fn thermal(thermal: &Value, names: &Names) -> Vec<Reading> {
    let mut readings = Vec::new();
    for (place, sensor) in list(thermal, "Temperatures") {
        let Some(of) = names.part(Kind::Sensor, &sensor, &["Name"]) else {
            continue;
        };
        let of = distinct(of, &readings, place);
        if !is_there(&sensor) {
            continue;
        }
        let read = Read {
            of: &of,
            resource: &sensor,
        };
        read.put(&mut readings, quantity::TEMPERATURE, "/ReadingCelsius");
        read.put(
            &mut readings,
            quantity::TEMPERATURE_WARNING,
            "/UpperThresholdNonCritical",
        );
        read.first(
            &mut readings,
            quantity::TEMPERATURE_CRITICAL,
            &["/UpperThresholdCritical", "/UpperThresholdFatal"],
        );
        readings.extend(health(&of, &sensor));
    }
    for (place, fan) in list(thermal, "Fans") {
        let Some(of) = names.part(Kind::Fan, &fan, &["Name", "FanName"]) else {
            continue;
        };
        let of = distinct(of, &readings, place);
        if !is_there(&fan) {
            readings.extend(gone(&of));
            continue;
        }
        readings.push(Reading::flag(&of, quantity::PRESENT, true));
        // Percents say how fast it should turn, not whether it does.
        if fan["ReadingUnits"] != "Percent" {
            let read = Read {
                of: &of,
                resource: &fan,
            };
            read.put(&mut readings, quantity::SPEED, "/Reading");
            read.first(
                &mut readings,
                quantity::SPEED_MINIMUM,
                &["/LowerThresholdCritical", "/LowerThresholdFatal"],
            );
        }
        readings.extend(health(&of, &fan));
    }
    readings.extend(redundancy(thermal, "Redundancy", names));
    readings
}

/// The list of power in one resource, as older controllers have it.
pub(super) fn power(power: &Value, names: &Names) -> Vec<Reading> {
    let mut readings = Vec::new();
    for (place, one) in list(power, "PowerSupplies") {
        if let Some(of) = names.part(Kind::Psu, &one, &["Name", "MemberId"]) {
            let of = distinct(of, &readings, place);
            readings.extend(supplied(&of, &one));
        }
    }
    for (place, sensor) in list(power, "Voltages") {
        if let Some(of) = names.part(Kind::Sensor, &sensor, &["Name"])
            && is_there(&sensor)
        {
            let of = distinct(of, &readings, place);
            let read = Read {
                of: &of,
                resource: &sensor,
            };
            read.put(&mut readings, quantity::VOLTAGE, "/ReadingVolts");
            readings.extend(health(&of, &sensor));
        }
    }
    for (place, control) in list(power, "PowerControl") {
        if let Some(of) = names.part(Kind::Sensor, &control, &["Name", "MemberId"]) {
            let of = distinct(of, &readings, place);
            let read = Read {
                of: &of,
                resource: &control,
            };
            read.put(&mut readings, quantity::POWER, "/PowerConsumedWatts");
        }
    }
    readings.extend(redundancy(power, "Redundancy", names));
    readings
}

/// A fan, as newer controllers have it.
pub(super) fn fan(fan: &Value, names: &Names) -> Vec<Reading> {
    let Some(of) = names.part(Kind::Fan, fan, &["Name", "Id"]) else {
        return Vec::new();
    };
    if !is_there(fan) {
        return gone(&of);
    }
    let mut readings = vec![Reading::flag(&of, quantity::PRESENT, true)];
    let read = Read {
        of: &of,
        resource: fan,
    };
    read.put(&mut readings, quantity::SPEED, "/SpeedPercent/SpeedRPM");
    readings.extend(health(&of, fan));
    readings
}

/// A power supply, as newer controllers have it.
pub(super) fn supply(supply: &Value, names: &Names) -> Vec<Reading> {
    let of = names.part(Kind::Psu, supply, &["Name", "Id"]);
    of.map_or_else(Vec::new, |of| supplied(&of, supply))
}

fn supplied(of: &Component, supply: &Value) -> Vec<Reading> {
    if !is_there(supply) {
        return gone(of);
    }
    let mut readings = vec![Reading::flag(of, quantity::PRESENT, true)];
    let input = supply["LineInputStatus"].as_str();
    let offline =
        supply.pointer("/Status/State").and_then(Value::as_str) == Some("UnavailableOffline");
    let volts = supply["LineInputVoltage"].as_f64();
    if let Some(input) = input {
        let lost = input == "LossOfInput";
        readings.push(Reading::flag(of, quantity::INPUT_LOST, lost));
    } else if let Some(volts) = volts {
        readings.push(Reading::flag(
            of,
            quantity::INPUT_LOST,
            volts == 0.0 || offline,
        ));
    }
    readings.extend(health(of, supply));
    readings
}

/// A sensor, as newer controllers have it.
pub(super) fn sensor(sensor: &Value, names: &Names) -> Vec<Reading> {
    let unit = sensor["ReadingUnits"].as_str().unwrap_or_default();
    let (kind, quantity) = match unit {
        "Cel" => (Kind::Sensor, quantity::TEMPERATURE),
        "{rev}/min" | "RPM" => (Kind::Fan, quantity::SPEED),
        "V" => (Kind::Sensor, quantity::VOLTAGE),
        "A" => (Kind::Sensor, quantity::CURRENT),
        "W" => (Kind::Sensor, quantity::POWER),
        _ => return Vec::new(),
    };
    let Some(of) = names
        .part(kind, sensor, &["Name", "Id"])
        .filter(|_| is_there(sensor))
    else {
        return Vec::new();
    };
    let mut readings = Vec::new();
    let read = Read {
        of: &of,
        resource: sensor,
    };
    read.put(&mut readings, quantity.clone(), "/Reading");
    if quantity == quantity::TEMPERATURE {
        read.put(
            &mut readings,
            quantity::TEMPERATURE_WARNING,
            "/Thresholds/UpperCaution/Reading",
        );
        read.first(
            &mut readings,
            quantity::TEMPERATURE_CRITICAL,
            &[
                "/Thresholds/UpperCritical/Reading",
                "/Thresholds/UpperFatal/Reading",
            ],
        );
    }
    if quantity == quantity::SPEED {
        read.put(
            &mut readings,
            quantity::SPEED_MINIMUM,
            "/Thresholds/LowerCritical/Reading",
        );
    }
    readings.extend(health(&of, sensor));
    readings
}

/// Groups of parts that stand in for each other.
pub(super) fn redundancy(resource: &Value, key: &str, names: &Names) -> Vec<Reading> {
    let group = |(place, group): (usize, Value)| {
        // Links to groups that another resource tells of have no state of their own.
        let state = group.pointer("/Status/Health")?.as_str()?.to_owned();
        let of = names
            .part(
                Kind::Chassis,
                &group,
                &["Name", "GroupName", "RedundancyGroup"],
            )
            .unwrap_or_else(|| Component::new(Kind::Chassis, format!("redundancy {place}")));
        Some(Reading::flag(&of, quantity::REDUNDANCY_LOST, state != "OK"))
    };
    list(resource, key).filter_map(group).collect()
}

fn list(resource: &Value, key: &str) -> impl Iterator<Item = (usize, Value)> {
    let list = resource[key].as_array().cloned().unwrap_or_default();
    list.into_iter().enumerate()
}

fn text<'a>(resource: &'a Value, key: &str) -> &'a str {
    resource[key].as_str().unwrap_or_default()
}

/// Whether a part is in its place.
fn is_there(resource: &Value) -> bool {
    resource.pointer("/Status/State").and_then(Value::as_str) != Some("Absent")
}

/// A fan or power supply whose place is empty: with it went what it said.
fn gone(of: &Component) -> Vec<Reading> {
    let own: &[Quantity] = match of.kind() {
        Kind::Fan => &[quantity::SPEED, quantity::SPEED_MINIMUM],
        _ => &[quantity::INPUT_LOST],
    };
    let all = [quantity::SENSOR_WARNING, quantity::SENSOR_CRITICAL];
    let said = own.iter().chain(&all);
    let absent = said.map(|quantity| Reading::absent(of, quantity.clone()));
    let present = Reading::flag(of, quantity::PRESENT, false);
    [present].into_iter().chain(absent).collect()
}

/// The controller's word on a part.
fn health(of: &Component, resource: &Value) -> Vec<Reading> {
    let word = resource.pointer("/Status/Health").and_then(Value::as_str);
    word.map_or_else(Vec::new, |word| flags(of, word))
}

fn flags(of: &Component, word: &str) -> Vec<Reading> {
    let known = ["OK", "Warning", "Critical"].contains(&word);
    if !known {
        let shown: String = word.chars().take(32).collect();
        let reason = format!("its health is {shown:?}");
        return vec![Reading::unreadable(of, quantity::SENSOR_CRITICAL, reason)];
    }
    vec![
        Reading::flag(of, quantity::SENSOR_WARNING, word == "Warning"),
        Reading::flag(of, quantity::SENSOR_CRITICAL, word == "Critical"),
    ]
}

/// Some firmware calls all sensors alike: their place tells them apart.
fn distinct(of: Component, readings: &[Reading], place: usize) -> Component {
    if readings.iter().all(|it| it.component != of) {
        return of;
    }
    Component::new(of.kind(), format!("{} {place}", of.name()))
}

struct Read<'a> {
    of: &'a Component,
    resource: &'a Value,
}

impl Read<'_> {
    fn put(&self, readings: &mut Vec<Reading>, quantity: Quantity, pointer: &str) {
        self.first(readings, quantity, &[pointer]);
    }

    fn first(&self, readings: &mut Vec<Reading>, quantity: Quantity, pointers: &[&str]) {
        let number = |pointer: &&str| self.resource.pointer(pointer).and_then(Value::as_f64);
        let number = pointers.iter().find_map(number);
        readings.extend(number.map(|number| Reading::new(self.of, quantity, number)));
    }
}
