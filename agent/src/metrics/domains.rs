//! Domains' series. Their number is bounded by a cap: Kapok's own go first.

use std::fmt;

use kapok_metrics::{Budget, Name, Value, Writer, label};
use uuid::Uuid;

use super::{
    names,
    roll::Roll,
    sample::{All, Sample},
};
use crate::driver::{
    Health,
    statistics::{Answer, Disk, Nic},
};

/// Series of a domain without its disks and network cards, at most.
const OF_DOMAIN: usize = 12;
/// Series of a disk, and of a network card.
const OF_DISK: usize = 9;
const OF_NIC: usize = 8;

/// A metric, and how it is had from what was heard.
type Of<T, V> = (&'static Name, fn(&T) -> V);

/// A domain that is shown.
pub(super) struct Shown<'a> {
    pub(super) sample: &'a Sample,
    pub(super) uuid: String,
    pub(super) name: String,
    instance: String,
    stuck: bool,
}

/// The domains that fit into the budget.
pub(super) fn shown<'a>(
    all: &'a All,
    roll: &Roll,
    health: &Health,
    budget: &mut Budget,
    now: std::time::Duration,
) -> Vec<Shown<'a>> {
    let roll = roll.lock();
    let is_ours = |uuid: &Uuid| roll.contains_key(uuid);
    let (ours, others): (Vec<_>, Vec<_>) = all.domains.iter().partition(|(id, _)| is_ours(id));
    let fitting = ours.into_iter().chain(others).filter(|(_, sample)| {
        let disks = sample.answer.as_ref().map_or(0, |(it, _)| it.disks.len());
        budget.take(OF_DOMAIN + OF_DISK * disks + OF_NIC * sample.glance.nics.len())
    });
    fitting
        .map(|(uuid, sample)| {
            let known = roll.get(uuid);
            let hangs = health.quarantined.iter().any(|id| id.0 == *uuid);
            Shown {
                sample,
                uuid: uuid.to_string(),
                name: known.map_or_else(
                    || label(&sample.glance.name).into_owned(),
                    |known| known.name.to_string(),
                ),
                instance: known
                    .map(|known| known.instance.to_string())
                    .unwrap_or_default(),
                stuck: hangs || sample.is_stuck(now),
            }
        })
        .collect()
}

/// Writes them.
pub(super) fn write(
    writer: &mut Writer<'_>,
    all: &All,
    shown: &[Shown<'_>],
    now: std::time::Duration,
) -> fmt::Result {
    if let Some(at) = all.glanced_at {
        writer.single(&names::GLANCE_AGE, now.saturating_sub(at))?;
    }
    writer.family(&names::DOMAIN, |series| {
        shown.iter().try_for_each(|it| {
            let own = label(&it.sample.glance.name);
            let labels = [
                ("uuid", it.uuid.as_str()),
                ("name", &it.name),
                ("instance_id", &it.instance),
                ("hypervisor_name", &own),
            ];
            series.put(&labels, true)
        })
    })?;
    writer.family(&names::DOMAIN_STATE, |series| {
        shown.iter().try_for_each(|it| {
            let state = it.sample.glance.state.as_str();
            let labels = [
                ("uuid", it.uuid.as_str()),
                ("name", &it.name),
                ("state", state),
            ];
            series.put(&labels, true)
        })
    })?;
    let mut each = |name: &Name, value: &dyn Fn(&Shown<'_>) -> Option<Value>| {
        writer.family(name, |series| {
            shown.iter().try_for_each(|it| match value(it) {
                Some(value) => series.put(&[("uuid", it.uuid.as_str()), ("name", &it.name)], value),
                None => Ok(()),
            })
        })
    };
    each(&names::DOMAIN_STUCK, &|it| Some(it.stuck.into()))?;
    each(&names::DOMAIN_AGE, &|it| {
        Some(it.sample.age(all.glanced_at, now).into())
    })?;
    each(&names::DOMAIN_CPU, &|it| {
        answer(it)?.cpu_time_ns.map(seconds)
    })?;
    each(&names::DOMAIN_VCPUS, &|it| {
        answer(it)?.vcpus.map(Into::into)
    })?;
    let memory: [Of<Answer, Option<u64>>; 6] = [
        (&names::DOMAIN_MEMORY_MAXIMUM, |it| it.memory.maximum_kib),
        (&names::DOMAIN_MEMORY_BALLOON, |it| it.memory.current_kib),
        (&names::DOMAIN_MEMORY_RESIDENT, |it| it.memory.resident_kib),
        (&names::DOMAIN_MEMORY_AVAILABLE, |it| {
            it.memory.available_kib
        }),
        (&names::DOMAIN_MEMORY_UNUSED, |it| it.memory.unused_kib),
        (&names::DOMAIN_MEMORY_USABLE, |it| it.memory.usable_kib),
    ];
    for (name, value) in memory {
        each(name, &|it| {
            Some(Value::Whole(value(answer(it)?)?.saturating_mul(1024)))
        })?;
    }
    disks(writer, shown)?;
    nics(writer, shown)
}

fn disks(writer: &mut Writer<'_>, shown: &[Shown<'_>]) -> fmt::Result {
    let of: [Of<Disk, Option<Value>>; OF_DISK] = [
        (&names::DISK_READS, |it| Some(it.read.requests.into())),
        (&names::DISK_READ_BYTES, |it| Some(it.read.bytes.into())),
        (&names::DISK_READ_TIME, |it| Some(seconds(it.read.time_ns))),
        (&names::DISK_WRITES, |it| Some(it.write.requests.into())),
        (&names::DISK_WRITE_BYTES, |it| Some(it.write.bytes.into())),
        (&names::DISK_WRITE_TIME, |it| {
            Some(seconds(it.write.time_ns))
        }),
        (&names::DISK_FLUSHES, |it| Some(it.flushes.into())),
        (&names::DISK_CAPACITY, |it| {
            it.capacity_bytes.map(Into::into)
        }),
        (&names::DISK_PHYSICAL, |it| {
            it.physical_bytes.map(Into::into)
        }),
    ];
    for (name, value) in of {
        writer.family(name, |series| {
            for it in shown {
                let disks = answer(it).map(|answer| &*answer.disks).unwrap_or_default();
                for disk in disks {
                    if let Some(value) = value(disk) {
                        let device = label(&disk.name);
                        let labels = [
                            ("uuid", it.uuid.as_str()),
                            ("name", &it.name),
                            ("device", &device),
                        ];
                        series.put(&labels, value)?;
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn nics(writer: &mut Writer<'_>, shown: &[Shown<'_>]) -> fmt::Result {
    let of: [Of<Nic, u64>; OF_NIC] = [
        (&names::NET_RECEIVE_BYTES, |it| it.receive.bytes),
        (&names::NET_RECEIVE_PACKETS, |it| it.receive.packets),
        (&names::NET_RECEIVE_ERRORS, |it| it.receive.errors),
        (&names::NET_RECEIVE_DROPS, |it| it.receive.drops),
        (&names::NET_TRANSMIT_BYTES, |it| it.transmit.bytes),
        (&names::NET_TRANSMIT_PACKETS, |it| it.transmit.packets),
        (&names::NET_TRANSMIT_ERRORS, |it| it.transmit.errors),
        (&names::NET_TRANSMIT_DROPS, |it| it.transmit.drops),
    ];
    for (name, value) in of {
        writer.family(name, |series| {
            for it in shown {
                for nic in &it.sample.glance.nics {
                    let device = label(&nic.name);
                    let labels = [
                        ("uuid", it.uuid.as_str()),
                        ("name", &it.name),
                        ("device", &device),
                    ];
                    series.put(&labels, value(nic))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What a domain's QEMU said last.
pub(super) fn answer<'a>(shown: &'a Shown<'_>) -> Option<&'a Answer> {
    shown.sample.answer.as_ref().map(|(answer, _)| answer)
}

pub(super) fn seconds(nanos: u64) -> Value {
    std::time::Duration::from_nanos(nanos).into()
}
