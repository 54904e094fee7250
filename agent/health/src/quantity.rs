//! What can be read of a component. All names are here, in the field's words.
//!
//! A limit that a device states of itself is a quantity, too: its own word goes before ours.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What is read: a name within its component, its unit, and how it behaves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quantity {
    /// Its name, `[a-z0-9_]`.
    pub name: Cow<'static, str>,
    /// Its unit.
    pub unit: Unit,
    /// How it behaves.
    pub shape: Shape,
}

/// A unit, as Prometheus names base units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A plain number.
    Count,
    /// Degrees Celsius.
    Celsius,
    /// Revolutions per minute.
    Rpm,
    /// Volts.
    Volts,
    /// Amperes.
    Amperes,
    /// Watts.
    Watts,
    /// Joules.
    Joules,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A share of one.
    Ratio,
    /// Hertz.
    Hertz,
}

/// How a quantity behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// It goes up and down.
    Gauge,
    /// It only grows, until the device or the host starts again.
    Counter,
    /// 1 if it is so, else 0.
    Flag,
}

impl Quantity {
    /// A quantity of a fixed name.
    pub const fn new(name: &'static str, unit: Unit, shape: Shape) -> Self {
        let name = Cow::Borrowed(name);
        Self { name, unit, shape }
    }
}

impl Unit {
    /// As a suffix of a name; empty for plain numbers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Celsius => "celsius",
            Self::Rpm => "rpm",
            Self::Volts => "volts",
            Self::Amperes => "amperes",
            Self::Watts => "watts",
            Self::Joules => "joules",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Ratio => "ratio",
            Self::Hertz => "hertz",
        }
    }
}

macro_rules! quantities {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $unit:ident, $shape:ident;)*) => {
        $($(#[$doc])*
        pub const $name: Quantity = Quantity::new($word, Unit::$unit, Shape::$shape);)*

        /// All quantities that Kapok's own sources read.
        pub const ALL: &[Quantity] = &[$($name,)*];
    };
}

quantities! {
    // Memory and processors.
    /// Memory errors that were corrected.
    CORRECTABLE_ERRORS = "correctable_errors", Count, Counter;
    /// Memory errors that were not.
    UNCORRECTABLE_ERRORS = "uncorrectable_errors", Count, Counter;
    /// Machine checks that the kernel has seen.
    MACHINE_CHECKS = "machine_checks", Count, Counter;
    /// Errors that the processor contained and left to the kernel to deal with later.
    DEFERRED_ERRORS = "deferred_errors", Count, Counter;
    /// Times that a processor was slowed down by heat.
    THROTTLES = "throttles", Count, Counter;
    /// Energy used.
    ENERGY = "energy", Joules, Counter;

    // Sensors; limits are the device's own.
    /// A temperature.
    TEMPERATURE = "temperature", Celsius, Gauge;
    /// Where the device itself warns.
    TEMPERATURE_WARNING = "temperature_warning", Celsius, Gauge;
    /// Where the device itself calls it critical.
    TEMPERATURE_CRITICAL = "temperature_critical", Celsius, Gauge;
    /// A fan's speed.
    SPEED = "speed", Rpm, Gauge;
    /// The lowest sound speed, by the device's word.
    SPEED_MINIMUM = "speed_minimum", Rpm, Gauge;
    /// A voltage.
    VOLTAGE = "voltage", Volts, Gauge;
    /// The lowest sound voltage, by the device's word.
    VOLTAGE_MINIMUM = "voltage_minimum", Volts, Gauge;
    /// The highest sound voltage, by the device's word.
    VOLTAGE_MAXIMUM = "voltage_maximum", Volts, Gauge;
    /// A current.
    CURRENT = "current", Amperes, Gauge;
    /// The highest sound current, by the device's word.
    CURRENT_MAXIMUM = "current_maximum", Amperes, Gauge;
    /// Power drawn.
    POWER = "power", Watts, Gauge;
    /// Whether the device itself calls its value a warning.
    SENSOR_WARNING = "sensor_warning", Count, Flag;
    /// Whether the device itself calls its value critical.
    SENSOR_CRITICAL = "sensor_critical", Count, Flag;
    /// Whether the part is there.
    PRESENT = "present", Count, Flag;
    /// Whether the part itself says that it has failed.
    FAILED = "failed", Count, Flag;
    /// Whether a power supply has its input.
    INPUT_LOST = "input_lost", Count, Flag;
    /// Whether a redundancy is lost, by the device's word.
    REDUNDANCY_LOST = "redundancy_lost", Count, Flag;
    /// Entries of the management controller's event log.
    LOG_ENTRIES = "log_entries", Count, Counter;
    /// Critical entries of that log.
    LOG_CRITICAL_ENTRIES = "log_critical_entries", Count, Counter;

    // Disks.
    /// Whether the disk's own judgement is that it fails.
    SMART_FAILING = "smart_failing", Count, Flag;
    /// Whether the disk's last test of itself failed.
    SELF_TEST_FAILED = "self_test_failed", Count, Flag;
    /// Whether the disk sleeps, and was left asleep instead of being asked.
    ASLEEP = "asleep", Count, Flag;
    /// NVMe's critical warning, bits as the standard numbers them.
    CRITICAL_WARNING = "critical_warning", Count, Gauge;
    /// Spare blocks that are left.
    AVAILABLE_SPARE = "available_spare", Ratio, Gauge;
    /// Where the disk itself calls that too few.
    AVAILABLE_SPARE_THRESHOLD = "available_spare_threshold", Ratio, Gauge;
    /// How much of its life a disk has used; may exceed 1.
    WEAR = "wear", Ratio, Gauge;
    /// Errors of the medium.
    MEDIA_ERRORS = "media_errors", Count, Counter;
    /// Sectors that were replaced.
    REALLOCATED_SECTORS = "reallocated_sectors", Count, Gauge;
    /// Sectors that wait to be replaced.
    PENDING_SECTORS = "pending_sectors", Count, Gauge;
    /// Sectors that could not be corrected.
    UNCORRECTABLE_SECTORS = "uncorrectable_sectors", Count, Gauge;
    /// Errors on the way between disk and controller.
    INTERFACE_ERRORS = "interface_errors", Count, Counter;
    /// Time that the disk was on.
    POWER_ON = "power_on", Seconds, Counter;
    /// Bytes written in its life.
    WRITTEN = "written", Bytes, Counter;
    /// Requests that the kernel saw fail.
    IO_ERRORS = "io_errors", Count, Counter;
    /// Requests done.
    IO_REQUESTS = "io_requests", Count, Counter;
    /// Requests that the disk has not answered yet.
    IO_IN_FLIGHT = "io_in_flight", Count, Gauge;
    /// Time that requests took, summed.
    IO_TIME = "io_time", Seconds, Counter;

    // Networks.
    /// Whether the port is meant to be used: it is up by somebody's word.
    ADMIN_UP = "admin_up", Count, Flag;
    /// Whether the port has a carrier.
    CARRIER = "carrier", Count, Flag;
    /// How often the carrier came or went.
    CARRIER_CHANGES = "carrier_changes", Count, Counter;
    /// Speed of the link, in bytes per second.
    LINK_SPEED = "link_speed", Bytes, Gauge;
    /// Packets received.
    RECEIVED_PACKETS = "received_packets", Count, Counter;
    /// Broken frames received.
    CRC_ERRORS = "crc_errors", Count, Counter;
    /// Blocks that forward error correction could not mend.
    FEC_UNCORRECTED = "fec_uncorrected", Count, Counter;
    /// All errors on receiving.
    RECEIVE_ERRORS = "receive_errors", Count, Counter;
    /// All errors on sending.
    TRANSMIT_ERRORS = "transmit_errors", Count, Counter;
    /// Members that a bond or an array should have.
    MEMBERS = "members", Count, Gauge;
    /// Members that work.
    MEMBERS_ACTIVE = "members_active", Count, Gauge;
    /// Members of the aggregator that carries a bond's traffic (802.3ad).
    MEMBERS_AGGREGATED = "members_aggregated", Count, Gauge;
    /// Members that were thrown out as faulty.
    MEMBERS_FAILED = "members_failed", Count, Gauge;

    // Storage.
    /// Size.
    SIZE = "size", Bytes, Gauge;
    /// What is left for those that are not root.
    AVAILABLE = "available", Bytes, Gauge;
    /// Whether nothing can be written although it should.
    READ_ONLY = "read_only", Count, Flag;
    /// Files that can exist.
    FILES = "files", Count, Gauge;
    /// Files that can still be made.
    FILES_AVAILABLE = "files_available", Count, Gauge;
    /// Whether it works without all of its members.
    ARRAY_DEGRADED = "array_degraded", Count, Flag;
    /// Whether it works no more.
    ARRAY_FAILED = "array_failed", Count, Flag;
    /// How much of a rebuild or check is done, while one runs.
    RESYNC = "resync", Ratio, Gauge;

    // Time and kernel.
    /// How far the clock is off, either way.
    CLOCK_OFFSET = "clock_offset", Seconds, Gauge;
    /// Whether something keeps the clock right.
    CLOCK_SYNCHRONIZED = "clock_synchronized", Count, Flag;
    /// Time that the host was suspended since its boot.
    SUSPENDED = "suspended", Seconds, Counter;
    /// Share of time in which some task waited, over 60 s.
    WAITING = "waiting", Ratio, Gauge;
    /// Share of time in which all tasks waited, over 60 s.
    STALLED = "stalled", Ratio, Gauge;
    /// Time in which some task waited.
    WAITING_TIME = "waiting_time", Seconds, Counter;
    /// Time in which all tasks waited.
    STALLED_TIME = "stalled_time", Seconds, Counter;
    /// Processes that were killed because memory was short.
    OOM_KILLS = "oom_kills", Count, Counter;
    /// The kernel's taint, bits as it numbers them.
    TAINT = "taint", Count, Gauge;
    /// Lockups and hung tasks that the kernel has seen.
    LOCKUPS = "lockups", Count, Counter;
    /// Times that the kernel went on after an error of its own.
    OOPSES = "oopses", Count, Counter;
    /// Warnings of the kernel about itself.
    WARNINGS = "warnings", Count, Counter;

    // A site's own probes.
    /// What a probe judged: 0 healthy, 1 degraded, 2 failing.
    SITE_CONDITION = "site_condition", Count, Gauge;

    // Kapok's own ground.
    /// Whether it answers.
    RESPONDS = "responds", Count, Flag;
    /// How long it has not answered.
    STUCK = "stuck", Seconds, Gauge;
    /// What is left of a life.
    LIFE_LEFT = "life_left", Seconds, Gauge;
    /// What is left of a life, as a share of it.
    LIFE_LEFT_SHARE = "life_left_share", Ratio, Gauge;

    // Sources.
    /// Readings of a source.
    READINGS = "readings", Count, Gauge;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unlike_each_other_and_fit_a_metric() {
        let names: BTreeSet<_> = ALL.iter().map(|it| it.name.clone()).collect();
        assert_eq!(names.len(), ALL.len());
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(names.iter().all(|name| name.chars().all(fits)));
    }
}
