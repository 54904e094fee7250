//! What a management controller's sensor says, whichever tool asked for it.

use crate::{Component, Failure, Kind, Quantity, Reading, quantity};

/// A sensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sensor {
    pub(super) name: String,
    /// What it belongs to.
    pub(super) part: Part,
    pub(super) said: Said,
}

/// What sort of part a sensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Psu,
    Fan,
    Other,
}

/// What it says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// A value, and the controller's word on it.
    Value {
        value: f64,
        unit: Unit,
        state: State,
        limits: Limits,
    },
    /// Which events are asserted, in the tool's words.
    Events(String),
}

/// A unit that is understood; others are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Celsius,
    Rpm,
    Volts,
    Amperes,
    Watts,
}

/// The controller's word on a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Nominal,
    Warning,
    Critical,
}

/// The controller's thresholds, where it states them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Limits {
    pub(super) lower_critical: Option<f64>,
    pub(super) lower_warning: Option<f64>,
    pub(super) upper_warning: Option<f64>,
    pub(super) upper_critical: Option<f64>,
}

impl Unit {
    /// A unit by the names that tools give it.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "degrees C" | "C" => Self::Celsius,
            "RPM" => Self::Rpm,
            "Volts" | "V" => Self::Volts,
            "Amps" | "A" => Self::Amperes,
            "Watts" | "W" => Self::Watts,
            _ => return None,
        })
    }

    const fn quantity(self) -> Quantity {
        match self {
            Self::Celsius => quantity::TEMPERATURE,
            Self::Rpm => quantity::SPEED,
            Self::Volts => quantity::VOLTAGE,
            Self::Amperes => quantity::CURRENT,
            Self::Watts => quantity::POWER,
        }
    }
}

/// Asserted events that mean that something is broken, in both tools' words. Source: IPMI 2.0,
/// table 42-3.
const CRITICAL: &[&str] = &[
    "uncorrectable",
    "ierr",
    "thermal trip",
    "frb1/bist failure",
    "failure detected",
    "ac lost",
    "input lost",
    "drive fault",
    "in failed array",
    "in critical array",
    "redundancy lost",
    "bus fatal error",
    "fatal nmi",
    "upper critical",
    "lower critical",
    "non-recoverable",
    "transition to critical",
];

/// And those that announce it.
const WARNING: &[&str] = &[
    "predictive failure",
    "ecc logging limit",
    "memory logging limit",
    "transition to non-critical",
    "transition to degraded",
    "redundancy degraded",
    "throttled",
    "config error",
    "configuration error",
];

/// Whether the words of an event are those of something broken.
pub(super) fn is_critical(words: &str) -> bool {
    any(&words.to_lowercase(), CRITICAL)
}

fn any(words: &str, list: &[&str]) -> bool {
    list.iter().any(|it| words.contains(it))
}

/// What these sensors say.
pub(super) fn readings(sensors: &[Sensor]) -> Vec<Reading> {
    sensors.iter().flat_map(Sensor::readings).collect()
}

impl Sensor {
    fn readings(&self) -> Vec<Reading> {
        match &self.said {
            Said::Value {
                value,
                unit,
                state,
                limits,
            } => self.measured(*value, *unit, *state, limits),
            Said::Events(words) => self.stated(&words.to_lowercase()),
        }
    }

    fn measured(&self, value: f64, unit: Unit, state: State, limits: &Limits) -> Vec<Reading> {
        let kind = if unit == Unit::Rpm {
            Kind::Fan
        } else {
            Kind::Sensor
        };
        let of = Component::new(kind, &self.name);
        let mut readings = vec![
            Reading::new(&of, unit.quantity(), value),
            Reading::flag(&of, quantity::SENSOR_WARNING, state == State::Warning),
            Reading::flag(&of, quantity::SENSOR_CRITICAL, state == State::Critical),
        ];
        // ipmitool tells limits in an answer of their own, which may fail: absent means no more
        // than that the controller's word on the value stands alone.
        let mut limit = |quantity, limit: Option<f64>| {
            let limit = Ok::<_, Failure>(limit);
            readings.push(Reading::tried_or_absent(&of, quantity, limit));
        };
        match unit {
            Unit::Celsius => {
                limit(quantity::TEMPERATURE_WARNING, limits.upper_warning);
                limit(quantity::TEMPERATURE_CRITICAL, limits.upper_critical);
            }
            Unit::Rpm => {
                limit(
                    quantity::SPEED_MINIMUM,
                    limits.lower_critical.or(limits.lower_warning),
                );
            }
            Unit::Volts | Unit::Amperes | Unit::Watts => {}
        }
        readings
    }

    /// A power supply's status says whether it is there, has failed, or has lost its input; of all
    /// others, whether what they say is bad.
    fn stated(&self, words: &str) -> Vec<Reading> {
        let kind = match self.part {
            Part::Psu => Kind::Psu,
            Part::Fan => Kind::Fan,
            Part::Other => Kind::Sensor,
        };
        let redundancy = self.name.to_lowercase().contains("redund") || words.contains("redundan");
        let flag = Reading::flag;
        if redundancy {
            let of = Component::new(kind, &self.name);
            let lost = any(words, &["redundancy lost", "non-redundant"]);
            return vec![
                flag(&of, quantity::REDUNDANCY_LOST, lost),
                flag(&of, quantity::SENSOR_WARNING, any(words, WARNING)),
            ];
        }
        if self.part == Part::Psu {
            let name = [" Status", "_Status", " Presence", "_Presence"]
                .iter()
                .find_map(|suffix| self.name.strip_suffix(suffix));
            let of = Component::new(kind, name.unwrap_or(&self.name));
            let failed = any(words, &["failure detected"]);
            return vec![
                flag(
                    &of,
                    quantity::PRESENT,
                    !words.trim().is_empty() && !words.contains("absent"),
                ),
                flag(&of, quantity::FAILED, failed),
                flag(
                    &of,
                    quantity::INPUT_LOST,
                    any(words, &["ac lost", "input lost", "ac out-of-range"]),
                ),
                flag(&of, quantity::SENSOR_WARNING, any(words, WARNING)),
            ];
        }
        let of = Component::new(kind, &self.name);
        vec![
            flag(&of, quantity::SENSOR_WARNING, any(words, WARNING)),
            flag(&of, quantity::SENSOR_CRITICAL, any(words, CRITICAL)),
        ]
    }
}
