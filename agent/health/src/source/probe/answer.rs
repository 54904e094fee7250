//! What a probe printed, checked against the contract: as a whole, or not at all.

use std::borrow::Cow;

use serde::Deserialize;

use crate::{Component, Kind, Quantity, Reading, Shape, Unit, quantity};

/// Most readings of a probe.
const MAX_READINGS: usize = 256;
/// Most verdicts of a probe.
const MAX_VERDICTS: usize = 32;
/// Longest word of a probe (a code, a quantity), in bytes.
const MAX_WORD_BYTES: usize = 40;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    #[serde(default)]
    readings: Vec<Said>,
    #[serde(default)]
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    component: Component,
    quantity: String,
    unit: Unit,
    value: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdict {
    code: String,
    component: String,
    condition: Condition,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    remedy: String,
}

/// What a probe may find.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Healthy,
    Degraded,
    Failing,
}

impl Condition {
    const fn value(self) -> f64 {
        match self {
            Self::Healthy => 0.0,
            Self::Degraded => 1.0,
            Self::Failing => 2.0,
        }
    }
}

/// The readings in what the probe of this name printed.
pub(super) fn readings(probe: &str, text: &str) -> Result<Vec<Reading>, String> {
    if !text.trim_start().starts_with('{') {
        return Err("what it printed is no JSON object".to_owned());
    }
    let answer: Answer = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if answer.readings.len() > MAX_READINGS {
        return Err(format!("more than {MAX_READINGS} readings"));
    }
    if answer.verdicts.len() > MAX_VERDICTS {
        return Err(format!("more than {MAX_VERDICTS} verdicts"));
    }
    let said = answer.readings.into_iter().map(Said::reading);
    let judged = answer.verdicts.into_iter().map(|it| it.reading(probe));
    said.chain(judged).collect()
}

impl Said {
    fn reading(self) -> Result<Reading, String> {
        let Self {
            component,
            quantity: name,
            unit,
            value,
        } = self;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        check("quantity", &name, fits)?;
        // A name of ours is in our unit, or rules would compare apples with pears.
        let quantity = match quantity::ALL.iter().find(|it| it.name == name) {
            Some(known) if known.unit == unit => known.clone(),
            Some(known) => return Err(format!("{name} is in {:?}, not {unit:?}", known.unit)),
            None => {
                let (name, shape) = (Cow::Owned(name), Shape::Gauge);
                Quantity { name, unit, shape }
            }
        };
        Ok(Reading::new(&component, quantity, value))
    }
}

impl Verdict {
    fn reading(self, probe: &str) -> Result<Reading, String> {
        let Self {
            code,
            component,
            condition,
            summary,
            remedy,
        } = self;
        check("code", &code, |c| {
            c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
        })?;
        if component.is_empty() {
            return Err("a verdict's component is empty".to_owned());
        }
        let of = Component::new(Kind::Site, format!("{probe}/{code}/{component}"));
        let reading = Reading::new(&of, quantity::SITE_CONDITION, condition.value());
        Ok(reading.with_note(&summary, &remedy))
    }
}

fn check(what: &str, word: &str, fits: impl Fn(char) -> bool) -> Result<(), String> {
    if word.is_empty() || word.len() > MAX_WORD_BYTES || !word.chars().all(fits) {
        let shown: String = word.chars().take(MAX_WORD_BYTES).collect();
        return Err(format!("{shown:?} can't be a {what}"));
    }
    Ok(())
}
