//! What is wrong when: data, one entry a rule, and what an administrator makes of it.
//!
//! A rule looks at one quantity of one part. Its code is stable: alerts and runbooks name it. A
//! limit that the device states goes before ours. How a rule is put to readings is the judge's.
//!
//! Not all that is wrong is held against the node: what guests can bring about by load (pressure,
//! a slow disk), and what is wrong with a guest alone, is shown and never counts in the node's
//! condition: see [`Verdict::counts`](crate::Verdict::counts).

mod overrides;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use overrides::{Error, Override, Overrides};

use crate::{Condition, Kind, Quantity, history::Grain};

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What is wrong if it holds, in one stable word.
    pub code: &'static str,
    /// The kinds of parts that it speaks of; all if empty.
    pub kinds: &'static [Kind],
    /// How bad it is.
    pub condition: Condition,
    /// When it holds.
    pub test: Test,
    /// Quantities of the same part that must be at least so much, or it doesn't apply.
    pub given: Vec<(Quantity, f64)>,
    /// A quantity of the same part that says more: with it, the rule doesn't apply.
    pub without: Option<Quantity>,
    /// How long it must hold before it is said.
    pub raise_after: Duration,
    /// In how many rounds in a row it must hold before it is said.
    pub rounds: u32,
    /// How long it must not hold before it is no longer said.
    pub clear_after: Duration,
    /// The rule that says the same of the same part, and worse.
    pub unless: Option<&'static str>,
    /// What is wrong, with {value}, {limit} and {over}.
    pub summary: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// When a rule holds. Numbers are in the quantity's base unit.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It is so.
    Is(Quantity),
    /// It is not so.
    Isnt(Quantity),
    /// The value is at least this.
    AtLeast(Quantity, f64),
    /// The value is at most this.
    AtMost(Quantity, f64),
    /// The value is at least what the device itself states; if it states nothing, this.
    Above(Quantity, Quantity, Option<f64>),
    /// The value is at most what the device itself states.
    Below(Quantity, Quantity),
    /// It is nothing, and has been something.
    Stopped(Quantity),
    /// This bit is set.
    Bit(Quantity, i32),
    /// The first is at most this share of the second.
    Share(Quantity, Quantity, f64),
    /// It grew by at least this within the window.
    Grew(Quantity, f64, Duration),
    /// It did not grow within the window, all of which was seen.
    Still(Quantity, Duration),
    /// It grew, by what one of another grew.
    Per(Per),
    /// It reaches 1 within this time, by how it grew; or, if it was not seen to grow, by its own
    /// age.
    Wears(Quantity, Quantity, Duration),
    /// Something of the part could not be read.
    Unreadable,
    /// Something of the part is no longer spoken of.
    Vanished,
    /// The source could not be read.
    SourceUnreadable,
    /// The source said more than is kept.
    SourceSaysTooMuch,
}

/// One quantity's growth for each of another's.
#[derive(Debug, Clone, PartialEq)]
pub struct Per {
    /// What grew.
    pub of: Quantity,
    /// By at least so much in all.
    pub of_least: f64,
    /// For each of these.
    pub per: Quantity,
    /// Of which there were at least so many.
    pub per_least: f64,
    /// By at least so much for each.
    pub at_least: f64,
    /// Within the window.
    pub over: Duration,
}

/// Which way a rule's number goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    AtLeast,
    AtMost,
}

/// The rules of a node.
#[derive(Debug, Clone)]
pub struct Rules {
    table: Vec<Rule>,
    by_quantity: BTreeMap<String, Vec<usize>>,
    grains: BTreeMap<String, BTreeSet<Grain>>,
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(table::table())
    }
}

impl Rules {
    /// The built-in table, changed.
    ///
    /// # Errors
    ///
    /// The first key that is unknown or makes no sense.
    pub fn with(overrides: &Overrides) -> Result<Self, Error> {
        let mut rules = table::table();
        overrides.apply(&mut rules)?;
        Ok(Self::of(rules))
    }

    /// Those that are in force.
    pub fn table(&self) -> &[Rule] {
        &self.table
    }

    fn of(table: Vec<Rule>) -> Self {
        let mut by_quantity: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut grains: BTreeMap<String, BTreeSet<Grain>> = BTreeMap::new();
        for (place, rule) in table.iter().enumerate() {
            let name = rule.test.of().map_or("", |of| of.name.as_ref());
            by_quantity.entry(name.to_owned()).or_default().push(place);
            for (quantity, window) in rule.test.windows() {
                let grains = grains.entry(quantity.name.to_string()).or_default();
                grains.insert(Grain::of(window));
            }
        }
        Self {
            table,
            by_quantity,
            grains,
        }
    }

    /// The rules that look at a quantity first, or, by the empty name, at none; each with its
    /// place in the table.
    pub(crate) fn about(&self, quantity: &str) -> impl Iterator<Item = (usize, &Rule)> {
        let places = self
            .by_quantity
            .get(quantity)
            .map_or(&[][..], Vec::as_slice);
        let rules = places.iter().map(|place| (*place, self.table.get(*place)));
        rules.filter_map(|(place, rule)| Some((place, rule?)))
    }

    /// How finely a quantity's past is needed.
    pub(crate) fn grains(&self, quantity: &str) -> impl Iterator<Item = Grain> {
        self.grains.get(quantity).into_iter().flatten().copied()
    }
}

impl Rule {
    /// Whether it speaks of such parts.
    pub fn applies(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

impl Test {
    /// The quantity that it looks at first; none if it looks at all.
    pub fn of(&self) -> Option<&Quantity> {
        match self {
            Self::Is(of)
            | Self::Isnt(of)
            | Self::AtLeast(of, _)
            | Self::AtMost(of, _)
            | Self::Above(of, ..)
            | Self::Below(of, _)
            | Self::Stopped(of)
            | Self::Bit(of, _)
            | Self::Share(of, ..)
            | Self::Grew(of, ..)
            | Self::Still(of, _)
            | Self::Per(Per { of, .. })
            | Self::Wears(of, ..) => Some(of),
            Self::Unreadable
            | Self::Vanished
            | Self::SourceUnreadable
            | Self::SourceSaysTooMuch => None,
        }
    }

    /// All quantities that it looks at, the first one first.
    pub(crate) fn quantities(&self) -> Vec<&Quantity> {
        let second = match self {
            Self::Above(_, second, _)
            | Self::Below(_, second)
            | Self::Share(_, second, _)
            | Self::Wears(_, second, _)
            | Self::Per(Per { per: second, .. }) => Some(second),
            _ => None,
        };
        self.of().into_iter().chain(second).collect()
    }

    /// How far back it looks at which quantities.
    fn windows(&self) -> Vec<(&Quantity, Duration)> {
        match self {
            Self::Grew(of, _, over) | Self::Still(of, over) => vec![(of, *over)],
            Self::Per(Per { of, per, over, .. }) => vec![(of, *over), (per, *over)],
            Self::Wears(of, ..) => vec![(of, crate::history::LONGEST)],
            _ => Vec::new(),
        }
    }

    /// The number that an administrator may change, which way it goes, and what it counts.
    fn number(&mut self) -> Option<(Way, &mut f64, crate::Unit)> {
        match self {
            Self::AtLeast(of, number) | Self::Grew(of, number, _) => {
                Some((Way::AtLeast, number, of.unit))
            }
            Self::Above(of, _, number) => {
                let unit = of.unit;
                Some((Way::AtLeast, number.get_or_insert(f64::MAX), unit))
            }
            Self::Per(Per { of, at_least, .. }) => Some((Way::AtLeast, at_least, of.unit)),
            Self::AtMost(of, number) => Some((Way::AtMost, number, of.unit)),
            Self::Share(_, _, number) => Some((Way::AtMost, number, crate::Unit::Ratio)),
            _ => None,
        }
    }

    fn window(&mut self) -> Option<&mut Duration> {
        match self {
            Self::Grew(_, _, over) | Self::Still(_, over) | Self::Per(Per { over, .. }) => {
                Some(over)
            }
            Self::Wears(_, _, within) => Some(within),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        let rules = Rules::default();
        let codes: BTreeSet<_> = rules.table().iter().map(|rule| rule.code).collect();
        assert_eq!(
            codes.len(),
            rules.table().len(),
            "codes are unlike each other"
        );
        let uncounted = crate::verdict::UNCOUNTED_CODES;
        assert!(uncounted.iter().all(|code| codes.contains(code)));
        for rule in rules.table() {
            let Rule {
                code,
                summary,
                remedy,
                ..
            } = rule;
            let fits = |c: char| c.is_ascii_uppercase() || c == '_';
            assert!(code.chars().all(fits), "{code}");
            assert_ne!(rule.condition, Condition::Healthy, "{code}");
            assert!(!summary.ends_with('.') && remedy.ends_with('.'), "{code}");
            if let Some(worse) = rule.unless {
                assert!(codes.contains(worse), "{code} speaks of {worse}");
            }
            let test = &rule.test;
            for (quantity, over) in test.windows() {
                assert!(over <= crate::history::LONGEST, "{code} {quantity:?}");
                assert_ne!(quantity.shape, crate::Shape::Flag, "{code}");
            }
            let shape = test.of().map(|of| of.shape);
            let flag = matches!(test, Test::Is(_) | Test::Isnt(_));
            let stopped = matches!(test, Test::Stopped(_) | Test::AtMost(..));
            assert!(
                stopped || flag == (shape == Some(crate::Shape::Flag)),
                "{code}"
            );
        }
    }
}
