//! Operations: how they end.

use kapok_types::OperationId;

use super::{Context, Decision, instance, system};
use crate::fabric::{Denied, Event, OperationEnd, OperationKind, OperationOutcome, Outcome};

/// The fact that an operation ended.
pub(super) fn ended(
    context: Context<'_>,
    operation: OperationId,
    outcome: OperationOutcome,
    detail: &str,
) -> Event {
    let end = OperationEnd {
        outcome,
        detail: detail.to_owned(),
        at: context.now,
    };
    Event::OperationEnded { operation, end }
}

/// What a reconciler saw come true. An operation ends once; later words change nothing.
pub(super) fn end(
    context: Context<'_>,
    operation: OperationId,
    outcome: OperationOutcome,
    detail: &str,
) -> Decision {
    if context.fabric.running.contains_key(&operation) {
        let mut events = vec![ended(context, operation, outcome, detail)];
        if outcome == OperationOutcome::Succeeded {
            events.extend(system::goes_live(context, operation));
        }
        Decision::done(events)
    } else {
        Decision::done(Vec::new())
    }
}

/// A create that is cancelled is deleted again; every other operation only stops being waited
/// for, since what it asked of the guest can't be taken back.
pub(super) fn cancel(context: Context<'_>, id: OperationId) -> Result<Decision, Denied> {
    let operation = context
        .fabric
        .operations
        .get(&id)
        .filter(|operation| context.covers(&operation.tenant))
        .ok_or_else(|| Denied::Absent {
            kind: "operation",
            which: id.to_string(),
        })?;
    if !operation.is_running() {
        return Err(Denied::OperationEnded { operation: id });
    }
    let cancelled = ended(
        context,
        id,
        OperationOutcome::Cancelled,
        "cancelled by request",
    );
    match operation.kind {
        OperationKind::Delete => Err(Denied::NotCancellable {
            operation: id,
            reason: "parts of the instance may be gone already",
        }),
        OperationKind::Create => {
            let mut events = vec![cancelled];
            if let Some(instance) = context.fabric.instances.get(&operation.instance) {
                let begun = instance::begin_delete(context, instance).events;
                // The create has its end above; only the rest of the deletion follows.
                events.extend(begun.into_iter().filter(
                    |event| !matches!(event, Event::OperationEnded { operation, .. } if *operation == id),
                ));
            }
            Ok(Decision {
                events,
                outcome: Outcome::Operation(id),
            })
        }
        OperationKind::Start
        | OperationKind::Stop
        | OperationKind::Restart
        | OperationKind::Resize => Ok(Decision {
            events: vec![cancelled],
            outcome: Outcome::Operation(id),
        }),
    }
}
