//! The built-in rules.

use std::time::Duration;

use super::{Rule, Test};
#[allow(clippy::wildcard_imports, reason = "nearly all of them")]
use crate::quantity::*;
use crate::{Condition, Kind};

const NOW: Duration = Duration::ZERO;
const HALF_MINUTE: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

macro_rules! table {
    ($(
        $code:ident [$($kind:ident)*] $condition:ident:
        $test:expr, raise $raise:expr, clear $clear:expr
        $(, rounds $rounds:literal)?
        $(, given $($given:ident >= $least:literal)&&+)?
        $(, without $without:ident)?
        $(, unless $unless:ident)?;
        $summary:literal;
        $remedy:literal;
    )*) => {
        /// All of them.
        pub(super) fn table() -> Vec<Rule> {
            use Test::*;
            vec![$(Rule {
                code: stringify!($code),
                kinds: &[$(Kind::$kind),*],
                condition: Condition::$condition,
                test: $test,
                given: vec![$($(($given, $least)),+)?],
                without: None$(.or(Some($without)))?,
                raise_after: $raise,
                rounds: 1$(.max($rounds))?,
                clear_after: $clear,
                unless: None$(.or(Some(stringify!($unless))))?,
                summary: $summary,
                remedy: $remedy,
            }),*]
        }
    };
}

table! {
    // Memory and processors.
    MEMORY_UNCORRECTABLE [Memory] Failing: AtLeast(UNCORRECTABLE_ERRORS, 1.0), raise NOW, clear NOW;
        "memory errors that were not corrected, since the boot: {value}";
        "Move instances off the node and replace the module; its place is the component's name.";
    MEMORY_CE_STORM [Memory] Degraded: Grew(CORRECTABLE_ERRORS, 100.0, HOUR), raise NOW, clear HOUR;
        "corrected memory errors within {over}: {value} (from {limit} on)";
        "Plan to replace the module; errors that aren't corrected often follow.";
    CPU_MACHINE_CHECK [Cpu] Degraded: Grew(MACHINE_CHECKS, 1.0, DAY), raise NOW, clear HOUR;
        "machine checks within {over}: {value}";
        "Read them in the kernel's log or with ras-mc-ctl; update microcode and firmware.";
    CPU_DEFERRED_ERROR [Cpu] Degraded: Grew(DEFERRED_ERRORS, 1.0, DAY), raise NOW, clear HOUR;
        "errors that wait to be used, found within {over}: {value}";
        "Read them in the kernel's log or with ras-mc-ctl; memory is the likely place.";
    CPU_THROTTLED [Cpu] Degraded: Grew(THROTTLES, 100.0, HOUR), raise NOW, clear MINUTE * 10;
        "slowed down by heat {value} times within {over}";
        "Check fans, air flow and the inlet's temperature.";
    PCI_UNCORRECTABLE [Pci Gpu] Degraded: AtLeast(UNCORRECTABLE_ERRORS, 1.0), raise NOW, clear NOW;
        "errors on its PCI link that were not corrected, since the boot: {value}";
        "Reseat or replace the card; update its firmware.";
    PCI_CE_STORM [Pci Gpu] Degraded: Grew(CORRECTABLE_ERRORS, 1000.0, HOUR), raise NOW, clear HOUR;
        "corrected errors on its PCI link within {over}: {value} (from {limit} on)";
        "Reseat the card; check the riser and the slot.";

    // Sensors: a device's own word first.
    TEMPERATURE_CRITICAL [] Failing:
        Above(TEMPERATURE, TEMPERATURE_CRITICAL, None), raise NOW, clear MINUTE * 10;
        "{value}, critical from {limit} on";
        "Cool it now: check fans, air flow and the room; the device may switch itself off.";
    TEMPERATURE_HIGH [Cpu Memory Nic Psu Fan Sensor Pci Gpu Bmc Chassis] Degraded:
        Above(TEMPERATURE, TEMPERATURE_WARNING, None), raise MINUTE * 5, clear MINUTE * 10,
        unless TEMPERATURE_CRITICAL;
        "{value}, too warm from {limit} on";
        "Check fans, air flow and the room's temperature.";
    DISK_HOT [Disk] Degraded:
        Above(TEMPERATURE, TEMPERATURE_WARNING, Some(70.0)), raise MINUTE, clear MINUTE * 10,
        unless TEMPERATURE_CRITICAL;
        "{value}, too warm from {limit} on";
        "Check fans and air flow at the disk.";
    SENSOR_CRITICAL [Cpu Memory Disk Nic Bond Sensor Pci Gpu Filesystem Pool Array Site] Failing:
        Is(SENSOR_CRITICAL), raise MINUTE, clear MINUTE * 10, unless TEMPERATURE_CRITICAL;
        "the device calls its value critical";
        "Look at the sensor's value and at the device's event log.";
    SENSOR_WARNING [] Degraded:
        Is(SENSOR_WARNING), raise MINUTE, clear MINUTE * 10, unless SENSOR_CRITICAL;
        "the device warns of its value";
        "Look at the sensor's value and at the device's event log.";
    VOLTAGE_LOW [] Degraded:
        Below(VOLTAGE, VOLTAGE_MINIMUM), raise MINUTE, clear MINUTE * 10, unless SENSOR_CRITICAL;
        "{value}, too low from {limit} on";
        "Check the power supplies; a battery's voltage may be the clock's.";
    VOLTAGE_HIGH [] Degraded:
        Above(VOLTAGE, VOLTAGE_MAXIMUM, None), raise MINUTE, clear MINUTE * 10,
        unless SENSOR_CRITICAL;
        "{value}, too high from {limit} on";
        "Check the power supplies.";
    CURRENT_HIGH [] Degraded:
        Above(CURRENT, CURRENT_MAXIMUM, None), raise MINUTE, clear MINUTE * 10,
        unless SENSOR_CRITICAL;
        "{value}, too high from {limit} on";
        "Check what the current flows to.";
    FAN_STOPPED [Fan] Degraded: Stopped(SPEED), raise MINUTE, clear MINUTE * 5;
        "stands still";
        "Replace the fan; until then watch the temperatures.";
    FAN_SLOW [Fan] Degraded:
        Below(SPEED, SPEED_MINIMUM), raise MINUTE, clear MINUTE * 5, unless FAN_STOPPED;
        "{value}, too slow from {limit} on";
        "Clean or replace the fan; until then watch the temperatures.";
    PART_LOST [Cpu Memory Disk Nic Pci Gpu] Degraded: AtMost(PRESENT, 0.0), raise NOW, clear NOW;
        "it was here, and is gone";
        "Find out why; if that is as it should be, accept the server's parts anew.";
    PART_REMOVED [Psu Fan] Degraded: Stopped(PRESENT), raise MINUTE, clear MINUTE;
        "it was here, and is gone";
        "Put it back in its place.";
    SENSOR_FAULTY [Sensor] Degraded: Is(FAILED), raise MINUTE, clear MINUTE * 5;
        "the sensor itself is at fault: its value says nothing";
        "Replace the sensor, or what it sits on.";
    PART_FAILED [Cpu Memory Disk Nic Bond Pci Gpu] Failing:
        Is(FAILED), raise NOW, clear MINUTE * 5;
        "it says of itself that it has failed";
        "Replace it.";
    // Servers have more power supplies and fans than they need: without one, the next must not
    // fail. Whether that is so, temperatures and the redundancy tell.
    FAN_FAILED [Fan] Degraded: Is(FAILED), raise NOW, clear MINUTE * 5;
        "it says of itself that it has failed";
        "Replace the fan; until then watch the temperatures.";
    FAN_CRITICAL [Fan] Degraded:
        Is(SENSOR_CRITICAL), raise MINUTE, clear MINUTE * 5, unless FAN_SLOW;
        "the device calls its speed critical";
        "Replace the fan; until then watch the temperatures.";
    PSU_FAILED [Psu] Degraded: Is(FAILED), raise NOW, clear MINUTE * 5;
        "it says of itself that it has failed";
        "Replace the power supply.";
    PSU_CRITICAL [Psu] Degraded:
        Is(SENSOR_CRITICAL), raise MINUTE, clear MINUTE * 5, unless POWER_LOST;
        "the device calls its state critical";
        "Look at the device's event log; replace the power supply.";
    CHASSIS_FAULT [Chassis Bmc] Degraded: Is(FAILED), raise NOW, clear MINUTE * 5;
        "the management controller says that it is at fault";
        "Look at what else is said of the server, and at the controller's event log.";
    CHASSIS_CRITICAL [Chassis Bmc] Degraded: Is(SENSOR_CRITICAL), raise MINUTE, clear MINUTE * 5;
        "the management controller calls its state critical";
        "Look at what else is said of the server, and at the controller's event log.";
    POWER_LOST [Psu] Degraded: Is(INPUT_LOST), raise NOW, clear MINUTE * 5;
        "the power supply has no input";
        "Check its cable, the circuit and the power distribution unit.";
    REDUNDANCY_LOST [] Degraded: Is(REDUNDANCY_LOST), raise MINUTE, clear MINUTE * 5;
        "its redundancy is lost: the next failure takes the server down";
        "Find the failed power supply or fan and replace it.";
    CHASSIS_LOG_CRITICAL [] Degraded: Grew(LOG_CRITICAL_ENTRIES, 1.0, DAY), raise NOW, clear NOW;
        "critical entries in the management controller's event log within {over}: {value}";
        "Read the event log, for example with ipmitool sel elist.";

    // Disks.
    // An NVMe disk says why: each of the bits below makes it failing in smartctl's eyes.
    DISK_SMART_FAILING [Disk] Failing:
        Is(SMART_FAILING), raise NOW, clear HOUR, without CRITICAL_WARNING;
        "the disk's own judgement is that it fails";
        "Replace the disk.";
    DISK_SELF_TEST_FAILED [Disk] Degraded: Is(SELF_TEST_FAILED), raise NOW, clear NOW;
        "the disk's last test of itself failed";
        "Replace the disk, or repeat the test with smartctl --test=long.";
    NVME_READ_ONLY [Disk] Failing: Bit(CRITICAL_WARNING, 3), raise NOW, clear MINUTE;
        "the disk has made itself read-only (critical warning {value})";
        "Save what is on it and replace the disk.";
    NVME_UNRELIABLE [Disk] Failing: Bit(CRITICAL_WARNING, 2), raise NOW, clear MINUTE;
        "the disk calls itself unreliable (critical warning {value})";
        "Replace the disk.";
    NVME_SPARE_LOW [Disk] Degraded: Bit(CRITICAL_WARNING, 0), raise NOW, clear MINUTE;
        "the disk warns that its spare blocks run out (critical warning {value})";
        "Plan to replace the disk.";
    NVME_TEMPERATURE [Disk] Degraded:
        Bit(CRITICAL_WARNING, 1), raise MINUTE, clear MINUTE * 10, unless TEMPERATURE_CRITICAL;
        "the disk warns of its temperature (critical warning {value})";
        "Check fans and air flow at the disk.";
    NVME_BACKUP_FAILED [Disk] Failing: Bit(CRITICAL_WARNING, 4), raise NOW, clear MINUTE;
        "the disk can't keep what it buffers when power fails (critical warning {value})";
        "Replace the disk.";
    NVME_MEMORY_READ_ONLY [Disk] Degraded: Bit(CRITICAL_WARNING, 5), raise NOW, clear MINUTE;
        "the disk's persistent memory has become read-only (critical warning {value})";
        "Replace the disk.";
    DISK_SPARE_LOW [Disk] Degraded:
        Below(AVAILABLE_SPARE, AVAILABLE_SPARE_THRESHOLD), raise NOW, clear HOUR,
        unless NVME_SPARE_LOW;
        "spare blocks left: {value}, too few from {limit} on";
        "Plan to replace the disk.";
    DISK_WORN [Disk] Degraded: AtLeast(WEAR, 0.9), raise NOW, clear HOUR;
        "{value} of its life is used (from {limit} on)";
        "Plan to replace the disk.";
    DISK_WEARS_OUT [Disk] Degraded:
        Wears(WEAR, POWER_ON, DAY * 90), raise NOW, clear HOUR, unless DISK_WORN;
        "its life ends in {value} if it goes on like this (warned from {limit} on)";
        "Order a disk, and find out what writes so much.";
    DISK_PENDING_GROWING [Disk] Failing: Grew(PENDING_SECTORS, 8.0, DAY), raise NOW, clear DAY;
        "sectors that can't be read grew by {value} within {over}";
        "Move what is on the disk and replace it.";
    DISK_PENDING [Disk] Degraded:
        AtLeast(PENDING_SECTORS, 1.0), raise NOW, clear HOUR, unless DISK_PENDING_GROWING;
        "sectors that can't be read and wait to be replaced: {value}";
        "Read the whole disk with smartctl --test=long; replace it if there are more.";
    DISK_UNCORRECTABLE [Disk] Degraded: AtLeast(UNCORRECTABLE_SECTORS, 1.0), raise NOW, clear HOUR;
        "sectors that could not be corrected: {value}";
        "Plan to replace the disk.";
    DISK_REALLOCATING [Disk] Degraded: Grew(REALLOCATED_SECTORS, 1.0, DAY), raise NOW, clear DAY;
        "sectors replaced within {over}: {value}";
        "Plan to replace the disk.";
    DISK_MEDIA_ERRORS [Disk] Degraded: Grew(MEDIA_ERRORS, 1.0, DAY), raise NOW, clear DAY;
        "errors of the medium within {over}: {value}";
        "Plan to replace the disk.";
    DISK_INTERFACE_ERRORS [Disk] Degraded: Grew(INTERFACE_ERRORS, 5.0, DAY), raise NOW, clear HOUR;
        "errors between disk and controller within {over}: {value}";
        "Reseat or replace the cable, the backplane's slot or the tray.";
    DISK_IO_ERRORS [Disk] Degraded: Grew(IO_ERRORS, 1.0, HOUR), raise NOW, clear HOUR;
        "failed requests within {over}: {value}";
        "Read the kernel's log for the disk's name; check its cable, then the disk.";
    DISK_STUCK [Disk] Degraded:
        Still(IO_REQUESTS, MINUTE), raise MINUTE, clear MINUTE, given IO_IN_FLIGHT >= 1.0;
        "no request was answered within {over} although some wait";
        "Read the kernel's log for the disk's name; check its path, controller and cable.";
    // Shown, and not held against the node: it may be nothing but load.
    DISK_SLOW [Disk] Degraded:
        Per(super::Per {
            of: IO_TIME, of_least: 0.0, per: IO_REQUESTS, per_least: 100.0, at_least: 1.0,
            over: MINUTE * 5,
        }), raise MINUTE * 5, clear MINUTE * 10, unless DISK_STUCK;
        "a request takes {value} on average over {over} (from {limit} on)";
        "Look for errors of the disk and for what loads it.";

    // Networks.
    NIC_CARRIER_LOST [Nic] Degraded:
        AtMost(CARRIER, 0.0), raise MINUTE, clear MINUTE * 5,
        given ADMIN_UP >= 1.0 && CARRIER_CHANGES >= 2.0;
        "had a carrier since the boot, is to be up, and has none";
        "Check cable, transceiver and the switch's port.";
    NIC_FLAPPING [Nic] Degraded: Grew(CARRIER_CHANGES, 6.0, HOUR), raise NOW, clear HOUR;
        "the carrier came or went {value} times within {over}";
        "Check cable, transceiver and the switch's port.";
    NIC_CRC_ERRORS [Nic] Degraded:
        Per(super::Per {
            of: CRC_ERRORS, of_least: 10.0, per: RECEIVED_PACKETS, per_least: 1.0,
            at_least: 0.000_001, over: HOUR,
        }), raise NOW, clear HOUR;
        "{value} of the frames within {over} were broken (from {limit} on)";
        "Clean or replace cable and transceiver, on both ends.";
    NIC_FEC_UNCORRECTED [Nic] Degraded: Grew(FEC_UNCORRECTED, 10.0, HOUR), raise NOW, clear HOUR;
        "blocks that forward error correction could not mend within {over}: {value}";
        "Clean or replace fibre and transceiver; check both ends' FEC mode.";
    NIC_RECEIVE_ERRORS [Nic] Degraded:
        Per(super::Per {
            of: RECEIVE_ERRORS, of_least: 100.0, per: RECEIVED_PACKETS, per_least: 1.0,
            at_least: 0.000_1, over: HOUR,
        }), raise NOW, clear HOUR, unless NIC_CRC_ERRORS;
        "errors on receiving within {over}: {value} of the packets (from {limit} on)";
        "Look at the port's counters with ethtool -S; check ring sizes and the cable.";
    NIC_TRANSMIT_ERRORS [Nic] Degraded: Grew(TRANSMIT_ERRORS, 100.0, HOUR), raise NOW, clear HOUR;
        "errors on sending within {over}: {value}";
        "Look at the port's counters with ethtool -S; check duplex, driver and firmware.";
    BOND_DOWN [Bond] Failing:
        AtMost(MEMBERS_ACTIVE, 0.0), raise MINUTE, clear MINUTE * 5, given MEMBERS >= 1.0;
        "no member works";
        "Check the members' cables and the switch's ports.";
    BOND_DEGRADED [Bond] Degraded:
        Share(MEMBERS_ACTIVE, MEMBERS, 0.999), raise MINUTE, clear MINUTE * 5, unless BOND_DOWN;
        "only {value} of its members work";
        "Check the missing member's cable and the switch's port.";
    BOND_NOT_AGGREGATED [Bond] Degraded:
        Share(MEMBERS_AGGREGATED, MEMBERS_ACTIVE, 0.999), raise MINUTE, clear MINUTE * 5,
        unless BOND_DEGRADED;
        "only {value} of the members with a link carry traffic";
        "Check that all ports of the switch are in one link aggregation group.";

    // Storage.
    ARRAY_FAILED [] Failing: Is(ARRAY_FAILED), raise NOW, clear MINUTE * 5;
        "it works no more";
        "Ask the array's own tools (mdadm, zpool, lvs, ceph) what is missing.";
    ARRAY_DEGRADED [] Degraded:
        Is(ARRAY_DEGRADED), raise NOW, clear MINUTE * 5, unless ARRAY_FAILED;
        "it works without all of its members, or warns";
        "Ask the array's own tools (mdadm, zpool, lvs, ceph) and replace what failed.";
    ARRAY_MEMBER_FAILED [Array] Degraded:
        AtLeast(MEMBERS_FAILED, 1.0), raise NOW, clear MINUTE * 5, unless ARRAY_DEGRADED;
        "members that are marked as failed: {value}";
        "Replace the failed disk and add it to the array.";
    ARRAY_MEMBER_ERRORS [Array] Degraded: Grew(MEDIA_ERRORS, 1.0, DAY), raise NOW, clear DAY;
        "errors of this member within {over}: {value}";
        "Look at the disk and its cable; clear the array's counters when it is mended.";
    FILESYSTEM_FULL [Filesystem Pool Array] Failing:
        Share(AVAILABLE, SIZE, 0.05), raise MINUTE, clear MINUTE * 5;
        "only {value} is left (from {limit} on)";
        "Make room now: remove images and old logs, or grow it.";
    FILESYSTEM_FILLING [Filesystem Pool Array] Degraded:
        Share(AVAILABLE, SIZE, 0.15), raise MINUTE, clear MINUTE * 5, unless FILESYSTEM_FULL;
        "only {value} is left (from {limit} on)";
        "Make room or grow it.";
    FILESYSTEM_FEW_FILES [Filesystem Pool] Degraded:
        Share(FILES_AVAILABLE, FILES, 0.05), raise MINUTE, clear MINUTE * 5;
        "only {value} of the files that can exist are left (from {limit} on)";
        "Remove small files, or make the file system anew with more inodes.";
    FILESYSTEM_READ_ONLY [] Failing: Is(READ_ONLY), raise NOW, clear MINUTE;
        "nothing can be written";
        "Read the kernel's log: a file system turns read-only when its disk fails.";

    // Time and kernel.
    CLOCK_UNSYNCHRONIZED [Clock] Degraded:
        Isnt(CLOCK_SYNCHRONIZED), raise MINUTE * 15, clear MINUTE * 5;
        "nothing keeps the clock right";
        "Set up chrony or systemd-timesyncd and check that its servers are reached.";
    CLOCK_OFF [Clock] Degraded: AtLeast(CLOCK_OFFSET, 0.1), raise MINUTE * 5, clear MINUTE * 5;
        "the clock is off by {value} (from {limit} on)";
        "Check chronyc tracking and sources.";
    HOST_SUSPENDED [] Degraded: Grew(SUSPENDED, 1.0, HOUR), raise NOW, clear NOW;
        "the host was suspended for {value} within {over}";
        "Mask sleep.target, and check firmware and management controller for sleep settings.";
    // No pressure is held against the node: guests make it.
    PRESSURE_STALLED [Pressure] Degraded: AtLeast(STALLED, 0.3), raise MINUTE * 10, clear MINUTE * 10;
        "all tasks stand still for {value} of the time (from {limit} on)";
        "Move instances off the node, or find the one that uses so much.";
    // That some task waits is the rule where processors are over-committed; that all do is not.
    PRESSURE_WAITING [Pressure] Degraded:
        AtLeast(WAITING, 0.7), raise MINUTE * 15, clear MINUTE * 15, given STALLED >= 0.05,
        unless PRESSURE_STALLED;
        "some task waits for {value} of the time (from {limit} on), and at times all do";
        "Move instances off the node, or find the one that uses so much.";
    OOM_KILLED [] Degraded: Grew(OOM_KILLS, 1.0, HOUR), raise NOW, clear HOUR;
        "processes killed because memory was short within {over}: {value}";
        "Raise reserved_memory_mib, or find in the kernel's log what used the memory.";
    // Bits by the kernel's numbers. Source: Documentation/admin-guide/tainted-kernels.rst. What
    // modules from elsewhere set says nothing of the server's health.
    KERNEL_MACHINE_CHECK [Kernel] Degraded: Bit(TAINT, 4), raise NOW, clear NOW;
        "the kernel has seen a machine check since the boot (taint {value})";
        "Read the kernel's log; boot the node after the part was replaced.";
    KERNEL_BAD_PAGE [Kernel] Degraded: Bit(TAINT, 5), raise NOW, clear NOW;
        "the kernel has found a page that is not as it left it (taint {value})";
        "Test the memory; boot the node.";
    KERNEL_DIED [Kernel] Failing: Bit(TAINT, 7), raise NOW, clear NOW;
        "a part of the kernel has died since the boot (taint {value})";
        "Read the kernel's log, move instances off the node and boot it.";
    KERNEL_SOFT_LOCKUP [Kernel] Degraded: Bit(TAINT, 14), raise NOW, clear NOW;
        "a processor was stuck in the kernel since the boot (taint {value})";
        "Read the kernel's log; boot the node.";
    KERNEL_LOCKUPS [] Degraded: Grew(LOCKUPS, 1.0, HOUR), raise NOW, clear HOUR;
        "lockups and hung tasks within {over}: {value}";
        "Read the kernel's log: hung tasks mostly wait for a disk or a network share.";

    // Kapok's own ground. What doesn't answer isn't dead: guests run on.
    // Not at once: libvirtd may be restarted.
    HYPERVISOR_SILENT [Hypervisor] Degraded: Isnt(RESPONDS), raise HALF_MINUTE, clear MINUTE;
        "libvirt doesn't answer";
        "Look at libvirtd and its log; restarting it leaves guests running.";
    HYPERVISOR_STUCK [Hypervisor] Degraded:
        AtLeast(STUCK, 30.0), raise NOW, clear MINUTE, unless HYPERVISOR_SILENT;
        "a call has been waiting for {value} (from {limit} on)";
        "Look at libvirtd and its log; restarting it leaves guests running.";
    INSTANCE_STUCK [Instance] Degraded: Isnt(RESPONDS), raise NOW, clear MINUTE;
        "its QEMU doesn't answer";
        "Look for a disk or network share that hangs; then stop the instance by force.";
    POOL_STUCK [Pool] Degraded: Isnt(RESPONDS), raise NOW, clear MINUTE;
        "the storage pool doesn't answer";
        "Check the storage behind it; tasks in state D name what they wait for.";
    STATE_STUCK [Filesystem] Degraded: Isnt(RESPONDS), raise HALF_MINUTE, clear MINUTE;
        "the agent's own store doesn't answer";
        "Check the disk behind it; what the node is to do can't be taken in meanwhile.";
    CERTIFICATE_EXPIRED [Certificate] Failing: AtMost(LIFE_LEFT, 0.0), raise NOW, clear NOW;
        "it has ended";
        "Enrol the node anew.";
    CERTIFICATE_ENDS [Certificate] Failing:
        AtMost(LIFE_LEFT_SHARE, 0.1), raise NOW, clear NOW, unless CERTIFICATE_EXPIRED;
        "{value} of its life is left (from {limit} on): renewing fails";
        "Check that the controller is reached, and its log for why it isn't renewed.";
    CERTIFICATE_OLD [Certificate] Degraded:
        AtMost(LIFE_LEFT_SHARE, 0.25), raise NOW, clear NOW, unless CERTIFICATE_ENDS;
        "{value} of its life is left (from {limit} on): it should have been renewed";
        "Check that the controller is reached, and its log for why it isn't renewed.";

    // By a site's own word.
    SITE_FAILING [] Failing: AtLeast(SITE_CONDITION, 2.0), raise NOW, clear MINUTE;
        "the site's own probe says that it fails";
        "Ask who wrote the probe.";
    SITE_DEGRADED [] Degraded:
        AtLeast(SITE_CONDITION, 1.0), raise NOW, clear MINUTE, unless SITE_FAILING;
        "the site's own probe says that it is degraded";
        "Ask who wrote the probe.";

    // What is not known. The part is unknown at once; it is said, and counts, when it stays so.
    SOURCE_UNREADABLE [] Unknown:
        SourceUnreadable, raise MINUTE * 3, clear MINUTE * 5, rounds 3;
        "{value}";
        "Run the tool by hand, or look at what it reads; switch the source off if it can't work.";
    SOURCE_SAYS_TOO_MUCH [] Unknown: SourceSaysTooMuch, raise NOW, clear MINUTE * 5;
        "said more than is kept; left out: {value}";
        "Find out why it says so much; what was left out is not judged.";
    READING_UNREADABLE [] Unknown: Unreadable, raise MINUTE * 3, clear MINUTE, rounds 3;
        "could not be read: {value}";
        "Look at the reason; the part itself may be at fault.";
    SENSOR_VANISHED [] Unknown: Vanished, raise MINUTE * 3, clear MINUTE, rounds 3;
        "was read before, and is no longer spoken of: {value}";
        "Check whether the part is still there; what is gone for a day is forgotten.";
}
