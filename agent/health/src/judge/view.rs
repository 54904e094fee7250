//! A part as one source sees it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Moment, clip, held, standing::Standing};
use crate::{Held, Quantity, Read, Reading, Rules, history::Track, quantity};

/// A part as one source sees it: its quantities, and where the rules stand.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    series: BTreeMap<Cow<'static, str>, Series>,
    pub(super) standings: BTreeMap<usize, Standing>,
    /// Rules that once did not hold, where that matters.
    pub(super) fine: BTreeSet<usize>,
}

/// A quantity.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) last: Held,
    pub(super) told: Told,
    pub(super) past: Track,
    /// When the source spoke of it last.
    spoken: Duration,
}

/// How the last reading came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// The source said so.
    Said,
    /// The source was told to leave it asleep.
    Asleep,
    /// The source speaks of it no more, and doesn't say that it is absent.
    LeftOut,
    /// The source could not be read, or not as far as this part.
    Lost,
}

impl View {
    pub(super) fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    pub(super) fn knows(&self, quantity: &Quantity) -> bool {
        self.series.contains_key(&quantity.name)
    }

    pub(super) fn get(&self, quantity: &str) -> Option<&Series> {
        self.series.get(quantity)
    }

    pub(super) fn quantities(&self) -> impl Iterator<Item = &str> {
        self.series.keys().map(AsRef::as_ref)
    }

    pub(super) fn series(&self) -> impl Iterator<Item = &Series> {
        self.series.values()
    }

    /// Takes a reading.
    pub(super) fn take(
        &mut self,
        reading: &Reading,
        source: &Arc<str>,
        rules: &Rules,
        moment: Moment,
    ) {
        let mut reading = reading.clone();
        reading.read = match reading.read {
            Read::Value(value) if !value.is_finite() => {
                Read::Unreadable(format!("{value} is no number"))
            }
            Read::Unreadable(reason) => Read::Unreadable(clip(&reason)),
            read => read,
        };
        let Quantity { name, shape, .. } = reading.quantity.clone();
        let value = reading.value();
        let last = held(reading, source, moment.at);
        let (told, spoken) = (Told::Said, moment.monotonic);
        let series = self.series.entry(name.clone()).or_insert_with(|| Series {
            last: last.clone(),
            told,
            past: Track::new(shape, rules.grains(&name)),
            spoken,
        });
        series.last = last;
        series.told = told;
        series.spoken = spoken;
        if let Some(value) = value {
            series.past.take(moment.monotonic, value);
        }
    }

    /// What the source leaves out of a round. If it can't read something else of the part, this is
    /// not known either; if the part is asleep, it has lost nothing. Else what had a value has
    /// vanished, as all of a part of which nothing is said has: what a part has no more by design
    /// the source calls absent. What stays away is forgotten after a while. Returns how many were.
    pub(super) fn miss(
        &mut self,
        spoken: impl Fn(&str) -> bool,
        source: &Arc<str>,
        keep_for: Duration,
        moment: Moment,
    ) -> usize {
        let said = |series: &&Series| spoken(&series.last.reading.quantity.name);
        let vanished = !self.series().any(|series| said(&series));
        let unreadable = self.series().filter(said).find_map(|series| {
            let read = &series.last.reading.read;
            matches!(read, Read::Unreadable(_)).then(|| read.clone())
        });
        let asleep = self.series().filter(said).any(|series| {
            series.last.reading.quantity == quantity::ASLEEP && series.value() == Some(1.0)
        });
        let before = self.series.len();
        self.series.retain(|quantity, series| {
            let read = &mut series.last.reading.read;
            let spoken = spoken(quantity);
            if asleep && (!spoken || *read == Read::Absent) {
                (series.told, *read) = (Told::Asleep, Read::Absent);
                return true;
            }
            if spoken {
                return true;
            }
            if let Some(unreadable) = &unreadable {
                (series.told, *read) = (Told::Lost, unreadable.clone());
                return true;
            }
            // Said to be absent once, and so until it is read again.
            let absent = series.told == Told::Said && *read == Read::Absent;
            let had_value = series.past.exceeded(f64::NEG_INFINITY);
            (series.told, *read) = if !absent && (vanished || had_value) {
                let reason = format!("{source} speaks of it no more");
                (Told::LeftOut, Read::Unreadable(reason))
            } else {
                (Told::Said, Read::Absent)
            };
            moment.monotonic.saturating_sub(series.spoken) < keep_for
        });
        before - self.series.len()
    }

    /// The source could not be read. What is not proven stands where it stood.
    pub(super) fn lose(&mut self, reason: &str) {
        for series in self.series.values_mut() {
            series.told = Told::Lost;
            series.last.reading.read = Read::Unreadable(reason.to_owned());
        }
        self.standings.retain(|_, standing| standing.pause());
    }
}

impl Series {
    /// The value, if it is known now.
    pub(super) fn value(&self) -> Option<f64> {
        self.last.reading.value()
    }
}
