//! How often what agents say of their servers becomes commands.
//!
//! An agent that is broken or hostile says something else each second; each of it would be an entry
//! of the log, for ever. So a node's judgements are [spaced](Spacing): after [`FREELY`] of them the
//! gap doubles while it keeps changing, and is small again after it was quiet. What is worse than before needn't wait, within
//! [`AT_ONCE`]. Parts change with screwdrivers: after the first ones, once in [`PARTS`].
//!
//! Owned by the reconciler, and rates only: nothing that was said is kept here, what waits is looked
//! at again as it is then, and a restart that forgets the paces loses nothing but them. At most one
//! pace a node of the fabric, and none of a node that was quiet.

use std::{collections::BTreeMap, time::Duration};

use kapok_types::Name;
use tracing::warn;

use crate::fabric::{Command, Fabric, Node};

/// The first gap, and the longest.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(10);
/// A node that wanted nothing for so long is quiet.
const QUIET: Duration = Duration::from_mins(10);
/// Judgements before the gap grows: one afternoon's repair is heard as it happens.
const FREELY: u32 = 16;
/// Changes for the worse that needn't wait for their turn, in this time.
const AT_ONCE: usize = 6;
const AT_ONCE_IN: Duration = Duration::from_mins(10);
/// From one change of parts to the next.
const PARTS: Duration = Duration::from_mins(10);

/// The paces of nodes.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<Name, Pace>);

#[derive(Debug)]
struct Pace {
    judgements: Spacing,
    /// When changes for the worse didn't wait, the oldest first.
    at_once: [Option<Duration>; AT_ONCE],
    /// When parts were taken last, other than the first ones.
    parts: Option<Duration>,
}

/// How a command's turn came, and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It writes nothing that the agent alone decides on, or only once.
    Free,
    /// It has waited for its turn.
    Spaced,
    /// It is for the worse and doesn't wait.
    AtOnce,
    /// Other parts.
    Parts,
}

/// A gap from one time to the next that doubles each time but some first ones, until nothing was
/// wanted for [`QUIET`].
#[derive(Debug)]
pub(super) struct Spacing {
    /// Times at the shortest gap, and how many of them are left.
    freely: u32,
    left: u32,
    gap: Duration,
    next: Duration,
    wanted: Duration,
}

impl Paces {
    /// How the turn of a node's command comes; none if it is to wait.
    pub(super) fn turn(&mut self, node: &Node, command: &Command, now: Duration) -> Option<Turn> {
        match command {
            Command::JudgeNode { judgement, .. } if !judgement.is_known(node.health.as_ref()) => {
                let pace = self.0.entry(node.name.clone()).or_default();
                if pace.judgements.wants(now) {
                    return Some(Turn::Spaced);
                }
                let oldest = pace.at_once[0];
                let free = oldest.is_none_or(|at| now.saturating_sub(at) >= AT_ONCE_IN);
                (free && judgement.is_worse(node.health.as_ref())).then_some(Turn::AtOnce)
            }
            Command::ReportParts { .. } if !node.parts.is_empty() => {
                let last = self.0.get(&node.name).and_then(|pace| pace.parts);
                let due = last.is_none_or(|at| now.saturating_sub(at) >= PARTS);
                due.then_some(Turn::Parts)
            }
            _ => Some(Turn::Free),
        }
    }

    /// A node's command was taken.
    pub(super) fn took(&mut self, node: &Name, turn: Turn, now: Duration) {
        if turn == Turn::Free {
            return;
        }
        let pace = self.0.entry(node.clone()).or_default();
        if turn == Turn::Parts {
            pace.parts = Some(now);
            return;
        }
        if turn == Turn::AtOnce {
            pace.at_once.rotate_left(1);
            pace.at_once[AT_ONCE - 1] = Some(now);
        }
        if pace.judgements.took(now) {
            warn!(%node, "its agent judges its server otherwise all the time: it is heard less often");
        }
    }

    /// Forgets nodes that are quiet or gone.
    pub(super) fn tidy(&mut self, fabric: &Fabric, now: Duration) {
        self.0
            .retain(|node, pace| fabric.nodes.contains_key(node) && !pace.is_quiet(now));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            judgements: Spacing::after(FREELY),
            at_once: [None; AT_ONCE],
            parts: None,
        }
    }
}

impl Pace {
    fn is_quiet(&self, now: Duration) -> bool {
        let long_ago = |at: Duration, long| now.saturating_sub(at) >= long;
        self.judgements.is_quiet(now)
            && self.at_once[AT_ONCE - 1].is_none_or(|at| long_ago(at, AT_ONCE_IN))
            && self.parts.is_none_or(|at| long_ago(at, PARTS))
    }
}

impl Spacing {
    /// A gap that begins to grow after so many times.
    fn after(freely: u32) -> Self {
        Self {
            freely,
            left: freely,
            gap: SHORTEST,
            next: Duration::ZERO,
            wanted: Duration::ZERO,
        }
    }

    /// Something is wanted; whether its turn has come.
    pub(super) fn wants(&mut self, now: Duration) -> bool {
        if self.is_quiet(now) {
            self.gap = SHORTEST;
            self.left = self.freely;
        }
        self.wanted = now;
        now >= self.next
    }

    /// It was done; whether the gap is the longest from now on, and wasn't before.
    pub(super) fn took(&mut self, now: Duration) -> bool {
        self.next = now + self.gap;
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        let before = self.gap;
        self.gap = (before * 2).min(LONGEST);
        before < LONGEST && self.gap == LONGEST
    }

    fn is_quiet(&self, now: Duration) -> bool {
        now.saturating_sub(self.wanted) >= QUIET
    }
}

impl Default for Spacing {
    fn default() -> Self {
        Self::after(0)
    }
}
