//! What a quantity was before: only as much as the rules look back, and bounded.
//!
//! A [`Track`] keeps the moments at which a value changed, so that a counter that stands still
//! costs nothing. Changes that follow each other faster than its grain become one, dated to the
//! first of them: at most [`MAX_SAMPLES`] are kept however a value jumps, and a window's growth is
//! right to one grain. Time is the sweeps' monotonic clock and never the wall's.

use std::{collections::VecDeque, time::Duration};

use crate::Shape;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The longest that a rule can look back.
pub const LONGEST: Duration = Duration::from_hours(45 * 24);
/// Most samples of one grain.
pub const MAX_SAMPLES: usize = 64;

/// How finely the past is kept, for rules that look back no further than its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    /// Minutes of the last hour.
    Minute,
    /// Half hours of the last day.
    HalfHour,
    /// Days of the last 45.
    Day,
}

impl Grain {
    /// The finest that spans a window.
    pub const fn of(window: Duration) -> Self {
        if window.as_secs() <= HOUR.as_secs() {
            Self::Minute
        } else if window.as_secs() <= DAY.as_secs() {
            Self::HalfHour
        } else {
            Self::Day
        }
    }

    const fn spacing(self) -> Duration {
        match self {
            Self::Minute => MINUTE,
            Self::HalfHour => Duration::from_mins(30),
            Self::Day => DAY,
        }
    }

    const fn span(self) -> Duration {
        match self {
            Self::Minute => HOUR,
            Self::HalfHour => DAY,
            Self::Day => LONGEST,
        }
    }
}

/// A quantity's past.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    shape: Shape,
    /// The value as it was read last.
    raw: Option<f64>,
    /// For a counter what it grew since the first reading; else the value.
    level: f64,
    /// The highest value that was read.
    highest: f64,
    now: Duration,
    grains: Vec<(Grain, VecDeque<Sample>)>,
}

/// The level, from this moment on.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    level: f64,
}

/// What happened within a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Growth {
    /// By how much it grew; negative for a gauge that fell.
    pub(crate) by: f64,
    /// Within how much time: less than the window if nothing older is known.
    pub(crate) within: Duration,
}

impl Track {
    /// A quantity of which nothing is known yet, to be kept in these grains.
    pub(crate) fn new(shape: Shape, grains: impl IntoIterator<Item = Grain>) -> Self {
        let grains = grains.into_iter().map(|grain| (grain, VecDeque::new()));
        Self {
            shape,
            raw: None,
            level: 0.0,
            highest: f64::NEG_INFINITY,
            now: Duration::ZERO,
            grains: grains.collect(),
        }
    }

    /// Takes a value. A counter that fell was reset: what it counts since is not growth that was
    /// seen (it may be another device's life), and growth goes on from there.
    pub(crate) fn take(&mut self, at: Duration, value: f64) {
        self.now = self.now.max(at);
        self.highest = self.highest.max(value);
        self.level = match (self.shape, self.raw) {
            (Shape::Counter, Some(before)) => self.level + (value - before).max(0.0),
            (Shape::Counter, None) => 0.0,
            (Shape::Gauge | Shape::Flag, _) => value,
        };
        self.raw = Some(value);
        let Self {
            now, level, grains, ..
        } = self;
        for (grain, samples) in grains {
            keep(samples, *grain, *now, *level);
        }
    }

    /// Whether a value above this was ever read.
    pub(crate) fn exceeded(&self, value: f64) -> bool {
        self.highest > value
    }

    /// Growth over a window that ends with the last value; none without any, or if the window is
    /// not kept.
    pub(crate) fn growth(&self, window: Duration) -> Option<Growth> {
        let grain = Grain::of(window);
        let (_, samples) = self.grains.iter().find(|(it, _)| *it == grain)?;
        let start = self.now.saturating_sub(window);
        let before = samples.iter().rev().find(|it| it.at <= start);
        let base = before.or_else(|| samples.front())?;
        let by = self.level - base.level;
        let within = self.now.saturating_sub(base.at.max(start));
        Some(Growth { by, within })
    }

    #[cfg(test)]
    pub(crate) fn samples(&self) -> usize {
        let lengths = self.grains.iter().map(|(_, samples)| samples.len());
        lengths.max().unwrap_or(0)
    }
}

fn keep(samples: &mut VecDeque<Sample>, grain: Grain, now: Duration, level: f64) {
    // The oldest stays for as long as it says what was at the window's start.
    let start = now.saturating_sub(grain.span());
    while samples.get(1).is_some_and(|second| second.at <= start) {
        samples.pop_front();
    }
    let only = samples.len() < 2;
    match samples.back_mut() {
        Some(last) if last.level.to_bits() == level.to_bits() => {}
        // Never into the oldest: it is the base that growth is measured from.
        Some(last) if !only && now.saturating_sub(last.at) < grain.spacing() => last.level = level,
        _ => samples.push_back(Sample { at: now, level }),
    }
    if samples.len() > MAX_SAMPLES {
        samples.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn track(shape: Shape) -> Track {
        Track::new(shape, [Grain::Minute, Grain::HalfHour, Grain::Day])
    }

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_mins(minutes)
    }

    fn grew(track: &Track, window: Duration) -> String {
        track.growth(window).unwrap().by.to_string()
    }

    #[test]
    fn growth_is_what_a_counter_grew_within_the_window() {
        let mut it = track(Shape::Counter);
        assert_eq!(it.growth(HOUR), None);
        it.take(minutes(0), 1000.0);
        assert_eq!(grew(&it, HOUR), "0", "nothing was seen to grow");
        it.take(minutes(1), 1003.0);
        let within = minutes(1);
        assert_eq!(it.growth(HOUR), Some(Growth { by: 3.0, within }));
        it.take(minutes(70), 1003.0);
        assert_eq!(grew(&it, HOUR), "0");
        assert_eq!(grew(&it, DAY), "3");
    }

    /// A counter begins anew when its driver or its device does.
    #[test]
    fn a_reset_is_no_growth() {
        let mut it = track(Shape::Counter);
        for (minute, value) in [(0, 500.0), (1, 510.0), (2, 40.0), (3, 42.0)] {
            it.take(minutes(minute), value);
        }
        assert_eq!(grew(&it, HOUR), "12");
    }

    #[test]
    fn a_gauge_grows_and_falls() {
        let mut it = track(Shape::Gauge);
        it.take(minutes(0), 8.0);
        it.take(minutes(5), 24.0);
        assert_eq!(grew(&it, HOUR), "16");
        it.take(minutes(10), 2.0);
        assert_eq!(grew(&it, HOUR), "-6");
        assert!(it.exceeded(20.0) && !it.exceeded(24.0));
    }

    proptest! {
        #[test]
        fn the_past_is_bounded_and_growth_is_right_to_a_grain(
            steps in prop::collection::vec((0_u64..4000, 0_u32..5), 1..400),
        ) {
            let mut it = track(Shape::Counter);
            let (mut now, mut value) = (0, 0);
            let mut all = Vec::new();
            for (seconds, more) in steps {
                now += seconds;
                value += more;
                it.take(Duration::from_secs(now), f64::from(value));
                all.push((now, value));
                prop_assert!(it.samples() <= MAX_SAMPLES);
                for (window, grain) in [(600, 60), (3600, 60), (86_400, 1800), (864_000, 86_400)] {
                    let at = |ago: u64| {
                        let start = now.saturating_sub(ago);
                        let before = all.iter().rev().find(|(at, _)| *at <= start);
                        before.unwrap_or(&all[0]).1
                    };
                    let by = it.growth(Duration::from_secs(window)).unwrap().by;
                    let most = f64::from(value - at(window));
                    let least = f64::from(value - at(window.saturating_sub(grain)));
                    prop_assert!(by <= most && by >= least, "{least} <= {by} <= {most}");
                }
            }
        }
    }
}
