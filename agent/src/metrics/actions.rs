//! How actions on domains, disks and images ended, counted by their actors.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kapok_metrics::Writer;

use super::names;
use crate::driver::Error;

/// What an action ended with that did what it should.
const DONE: &str = "done";

/// The counts, by action and outcome. Cheap to clone.
///
/// Both are words of the program's own, so their number is bounded. An action that hasn't ended is
/// in none of them: its outcome is unknown.
#[derive(Debug, Clone, Default)]
pub struct Actions(Arc<Mutex<Counts>>);

type Counts = BTreeMap<(&'static str, &'static str), u64>;

impl Actions {
    /// An action has ended.
    pub(crate) fn ended<T>(&self, action: &'static str, outcome: &Result<T, Error>) {
        let outcome = outcome.as_ref().err().map_or(DONE, Error::kind);
        *self.lock().entry((action, outcome)).or_default() += 1;
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let counts = self.lock().clone();
        writer.family(&names::ACTIONS, |series| {
            counts.iter().try_for_each(|((action, outcome), count)| {
                series.put(&[("action", *action), ("outcome", *outcome)], *count)
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_counts_by_itself() {
        let actions = Actions::default();
        let busy = Error::Busy { lane: "change" };
        actions.ended("start", &Ok(()));
        actions.ended("start", &Ok(()));
        actions.ended("start", &Err::<(), _>(busy));
        actions.ended("destroy", &Err::<(), _>(Error::Quarantined));
        let counted: Vec<_> = actions.lock().clone().into_iter().collect();
        assert_eq!(
            counted,
            [
                (("destroy", "quarantined"), 1),
                (("start", "busy"), 1),
                (("start", "done"), 2),
            ]
        );
    }
}
