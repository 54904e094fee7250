//! Thermal zones of the firmware and the system on a chip, with their own trip points.

use super::{found, hwmon, number_of, part};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

const ZONES: &str = "/sys/class/thermal";

/// Reads all zones.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    for zone in host.list(ZONES)? {
        if number_of(&zone, "thermal_zone").is_none() {
            continue;
        }
        let folder = format!("{ZONES}/{zone}");
        let kind = host.text(format!("{folder}/type")).ok().flatten();
        let name = format!("{zone} {}", kind.unwrap_or_default());
        let component = Component::new(Kind::Sensor, name);
        let tried = celsius(host, &format!("{folder}/temp"));
        readings.extend(Reading::tried(&component, quantity::TEMPERATURE, tried));
        let limits = limits(host, &component, &folder);
        readings.extend(part(limits, &component, quantity::TEMPERATURE_CRITICAL));
    }
    found(readings, "no thermal zones")
}

/// Where a zone's own trip points are. Of several of one sort the lowest: it is reached first.
fn limits(host: &Host, component: &Component, folder: &str) -> Result<Vec<Reading>, Failure> {
    let (mut hot, mut critical) = (None, None);
    for file in host.list(folder)? {
        let trip = file.strip_suffix("_type").unwrap_or_default();
        if number_of(trip, "trip_point_").is_none() {
            continue;
        }
        // "passive" and "active" are where cooling begins, which is nothing to warn of.
        let lowest = match host.text(format!("{folder}/{file}"))?.as_deref() {
            Some("critical") => &mut critical,
            Some("hot") => &mut hot,
            _ => continue,
        };
        let limit = celsius(host, &format!("{folder}/{trip}_temp"))?;
        if let Some(limit) = limit.filter(|limit| hwmon::is_limit(*limit)) {
            *lowest = Some(lowest.map_or(limit, |known: f64| known.min(limit)));
        }
    }
    let limits = [
        (quantity::TEMPERATURE_WARNING, hot),
        (quantity::TEMPERATURE_CRITICAL, critical),
    ];
    let limits = limits.into_iter();
    let reading = |(quantity, limit)| Some(Reading::new(component, quantity, limit?));
    Ok(limits.filter_map(reading).collect())
}

fn celsius(host: &Host, path: &str) -> Result<Option<f64>, Failure> {
    let millidegrees = host.number(path)?;
    Ok(millidegrees.map(|it| it / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    #[test]
    fn limits_are_the_lowest_trip_points_that_are_any() {
        let zone = |file: &str| format!("sys/class/thermal/thermal_zone0/{file}");
        let tree = Tree::new()
            .file(&zone("type"), "acpitz")
            .file(&zone("temp"), "27800")
            .file(&zone("trip_point_0_type"), "critical")
            .file(&zone("trip_point_0_temp"), "119000")
            .file(&zone("trip_point_1_type"), "hot")
            .file(&zone("trip_point_1_temp"), "99000")
            .file(&zone("trip_point_2_type"), "hot")
            .file(&zone("trip_point_2_temp"), "-274000")
            .file(&zone("trip_point_3_type"), "critical")
            .file(&zone("trip_point_3_temp"), "105000")
            .file(&zone("trip_point_4_type"), "passive")
            .file(&zone("trip_point_4_temp"), "60000")
            .file("sys/class/thermal/cooling_device0/type", "Fan");
        let expected = "\
            sensor/thermal_zone0 acpitz temperature 27.8\n\
            sensor/thermal_zone0 acpitz temperature_warning 99\n\
            sensor/thermal_zone0 acpitz temperature_critical 105\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }
}
