//! The index: the nodes that could take something, in the order in which they are preferred.
//!
//! Holds the open nodes that aren't overcommitted, by *kind*: what a request can ask of a node
//! besides numbers. In a kind they are ordered by tier, then free vCPUs, then free memory, then
//! age, then id. Preferences run along that order, upwards or downwards, because a request takes
//! the same amounts of every node. So the best node is found by seeking: a step or two for each
//! number of free vCPUs that is there, however many nodes have it. Costs grow with the number of
//! kinds and with the size of nodes, not with their number.
//!
//! **Invariant:** no order of preference that weighs one quantity against the other can be read
//! off this index. It has to stay lexicographic.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeInclusive},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};
use kapok_types::{Name, NodeId, instance::Arch};

use crate::{
    held::{Age, Amounts},
    node::{Node, NodeView},
    request::{Goal, Request},
};

/// What requests can ask of a node besides numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    arch: Arch,
    labels: BTreeMap<Name, String>,
}

/// A node's place in its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) tier: u8,
    pub(crate) free: Amounts,
    pub(crate) at: At,
}

/// Who stands there: a node, or what comes before and behind all nodes with the same amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    First,
    Node(Age, NodeId),
    Last,
}

/// The indexed nodes by kind; no kind is empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index(OrdMap<Arc<Kind>, OrdSet<Key>>);

/// What is said of a node that has the numbers.
pub(crate) enum Judgement {
    /// It is the one.
    Take,
    /// Another one.
    Pass,
    /// Another one, and none with so much free memory (MiB) in place of this one's either.
    PassAll(RangeInclusive<u64>),
}

impl Kind {
    pub(crate) fn of(node: &Node) -> Self {
        Self {
            arch: node.arch,
            labels: node.labels.clone(),
        }
    }

    fn serves(&self, request: &Request) -> bool {
        self.arch == request.arch && request.missing_label(&self.labels).is_none()
    }
}

impl Key {
    /// Where a node stands; nothing for one that takes nothing.
    pub(crate) fn of(view: NodeView<'_>) -> Option<Self> {
        let node = view.node();
        Some(Self {
            tier: node.tier,
            free: view.free().filter(|_| node.is_open())?,
            at: At::Node(view.held.age(), node.id),
        })
    }

    fn first(tier: u8, vcpus: u64, memory_mib: u64) -> Self {
        Self {
            tier,
            free: Amounts { vcpus, memory_mib },
            at: At::First,
        }
    }

    fn last(tier: u8, vcpus: u64, memory_mib: u64) -> Self {
        Self {
            at: At::Last,
            ..Self::first(tier, vcpus, memory_mib)
        }
    }
}

impl Index {
    /// Puts a node where it stands now.
    pub(crate) fn refile(&mut self, kind: &Arc<Kind>, before: Option<Key>, after: Option<Key>) {
        if before == after {
            return;
        }
        let Some(nodes) = self.0.get_mut(kind) else {
            if let Some(key) = after {
                self.0.insert(Arc::clone(kind), OrdSet::unit(key));
            }
            return;
        };
        if let Some(before) = before {
            nodes.remove(&before);
        }
        if let Some(after) = after {
            nodes.insert(after);
        }
        if nodes.is_empty() {
            self.0.remove(kind);
        }
    }

    /// The kinds of nodes that can serve `request`.
    pub(crate) fn serving<'a>(
        &'a self,
        request: &'a Request,
    ) -> impl Iterator<Item = &'a OrdSet<Key>> {
        self.0
            .iter()
            .filter(|(kind, _)| kind.serves(request))
            .map(|(_, nodes)| nodes)
    }
}

/// The best node of a kind with at least `asked` free that `judge` takes.
///
/// `judge` is asked in the order of preference.
pub(crate) fn best(
    nodes: &OrdSet<Key>,
    goal: Goal,
    asked: Amounts,
    mut judge: impl FnMut(NodeId, Amounts) -> Judgement,
) -> Option<Key> {
    let mut tier = nodes.get_min().map(|key| key.tier);
    while let Some(this) = tier {
        let mut next = match goal {
            Goal::Pack => nodes.get_next(&Key::first(this, asked.vcpus, 0)),
            Goal::Spread => nodes.get_prev(&Key::last(this, u64::MAX, u64::MAX)),
        };
        while let Some(key) = next.filter(|key| key.tier == this) {
            let vcpus = key.free.vcpus;
            if vcpus < asked.vcpus {
                break;
            }
            let found = match order(goal, key.free, asked) {
                ByMemory::Least => least_memory(nodes, key, asked.memory_mib, &mut judge),
                ByMemory::Most => most_memory(nodes, key, asked.memory_mib, &mut judge),
            };
            if found.is_some() {
                return found;
            }
            next = match goal {
                Goal::Pack => nodes.get_next(&Key::last(this, vcpus, u64::MAX)),
                Goal::Spread => nodes.get_prev(&Key::first(this, vcpus, 0)),
            };
        }
        let behind = Key::last(this, u64::MAX, u64::MAX);
        tier = nodes.get_next(&behind).map(|key| key.tier);
    }
    None
}

/// Which of the nodes with as many free vCPUs is preferred.
pub(crate) enum ByMemory {
    /// The one with the least memory.
    Least,
    /// The one with the most.
    Most,
}

/// Memory is of no use without vCPUs: a node that gives its last ones should waste little of it,
/// and one that has some left should have memory for them.
pub(crate) fn order(goal: Goal, free: Amounts, asked: Amounts) -> ByMemory {
    if goal == Goal::Pack && free.vcpus == asked.vcpus {
        ByMemory::Least
    } else {
        ByMemory::Most
    }
}

/// Upwards among the nodes of `like`'s tier and vCPUs.
fn least_memory(
    nodes: &OrdSet<Key>,
    like: &Key,
    memory_mib: u64,
    judge: &mut impl FnMut(NodeId, Amounts) -> Judgement,
) -> Option<Key> {
    let (tier, vcpus) = (like.tier, like.free.vcpus);
    let first = Key::first(tier, vcpus, memory_mib);
    let last = Key::last(tier, vcpus, u64::MAX);
    let nodes = nodes.range((Bound::Included(first), Bound::Included(last)));
    // Whatever isn't taken is passed one by one: who takes a node's last vCPUs breaks up no larger
    // slot, so no headroom is in the way.
    nodes
        .copied()
        .find(|key| matches!(judged(key, judge), Judgement::Take))
}

/// Downwards among the nodes of `like`'s tier and vCPUs, but of equal ones upwards.
fn most_memory(
    nodes: &OrdSet<Key>,
    like: &Key,
    memory_mib: u64,
    judge: &mut impl FnMut(NodeId, Amounts) -> Judgement,
) -> Option<Key> {
    let (tier, vcpus) = (like.tier, like.free.vcpus);
    let mut below = Key::last(tier, vcpus, u64::MAX);
    loop {
        let key = nodes.get_prev(&below)?;
        if (key.tier, key.free.vcpus) != (tier, vcpus) || key.free.memory_mib < memory_mib {
            return None;
        }
        below = Key::first(tier, vcpus, key.free.memory_mib);
        for equal in nodes.range((Bound::Included(below), Bound::Included(*key))) {
            match judged(equal, judge) {
                Judgement::Take => return Some(*equal),
                Judgement::Pass => {}
                Judgement::PassAll(memory) => {
                    below = Key::first(tier, vcpus, *memory.start());
                    break;
                }
            }
        }
    }
}

fn judged(key: &Key, judge: &mut impl FnMut(NodeId, Amounts) -> Judgement) -> Judgement {
    match key.at {
        At::Node(_, id) => judge(id, key.free),
        // Only places of nodes are ever filed.
        At::First | At::Last => Judgement::Pass,
    }
}
