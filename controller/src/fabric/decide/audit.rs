//! The record of the record: refusals, and parts of the log that were moved out.

use kapok_store::Segment;
use kapok_types::{Seq, Timestamp};

use super::{Context, Decision};
use crate::{
    audit::Refusal,
    fabric::{Denied, Event},
};

pub(super) fn refusals(refusals: &[Refusal]) -> Decision {
    let told = refusals.iter().map(|refusal| Event::Refused {
        refusal: refusal.clone(),
    });
    Decision::done(told.collect())
}

/// Parts follow each other without a gap; the same one again changes nothing.
pub(super) fn segment(
    context: Context<'_>,
    segment: &Segment,
    newest: Timestamp,
) -> Result<Decision, Denied> {
    let segments = &context.fabric.segments;
    if segments
        .get(&segment.first)
        .is_some_and(|record| record.segment == *segment)
    {
        return Ok(Decision::done(Vec::new()));
    }
    let last = segments.get_max();
    let expected = last.map_or(Seq(1), |(_, record)| record.segment.last.next());
    if segment.first != expected {
        return Err(Denied::OutOfOrder {
            first: segment.first,
            expected,
        });
    }
    Ok(Decision::done(vec![Event::SegmentSealed {
        segment: segment.clone(),
        newest,
    }]))
}

pub(super) fn delete_segment(context: Context<'_>, first: Seq, at: Timestamp) -> Decision {
    let record = context.fabric.segments.get(&first);
    Decision::done(match record {
        Some(record) if record.deleted.is_none() => vec![Event::SegmentDeleted { first, at }],
        _ => Vec::new(),
    })
}
