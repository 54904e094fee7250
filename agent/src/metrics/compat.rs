//! Names of other exporters, for dashboards that were made for them: a switch that is off where the
//! original runs.
//!
//! Names and labels are the originals' (libvirt, node, smartctl and IPMI exporters), also where
//! promtool finds fault with them. Values come from where Kapok's own come from.

use std::{collections::BTreeMap, fmt};

use kapok_health::{Assessment, Kind, Quantity, quantity};
use kapok_metrics::{Name, Value, Writer, label};

use super::domains::{Shown, answer, seconds};
use crate::driver::statistics::{Disk, Nic, State};

pub(super) mod tree;

/// Names of the libvirt exporter.
mod libvirt {
    use super::Name;

    pub(super) const UP: Name = Name::gauge("libvirt_up", "Whether libvirt answers");
    pub(super) const NUMBER: Name = Name::gauge("libvirt_domains_number", "Number of domains");
    pub(super) const STATE: Name =
        Name::gauge("libvirt_domain_state_code", "Code of the domain's state");
    pub(super) const MAXIMUM: Name =
        Name::gauge("libvirt_domain_info_maximum_memory_bytes", "Maximum memory");
    pub(super) const USAGE: Name =
        Name::gauge("libvirt_domain_info_memory_usage_bytes", "Memory in use");
    pub(super) const VCPUS: Name =
        Name::gauge("libvirt_domain_info_virtual_cpus", "Virtual processors");
    pub(super) const CPU: Name =
        Name::counter("libvirt_domain_info_cpu_time_seconds", "Processor time");
    pub(super) const BLOCK: [Name; 4] = [
        Name::counter("libvirt_domain_block_stats_read_bytes", "Bytes read"),
        Name::counter("libvirt_domain_block_stats_read_requests", "Reads"),
        Name::counter("libvirt_domain_block_stats_write_bytes", "Bytes written"),
        Name::counter("libvirt_domain_block_stats_write_requests", "Writes"),
    ];
    pub(super) const NET: [Name; 8] = [
        Name::counter(
            "libvirt_domain_interface_stats_receive_bytes",
            "Bytes received",
        ),
        Name::counter(
            "libvirt_domain_interface_stats_receive_packets",
            "Packets received",
        ),
        Name::counter(
            "libvirt_domain_interface_stats_receive_errors",
            "Errors on receipt",
        ),
        Name::counter(
            "libvirt_domain_interface_stats_receive_drops",
            "Dropped on receipt",
        ),
        Name::counter(
            "libvirt_domain_interface_stats_transmit_bytes",
            "Bytes sent",
        ),
        Name::counter(
            "libvirt_domain_interface_stats_transmit_packets",
            "Packets sent",
        ),
        Name::counter(
            "libvirt_domain_interface_stats_transmit_errors",
            "Errors on sending",
        ),
        Name::counter(
            "libvirt_domain_interface_stats_transmit_drops",
            "Dropped on sending",
        ),
    ];
}

/// The libvirt exporter's series.
pub(super) fn libvirt(writer: &mut Writer<'_>, up: bool, shown: &[Shown<'_>]) -> fmt::Result {
    writer.single(&libvirt::UP, up)?;
    writer.single(&libvirt::NUMBER, shown.len())?;
    let mut each = |name: &Name, value: &dyn Fn(&Shown<'_>) -> Option<Value>| {
        writer.family(name, |series| {
            shown.iter().try_for_each(|it| match value(it) {
                Some(value) => series.put(&of(it), value),
                None => Ok(()),
            })
        })
    };
    let bytes = |kib: u64| Value::Whole(kib.saturating_mul(1024));
    each(&libvirt::STATE, &|it| {
        Some(code(it.sample.glance.state).into())
    })?;
    each(&libvirt::MAXIMUM, &|it| {
        answer(it)?.memory.maximum_kib.map(bytes)
    })?;
    each(&libvirt::USAGE, &|it| {
        answer(it)?.memory.current_kib.map(bytes)
    })?;
    each(&libvirt::VCPUS, &|it| answer(it)?.vcpus.map(Into::into))?;
    each(&libvirt::CPU, &|it| answer(it)?.cpu_time_ns.map(seconds))?;
    let block: [fn(&Disk) -> u64; 4] = [
        |it| it.read.bytes,
        |it| it.read.requests,
        |it| it.write.bytes,
        |it| it.write.requests,
    ];
    for (name, value) in libvirt::BLOCK.iter().zip(block) {
        writer.family(name, |series| {
            for it in shown {
                let disks = answer(it).map(|answer| &*answer.disks).unwrap_or_default();
                for disk in disks {
                    let [domain, uuid] = of(it);
                    let file = label(disk.path.as_deref().unwrap_or_default());
                    let device = ("target_device", label(&disk.name));
                    series.put(&[domain, uuid, device, ("source_file", file)], value(disk))?;
                }
            }
            Ok(())
        })?;
    }
    let net: [fn(&Nic) -> u64; 8] = [
        |it| it.receive.bytes,
        |it| it.receive.packets,
        |it| it.receive.errors,
        |it| it.receive.drops,
        |it| it.transmit.bytes,
        |it| it.transmit.packets,
        |it| it.transmit.errors,
        |it| it.transmit.drops,
    ];
    for (name, value) in libvirt::NET.iter().zip(net) {
        writer.family(name, |series| {
            for it in shown {
                for nic in &it.sample.glance.nics {
                    let [domain, uuid] = of(it);
                    let device = ("target_device", label(&nic.name));
                    // The original says "" for a card without a bridge, too.
                    let bridge = ("source_bridge", label(&nic.bridge));
                    series.put(&[domain, uuid, device, bridge], value(nic))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

type Label<'a> = (&'static str, std::borrow::Cow<'a, str>);

fn of<'a>(shown: &'a Shown<'_>) -> [Label<'a>; 2] {
    let domain = ("domain", label(&shown.sample.glance.name));
    [domain, ("uuid", shown.uuid.as_str().into())]
}

/// Source: libvirt's `virDomainState`.
const fn code(state: State) -> u64 {
    match state {
        State::Unknown => 0,
        State::Running => 1,
        State::Paused => 3,
        State::ShuttingDown => 4,
        State::Off => 5,
        State::Crashed => 6,
        State::Suspended => 7,
    }
}

/// One reading under another exporter's name: of which quantity, times what, with which labels.
struct Of {
    name: Name,
    quantity: Quantity,
    times: f64,
    plus: f64,
    extra: &'static [(&'static str, &'static str)],
}

const fn of_disk(name: &'static str, help: &'static str, quantity: Quantity, times: f64) -> Of {
    Of {
        name: Name::gauge(name, help),
        quantity,
        times,
        plus: 0.0,
        extra: &[],
    }
}

const RAW: &str = "attribute_value_type";

/// The smartctl exporter's series.
pub(super) fn smartctl(writer: &mut Writer<'_>, assessment: &Assessment) -> fmt::Result {
    let smart_status = Of {
        plus: 1.0,
        ..of_disk(
            "smartctl_device_smart_status",
            "General smart status",
            quantity::SMART_FAILING,
            -1.0,
        )
    };
    let temperature = Of {
        extra: &[("temperature_type", "current")],
        ..of_disk(
            "smartctl_device_temperature",
            "Device temperature celsius",
            quantity::TEMPERATURE,
            1.0,
        )
    };
    let attribute = "smartctl_device_attribute";
    let pending = Of {
        extra: &[("attribute_name", "Current_Pending_Sector"), (RAW, "raw")],
        ..of_disk(
            attribute,
            "Device attributes",
            quantity::PENDING_SECTORS,
            1.0,
        )
    };
    let reallocated = Of {
        extra: &[("attribute_name", "Reallocated_Sector_Ct"), (RAW, "raw")],
        ..of_disk(
            attribute,
            "Device attributes",
            quantity::REALLOCATED_SECTORS,
            1.0,
        )
    };
    let wear = "smartctl_device_percentage_used";
    let spare = "smartctl_device_available_spare";
    let threshold = "smartctl_device_available_spare_threshold";
    let warning = "smartctl_device_critical_warning";
    let media = "smartctl_device_media_errors";
    let on = "smartctl_device_power_on_seconds";
    let all = [
        vec![smart_status],
        vec![temperature],
        vec![of_disk(
            wear,
            "Device write percentage used",
            quantity::WEAR,
            100.0,
        )],
        vec![of_disk(
            spare,
            "Spare that is left",
            quantity::AVAILABLE_SPARE,
            100.0,
        )],
        vec![of_disk(
            threshold,
            "Spare that is too little",
            quantity::AVAILABLE_SPARE_THRESHOLD,
            100.0,
        )],
        vec![of_disk(
            warning,
            "Critical warning",
            quantity::CRITICAL_WARNING,
            1.0,
        )],
        vec![of_disk(
            media,
            "Errors of the medium",
            quantity::MEDIA_ERRORS,
            1.0,
        )],
        vec![of_disk(on, "Power on time", quantity::POWER_ON, 1.0)],
        vec![pending, reallocated],
    ];
    for family in all {
        writer.family(&family[0].name, |series| {
            for of in &family {
                for (name, value) in readings(assessment, "smartctl", Kind::Disk, &of.quantity) {
                    let mut labels = vec![("device", label(name))];
                    labels.extend(of.extra.iter().map(|(key, value)| (*key, (*value).into())));
                    series.put(&labels, of.plus + of.times * value)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The IPMI exporter's series.
pub(super) fn ipmi(writer: &mut Writer<'_>, assessment: &Assessment) -> fmt::Result {
    let states = [
        (quantity::SENSOR_WARNING, 1_u64),
        (quantity::SENSOR_CRITICAL, 2),
    ];
    let all = [
        (
            quantity::TEMPERATURE,
            "ipmi_temperature_celsius",
            "ipmi_temperature_state",
        ),
        (
            quantity::SPEED,
            "ipmi_fan_speed_rpm",
            "ipmi_fan_speed_state",
        ),
        (
            quantity::VOLTAGE,
            "ipmi_voltage_volts",
            "ipmi_voltage_state",
        ),
        (quantity::POWER, "ipmi_power_watts", "ipmi_power_state"),
    ];
    for (of, name, state) in all {
        let mut values = BTreeMap::new();
        for held in &assessment.readings {
            let reading = &held.reading;
            if &*held.source == "ipmi"
                && reading.quantity.name == of.name
                && let Some(value) = reading.value()
            {
                values.insert(reading.component.name(), value);
            }
        }
        writer.family(&Name::gauge(name, "Reading of a sensor"), |series| {
            values.iter().try_for_each(|(sensor, value)| {
                series.put(&[("id", "".into()), ("name", label(sensor))], *value)
            })
        })?;
        let help = "State of a sensor: 0 nominal, 1 warning, 2 critical";
        writer.family(&Name::gauge(state, help), |series| {
            values.keys().try_for_each(|sensor| {
                let raised = states.iter().filter(|(flag, _)| {
                    assessment.readings.iter().any(|held| {
                        &*held.source == "ipmi"
                            && held.reading.component.name() == *sensor
                            && held.reading.quantity.name == flag.name
                            && held.reading.value() == Some(1.0)
                    })
                });
                let worst = raised.map(|(_, state)| *state).max().unwrap_or_default();
                series.put(&[("id", "".into()), ("name", label(sensor))], worst)
            })
        })?;
    }
    Ok(())
}

/// A source's values of one quantity, by component, each once.
fn readings<'a>(
    assessment: &'a Assessment,
    source: &str,
    kind: Kind,
    quantity: &Quantity,
) -> BTreeMap<&'a str, f64> {
    let of = assessment.readings.iter().filter(|held| {
        &*held.source == source
            && held.reading.component.kind() == kind
            && held.reading.quantity.name == quantity.name
    });
    of.filter_map(|held| Some((held.reading.component.name(), held.reading.value()?)))
        .collect()
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
