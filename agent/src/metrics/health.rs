//! The node's health as series: conditions, verdicts, readings and their sources.

use std::{collections::BTreeSet, fmt, time::Duration};

use kapok_health::{Assessment, Condition, Outcome, Read};
use kapok_metrics::{Budget, Writer, label};
use kapok_types::Timestamp;

use super::names;

/// All conditions.
const CONDITIONS: [Condition; 4] = [
    Condition::Healthy,
    Condition::Degraded,
    Condition::Unknown,
    Condition::Failing,
];

/// Writes an assessment; what doesn't fit into the budget is left out, verdicts last.
pub(super) fn write(
    writer: &mut Writer<'_>,
    assessment: &Assessment,
    budget: &mut Budget,
    now: Timestamp,
) -> fmt::Result {
    writer.family(&names::CONDITION, |series| {
        CONDITIONS.iter().try_for_each(|condition| {
            let labels = [("condition", condition.as_str())];
            series.put(&labels, assessment.condition == *condition)
        })
    })?;
    let mut once = Once::default();
    writer.family(&names::VERDICT, |series| {
        assessment.verdicts.iter().try_for_each(|verdict| {
            let component = verdict.component.to_string();
            let (code, condition) = (verdict.code.as_str(), verdict.condition.as_str());
            if !once.is_first([code, &component, condition]) || !budget.take(1) {
                return Ok(());
            }
            let component = label(&component);
            let kind = verdict.component.kind().as_str();
            let labels = [
                ("code", label(code)),
                ("component", component),
                ("kind", kind.into()),
                ("condition", condition.into()),
            ];
            series.put(&labels, true)
        })
    })?;
    writer.family(&names::COMPONENT, |series| {
        assessment
            .components
            .iter()
            .try_for_each(|(component, condition)| {
                if !budget.take(1) {
                    return Ok(());
                }
                let text = component.to_string();
                let labels = [
                    ("component", label(&text)),
                    ("kind", component.kind().as_str().into()),
                ];
                series.put(&labels, severity(*condition))
            })
    })?;
    readings(writer, assessment, budget)?;
    writer.family(&names::SOURCE_READABLE, |series| {
        assessment
            .sources
            .iter()
            .try_for_each(|source| match source.outcome {
                Outcome::Absent(_) => Ok(()),
                Outcome::Read(_) => series.put(&[("source", label(&source.name))], true),
                Outcome::Unreadable(_) => series.put(&[("source", label(&source.name))], false),
            })
    })?;
    writer.family(&names::SOURCE_AGE, |series| {
        assessment.sources.iter().try_for_each(|source| {
            series.put(&[("source", label(&source.name))], age(source.at, now))
        })
    })?;
    writer.single(&names::HEALTH_AGE, age(assessment.at, now))
}

fn readings(writer: &mut Writer<'_>, assessment: &Assessment, budget: &mut Budget) -> fmt::Result {
    let mut shown = Vec::new();
    let mut once = Once::default();
    for held in &assessment.readings {
        let reading = &held.reading;
        let component = reading.component.to_string();
        let absent = matches!(reading.read, Read::Absent);
        let name = [component.as_str(), &reading.quantity.name, &held.source];
        if !absent && once.is_first(name) && budget.take(1) {
            shown.push((held, component));
        }
    }
    for (name, values) in [(&names::READING, true), (&names::UNREADABLE, false)] {
        writer.family(name, |series| {
            for (held, component) in &shown {
                let value = match held.reading.read {
                    Read::Value(value) if values => value,
                    Read::Unreadable(_) if !values => 1.0,
                    _ => continue,
                };
                let quantity = &held.reading.quantity;
                let labels = [
                    ("component", label(component)),
                    ("quantity", label(&quantity.name)),
                    ("unit", quantity.unit.as_str().into()),
                    ("source", label(&held.source)),
                ];
                series.put(&labels, value)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A series must not appear twice.
#[derive(Default)]
struct Once(BTreeSet<[String; 3]>);

impl Once {
    fn is_first(&mut self, name: [&str; 3]) -> bool {
        self.0.insert(name.map(str::to_owned))
    }
}

fn severity(condition: Condition) -> u64 {
    match condition {
        Condition::Healthy => 0,
        Condition::Degraded => 1,
        Condition::Unknown => 2,
        Condition::Failing => 3,
    }
}

fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(now.get().saturating_sub(at.get()))
}
