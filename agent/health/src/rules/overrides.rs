//! What an administrator makes of the rules: `[health.rules.CODE]` of `agent.toml`.
//!
//! ```toml
//! [health.rules.MEMORY_CE_STORM]
//! at_least = 500
//! over = "6h"
//! ```
//!
//! Unknown keys are refused by the types, unknown codes and what makes no sense by
//! [`Rules::with`](super::Rules::with): a rule that was meant to be changed is never left as it was.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer};

use super::{Rule, Test, Way};
use crate::{Condition, Unit, config::Span, history::LONGEST};

/// Longest hysteresis.
const LONGEST_HYSTERESIS: Duration = Duration::from_hours(7 * 24);
/// Shortest window: what is kept is no finer.
const SHORTEST_WINDOW: Duration = Duration::from_mins(1);

/// Changed rules, by code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Overrides(pub BTreeMap<String, Override>);

/// What is changed of one rule; the rest stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// Whether it is used at all.
    pub enabled: Option<bool>,
    /// How bad it is: "degraded" or "failing".
    pub condition: Option<Condition>,
    /// From which value on it holds, in the quantity's base unit; shares are of one.
    pub at_least: Option<Number>,
    /// Up to which value it holds.
    pub at_most: Option<Number>,
    /// The window.
    pub over: Option<Span>,
    /// How long it must hold before it is said.
    pub raise_after: Option<Span>,
    /// How long it must not hold before it is no longer said.
    pub clear_after: Option<Span>,
}

/// A number of a rule; never NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(f64);

impl Eq for Number {}

/// A change of a rule that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Error {
    /// Which key: "`health.rules.CODE.at_least`".
    pub key: String,
    /// What would be right.
    pub reason: String,
}

impl Overrides {
    /// Changes a table.
    pub(super) fn apply(&self, rules: &mut Vec<Rule>) -> Result<(), Error> {
        for (code, change) in &self.0 {
            let Some(place) = rules.iter().position(|rule| rule.code == code) else {
                return Err(Error {
                    key: format!("health.rules.{code}"),
                    reason: format!("there is no such rule{}", likely(code, rules)),
                });
            };
            let Some(rule) = rules.get_mut(place) else {
                continue;
            };
            change.apply(rule).map_err(|(key, reason)| Error {
                key: format!("health.rules.{code}.{key}"),
                reason,
            })?;
            if change.enabled == Some(false) {
                rules.remove(place);
            }
        }
        Ok(())
    }
}

impl Override {
    fn apply(&self, rule: &mut Rule) -> Result<(), (&'static str, String)> {
        let says_what_is_unknown = rule.test.of().is_none();
        if self.enabled == Some(false) && says_what_is_unknown {
            let reason = "what can't be read is always said; switch off its source instead";
            return Err(("enabled", reason.to_owned()));
        }
        match self.condition {
            None => {}
            Some(condition @ (Condition::Degraded | Condition::Failing))
                if !says_what_is_unknown =>
            {
                rule.condition = condition;
            }
            Some(_) if says_what_is_unknown => {
                return Err(("condition", "this rule's is always unknown".to_owned()));
            }
            Some(_) => {
                return Err((
                    "condition",
                    "must be \"degraded\" or \"failing\"".to_owned(),
                ));
            }
        }
        for (key, way, given) in [
            ("at_least", Way::AtLeast, self.at_least),
            ("at_most", Way::AtMost, self.at_most),
        ] {
            let Some(Number(value)) = given else { continue };
            set(&mut rule.test, way, value).map_err(|reason| (key, reason))?;
        }
        if let Some(Span(over)) = self.over {
            let Some(window) = rule.test.window() else {
                return Err(("over", "this rule has no window".to_owned()));
            };
            if over < SHORTEST_WINDOW || over > LONGEST.max(*window) {
                let reason = "must be 1 minute to 45 days, or what it was";
                return Err(("over", reason.to_owned()));
            }
            *window = over;
        }
        for (key, change, span) in [
            ("raise_after", self.raise_after, &mut rule.raise_after),
            ("clear_after", self.clear_after, &mut rule.clear_after),
        ] {
            let Some(Span(change)) = change else { continue };
            if change > LONGEST_HYSTERESIS {
                return Err((key, "must be at most 7 days".to_owned()));
            }
            *span = change;
        }
        Ok(())
    }
}

fn set(test: &mut Test, way: Way, value: f64) -> Result<(), String> {
    let Some((its, number, unit)) = test.number() else {
        return Err("this rule has no number: it follows the device's own word".to_owned());
    };
    if its != way {
        let other = match its {
            Way::AtLeast => "at_least",
            Way::AtMost => "at_most",
        };
        return Err(format!("this rule has an {other}"));
    }
    let sound = match (way, unit) {
        // Nothing is always so, and all of it never.
        (Way::AtMost, Unit::Ratio) => (0.0..1.0).contains(&value),
        (Way::AtLeast, Unit::Ratio) => value > 0.0 && value <= 1.0,
        (Way::AtMost, _) => value >= 0.0,
        (Way::AtLeast, _) => value > 0.0,
    };
    if !sound {
        let range = match (way, unit) {
            (Way::AtMost, Unit::Ratio) => "a share from 0 to below 1",
            (Way::AtLeast, Unit::Ratio) => "a share above 0, at most 1",
            (Way::AtMost, _) => "0 or more",
            (Way::AtLeast, _) => "more than 0",
        };
        return Err(format!("must be {range}"));
    }
    *number = value;
    Ok(())
}

/// What may have been meant.
fn likely(code: &str, rules: &[Rule]) -> String {
    let word = code.split('_').next().unwrap_or_default();
    let alike = rules.iter().map(|rule| rule.code);
    let alike: Vec<&str> = alike.filter(|it| it.starts_with(word)).collect();
    if word.is_empty() || alike.is_empty() {
        return String::new();
    }
    format!("; there are {}", alike.join(", "))
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        if value.is_finite() {
            return Ok(Self(value));
        }
        Err(serde::de::Error::custom(format!("{value} is no number")))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Rules, *};
    use crate::quantity;

    fn rules(text: &str) -> Result<Rules, String> {
        let overrides: Overrides =
            toml::from_str(text).map_err(|error| error.message().to_owned())?;
        Rules::with(&overrides).map_err(|error| error.to_string())
    }

    fn rule<'a>(rules: &'a Rules, code: &str) -> &'a Rule {
        rules.table().iter().find(|it| it.code == code).unwrap()
    }

    #[test]
    fn rules_can_be_changed_and_left_out() {
        let rules = rules(
            r#"
            [MEMORY_CE_STORM]
            at_least = 500
            over = "6h"
            condition = "failing"
            raise_after = "1m"
            clear_after = "2h"
            [FILESYSTEM_FILLING]
            at_most = 0.1
            [CLOCK_UNSYNCHRONIZED]
            enabled = false
            "#,
        )
        .unwrap();
        let storm = rule(&rules, "MEMORY_CE_STORM");
        let over = Duration::from_hours(6);
        assert_eq!(
            storm.test,
            Test::Grew(quantity::CORRECTABLE_ERRORS, 500.0, over)
        );
        assert_eq!(storm.condition, Condition::Failing);
        assert_eq!(storm.raise_after, Duration::from_mins(1));
        assert_eq!(storm.clear_after, Duration::from_hours(2));
        let filling = &rule(&rules, "FILESYSTEM_FILLING").test;
        let (available, size) = (quantity::AVAILABLE, quantity::SIZE);
        assert_eq!(*filling, Test::Share(available, size, 0.1));
        assert!(
            rules
                .table()
                .iter()
                .all(|it| it.code != "CLOCK_UNSYNCHRONIZED")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_key() {
        for (text, complaint) in [
            (
                "[MEMORY_CE_STROM]\nat_least = 1",
                "health.rules.MEMORY_CE_STROM: there is no such rule; there are MEMORY_",
            ),
            (
                "[MEMORY_CE_STORM]\nat_leats = 1",
                "unknown field `at_leats`",
            ),
            (
                "[MEMORY_CE_STORM]\nat_most = 1",
                "health.rules.MEMORY_CE_STORM.at_most: this rule has an at_least",
            ),
            (
                "[MEMORY_CE_STORM]\nat_least = -1",
                "health.rules.MEMORY_CE_STORM.at_least: must be more than 0",
            ),
            ("[MEMORY_CE_STORM]\nat_least = nan", "NaN is no number"),
            (
                "[FILESYSTEM_FULL]\nat_most = 5",
                "health.rules.FILESYSTEM_FULL.at_most: must be a share",
            ),
            (
                "[DISK_SMART_FAILING]\nat_least = 1",
                "health.rules.DISK_SMART_FAILING.at_least: this rule has no number",
            ),
            (
                "[DISK_SMART_FAILING]\nover = \"1h\"",
                "health.rules.DISK_SMART_FAILING.over: this rule has no window",
            ),
            (
                "[MEMORY_CE_STORM]\nover = \"1s\"",
                "health.rules.MEMORY_CE_STORM.over: must be 1 minute",
            ),
            (
                "[MEMORY_CE_STORM]\nraise_after = \"30days\"",
                "health.rules.MEMORY_CE_STORM.raise_after: must be at most",
            ),
            (
                "[MEMORY_CE_STORM]\ncondition = \"healthy\"",
                "health.rules.MEMORY_CE_STORM.condition: must be",
            ),
            (
                "[SOURCE_UNREADABLE]\nenabled = false",
                "health.rules.SOURCE_UNREADABLE.enabled: what can't be read is always said",
            ),
        ] {
            let refused = rules(text).unwrap_err();
            assert!(refused.starts_with(complaint), "{text}: {refused}");
        }
    }
}
