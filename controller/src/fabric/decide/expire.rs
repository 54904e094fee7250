//! Retention: what the fabric forgets, and when.

use kapok_types::{OperationId, Timestamp};

use super::{Context, Decision};
use crate::fabric::{Event, Fabric};

/// How long an answered request is remembered: 24 hours.
pub const REQUEST_RETENTION_MS: u64 = 24 * 3600 * 1000;
/// How long an ended operation is remembered, if there are not too many: 7 days.
pub const OPERATION_RETENTION_MS: u64 = 7 * 24 * 3600 * 1000;
/// Operations that are remembered at most, so that memory stays flat at any rate. Those that run
/// are never forgotten.
pub const MAX_OPERATIONS: usize = 50_000;
/// Operations that one decision forgets at most.
const AT_ONCE: usize = 1000;

/// Whether anything is past its retention.
pub fn is_due(fabric: &Fabric, now: Timestamp) -> bool {
    requests_before(fabric, now).is_some() || !operations(fabric, now).is_empty()
}

pub(super) fn expire(context: Context<'_>) -> Decision {
    let Context { fabric, now, .. } = context;
    let mut events = Vec::new();
    events.extend(requests_before(fabric, now).map(|before| Event::RequestsExpired { before }));
    let operations = operations(fabric, now);
    if !operations.is_empty() {
        events.push(Event::OperationsExpired { operations });
    }
    Decision::done(events)
}

fn requests_before(fabric: &Fabric, now: Timestamp) -> Option<Timestamp> {
    let before = Timestamp(now.get().saturating_sub(REQUEST_RETENTION_MS));
    let ((oldest, _), ()) = fabric.requests_by_age.get_min()?;
    (*oldest < before).then_some(before)
}

/// Ids are time-ordered: the oldest come first, and a bounded number goes at a time.
fn operations(fabric: &Fabric, now: Timestamp) -> Vec<OperationId> {
    let surplus = fabric.operations.len().saturating_sub(MAX_OPERATIONS);
    let oldest = fabric.operations.values().take(AT_ONCE).enumerate();
    oldest
        .filter(|(rank, operation)| {
            operation.ended.as_ref().is_some_and(|end| {
                *rank < surplus || now.millis_since(end.at) > OPERATION_RETENTION_MS
            })
        })
        .map(|(_, operation)| operation.id)
        .collect()
}
