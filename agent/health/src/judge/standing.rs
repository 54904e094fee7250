//! Where a rule stands for one part: hysteresis.
//!
//! ```text
//!          holds               for raise_after            doesn't hold
//!   (none) ─────▶ pending ───────────────────────▶ raised ─────────────▶ clearing
//!      ▲             │ doesn't hold, or unknown      ▲ ▲                    │ │
//!      ├─────────────┘                               │ └── holds, unknown ──┘ │
//!      └──────────────── for clear_after ────────────┼────────────────────────┘
//! ```
//!
//! Where a rule asks for several rounds, too, the later of the two raises it. A rule that flaps
//! faster than `clear_after` stays raised, and one that never holds as long as `raise_after` is
//! never raised. What is unknown interrupts both waits.

use std::{collections::BTreeMap, time::Duration};

use kapok_types::Timestamp;

use super::{
    Moment,
    evaluate::{Evidence, Finding},
};
use crate::rules::Rule;

/// A rule that holds, held, or may hold soon.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    since: Duration,
    /// In how many rounds it held.
    rounds: u32,
    pub(super) first_seen: Timestamp,
    pub(super) last_seen: Timestamp,
    pub(super) raised: bool,
    /// Since when it doesn't hold.
    quiet: Option<Duration>,
    /// As it was when it held last.
    pub(super) evidence: Evidence,
}

impl Standing {
    /// Nothing is known at the moment. Whether it stays.
    pub(super) fn pause(&mut self) -> bool {
        self.quiet = None;
        self.raised
    }
}

/// Moves a rule on.
pub(super) fn advance(
    standings: &mut BTreeMap<usize, Standing>,
    place: usize,
    rule: &Rule,
    finding: Finding,
    Moment { at, monotonic }: Moment,
) {
    match finding {
        Finding::Holds(evidence) => {
            let standing = standings.entry(place).or_insert_with(|| Standing {
                since: monotonic,
                rounds: 0,
                first_seen: at,
                last_seen: at,
                raised: false,
                quiet: None,
                evidence: Evidence::default(),
            });
            standing.last_seen = at;
            standing.quiet = None;
            standing.evidence = evidence;
            standing.rounds = standing.rounds.saturating_add(1);
            let long = monotonic.saturating_sub(standing.since) >= rule.raise_after;
            standing.raised |= long && standing.rounds >= rule.rounds;
        }
        Finding::No => {
            let Some(standing) = standings.get_mut(&place) else {
                return;
            };
            let quiet = *standing.quiet.get_or_insert(monotonic);
            if !standing.raised || monotonic.saturating_sub(quiet) >= rule.clear_after {
                standings.remove(&place);
            }
        }
        Finding::Unknown => {
            if standings.get_mut(&place).is_some_and(|it| !it.pause()) {
                standings.remove(&place);
            }
        }
    }
}
