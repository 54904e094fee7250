//! What agents read and what was seen to run, for the record.

use kapok_types::{Name, NodeId};

use super::{Context, Decision, node};
use crate::fabric::{
    Denied, Event,
    accounting::{AvailabilityChange, Reading, Seen},
    command::Sighting,
};

/// Longest boot id and run, in bytes: an agent's word isn't trusted to be short.
const MAX_WORD_BYTES: usize = 64;
/// Longest explanation, in bytes.
const MAX_WHY_BYTES: usize = 256;

/// An agent's readings. A node speaks for what it carries (FAULTS 22, 23).
pub(super) fn usage(
    context: Context<'_>,
    name: &Name,
    id: NodeId,
    boot: &str,
    readings: &[Reading],
) -> Result<Decision, Denied> {
    let node = node::speaking(context, name, id)?;
    let carried = context.fabric.on_node.get(&node.id);
    let sound = |reading: &&Reading| {
        let its = carried.is_some_and(|there| there.contains_key(&reading.incarnation));
        its && reading.run.len() <= MAX_WORD_BYTES && reading.at <= context.now
    };
    let readings: Vec<_> = readings.iter().filter(sound).cloned().collect();
    if readings.is_empty() || boot.is_empty() || boot.len() > MAX_WORD_BYTES {
        return Ok(Decision::done(Vec::new()));
    }
    Ok(Decision::done(vec![Event::UsageMeasured {
        node: name.clone(),
        boot: boot.into(),
        readings,
    }]))
}

/// Instances that are seen otherwise than is on record. Of one that was never seen to run it is no
/// news that it doesn't.
pub(super) fn availability(
    context: Context<'_>,
    name: &Name,
    id: NodeId,
    sightings: &[Sighting],
) -> Result<Decision, Denied> {
    let node = node::speaking(context, name, id)?;
    let fabric = context.fabric;
    let news = sightings.iter().filter_map(|sighting| {
        let (instance, incarnation) = fabric.incarnation(sighting.incarnation)?;
        let seen = fabric.accounting.seen(instance.id);
        let is_news = if sighting.up {
            seen != Seen::On
        } else {
            matches!(seen, Seen::On | Seen::Unseen)
        };
        (incarnation.node == node.id && is_news).then(|| AvailabilityChange {
            instance: instance.id,
            up: sighting.up,
            at: sighting.at.min(context.now),
            why: short(&sighting.why),
        })
    });
    let changes: Vec<_> = news.collect();
    if changes.is_empty() {
        return Ok(Decision::done(Vec::new()));
    }
    Ok(Decision::done(vec![Event::AvailabilityChanged {
        node: name.clone(),
        changes,
    }]))
}

fn short(why: &str) -> String {
    let plain = why.chars().filter(|letter| !letter.is_control());
    let mut bytes = 0;
    let plain = plain.take_while(|letter| {
        bytes += letter.len_utf8();
        bytes <= MAX_WHY_BYTES
    });
    plain.collect()
}
