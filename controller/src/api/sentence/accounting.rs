//! Facts about use and availability.

use super::Sentence;
use crate::fabric::{Event, Fabric};

/// The sentence for such a fact; none for others.
pub(super) fn of(event: &Event, fabric: &Fabric) -> Option<Sentence> {
    let (node, text) = match event {
        Event::UsageMeasured { node, readings, .. } => {
            let plural = if readings.len() == 1 { "" } else { "s" };
            let count = readings.len();
            let text =
                format!("processor time of {count} instance{plural} on node {node} was read");
            (node, text)
        }
        Event::AvailabilityChanged { node, changes } => {
            let told = changes.iter().map(|change| {
                let known = fabric.instances.get(&change.instance);
                let called = known.map_or_else(
                    || change.instance.to_string(),
                    |instance| instance.name.to_string(),
                );
                let runs = if change.up { "runs" } else { "doesn't run" };
                format!("{called} {runs}")
            });
            let told: Vec<_> = told.collect();
            (node, format!("on node {node}: {}", told.join(", ")))
        }
        _ => return None,
    };
    let known = fabric.nodes.get(node);
    Some(Sentence {
        subject_id: known.map(|node| node.id.to_string()).unwrap_or_default(),
        subject_name: node.to_string(),
        text,
        ..Sentence::default()
    })
}
