//! One rule, put to one part.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use super::view::{Series, Told, View};
use crate::{
    Held, Quantity, Read, Unit,
    rules::{Per, Rule, Test},
    verdict::{MAX_EVIDENCE, shown},
};

const DAY: Duration = Duration::from_hours(24);
/// A wear that grew by less says nothing of how fast it grows: disks report whole per cents.
const LEAST_WEAR: f64 = 0.03;

/// What came of it.
#[derive(Debug, Clone)]
pub(super) enum Finding {
    /// It holds, because of this.
    Holds(Evidence),
    /// It doesn't.
    No,
    /// What it takes to tell can't be read now.
    Unknown,
}

/// Why a rule holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    value: String,
    limit: String,
    over: String,
    /// What the source says of it in words.
    note: Option<String>,
    pub(super) readings: Vec<Held>,
}

/// The part that is looked at: all views of it, and the one whose turn it is.
pub(super) struct Look<'a> {
    pub(super) views: &'a BTreeMap<Arc<str>, View>,
    pub(super) source: &'a str,
    pub(super) view: &'a View,
}

/// The numbers by which a test holds.
struct Numbers {
    value: f64,
    unit: Unit,
    limit: Option<f64>,
    over: Option<Duration>,
}

/// Why a test doesn't hold.
enum Not {
    /// It is read, and is not so; or the part has no such quantity.
    So,
    /// It is there and not known now.
    Known,
}

impl Evidence {
    pub(super) fn of(value: String, readings: Vec<Held>) -> Self {
        Self {
            value,
            readings,
            ..Self::default()
        }
    }

    /// A rule's summary with the numbers, and with the source's words.
    pub(super) fn summary(&self, rule: &Rule) -> String {
        let summary = self.fill(rule.summary);
        match self.words().0 {
            "" => summary,
            wrong => format!("{summary}: {wrong}"),
        }
    }

    /// What to do by the source's words, or else by the rule's.
    pub(super) fn remedy(&self, rule: &Rule) -> Cow<'static, str> {
        match self.words().1 {
            "" => Cow::Borrowed(rule.remedy),
            remedy => Cow::Owned(remedy.to_owned()),
        }
    }

    fn words(&self) -> (&str, &str) {
        let note = self.note.as_deref().unwrap_or_default();
        note.split_once('\n').unwrap_or((note, ""))
    }

    fn fill(&self, summary: &str) -> String {
        let mut text = summary.replace("{limit}", &self.limit);
        text = text.replace("{over}", &self.over);
        // The last: it may hold what a tool said.
        text.replace("{value}", &self.value)
    }
}

impl Look<'_> {
    /// Puts a rule.
    pub(super) fn find(&self, rule: &Rule) -> Finding {
        match &rule.test {
            Test::Unreadable => self.find_unreadable(),
            Test::Vanished => self.find_left_out(),
            Test::SourceUnreadable | Test::SourceSaysTooMuch => Finding::No,
            test => match self.given(rule).and_then(|()| self.test(test)) {
                Ok(numbers) => Finding::Holds(self.evidence(rule, &numbers)),
                Err(Not::So) => Finding::No,
                Err(Not::Known) => Finding::Unknown,
            },
        }
    }

    fn given(&self, rule: &Rule) -> Result<(), Not> {
        let without = rule.without.as_ref();
        if without.is_some_and(|says_more| self.value(says_more).is_ok()) {
            return Err(Not::So);
        }
        for (quantity, least) in &rule.given {
            if self.value(quantity)? < *least {
                return Err(Not::So);
            }
        }
        Ok(())
    }

    fn test(&self, test: &Test) -> Result<Numbers, Not> {
        let plain = |of: &Quantity, value, limit| Numbers {
            value,
            unit: of.unit,
            limit,
            over: None,
        };
        let when = |holds: bool, numbers: Numbers| if holds { Ok(numbers) } else { Err(Not::So) };
        match test {
            Test::Is(of) => {
                let value = self.value(of)?;
                when(value >= 1.0, plain(of, value, None))
            }
            Test::Isnt(of) => {
                let value = self.value(of)?;
                when(value < 1.0, plain(of, value, None))
            }
            Test::AtLeast(of, limit) => {
                let value = self.value(of)?;
                when(value >= *limit, plain(of, value, Some(*limit)))
            }
            Test::AtMost(of, limit) => {
                let value = self.value(of)?;
                when(value <= *limit, plain(of, value, Some(*limit)))
            }
            Test::Above(of, limit, otherwise) => {
                let value = self.value(of)?;
                let limit = self.limit(limit)?.or(*otherwise).ok_or(Not::So)?;
                when(value >= limit, plain(of, value, Some(limit)))
            }
            Test::Below(of, limit) => {
                let value = self.value(of)?;
                let limit = self.limit(limit)?.ok_or(Not::So)?;
                when(value <= limit, plain(of, value, Some(limit)))
            }
            Test::Stopped(of) => {
                let value = self.value(of)?;
                let ran = self.series(of)?.past.exceeded(0.0);
                when(value <= 0.0 && ran, plain(of, value, None))
            }
            Test::Bit(of, bit) => {
                let value = self.value(of)?;
                let set = (value / 2_f64.powi(*bit)).floor() % 2.0 >= 1.0;
                when(set, plain(of, value, None))
            }
            Test::Share(of, whole, limit) => {
                let (part, whole) = (self.value(of)?, self.value(whole)?);
                if whole <= 0.0 {
                    return Err(Not::So);
                }
                let numbers = Numbers {
                    value: part / whole,
                    unit: Unit::Ratio,
                    limit: Some(*limit),
                    over: None,
                };
                when(numbers.value <= *limit, numbers)
            }
            Test::Grew(of, limit, over) => {
                let (value, within) = self.growth(of, *over)?;
                let numbers = Numbers {
                    value,
                    unit: of.unit,
                    limit: Some(*limit),
                    over: Some(within),
                };
                when(value >= *limit, numbers)
            }
            Test::Still(of, over) => {
                let (value, within) = self.growth(of, *over)?;
                let numbers = Numbers {
                    value,
                    unit: of.unit,
                    limit: None,
                    over: Some(within),
                };
                when(value <= 0.0 && within >= *over, numbers)
            }
            Test::Per(per) => self.per(per),
            Test::Wears(of, age, within) => {
                let value = self.life_left(of, age)?;
                let numbers = Numbers {
                    value,
                    unit: Unit::Seconds,
                    limit: Some(within.as_secs_f64()),
                    over: None,
                };
                when(value <= within.as_secs_f64(), numbers)
            }
            Test::Unreadable
            | Test::Vanished
            | Test::SourceUnreadable
            | Test::SourceSaysTooMuch => Err(Not::So),
        }
    }

    fn per(&self, rule: &Per) -> Result<Numbers, Not> {
        let (of, within) = self.growth(&rule.of, rule.over)?;
        let (per, _) = self.growth(&rule.per, rule.over)?;
        let unit = match rule.of.unit {
            Unit::Count => Unit::Ratio,
            unit => unit,
        };
        let numbers = Numbers {
            value: of / per,
            unit,
            limit: Some(rule.at_least),
            over: Some(within),
        };
        if of >= rule.of_least && per >= rule.per_least && numbers.value >= rule.at_least {
            return Ok(numbers);
        }
        Err(Not::So)
    }

    /// When a wear reaches 1, in seconds: a straight line through what was seen, or, as long as too
    /// little was, through the disk's whole life.
    fn life_left(&self, wear: &Quantity, age: &Quantity) -> Result<f64, Not> {
        let value = self.value(wear)?;
        if value >= 1.0 {
            // It has ended, which another rule says.
            return Err(Not::So);
        }
        let (by, within) = self.growth(wear, crate::history::LONGEST)?;
        let rate = if by >= LEAST_WEAR && within >= DAY {
            by / within.as_secs_f64()
        } else {
            let age = self.value(age)?;
            if value < LEAST_WEAR || age < 30.0 * DAY.as_secs_f64() {
                return Err(Not::So);
            }
            value / age
        };
        Ok((1.0 - value) / rate)
    }

    /// A device's own limit. What isn't above zero states nothing.
    fn limit(&self, quantity: &Quantity) -> Result<Option<f64>, Not> {
        match self.value(quantity) {
            Ok(limit) => Ok(Some(limit).filter(|limit| *limit > 0.0)),
            Err(Not::So) => Ok(None),
            Err(Not::Known) => Err(Not::Known),
        }
    }

    fn growth(&self, quantity: &Quantity, over: Duration) -> Result<(f64, Duration), Not> {
        self.value(quantity)?;
        let growth = self.series(quantity)?.past.growth(over).ok_or(Not::So)?;
        Ok((growth.by, growth.within))
    }

    fn value(&self, quantity: &Quantity) -> Result<f64, Not> {
        let series = self.series(quantity)?;
        let absent = series.told == Told::Said && series.last.reading.read == Read::Absent;
        series
            .value()
            .ok_or(if absent { Not::So } else { Not::Known })
    }

    /// By this source, or else by another that speaks of the same part.
    fn series(&self, quantity: &Quantity) -> Result<&Series, Not> {
        let own = self.view.get(&quantity.name);
        let others = || {
            let views = self.views.iter().filter(|(it, _)| ***it != *self.source);
            let mut series = views.filter_map(|(_, view)| view.get(&quantity.name));
            series.find(|series| series.value().is_some())
        };
        own.or_else(others).ok_or(Not::So)
    }

    fn evidence(&self, rule: &Rule, numbers: &Numbers) -> Evidence {
        let tested = rule.test.quantities();
        let quantities = tested
            .into_iter()
            .chain(rule.given.iter().map(|(it, _)| it));
        let mut readings: Vec<Held> = quantities
            .filter_map(|quantity| Some(self.series(quantity).ok()?.last.clone()))
            .collect();
        // A site's probe knows best what its word rests on.
        if rule.test.of() == Some(&crate::quantity::SITE_CONDITION) {
            let of = &crate::quantity::SITE_CONDITION.name;
            let more = self.view.series().map(|series| &series.last);
            readings.extend(more.filter(|it| it.reading.quantity.name != *of).cloned());
        }
        readings.retain(|it| it.reading.read != Read::Absent);
        readings.truncate(MAX_EVIDENCE);
        let note = readings.first().and_then(|it| it.reading.note.clone());
        let seconds = |it: Duration| shown(it.as_secs_f64(), Unit::Seconds);
        Evidence {
            value: shown(numbers.value, numbers.unit),
            limit: numbers
                .limit
                .map(|limit| shown(limit, numbers.unit))
                .unwrap_or_default(),
            over: numbers.over.map(seconds).unwrap_or_default(),
            note,
            readings,
        }
    }

    fn find_unreadable(&self) -> Finding {
        let series = self.view.series().filter(|it| it.told == Told::Said);
        let held = series.map(|it| &it.last);
        let readings = held.filter(|it| matches!(it.reading.read, Read::Unreadable(_)));
        let readings: Vec<Held> = readings.take(MAX_EVIDENCE).cloned().collect();
        let Some(Read::Unreadable(reason)) = readings.first().map(|it| &it.reading.read) else {
            return Finding::No;
        };
        Finding::Holds(Evidence::of(reason.clone(), readings))
    }

    fn find_left_out(&self) -> Finding {
        let series = self.view.series().filter(|it| it.told == Told::LeftOut);
        let readings = series.take(MAX_EVIDENCE).map(|it| it.last.clone());
        let readings: Vec<Held> = readings.collect();
        if readings.is_empty() {
            return Finding::No;
        }
        let names = readings.iter().map(|it| it.reading.quantity.name.as_ref());
        let names: Vec<&str> = names.collect();
        Finding::Holds(Evidence::of(names.join(", "), readings))
    }
}
