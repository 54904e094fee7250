//! Which links have something to do after a change: those whose instances differ.

use std::collections::BTreeSet;

use imbl::ordmap::DiffItem;
use kapok_types::NodeId;

use super::Links;
use crate::fabric::{Fabric, Instance};

/// Wakes the links of all nodes that carry an instance which differs between two snapshots, and
/// marks those instances for the reconcilers. Costs what changed, not what there is.
pub(super) fn wake(links: &Links, before: &Fabric, after: &Fabric) {
    let mut nodes: BTreeSet<NodeId> = BTreeSet::new();
    let mut changed = Vec::new();
    let mut touch = |instance: &Instance| {
        for one in &instance.incarnations {
            nodes.insert(one.node);
            changed.push(one.id);
        }
    };
    for item in before.instances.diff(&after.instances) {
        match item {
            DiffItem::Add(_, instance) | DiffItem::Remove(_, instance) => touch(instance),
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => {
                touch(old);
                touch(new);
            }
        }
    }
    // What waited for a node to be adopted is due now.
    if before.adoption != after.adoption {
        let adopted = before.adoption.iter().flat_map(|adoption| &adoption.nodes);
        for node in adopted.filter(|node| !after.is_adopting(node)) {
            links.wake(node);
            let id = after.nodes.get(node).map(|node| node.id);
            let there = id.and_then(|id| after.on_node.get(&id));
            changed.extend(there.into_iter().flat_map(|there| there.keys().copied()));
        }
    }
    for node in nodes {
        if let Some(name) = after.node_names.get(&node) {
            links.wake(name);
        }
    }
    links.shared.observed.mark_dirty(changed);
}
