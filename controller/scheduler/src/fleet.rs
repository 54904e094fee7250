//! The fleet: nodes and the claims on them, kept up to date by deltas.
//!
//! Owned by whoever folds the log; [`Fleet::apply`] is the only way it changes. It takes facts,
//! never decisions, so it can't refuse: a claim counts even where it exceeds the capacity, or
//! where its node isn't known.
//!
//! Clones share everything that stays the same, so a clone costs the same at any size, and a
//! what-if is a clone with deltas applied to it.
//!
//! Beside the nodes it keeps what decisions seek in: the index, the sums of the headroom, and the
//! sites. They say nothing that nodes and claims don't, and change along with them.

use std::sync::Arc;

use imbl::OrdMap;
use kapok_types::{IncarnationId, NodeId};

use crate::{
    groups::Sites,
    headroom::{Pools, Share},
    held::{Claim, Held},
    index::{Index, Key, Kind},
    node::{Node, NodeView},
};

/// The nodes of a fabric and what incarnations hold of each.
///
/// Two fleets are equal if they say the same, however they came about.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    nodes: OrdMap<NodeId, Arc<Entry>>,
    /// Claims on nodes that aren't known; never empty ones.
    strays: OrdMap<NodeId, Arc<Held>>,
    pub(crate) index: Index,
    pub(crate) pools: Pools,
    pub(crate) sites: Sites,
}

/// A claim changes it and copies no node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    node: Arc<Node>,
    kind: Kind,
    held: Held,
}

/// Where index and sums have a node.
#[derive(Debug, Default)]
struct Standing {
    key: Option<Key>,
    share: Share,
}

/// One change of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// A node is new or has changed. Claims on it stay as they are.
    NodePut(Node),
    /// A node is gone. Claims on it stay until they are released.
    NodeRemoved(NodeId),
    /// An incarnation holds this much of a node, in place of what it held of it before.
    Claimed {
        /// The node.
        node: NodeId,
        /// Who holds it.
        incarnation: IncarnationId,
        /// How much.
        claim: Claim,
    },
    /// An incarnation holds nothing of a node any more. No effect if it held nothing.
    Released {
        /// The node.
        node: NodeId,
        /// Who held it.
        incarnation: IncarnationId,
    },
}

impl Fleet {
    /// Takes in one change. Applying the same one again changes nothing.
    pub fn apply(&mut self, delta: Delta) {
        match delta {
            Delta::NodePut(node) => self.put(node),
            Delta::NodeRemoved(id) => self.remove(id),
            Delta::Claimed {
                node,
                incarnation,
                claim,
            } => self.claim(node, incarnation, claim),
            Delta::Released { node, incarnation } => self.release(node, incarnation),
        }
    }

    /// What the fleet would be after `deltas`; this one stays as it is.
    pub fn with(&self, deltas: impl IntoIterator<Item = Delta>) -> Self {
        let mut other = self.clone();
        deltas.into_iter().for_each(|delta| other.apply(delta));
        other
    }

    /// How many nodes are known.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// One node, if it is known.
    pub fn node(&self, id: NodeId) -> Option<NodeView<'_>> {
        self.nodes.get(&id).map(|entry| entry.view())
    }

    /// All known nodes, ordered by id.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.nodes.values().map(|entry| entry.view())
    }

    /// What an incarnation holds of a node, known or not.
    pub fn claim_of(&self, node: NodeId, incarnation: IncarnationId) -> Option<&Claim> {
        self.held(node)
            .and_then(|held| held.claims.get(&incarnation))
    }

    /// Claims on nodes that aren't known, ordered by node and incarnation.
    pub fn strays(&self) -> impl Iterator<Item = (NodeId, IncarnationId, &Claim)> + '_ {
        self.strays.iter().flat_map(|(node, held)| {
            held.claims
                .iter()
                .map(|(incarnation, claim)| (*node, *incarnation, claim))
        })
    }

    fn put(&mut self, node: Node) {
        let (held, kind) = match self.take(node.id).map(Arc::unwrap_or_clone) {
            // Most changes of a node are of its state.
            Some(entry) if Kind::is_same(&entry.node, &node) => (entry.held, entry.kind),
            Some(entry) => (entry.held, self.index.kind(&node)),
            None => {
                let held = self.strays.remove(&node.id).map(Arc::unwrap_or_clone);
                (held.unwrap_or_default(), self.index.kind(&node))
            }
        };
        self.sites.insert(&node);
        let entry = Entry {
            kind,
            node: Arc::new(node),
            held,
        };
        self.move_to(&entry, &Standing::default(), &entry.standing());
        self.nodes.insert(entry.node.id, Arc::new(entry));
    }

    fn remove(&mut self, id: NodeId) {
        let Some(entry) = self.take(id) else {
            return;
        };
        let held = Arc::unwrap_or_clone(entry).held;
        if !held.claims.is_empty() {
            self.strays.insert(id, Arc::new(held));
        }
    }

    /// Takes a node out of everything.
    fn take(&mut self, id: NodeId) -> Option<Arc<Entry>> {
        let entry = self.nodes.remove(&id)?;
        self.sites.remove(&entry.node);
        self.move_to(&entry, &entry.standing(), &Standing::default());
        Some(entry)
    }

    fn claim(&mut self, node: NodeId, incarnation: IncarnationId, claim: Claim) {
        if !self.change(node, |held| held.claim(incarnation, claim.clone())) {
            Arc::make_mut(self.strays.entry(node).or_default()).claim(incarnation, claim);
        }
    }

    fn release(&mut self, node: NodeId, incarnation: IncarnationId) {
        // Asked first, because a release of nothing should copy nothing that clones share.
        if self.claim_of(node, incarnation).is_none()
            || self.change(node, |held| held.release(incarnation))
        {
            return;
        }
        if let Some(held) = self.strays.get_mut(&node) {
            let held = Arc::make_mut(held);
            held.release(incarnation);
            if held.claims.is_empty() {
                self.strays.remove(&node);
            }
        }
    }

    /// Counts a claim that no incarnation holds, of this number: for what-ifs, which need no more
    /// than the sums.
    pub(crate) fn reserve(&mut self, node: NodeId, number: usize, claim: &Claim) {
        self.change(node, |held| held.reserve(number, claim));
    }

    /// Changes what is held of a known node, and where the node stands by it.
    fn change(&mut self, id: NodeId, change: impl FnOnce(&mut Held)) -> bool {
        let Some(shared) = self.nodes.get_mut(&id) else {
            return false;
        };
        let entry = Arc::make_mut(shared);
        let before = entry.standing();
        change(&mut entry.held);
        let after = entry.standing();
        self.index.refile(&entry.kind, before.key, after.key);
        self.pools.change(&entry.node, &before.share, &after.share);
        true
    }

    fn move_to(&mut self, entry: &Entry, before: &Standing, after: &Standing) {
        self.index.refile(&entry.kind, before.key, after.key);
        self.pools.change(&entry.node, &before.share, &after.share);
    }

    fn held(&self, node: NodeId) -> Option<&Held> {
        let known = self.nodes.get(&node).map(|entry| &entry.held);
        known.or_else(|| self.strays.get(&node).map(AsRef::as_ref))
    }
}

impl PartialEq for Fleet {
    fn eq(&self, other: &Self) -> bool {
        // The rest follows from these.
        self.nodes == other.nodes && self.strays == other.strays
    }
}

impl Eq for Fleet {}

impl Entry {
    fn standing(&self) -> Standing {
        Standing {
            key: Key::of(self.view()),
            share: Share::of(self.view()),
        }
    }

    fn view(&self) -> NodeView<'_> {
        NodeView {
            node: &self.node,
            held: &self.held,
        }
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::{MemoryMib, Vcpus, instance::MemoryClaim};

    use super::*;
    use crate::fixture::{claim, claimed, incarnation_id, node, node_id, put, released};

    #[test]
    fn a_release_gives_back_exactly_what_was_claimed_and_only_once() {
        let before = Fleet::default().with([put(node(1)), claimed(1, 1, claim(2, 1024))]);
        let mut fleet = before.with([claimed(1, 2, claim(4, 4096)), claimed(1, 2, claim(4, 4096))]);
        assert_eq!(fleet.node(node_id(1)).unwrap().claimed_vcpus(), Vcpus(6));
        fleet.apply(released(1, 2));
        assert_eq!(fleet, before);
        fleet.apply(released(1, 2));
        fleet.apply(released(1, 9));
        fleet.apply(released(9, 1));
        assert_eq!(fleet, before);
    }

    #[test]
    fn a_changed_claim_replaces_the_old_one() {
        let fleet = Fleet::default().with([
            put(node(1)),
            claimed(1, 1, claim(8, 8192)),
            claimed(1, 1, claim(2, 1024)),
        ]);
        let view = fleet.node(node_id(1)).unwrap();
        assert_eq!(view.claimed_vcpus(), Vcpus(2));
        assert_eq!(view.claimed_memory(), claim(2, 1024).memory.total());
        assert_eq!(
            view.claims().collect::<Vec<_>>(),
            [(incarnation_id(1), &claim(2, 1024))]
        );
    }

    #[test]
    fn a_claim_outlives_its_node_and_may_come_before_it() {
        let mut fleet = Fleet::default().with([claimed(1, 1, claim(2, 1024))]);
        assert!(fleet.is_empty());
        assert_eq!(
            fleet.strays().collect::<Vec<_>>(),
            [(node_id(1), incarnation_id(1), &claim(2, 1024))]
        );
        fleet.apply(put(node(1)));
        assert_eq!(fleet.strays().count(), 0);
        assert_eq!(fleet.node(node_id(1)).unwrap().claimed_vcpus(), Vcpus(2));
        fleet.apply(Delta::NodeRemoved(node_id(1)));
        assert_eq!(
            fleet.claim_of(node_id(1), incarnation_id(1)),
            Some(&claim(2, 1024))
        );
        fleet.apply(released(1, 1));
        assert_eq!(fleet, Fleet::default());
    }

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let fleet = Fleet::default().with([put(node(1))]);
        let what_if = fleet.with([claimed(1, 1, claim(2, 1024)), put(node(2))]);
        assert_eq!((fleet.len(), what_if.len()), (1, 2));
        assert_eq!(fleet.node(node_id(1)).unwrap().claimed_vcpus(), Vcpus(0));
    }

    /// FAULTS 28: claims of any size are summed without wrapping, and released exactly.
    #[test]
    fn huge_claims_neither_wrap_nor_leak() {
        let most = MemoryMib(u64::MAX);
        let huge = Claim {
            vcpus: Vcpus(u32::MAX),
            memory: MemoryClaim {
                guest: most,
                tables: most,
                vcpus: most,
                fixed: most,
            },
            assignment: None,
            surplus: None,
        };
        let before = Fleet::default().with([put(node(1)), claimed(1, 1, claim(2, 1024))]);
        let mut fleet = before.with((2..10).map(|number| claimed(1, number, huge.clone())));
        let view = fleet.node(node_id(1)).unwrap();
        assert_eq!(
            (view.claimed_vcpus(), view.claimed_memory()),
            (Vcpus(u32::MAX), most)
        );
        assert_eq!(
            (view.free_vcpus(), view.free_memory()),
            (Vcpus(0), MemoryMib(0))
        );
        (2..10).for_each(|number| fleet.apply(released(1, number)));
        assert_eq!(fleet, before);
    }
}
