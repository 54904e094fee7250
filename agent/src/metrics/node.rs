//! The node's own series, and those of its hypervisor's calls.

use std::{collections::BTreeMap, fmt, time::Duration};

use kapok_metrics::{Writer, label};
use kapok_types::phase::Phase;

use super::{Parts, kernel, kernel::Kernel, names};
use crate::{
    driver::{Health, equipment::set_aside},
    heartbeat::LifeSign,
    watch::{Item, Key, facts::NodeFacts},
};

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// How the hypervisor's calls fare.
pub(super) fn hypervisor(writer: &mut Writer<'_>, parts: &Parts, health: &Health) -> fmt::Result {
    writer.single(&names::HYPERVISOR_UP, health.up)?;
    let intake = parts.driver.statistics.intake();
    writer.single(&names::EVENTS, intake.events)?;
    writer.single(&names::EVENTS_DROPPED, intake.dropped_events)?;
    writer.single(&names::HINTS, intake.hints)?;
    writer.single(&names::CONSOLE_BYTES, intake.console_bytes)?;
    writer.single(&names::CONSOLE_DROPPED, intake.dropped_console_bytes)?;
    // With the local store's own lane, as the heartbeat shows them.
    let lanes = LifeSign::of(health.clone(), &parts.local).lanes;
    writer.family(&names::LANE_DEPTH, |series| {
        lanes
            .iter()
            .try_for_each(|lane| series.put(&[("lane", lane.name)], lane.depth))
    })?;
    writer.family(&names::LANE_STUCK, |series| {
        lanes.iter().try_for_each(|lane| {
            series.put(&[("lane", lane.name)], Duration::from_millis(lane.stuck_ms))
        })
    })?;
    writer.family(&names::CALLS, |series| {
        parts
            .driver
            .statistics
            .latencies()
            .iter()
            .try_for_each(|(lane, took)| series.histogram(&[("lane", *lane)], took))
    })
}

/// What the node is and what it carries.
pub(super) fn write(
    writer: &mut Writer<'_>,
    parts: &Parts,
    kernel: &Kernel,
    now: Duration,
) -> fmt::Result {
    if let Some(Item::Node(node)) = parts.hub.get(Key::Node).as_deref() {
        facts(writer, node)?;
    }
    let (mut memory, mut vcpus) = (0_u64, 0_u64);
    for entry in parts.roll.lock().values() {
        memory = memory.saturating_add(entry.memory.get());
        vcpus = vcpus.saturating_add(entry.vcpus.get().into());
    }
    writer.single(&names::CLAIMED_MEMORY, memory.saturating_mul(MIB))?;
    writer.single(&names::CLAIMED_VCPUS, vcpus)?;
    instances(writer, parts)?;
    let Some((numbers, at)) = kernel.get() else {
        return Ok(());
    };
    if let Some(available) = numbers.memory.get("MemAvailable") {
        writer.single(&names::MEMORY_AVAILABLE, *available)?;
    }
    writer.single(&names::BOOT, numbers.booted_at)?;
    writer.family(&names::LOAD, |series| {
        let windows = ["1m", "5m", "15m"].into_iter().zip(numbers.load);
        windows
            .into_iter()
            .try_for_each(|(window, load)| series.put(&[("window", window)], load))
    })?;
    writer.family(&names::CPU_TIME, |series| {
        let modes = kernel::MODES.into_iter().zip(numbers.cpu_seconds);
        modes
            .into_iter()
            .try_for_each(|(mode, seconds)| series.put(&[("mode", mode)], seconds))
    })?;
    writer.single(&names::HOST_AGE, now.saturating_sub(at))
}

fn facts(writer: &mut Writer<'_>, node: &NodeFacts) -> fmt::Result {
    let driver = &node.driver;
    // Not called as Prometheus' service discovery calls a target: those would be renamed.
    writer.family(&names::NODE, |series| {
        let version = |of: &str| {
            let found = driver.versions.iter().find(|(name, _)| name == of);
            found
                .map(|(_, version)| label(version).into_owned())
                .unwrap_or_default()
        };
        let labels = [
            ("id", node.node.to_string()),
            ("host_name", label(&node.host.name).into_owned()),
            ("architecture", driver.arch.as_str().to_owned()),
            ("driver", driver.driver.to_owned()),
            ("virt_type", label(&driver.virt_type).into_owned()),
            ("machine", label(&driver.machine).into_owned()),
            ("kernel", label(&node.host.kernel).into_owned()),
            ("libvirt", version("libvirt")),
            ("qemu", version("qemu")),
        ];
        series.put(&labels, true)
    })?;
    // The whole machine: what is set aside is there, too.
    let (threads, pages) = set_aside(&driver.equipment);
    let memory = driver.memory.saturating_add(pages);
    writer.single(&names::CPUS, driver.cpus.saturating_add(threads))?;
    writer.single(&names::MEMORY, memory.get().saturating_mul(MIB))?;
    writer.single(
        &names::CAPACITY_MEMORY,
        node.memory().get().saturating_mul(MIB),
    )?;
    let foreign = node.foreign_memory.get();
    writer.single(&names::FOREIGN_MEMORY, foreign.saturating_mul(MIB))?;
    writer.single(&names::FOREIGN_VCPUS, node.foreign_vcpus.get())
}

fn instances(writer: &mut Writer<'_>, parts: &Parts) -> fmt::Result {
    let mut phases: BTreeMap<Phase, u64> = BTreeMap::new();
    for item in parts.hub.all() {
        if let Item::Instance(status) = item.as_ref() {
            *phases.entry(status.phase).or_default() += 1;
        }
    }
    writer.family(&names::INSTANCES, |series| {
        phases.iter().try_for_each(|(phase, count)| {
            let word = format!("{phase:?}").to_lowercase();
            series.put(&[("phase", word)], *count)
        })
    })
}
