//! The judge: readings in, verdicts out. Pure: it takes time from the sweeps, and reads nothing.
//!
//! Every part is seen through the sources that speak of it (a [`View`] each). When a source has
//! been asked, the rules are put to what it says, and each rule's [`Standing`] there moves on.
//!
//! How the worst is found:
//! - A part does as badly as its worst verdict, and is *unknown* if anything of it can't be read.
//! - The node does as badly as its worst verdict of *degraded* or *failing*. It is *unknown*, which
//!   is worse than degraded, when too much of it is for some minutes: a source that nothing can
//!   stand in for, or half of its memory, disks or lanes to libvirt.
//! - What guests can bring about is said, and is not held against the node
//!   ([`Verdict::counts`](crate::Verdict::counts)): a tenant could take the server out of use.
//!
//! **Invariants:**
//! - Windows and hysteresis are measured on [`Sweep::monotonic`] only; the wall clock is for people.
//! - What is unreadable neither raises nor clears anything: nothing is proven by it.
//! - What is kept is bounded: [`MAX_SERIES`] quantities, each with a bounded past.

mod assess;
mod evaluate;
mod standing;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use kapok_types::Timestamp;

use self::{
    evaluate::{Evidence, Finding, Look},
    standing::Standing,
    view::View,
};
use crate::{
    Component, Failure, Held, Kind, Outcome, Reading, Rules, Sweep, quantity,
    rules::{Rule, Test},
};

/// Most quantities of parts that are kept.
pub const MAX_SERIES: usize = 20_000;
/// How long what vanished is remembered.
const FORGET_AFTER: Duration = Duration::from_hours(24);
/// Sources of which mostly a change is believed only: chips on a board have inputs that nothing is
/// wired to, and limits and alarms that nobody has set. What was never fine there says nothing,
/// unless it is [`PLAUSIBLE`].
const DISTRUSTED_SOURCES: &[&str] = &["hwmon"];
/// Degrees between which a temperature, and where it is critical, mean something wherever they come
/// from, so that heat is heat after the agent's restart, too. What isn't wired reads 127 or 128 °C
/// or what the room has; limits that nobody set are 0 or 127. A limit that only warns may be the
/// chip's own default, and is not taken for one.
const PLAUSIBLE: RangeInclusive<f64> = 40.0..=120.0;
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 256;

/// Judges one node.
#[derive(Debug, Clone)]
pub struct Judge {
    rules: Rules,
    sources: BTreeMap<Arc<str>, Asked>,
    parts: BTreeMap<Component, BTreeMap<Arc<str>, View>>,
    series: usize,
}

/// A source as it was asked last.
#[derive(Debug, Clone)]
struct Asked {
    at: Timestamp,
    monotonic: Duration,
    /// How long after the time before; none until it was asked twice.
    pace: Option<Duration>,
    outcome: Outcome,
    /// Whether it has ever answered. Of one that never did nothing is known: that is said at once.
    answered: bool,
    standings: BTreeMap<usize, Standing>,
}

/// The moment of a sweep.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Timestamp,
    monotonic: Duration,
}

impl Judge {
    /// A judge who knows nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            sources: BTreeMap::new(),
            parts: BTreeMap::new(),
            series: 0,
        }
    }

    /// Takes what a source said.
    pub fn take(&mut self, sweep: &Sweep) {
        let before = self.sources.get(&sweep.source);
        let moment = Moment {
            at: sweep.at,
            // Sweeps of one source come in order; if one doesn't, time stands still.
            monotonic: before.map_or(sweep.monotonic, |it| it.monotonic.max(sweep.monotonic)),
        };
        let pace = before.map(|it| moment.monotonic.saturating_sub(it.monotonic));
        let standings = before.map(|it| it.standings.clone()).unwrap_or_default();
        let (outcome, left_out) = match &sweep.outcome {
            Ok(readings) => {
                let left_out = self.hear(&sweep.source, readings, moment);
                (Outcome::Read(readings.len()), left_out)
            }
            Err(Failure::Absent(what)) => {
                self.hear(&sweep.source, &[], moment);
                (Outcome::Absent(clip(what)), 0)
            }
            Err(Failure::Unreadable(reason)) => {
                let reason = clip(reason);
                self.hear_nothing(&sweep.source, &reason);
                (Outcome::Unreadable(reason), 0)
            }
        };
        let answered = !matches!(outcome, Outcome::Unreadable(_))
            || self
                .sources
                .get(&sweep.source)
                .is_some_and(|it| it.answered);
        let mut asked = Asked {
            at: moment.at,
            monotonic: moment.monotonic,
            pace,
            outcome,
            answered,
            standings,
        };
        self.judge_source(&sweep.source, &mut asked, left_out, moment);
        self.sources.insert(sweep.source.clone(), asked);
    }

    /// Takes a source's readings; returns how many were left out because too much is kept already.
    fn hear(&mut self, source: &Arc<str>, readings: &[Reading], moment: Moment) -> usize {
        let mut left_out = 0;
        let mut spoken: BTreeSet<(&Component, &str)> = BTreeSet::new();
        for reading in readings {
            let component = &reading.component;
            let views = self.parts.get(component);
            let view = views.and_then(|views| views.get(source));
            let known = view.is_some_and(|view| view.knows(&reading.quantity));
            if !known && self.series >= MAX_SERIES {
                left_out += 1;
                continue;
            }
            self.series += usize::from(!known);
            let views = self.parts.entry(component.clone()).or_default();
            let view = views.entry(source.clone()).or_default();
            view.take(reading, source, &self.rules, moment);
            spoken.insert((component, &reading.quantity.name));
        }
        for (component, views) in &mut self.parts {
            let Some(view) = views.get_mut(source) else {
                continue;
            };
            let spoken = |quantity: &str| spoken.contains(&(component, quantity));
            // Guests come and go; a server's parts don't.
            let keep_for = match component.kind() {
                Kind::Instance => Duration::ZERO,
                _ => FORGET_AFTER,
            };
            self.series -= view.miss(spoken, source, keep_for, moment);
            if view.is_empty() {
                views.remove(source);
            }
        }
        self.parts.retain(|_, views| !views.is_empty());
        self.judge_parts(source, moment);
        left_out
    }

    /// A source can't be read: nothing that it spoke of is known any more.
    fn hear_nothing(&mut self, source: &Arc<str>, reason: &str) {
        for views in self.parts.values_mut() {
            if let Some(view) = views.get_mut(source) {
                view.lose(reason);
            }
        }
    }

    /// Puts the rules to all that a source spoke of.
    fn judge_parts(&mut self, source: &Arc<str>, moment: Moment) {
        for (component, views) in &mut self.parts {
            let Some(view) = views.get(source) else {
                continue;
            };
            let look = Look {
                views,
                source,
                view,
            };
            let mut findings = Vec::new();
            let quantities = view.quantities();
            for (place, rule) in quantities
                .chain([""])
                .flat_map(|quantity| self.rules.about(quantity))
            {
                if rule.applies(component.kind()) {
                    findings.push((place, rule, look.find(rule)));
                }
            }
            let Some(view) = views.get_mut(source) else {
                continue;
            };
            // What was forgotten is judged no longer.
            let judged: BTreeSet<usize> = findings.iter().map(|(place, ..)| *place).collect();
            view.standings.retain(|place, _| judged.contains(place));
            for (place, rule, mut finding) in findings {
                if DISTRUSTED_SOURCES.contains(&source.as_ref()) && rule.test.of().is_some() {
                    match &finding {
                        Finding::No => _ = view.fine.insert(place),
                        Finding::Holds(evidence)
                            if !view.fine.contains(&place) && !is_heat(rule, evidence) =>
                        {
                            finding = Finding::No;
                        }
                        Finding::Holds(_) | Finding::Unknown => {}
                    }
                }
                standing::advance(&mut view.standings, place, rule, finding, moment);
            }
        }
    }

    /// Puts the rules that speak of sources to one.
    fn judge_source(&self, source: &Arc<str>, asked: &mut Asked, left_out: usize, moment: Moment) {
        for (place, rule) in self.rules.about("") {
            let evidence = match (&rule.test, &asked.outcome) {
                (Test::SourceUnreadable, Outcome::Unreadable(reason)) => {
                    Some(unreadable(source, reason, moment.at))
                }
                (Test::SourceSaysTooMuch, _) if left_out > 0 => {
                    let count = f64::from(u32::try_from(left_out).unwrap_or(u32::MAX));
                    let component = Component::new(Kind::Source, source);
                    let reading = Reading::new(&component, quantity::READINGS, count);
                    Some(Evidence::of(
                        count.to_string(),
                        vec![held(reading, source, moment.at)],
                    ))
                }
                (Test::SourceUnreadable | Test::SourceSaysTooMuch, _) => None,
                _ => continue,
            };
            let finding = evidence.map_or(Finding::No, Finding::Holds);
            standing::advance(&mut asked.standings, place, rule, finding, moment);
        }
    }
}

/// Whether a critical temperature is one, whoever says so.
fn is_heat(rule: &Rule, evidence: &Evidence) -> bool {
    let plausible = |it: &Held| it.reading.value().is_some_and(|it| PLAUSIBLE.contains(&it));
    let test = Test::Above(quantity::TEMPERATURE, quantity::TEMPERATURE_CRITICAL, None);
    rule.test == test && evidence.readings.iter().all(plausible)
}

/// That a source can't be read, for this reason.
fn unreadable(source: &Arc<str>, reason: &str, at: Timestamp) -> Evidence {
    let component = Component::new(Kind::Source, source);
    let reading = Reading::unreadable(&component, quantity::READINGS, reason);
    Evidence::of(reason.to_owned(), vec![held(reading, source, at)])
}

fn held(reading: Reading, source: &Arc<str>, at: Timestamp) -> Held {
    let source = source.clone();
    Held {
        reading,
        source,
        at,
    }
}

/// A reason, in one line and cut: tools print whatever they like.
fn clip(reason: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let reason: String = reason.trim().chars().take(MAX_REASON).map(clean).collect();
    if reason.is_empty() {
        return "no reason was given".to_owned();
    }
    reason
}
