//! The task that owns the judge.
//!
//! It judges a moment after it was told something, so that many sources that answer at once are
//! one judgement, and now and then without news, as verdicts also come and go by time alone.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use kapok_health::{Assessment, Condition, Judge, Rules, Sweep, Verdict};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Health;

/// The least time between two judgements.
const PAUSE: Duration = Duration::from_secs(1);
/// The most.
const IDLE: Duration = Duration::from_secs(10);

/// Judges until `stop`.
pub(super) async fn judge(
    rules: Rules,
    mut sweeps: mpsc::Receiver<Sweep>,
    health: Health,
    stop: CancellationToken,
) {
    let env = Arc::clone(&health.inner.env);
    let mut judge = Judge::new(rules.clone());
    // Before all have spoken, nothing wrong is no good news.
    let mut owed: BTreeSet<Arc<str>> = health.inner.cadences.keys().cloned().collect();
    let mut last = Instant::now();
    let mut due = last + IDLE;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep_until(due), if owed.is_empty() => {
                let now = (env.now(), env.monotonic());
                let judged = catch_unwind(AssertUnwindSafe(|| judge.assess(now.0, now.1)));
                let assessment = judged.unwrap_or_else(|_| broken(&health, now.0));
                announce(&health, &assessment);
                health.publish(assessment);
                last = Instant::now();
                due = last + IDLE;
            }
            sweep = sweeps.recv() => {
                let Some(sweep) = sweep else { return };
                owed.remove(&sweep.source);
                if catch_unwind(AssertUnwindSafe(|| judge.take(&sweep))).is_err() {
                    tracing::error!(source = %sweep.source, "the judge broke, and begins anew");
                    judge = Judge::new(rules.clone());
                }
                due = due.min(last + PAUSE);
            }
        }
    }
}

/// A judge that breaks knows nothing.
fn broken(health: &Health, at: kapok_types::Timestamp) -> Assessment {
    tracing::error!("the judge broke: the server's condition is unknown");
    let held = health.inner.assessment.borrow().clone();
    let mut assessment = held.map_or_else(
        || Assessment {
            at,
            condition: Condition::Unknown,
            verdicts: Vec::new(),
            components: std::collections::BTreeMap::new(),
            sources: Vec::new(),
            readings: Vec::new(),
        },
        |held| Assessment::clone(&held),
    );
    assessment.at = at;
    assessment.condition = assessment.condition.max(Condition::Unknown);
    assessment
}

/// Logs verdicts that came and went.
fn announce(health: &Health, now: &Assessment) {
    let before = health.inner.assessment.borrow().clone();
    let before = before.as_ref().map_or(&[][..], |before| &before.verdicts);
    let lacks = |verdicts: &[Verdict], it: &Verdict| {
        !verdicts.iter().any(|other| {
            (&other.code, other.condition, &other.component)
                == (&it.code, it.condition, &it.component)
        })
    };
    for verdict in now.verdicts.iter().filter(|it| lacks(before, it)) {
        tracing::warn!(
            code = %verdict.code,
            condition = %verdict.condition,
            component = %verdict.component,
            "{}. {}", verdict.summary, verdict.remedy
        );
    }
    for verdict in before.iter().filter(|it| lacks(&now.verdicts, it)) {
        tracing::info!(
            code = %verdict.code,
            component = %verdict.component,
            "no longer: {}", verdict.summary
        );
    }
}
