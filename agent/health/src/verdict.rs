//! What is wrong with which part, and why.

use std::{borrow::Cow, fmt, sync::Arc};

use kapok_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Component, Kind, Quantity, Read, Reading, Unit};

/// Most readings that a verdict shows.
pub const MAX_EVIDENCE: usize = 16;
/// Kinds of parts whose verdicts don't count: what guests do, or is done to them.
const UNCOUNTED_KINDS: &[Kind] = &[Kind::Instance, Kind::Pressure];
/// Rules whose verdicts don't count: load and a bad disk look alike, and a disk's errors others say.
pub(crate) const UNCOUNTED_CODES: &[&str] = &["DISK_SLOW"];

/// How something does; the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It was read, and nothing is wrong.
    Healthy,
    /// Something is wrong, and it works: nothing new should rely on it.
    Degraded,
    /// It could not be read, or too much of it could not.
    Unknown,
    /// It fails, or is about to: what relies on it should move.
    Failing,
}

/// What is wrong, in one stable word: "`MEMORY_CE_STORM`".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub Cow<'static, str>);

/// A reading, and who took it when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// What was read.
    #[serde(flatten)]
    pub reading: Reading,
    /// The name of the source.
    pub source: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What.
    pub code: Code,
    /// How bad; never healthy.
    pub condition: Condition,
    /// With which part.
    pub component: Component,
    /// In a sentence, with the numbers.
    pub summary: String,
    /// The readings that say so, at most [`MAX_EVIDENCE`].
    pub evidence: Vec<Held>,
    /// Since when it is so. On the wall clock, and so for people only.
    pub first_seen: Timestamp,
    /// When it was so last.
    pub last_seen: Timestamp,
    /// What to do.
    pub remedy: Cow<'static, str>,
}

impl Verdict {
    /// Whether it is held against the node. What a tenant can bring about by load is shown and does
    /// not count, or tenants could take servers out of use.
    pub fn counts(&self) -> bool {
        let code = self.code.as_str();
        !UNCOUNTED_KINDS.contains(&self.component.kind()) && !UNCOUNTED_CODES.contains(&code)
    }
}

impl Condition {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
            Self::Failing => "failing",
        }
    }
}

impl Code {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reading,
            source,
            at,
        } = self;
        let Quantity { name, unit, .. } = &reading.quantity;
        write!(f, "{} {name} ", reading.component)?;
        match &reading.read {
            Read::Value(value) => write!(f, "= {}", shown(*value, *unit))?,
            Read::Unreadable(reason) => write!(f, "unreadable: {reason}")?,
            Read::Absent => f.write_str("absent")?,
        }
        write!(f, " ({source}, {at})")
    }
}

/// A value for people: "84 °C", "12 %", "350 ms".
pub fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => digits(value),
        Unit::Celsius => format!("{} °C", digits(value)),
        Unit::Rpm => format!("{} rpm", digits(value)),
        Unit::Volts => format!("{} V", digits(value)),
        Unit::Amperes => format!("{} A", digits(value)),
        Unit::Watts => format!("{} W", digits(value)),
        Unit::Joules => format!("{} J", digits(value)),
        Unit::Hertz => format!("{} Hz", digits(value)),
        Unit::Ratio => format!("{} %", digits(value * 100.0)),
        Unit::Bytes => scaled(
            value,
            &[
                ("B", 1.0),
                ("KiB", 1024.0),
                ("MiB", 1024.0),
                ("GiB", 1024.0),
                ("TiB", 1024.0),
            ],
        ),
        Unit::Seconds if value != 0.0 && value.abs() < 1.0 => {
            scaled(value * 1e6, &[("µs", 1.0), ("ms", 1000.0)])
        }
        Unit::Seconds => scaled(
            value,
            &[("s", 1.0), ("min", 60.0), ("h", 60.0), ("days", 24.0)],
        ),
    }
}

/// Whole numbers as they are, others with three digits that matter.
fn digits(value: f64) -> String {
    let size = value.abs();
    if value.fract() == 0.0 && size < 1e15 {
        return format!("{value:.0}");
    }
    match size {
        _ if !(1e-6..1e15).contains(&size) => format!("{value:.2e}"),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ => {
            let places = match size {
                _ if size >= 10.0 => 1,
                _ if size >= 1.0 => 2,
                _ if size >= 0.1 => 3,
                _ if size >= 0.01 => 4,
                _ => 8,
            };
            let text = format!("{value:.places$}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// In the largest unit of which there are at least two; each step says how many of the former.
fn scaled(mut value: f64, steps: &[(&str, f64)]) -> String {
    let mut unit = "";
    for (name, former) in steps {
        if !unit.is_empty() && value.abs() < 2.0 * former {
            break;
        }
        value /= former;
        unit = name;
    }
    format!("{} {unit}", digits(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_people_write_them() {
        for (value, unit, expected) in [
            (0.0, Unit::Count, "0"),
            (12_345.0, Unit::Count, "12345"),
            (84.25, Unit::Celsius, "84.2 °C"),
            (84.0, Unit::Celsius, "84 °C"),
            (0.85, Unit::Ratio, "85 %"),
            (0.000_002, Unit::Ratio, "0.0002 %"),
            (0.35, Unit::Seconds, "350 ms"),
            (0.000_02, Unit::Seconds, "20 µs"),
            (0.0, Unit::Seconds, "0 s"),
            (90.0, Unit::Seconds, "90 s"),
            (7_200.0, Unit::Seconds, "2 h"),
            (864_000.0, Unit::Seconds, "10 days"),
            (-3.0, Unit::Seconds, "-3 s"),
            (1_610_612_736.0, Unit::Bytes, "1536 MiB"),
            (12.06, Unit::Volts, "12.1 V"),
        ] {
            assert_eq!(shown(value, unit), expected, "{value} {unit:?}");
        }
    }

    #[test]
    fn the_worst_condition_is_the_greatest() {
        assert!(Condition::Failing > Condition::Unknown);
        assert!(Condition::Unknown > Condition::Degraded);
        assert!(Condition::Degraded > Condition::Healthy);
    }
}
