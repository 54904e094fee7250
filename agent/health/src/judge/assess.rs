//! From where the rules stand to an assessment.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kapok_types::Timestamp;

use super::{Asked, Judge, standing::Standing, unreadable};
use crate::{
    Assessment, Code, Component, Condition, Kind, Outcome, Read, SourceState, Verdict,
    rules::{Rule, Test},
    verdict::shown,
};

/// Parts of which half must be known, each kind for itself, or the node isn't.
const ESSENTIAL_KINDS: &[Kind] = &[Kind::Memory, Kind::Disk, Kind::Hypervisor];
/// Sources without which the node isn't known.
const ESSENTIAL_SOURCES: &[&str] = &["edac", "block", "smartctl"];
/// A source that wasn't asked for three times its pace is silent, but not before this.
const SILENT_AFTER: Duration = Duration::from_hours(2);
/// The slowest pace, which is taken for a source's until it was asked twice.
const SLOWEST_PACE: Duration = Duration::from_hours(24);

type Worst = BTreeMap<Component, Condition>;

impl Judge {
    /// All that is known, at a moment on both clocks.
    pub fn assess(&self, now: Timestamp, monotonic: Duration) -> Assessment {
        let silent: BTreeMap<&Arc<str>, String> = self
            .sources
            .iter()
            .filter_map(|(source, asked)| Some((source, asked.silent(monotonic)?)))
            .collect();
        let mut components = Worst::new();
        let mut readings = Vec::new();
        let mut raised = Vec::new();
        // Parts of which something is unknown for so long that it counts.
        let mut unknown = BTreeSet::new();
        let lost: BTreeSet<&str> = self
            .sources
            .iter()
            .filter(|(source, asked)| {
                silent.contains_key(source)
                    || !asked.answered
                    || self.is_raised(&asked.standings, is_lost)
            })
            .map(|(source, _)| source.as_ref())
            .collect();
        for (component, views) in &self.parts {
            for (source, view) in views {
                let is_unknown = |rule: &Rule| rule.condition == Condition::Unknown;
                if lost.contains(source.as_ref()) || self.is_raised(&view.standings, is_unknown) {
                    unknown.insert(component);
                }
                for series in view.series() {
                    let mut held = series.last.clone();
                    if let Some(reason) = silent.get(source) {
                        held.reading.read = Read::Unreadable(reason.clone());
                    }
                    match held.reading.read {
                        Read::Value(_) => worsen(&mut components, component, Condition::Healthy),
                        Read::Unreadable(_) => {
                            worsen(&mut components, component, Condition::Unknown);
                        }
                        Read::Absent => {}
                    }
                    readings.push(held);
                }
                raised.extend(self.raised(component, &view.standings));
            }
        }
        let mut sources = Vec::new();
        for (source, asked) in &self.sources {
            let mut outcome = asked.outcome.clone();
            let component = Component::new(Kind::Source, source);
            if let Some(reason) = silent.get(source) {
                outcome = Outcome::Unreadable(reason.clone());
                raised.extend(self.not_asked(component.clone(), source, reason, asked));
            }
            raised.extend(self.raised(&component, &asked.standings));
            match outcome {
                Outcome::Read(_) => worsen(&mut components, &component, Condition::Healthy),
                Outcome::Unreadable(_) => worsen(&mut components, &component, Condition::Unknown),
                Outcome::Absent(_) => {}
            }
            sources.push(SourceState {
                name: source.clone(),
                at: asked.at,
                outcome,
            });
        }
        // Before sifting: what is said of a part of it holds for the part, too.
        for (_, verdict) in &raised {
            worsen(&mut components, &verdict.component, verdict.condition);
        }
        let verdicts = sift(raised);
        Assessment {
            at: now,
            condition: node(&verdicts, &components, &unknown, &lost),
            verdicts,
            components,
            sources,
            readings,
        }
    }

    /// Whether a rule of this sort is raised.
    fn is_raised(
        &self,
        standings: &BTreeMap<usize, Standing>,
        sort: impl Fn(&Rule) -> bool,
    ) -> bool {
        let table = self.rules.table();
        let mut raised = standings.iter().filter(|(_, standing)| standing.raised);
        raised.any(|(place, _)| table.get(*place).is_some_and(&sort))
    }

    /// The rules that are raised for a part, as verdicts.
    fn raised<'a>(
        &'a self,
        component: &Component,
        standings: &BTreeMap<usize, Standing>,
    ) -> Vec<(&'a Rule, Verdict)> {
        let raised = standings.iter().filter(|(_, standing)| standing.raised);
        let verdicts = raised.filter_map(|(place, standing)| {
            let rule = self.rules.table().get(*place)?;
            let verdict = Verdict {
                code: Code(Cow::Borrowed(rule.code)),
                condition: rule.condition,
                component: component.clone(),
                summary: standing.evidence.summary(rule),
                evidence: standing.evidence.readings.clone(),
                first_seen: standing.first_seen,
                last_seen: standing.last_seen,
                remedy: standing.evidence.remedy(rule),
            };
            Some((rule, verdict))
        });
        verdicts.collect()
    }

    /// The verdict on a source that nobody asks.
    fn not_asked(
        &self,
        component: Component,
        source: &Arc<str>,
        reason: &str,
        asked: &Asked,
    ) -> Option<(&Rule, Verdict)> {
        let mut rules = self.rules.table().iter();
        let rule = rules.find(|rule| rule.test == Test::SourceUnreadable)?;
        let evidence = unreadable(source, reason, asked.at);
        let verdict = Verdict {
            code: Code(Cow::Borrowed(rule.code)),
            condition: rule.condition,
            component,
            summary: evidence.summary(rule),
            evidence: evidence.readings,
            first_seen: asked.at,
            last_seen: asked.at,
            remedy: Cow::Borrowed(rule.remedy),
        };
        Some((rule, verdict))
    }
}

impl Asked {
    /// Why it is silent, if it is: who should ask it doesn't.
    fn silent(&self, now: Duration) -> Option<String> {
        let pace = self.pace.unwrap_or(SLOWEST_PACE);
        let since = now.saturating_sub(self.monotonic);
        let silent = since > SILENT_AFTER.max(pace.saturating_mul(3));
        silent.then(|| {
            let since = shown(since.as_secs_f64(), crate::Unit::Seconds);
            format!("it was not asked for {since}")
        })
    }
}

fn worsen(components: &mut Worst, component: &Component, condition: Condition) {
    let worst = components.entry(component.clone()).or_insert(condition);
    *worst = condition.max(*worst);
}

/// Leaves out what says the same twice: of one part by two sources, what another rule says worse,
/// and of a part what is said of a part of it. Worst first.
fn sift(raised: Vec<(&Rule, Verdict)>) -> Vec<Verdict> {
    let said: BTreeSet<(&'static str, Component)> = raised
        .iter()
        .map(|(rule, verdict)| (rule.code, verdict.component.clone()))
        .collect();
    // The parts of a part come right after where it with a slash would be; those of all of a kind
    // right after itself.
    let narrower = |code: &'static str, component: &Component| {
        let within = match component.name() {
            "" => String::new(),
            name => format!("{name}/"),
        };
        let from = (code, Component::new(component.kind(), &within));
        let next = said.range(from..).find(|(_, it)| it != component);
        next.is_some_and(|(it, part)| {
            *it == code && part.kind() == component.kind() && part.name().starts_with(&within)
        })
    };
    // Which of two sources is heard is by their names: neither's clock decides.
    let mut once = BTreeMap::new();
    for (rule, verdict) in raised {
        let component = &verdict.component;
        let worse = rule.unless.map(|worse| (worse, component.clone()));
        if worse.is_some_and(|worse| said.contains(&worse)) || narrower(rule.code, component) {
            continue;
        }
        once.entry((rule.code, component.clone()))
            .or_insert(verdict);
    }
    let mut verdicts: Vec<Verdict> = once.into_values().collect();
    verdicts.sort_by_key(|verdict| std::cmp::Reverse(verdict.condition));
    verdicts
}

fn is_lost(rule: &Rule) -> bool {
    rule.test == Test::SourceUnreadable
}

/// How the node does.
fn node(
    verdicts: &[Verdict],
    components: &Worst,
    unknown: &BTreeSet<&Component>,
    lost: &BTreeSet<&str>,
) -> Condition {
    let proven = verdicts
        .iter()
        .filter(|verdict| verdict.counts())
        .map(|verdict| verdict.condition)
        .filter(|condition| *condition != Condition::Unknown)
        .max()
        .unwrap_or(Condition::Healthy);
    if too_much_unknown(components, unknown, lost) {
        return proven.max(Condition::Unknown);
    }
    proven
}

/// By what is raised, and so with its hysteresis.
fn too_much_unknown(
    components: &Worst,
    unknown: &BTreeSet<&Component>,
    lost: &BTreeSet<&str>,
) -> bool {
    let blind = ESSENTIAL_SOURCES.iter().any(|source| lost.contains(source));
    blind
        || ESSENTIAL_KINDS.iter().any(|kind| {
            let of_kind = components.keys().filter(|it| it.kind() == *kind);
            let all = of_kind.clone().count();
            let unknown = of_kind.filter(|it| unknown.contains(it)).count();
            unknown > 0 && unknown * 2 >= all
        })
}
