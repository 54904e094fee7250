//! Parity: prometheus-node-exporter on the same files says the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod server;

use std::collections::BTreeSet;

use kapok_health::{Component, Host, Kind, Read, Reading, config::Config, quantity, source};
use kapok_lab::exporter::NodeExporter;

/// Collectors that read the files that our sources read.
const COLLECTORS: &[&str] = &[
    "bonding",
    "cpu",
    "diskstats",
    "edac",
    "hwmon",
    "interrupts",
    "mdadm",
    "netclass",
    "netdev",
    "pressure",
    "rapl",
    "thermal_zone",
    "vmstat",
];

/// What must be compared wholly: a series of these without a reading of ours is a miss. The rows
/// that the exporter calls unknown are its name for the errors that have none.
const FAMILIES: &[&str] = &[
    "node_bonding_active",
    "node_bonding_slaves",
    "node_cpu_core_throttles_total",
    "node_cpu_package_throttles_total",
    "node_edac_correctable_errors_total",
    "node_edac_csrow_correctable_errors_total",
    "node_edac_csrow_uncorrectable_errors_total",
    "node_edac_uncorrectable_errors_total",
    "node_hwmon_curr_amps",
    "node_hwmon_fan_min_rpm",
    "node_hwmon_fan_rpm",
    "node_hwmon_in_volts",
    "node_hwmon_power_average_watt",
    "node_hwmon_temp_celsius",
    "node_hwmon_temp_crit_celsius",
    "node_hwmon_temp_max_celsius",
    "node_md_disks_required",
    "node_pressure_cpu_waiting_seconds_total",
    "node_pressure_io_stalled_seconds_total",
    "node_pressure_io_waiting_seconds_total",
    "node_pressure_memory_stalled_seconds_total",
    "node_pressure_memory_waiting_seconds_total",
    "node_rapl_core_joules_total",
    "node_rapl_package_joules_total",
    "node_thermal_zone_temp",
    "node_vmstat_oom_kill",
];

#[tokio::test]
async fn node_exporter_says_the_same() {
    if let Some(missing) = NodeExporter::obstacle() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{missing}");
        println!("SKIP node_exporter_says_the_same: {missing}");
        return;
    }
    let server = server::sound();
    let host = Host::new(server.path());
    let exporter = NodeExporter::start(server.path(), COLLECTORS).unwrap();
    let series = exporter.series().unwrap();
    let mut compared = BTreeSet::new();
    for source in source::all(&Config::default()) {
        for reading in source.read(&host).await.unwrap_or_default() {
            let theirs = counterpart(&reading);
            // What is absent is as if it were not said; that nothing is missed is seen below.
            if theirs.is_empty() || reading.read == Read::Absent {
                continue;
            }
            let of = |name: &String| {
                let value = series.get(name);
                value.unwrap_or_else(|| panic!("{reading:?}: no {name}"))
            };
            let sum: f64 = theirs.iter().map(of).sum();
            let ours = reading.value().unwrap_or_else(|| panic!("{reading:?}"));
            let same = (ours - sum).abs() <= 1e-9 * ours.abs().max(1.0);
            assert!(same, "{reading:?} is {sum} there: {theirs:?}");
            compared.extend(theirs);
        }
    }
    let family = |name: &str| name.split('{').next().unwrap_or_default().to_owned();
    let missed: Vec<_> = series
        .keys()
        .filter(|name| FAMILIES.contains(&family(name).as_str()))
        .filter(|name| !compared.contains(*name) && !name.contains(r#"csrow="unknown""#))
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
    let families: BTreeSet<_> = compared.iter().map(|name| family(name)).collect();
    let idle = FAMILIES.iter().filter(|name| !families.contains(**name));
    assert_eq!(idle.collect::<Vec<_>>(), Vec::<&&str>::new());
}

/// The exporter's series of which a reading is the sum; none where it has no such thing.
fn counterpart(reading: &Reading) -> Vec<String> {
    let Reading {
        component,
        quantity,
        ..
    } = reading;
    let quantity = &*quantity.name;
    let is = |it: &kapok_health::Quantity| quantity == it.name;
    let one = |name: String| vec![name];
    // "mc0/csrow2 LABEL": the label is ours.
    let name = component.name();
    let id = name.split(' ').next().unwrap_or_default();
    match component.kind() {
        Kind::Memory => {
            let mut parts = id.trim_start_matches("mc").split("/csrow");
            match (parts.next(), parts.next()) {
                (Some(mc), None) if !mc.contains('/') => {
                    one(format!(r#"node_edac_{quantity}_total{{controller="{mc}"}}"#))
                }
                (Some(mc), Some(row)) => one(format!(
                    r#"node_edac_csrow_{quantity}_total{{controller="{mc}",csrow="{row}"}}"#
                )),
                _ => Vec::new(),
            }
        }
        Kind::Cpu if is(&quantity::MACHINE_CHECKS) => ["0", "1"]
            .map(|cpu| {
                format!(
                    r#"node_interrupts_total{{cpu="{cpu}",devices="",info="Machine check exceptions",type="MCE"}}"#
                )
            })
            .into(),
        Kind::Cpu => {
            let mut parts = id.trim_start_matches("package").split("/core");
            match (parts.next(), parts.next()) {
                (Some(package), Some(core)) => one(format!(
                    r#"node_cpu_core_throttles_total{{core="{core}",package="{package}"}}"#
                )),
                _ => one(format!(
                    r#"node_cpu_package_throttles_total{{package="{}"}}"#,
                    id.trim_start_matches("package")
                )),
            }
        }
        Kind::Sensor if id.starts_with("thermal_zone") && is(&quantity::TEMPERATURE) => {
            let zone = id.trim_start_matches("thermal_zone");
            let kind = name.rsplit(' ').next().unwrap_or_default();
            one(format!(
                r#"node_thermal_zone_temp{{type="{kind}",zone="{zone}"}}"#
            ))
        }
        Kind::Sensor if is(&quantity::ENERGY) => {
            let kind = name.rsplit(' ').next().unwrap_or_default();
            let kind = kind.trim_end_matches("-0");
            let path = format!("ROOT/sys/class/powercap/{id}");
            one(format!(
                r#"node_rapl_{kind}_joules_total{{index="0",path="{path}"}}"#
            ))
        }
        Kind::Sensor | Kind::Fan => hwmon(component, quantity).into_iter().collect(),
        Kind::Bond if is(&quantity::MEMBERS) => {
            one(format!(r#"node_bonding_slaves{{master="{id}"}}"#))
        }
        Kind::Bond if is(&quantity::MEMBERS_ACTIVE) => {
            one(format!(r#"node_bonding_active{{master="{id}"}}"#))
        }
        Kind::Nic => {
            let family = [
                (quantity::CARRIER, "carrier"),
                (quantity::CARRIER_CHANGES, "carrier_changes_total"),
                (quantity::LINK_SPEED, "speed_bytes"),
                (quantity::RECEIVED_PACKETS, "receive_packets_total"),
                (quantity::RECEIVE_ERRORS, "receive_errs_total"),
                (quantity::TRANSMIT_ERRORS, "transmit_errs_total"),
            ];
            let family = family.iter().find(|(it, _)| is(it));
            let series = |(_, name): &(_, &str)| format!(r#"node_network_{name}{{device="{id}"}}"#);
            family.map(series).into_iter().collect()
        }
        Kind::Disk if is(&quantity::IO_REQUESTS) => disk(
            id,
            &[
                "reads_completed_total",
                "writes_completed_total",
                "discards_completed_total",
                "flush_requests_total",
            ],
        ),
        Kind::Disk if is(&quantity::IO_TIME) => disk(
            id,
            &[
                "read_time_seconds_total",
                "write_time_seconds_total",
                "discard_time_seconds_total",
                "flush_requests_time_seconds_total",
            ],
        ),
        Kind::Disk if is(&quantity::IO_IN_FLIGHT) => disk(id, &["io_now"]),
        Kind::Array => {
            let series = [
                (quantity::MEMBERS, "node_md_disks_required{device=\"md0\"}"),
                (
                    quantity::MEMBERS_ACTIVE,
                    "node_md_disks{device=\"md0\",state=\"active\"}",
                ),
                (
                    quantity::MEMBERS_FAILED,
                    "node_md_disks{device=\"md0\",state=\"failed\"}",
                ),
            ];
            let series = series.iter().find(|(it, _)| is(it));
            series.map(|(_, it)| (*it).to_owned()).into_iter().collect()
        }
        Kind::Pressure => {
            let what = match quantity {
                "waiting_time" => "waiting",
                "stalled_time" if id != "cpu" => "stalled",
                _ => return Vec::new(),
            };
            one(format!("node_pressure_{id}_{what}_seconds_total"))
        }
        Kind::Kernel if is(&quantity::OOM_KILLS) => one("node_vmstat_oom_kill".to_owned()),
        _ => Vec::new(),
    }
}

fn disk(id: &str, names: &[&str]) -> Vec<String> {
    let series = |name: &&str| format!(r#"node_disk_{name}{{device="{id}"}}"#);
    names.iter().map(series).collect()
}

fn hwmon(component: &Component, quantity: &str) -> Option<String> {
    let (chip, sensor) = component.name().split_once('/')?;
    let sensor = sensor.split(' ').next()?;
    let of = |fan: &'static str, temp: &'static str| match component.kind() {
        Kind::Fan => fan,
        _ => temp,
    };
    // Of temperatures' alarms the exporter makes thousandths of a degree: those aren't compared.
    let name = match quantity {
        "temperature" => "temp_celsius",
        "temperature_warning" => "temp_max_celsius",
        "temperature_critical" => "temp_crit_celsius",
        "speed" => "fan_rpm",
        "speed_minimum" => "fan_min_rpm",
        "sensor_warning" => of("fan_alarm", "in_alarm"),
        "failed" => "fan_fault",
        "voltage" => "in_volts",
        "voltage_minimum" => "in_min_volts",
        "voltage_maximum" => "in_max_volts",
        "current" => "curr_amps",
        "current_maximum" => "curr_max_amps",
        "power" => "power_average_watt",
        _ => return None,
    };
    Some(format!(
        r#"node_hwmon_{name}{{chip="{chip}",sensor="{sensor}"}}"#
    ))
}
