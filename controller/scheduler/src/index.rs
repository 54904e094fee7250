//! The index: the nodes that could take something, in the order in which they are preferred.
//!
//! Holds the open nodes that aren't overcommitted, by *kind*: what a request can ask of a node
//! besides amounts. In a kind they are ordered by tier, then free vCPUs, then free memory, then
//! age, then id. Preferences run along that order, upwards or downwards, because a request takes
//! the same amounts of every node. So the best node is found by seeking: a step or two for each
//! number of free vCPUs that is there, however many nodes have it. Costs grow with the number of
//! kinds and with the size of nodes, not with their number.
//!
//! A kind says which sorts of equipment a node has, and not how much of it is left. A request for
//! some of it is asked of the nodes of such kinds one by one, in the order of preference.
//!
//! **Invariant:** no order of preference that weighs one quantity against the other can be read
//! off this index. It has to stay lexicographic.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, RangeInclusive},
    sync::Arc,
};

use imbl::{OrdMap, OrdSet};
use kapok_types::{
    Equipment, Name, NodeId,
    equipment::{Feature, PageSize},
    instance::Arch,
};

use crate::{
    held::{Age, Amounts},
    node::{Node, NodeView},
    request::{Goal, Request},
};

/// What requests can ask of a node besides amounts. Shared by the nodes of which it is true, and
/// told from others at a glance: a node of a city's servers may have a hundred CPU features.
#[derive(Debug, Clone)]
pub(crate) struct Kind(Arc<Traits>);

/// What tells kinds apart soonest comes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Traits {
    arch: Arch,
    isolation: Option<Name>,
    dedicated_cpus: bool,
    huge_pages: BTreeSet<PageSize>,
    /// How many.
    features: usize,
    labels: BTreeMap<Name, String>,
    /// Classes of devices.
    devices: BTreeSet<Name>,
    pools: BTreeSet<Name>,
    networks: BTreeSet<Name>,
    cpu_features: BTreeSet<Feature>,
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
pub(crate) struct Index(OrdMap<Kind, OrdSet<Key>>);

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
        let Equipment {
            cells,
            cpu_features,
            devices,
            pools,
            networks,
        } = &*node.equipment;
        let sizes = cells.iter().flat_map(|cell| &cell.pages);
        let there = sizes.filter(|(_, pages)| **pages > 0);
        Self(Arc::new(Traits {
            arch: node.arch,
            isolation: node.isolation.clone(),
            features: cpu_features.len(),
            labels: node.labels.clone(),
            dedicated_cpus: cells.iter().any(|cell| !cell.dedicated.is_empty()),
            huge_pages: there.map(|(size, _)| *size).collect(),
            devices: devices.iter().map(|device| device.class.clone()).collect(),
            pools: pools.clone(),
            networks: networks.clone(),
            cpu_features: cpu_features.clone(),
        }))
    }

    /// Whether both nodes are of one kind, as far as that is seen without making it.
    pub(crate) fn is_same(one: &Node, other: &Node) -> bool {
        (one.arch, &one.isolation, &one.labels) == (other.arch, &other.isolation, &other.labels)
            && (Arc::ptr_eq(&one.equipment, &other.equipment) || one.equipment == other.equipment)
    }

    fn serves(&self, request: &Request) -> bool {
        let (it, needs) = (&*self.0, &request.needs);
        it.arch == request.arch
            && it.isolation == request.isolation
            && request.missing_label(&it.labels).is_none()
            && (it.dedicated_cpus || !needs.dedicated_cpus)
            && (needs.huge_pages.iter()).all(|size| it.huge_pages.contains(size))
            && needs.devices.keys().all(|class| it.devices.contains(class))
            && needs.pool.iter().all(|pool| it.pools.contains(pool))
            && (needs.network.iter()).all(|network| it.networks.contains(network))
            && needs.cpu_features.is_subset(&it.cpu_features)
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            return Ordering::Equal;
        }
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Kind {}

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
    /// A node's kind: the one that is there already, if it is.
    pub(crate) fn kind(&self, node: &Node) -> Kind {
        let kind = Kind::of(node);
        let there = self.0.get_key_value(&kind);
        there.map_or(kind.clone(), |(there, _)| there.clone())
    }

    /// Puts a node where it stands now.
    pub(crate) fn refile(&mut self, kind: &Kind, before: Option<Key>, after: Option<Key>) {
        if before == after {
            return;
        }
        let Some(nodes) = self.0.get_mut(kind) else {
            if let Some(key) = after {
                self.0.insert(kind.clone(), OrdSet::unit(key));
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
            let found = match goal {
                Goal::Pack => least_memory(nodes, key, asked.memory_mib, &mut judge),
                Goal::Spread => most_memory(nodes, key, asked.memory_mib, &mut judge),
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

/// Upwards among the nodes of `like`'s tier and vCPUs.
fn least_memory(
    nodes: &OrdSet<Key>,
    like: &Key,
    memory_mib: u64,
    judge: &mut impl FnMut(NodeId, Amounts) -> Judgement,
) -> Option<Key> {
    let (tier, vcpus) = (like.tier, like.free.vcpus);
    let mut above = Key::first(tier, vcpus, memory_mib);
    let last = Key::last(tier, vcpus, u64::MAX);
    'seek: loop {
        for key in nodes.range((Bound::Included(above), Bound::Included(last))) {
            match judged(key, judge) {
                Judgement::Take => return Some(*key),
                Judgement::Pass => {}
                Judgement::PassAll(memory) => {
                    above = Key::last(tier, vcpus, *memory.end());
                    continue 'seek;
                }
            }
        }
        return None;
    }
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
