//! Several instances in one decision: all of them, or none.
//!
//! Each is checked beside the ones before it, so names, quotas and groups count within the batch;
//! then all are placed together.

use kapok_scheduler::place_all;
use kapok_types::Violation;

use super::{Context, Decision, instance};
use crate::fabric::{Denied, Fresh, Outcome, command::CreateInstance};

/// Instances of one batch, at most.
pub const MAX_BATCH: usize = 64;

pub(super) fn create(
    context: Context<'_>,
    wishes: &[CreateInstance],
    fresh: &[Fresh],
) -> Result<Decision, Denied> {
    if wishes.is_empty() || wishes.len() > MAX_BATCH {
        let reason = format!("are {}; must be 1 to {MAX_BATCH}", wishes.len());
        return Err(Denied::Invalid(vec![Violation::new("instances", reason)]));
    }
    let refused = |number: usize, why| Denied::OneOf {
        name: wishes[number].name.clone(),
        number: number + 1,
        of: wishes.len(),
        why: Box::new(why),
    };
    let mut staged = context.fabric.clone();
    let (mut made, mut firsts) = (Vec::new(), Vec::new());
    for (number, (wish, fresh)) in wishes.iter().zip(fresh).enumerate() {
        let context = Context {
            fabric: &staged,
            ..context
        };
        let new = instance::prepare(context, wish, *fresh);
        let new = new.map_err(|why| refused(number, why))?;
        let first = new.first();
        for event in first.iter().chain([&new.created()]) {
            staged.apply(event);
        }
        firsts.push(first);
        made.push(new);
    }
    let requests: Vec<_> = made.iter().map(|new| new.request.clone()).collect();
    let placed = place_all(&context.fabric.fleet, &requests, &context.rules.placement);
    let placed = placed.map_err(|no| refused(no.request, Denied::NoCapacity(no.no_fit)))?;
    let operations = made.iter().map(instance::New::operation).collect();
    let each = made.into_iter().zip(firsts).zip(placed);
    let events = each
        .flat_map(|((new, first), placement)| first.into_iter().chain(new.on(context, placement)));
    Ok(Decision {
        events: events.collect(),
        outcome: Outcome::Operations(operations),
    })
}
