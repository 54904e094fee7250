//! N+1: whether what any one node (or rack) carries could be restarted on the others.
//!
//! To pack any set of guests onto nodes is too hard to ask with every decision, so guests are
//! rounded up. A *block* is one vCPU with [`BLOCK`] of memory; a guest's *class* is the smallest
//! k for which 2^k blocks hold it, and a node has as many blocks free as both its vCPUs and its
//! memory allow. Sizes that are powers of two leave no gaps: placed largest first, a guest of
//! class k finds no place only if no node has 2^k free blocks left. Hence guests fit onto nodes
//! exactly if, for each k,
//!
//! ```text
//!   blocks of the guests of class k and above, in 2^k  ≤  Σ over the nodes of ⌊free blocks / 2^k⌋
//!               load_k(guests)                         ≤              slots_k(nodes)
//! ```
//!
//! A domain d can be lost if that holds for its guests and all nodes but its own, which is
//! `load_k(d) + slots_k(d) ≤ slots_k(all)`. Both sides are sums, kept with every change; of the
//! left ones only the largest counts, which a small multiset yields. The bound is *sound*: rounded
//! guests are no smaller and rounded nodes no larger than real ones, so what it admits really
//! fits; what it refuses may still fit ([`audit`](crate::audit()) searches for that).
//!
//! Counted are shared amounts of all instances, per architecture and isolation class. What is an
//! instance's own (dedicated CPUs, huge pages, devices) is outside of it: a node's share of those
//! is too small to be kept twice, and no sum covers it. [`audit`](crate::audit()) says of how many
//! instances. Nor are labels, groups and the like counted: claims don't hold them.

use std::{array, cmp, ops::RangeInclusive};

use imbl::OrdMap;
use kapok_types::{MemoryMib, Name, Vcpus, instance::Arch};
use serde::{Deserialize, Serialize};

use crate::{
    filter::Rejection,
    held::{Amounts, Usage},
    node::{Node, NodeView},
    request::Request,
};

/// The memory of a block in MiB: a guest of one vCPU and 4 GiB, with QEMU's own beside it. As
/// overhead grows no faster than guests, every guest with 4 GiB per vCPU rounds to its vCPUs.
pub const BLOCK: MemoryMib = MemoryMib(4096 + 16 + 8 + 128);

/// Classes: up to 4096 vCPUs and 16 TiB. A larger guest can't be covered at all.
const CLASSES: usize = 13;

/// Blocks that one node counts for, so that no sum of nodes overflows.
const MOST_BLOCKS: u64 = 1 << 40;

/// What is always kept free, so that the instances of whatever is lost can be restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Headroom {
    /// Nothing.
    #[default]
    None,
    /// Enough for any one node.
    Node,
    /// Enough for any one rack. A node without a named rack is one of its own.
    Rack,
}

/// Guests, rounded up: at k, the blocks of those of class k and above, in 2^k.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    at: [u64; CLASSES],
    /// Guests above every class.
    oversized: u64,
}

/// Free blocks, rounded down: at k, in 2^k.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slots([u64; CLASSES]);

/// What a node, or a rack, counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    load: Load,
    slots: Slots,
}

/// The sums, by architecture and isolation class.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pools(OrdMap<(Arch, Option<Name>), Pool>);

#[derive(Debug, Clone, Default)]
struct Pool {
    slots: Slots,
    nodes: Worst,
    racks: Worst,
    rack_shares: OrdMap<(Option<Name>, Name), Share>,
}

/// How many domains have this `load_k + slots_k`: by class, whether load is among it, the sum.
#[derive(Debug, Clone, Default)]
struct Worst(OrdMap<(usize, bool, u64), u32>);

/// What a request may take of any one node without using up the headroom.
#[derive(Debug)]
pub(crate) struct Bar {
    level: Headroom,
    asked: Amounts,
    refused: Option<Rejection>,
    /// Of the classes above its own: slots that may go, and the largest sum that the others are
    /// kept for.
    spare: [Option<(u64, u64)>; CLASSES],
    slots: Slots,
}

fn blocks(amounts: Amounts) -> u64 {
    let both = cmp::min(amounts.vcpus, amounts.memory_mib / BLOCK.get());
    both.min(MOST_BLOCKS)
}

/// The class of a guest; nothing above the highest.
fn class(guest: Usage) -> Option<usize> {
    let by_memory = guest.memory_mib.div_ceil(u128::from(BLOCK.get()));
    let blocks = by_memory.max(guest.vcpus).max(1);
    let class = usize::try_from(blocks.next_power_of_two().trailing_zeros()).ok()?;
    (class < CLASSES).then_some(class)
}

impl Load {
    pub(crate) fn add(&mut self, guest: Usage) {
        self.change(guest, |sum, part| *sum = sum.saturating_add(part));
    }

    pub(crate) fn remove(&mut self, guest: Usage) {
        self.change(guest, |sum, part| *sum = sum.saturating_sub(part));
    }

    fn change(&mut self, guest: Usage, by: impl Fn(&mut u64, u64)) {
        let Some(class) = class(guest) else {
            by(&mut self.oversized, 1);
            return;
        };
        for (k, sum) in self.at.iter_mut().enumerate().take(class + 1) {
            by(sum, 1 << (class - k));
        }
    }
}

impl Share {
    pub(crate) fn of(view: NodeView<'_>) -> Self {
        let open = view.free().filter(|_| view.node().is_open());
        let free = open.map(blocks).unwrap_or_default();
        Self {
            load: view.held.load,
            slots: Slots(array::from_fn(|k| free >> k)),
        }
    }

    /// This, with one part of it replaced.
    fn with(mut self, before: &Self, after: &Self) -> Self {
        let replace = |sum: &mut u64, before: u64, after: u64| {
            *sum = sum.saturating_sub(before).saturating_add(after);
        };
        for k in 0..CLASSES {
            replace(&mut self.load.at[k], before.load.at[k], after.load.at[k]);
            replace(&mut self.slots.0[k], before.slots.0[k], after.slots.0[k]);
        }
        let oversized = &mut self.load.oversized;
        replace(oversized, before.load.oversized, after.load.oversized);
        self
    }

    /// Whether there is load in the class, and the sum that the slots of all must reach.
    fn at(&self, k: usize) -> (bool, u64) {
        if self.load.oversized > 0 {
            return (true, u64::MAX);
        }
        let load = self.load.at[k];
        (load > 0, load.saturating_add(self.slots.0[k]))
    }
}

impl Pools {
    /// Takes in what a node counts for now in place of what it did before.
    pub(crate) fn change(&mut self, node: &Node, before: &Share, after: &Share) {
        if before == after {
            return;
        }
        let pool = self
            .0
            .entry((node.arch, node.isolation.clone()))
            .or_default();
        for ((sum, before), after) in pool
            .slots
            .0
            .iter_mut()
            .zip(before.slots.0)
            .zip(after.slots.0)
        {
            *sum = sum.saturating_sub(before).saturating_add(after);
        }
        pool.nodes.change(before, after);
        if let Some(rack) = &node.rack {
            let rack = (node.room.clone(), rack.clone());
            let share = pool.rack_shares.get(&rack).copied().unwrap_or_default();
            let changed = share.with(before, after);
            pool.racks.change(&share, &changed);
            if changed == Share::default() {
                pool.rack_shares.remove(&rack);
            } else {
                pool.rack_shares.insert(rack, changed);
            }
        }
    }
}

impl Worst {
    fn change(&mut self, before: &Share, after: &Share) {
        for k in 0..CLASSES {
            let (before, after) = (before.at(k), after.at(k));
            if before == after {
                continue;
            }
            // Who counts for nothing isn't counted.
            if before.1 > 0 {
                let key = (k, before.0, before.1);
                if let Some(count) = self.0.get_mut(&key) {
                    *count -= 1;
                    if *count == 0 {
                        self.0.remove(&key);
                    }
                }
            }
            if after.1 > 0 {
                *self.0.entry((k, after.0, after.1)).or_default() += 1;
            }
        }
    }

    /// The largest sum of a class, of those with or without load.
    fn top(&self, k: usize, loaded: bool) -> Option<u64> {
        let (found, _) = self.0.get_prev(&(k, loaded, u64::MAX))?;
        (found.0 == k && found.1 == loaded).then_some(found.2)
    }
}

impl Bar {
    /// The bar for a request of these amounts; none where the policy keeps no headroom.
    pub(crate) fn new(
        pools: &Pools,
        level: Headroom,
        request: &Request,
        usage: Usage,
    ) -> Option<Self> {
        if level == Headroom::None {
            return None;
        }
        let asked = usage.amounts()?;
        let none = Pool::default();
        let of = (request.arch, request.isolation.clone());
        let pool = pools.0.get(&of).unwrap_or(&none);
        let top = |k, loaded| {
            let racks = (level == Headroom::Rack).then(|| pool.racks.top(k, loaded));
            pool.nodes.top(k, loaded).max(racks.flatten())
        };
        let mut bar = Self {
            level,
            asked,
            refused: None,
            spare: [None; CLASSES],
            slots: pool.slots,
        };
        let Some(class) = class(usage) else {
            bar.refused = Some(bar.rejection(CLASSES, 1, 0));
            return Some(bar);
        };
        for k in 0..CLASSES {
            let slots = pool.slots.0[k];
            if k <= class {
                // Wherever it goes, its node must be coverable with it; what it takes of that
                // node's slots is missing on both sides. It takes no more slots than it is load,
                // so the others stay coverable too.
                let most = top(k, true).max(top(k, false)).unwrap_or_default();
                let needed = most.saturating_add(1 << (class - k));
                if needed > slots {
                    bar.refused = Some(bar.rejection(k, needed, slots));
                }
            } else if let Some(needed) = top(k, true) {
                // It may break up a slot that a larger guest needs.
                match slots.checked_sub(needed) {
                    Some(spare) => bar.spare[k] = Some((spare, needed)),
                    None => bar.refused = Some(bar.rejection(k, needed, slots)),
                }
            }
        }
        Some(bar)
    }

    /// Why no node may take it, whatever it has free.
    pub(crate) fn refused(&self) -> Option<&Rejection> {
        self.refused.as_ref()
    }

    /// Whether a node with `free` may take it.
    ///
    /// # Errors
    ///
    /// What would be missing.
    pub(crate) fn check(&self, free: Amounts) -> Result<(), Rejection> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let before = blocks(free);
        let after = free.after(self.asked).map(blocks).unwrap_or_default();
        for (k, spare) in self.spare.iter().enumerate() {
            let loss = (before >> k) - (after >> k);
            if let Some((_, needed)) = spare.filter(|(spare, _)| loss > *spare) {
                let left = self.slots.0[k].saturating_sub(loss);
                return Err(self.rejection(k, needed, left));
            }
        }
        Ok(())
    }

    /// The free memory, in MiB, with which a node of as many free vCPUs gets the same answer.
    pub(crate) fn alike(&self, free: Amounts) -> RangeInclusive<u64> {
        let Some(after) = free.after(self.asked) else {
            return free.memory_mib..=free.memory_mib;
        };
        let (before, after) = (run(free), run(after));
        let back = |memory_mib: u64| memory_mib.saturating_add(self.asked.memory_mib);
        let first = (*before.start()).max(back(*after.start()));
        let last = (*before.end()).min(back(*after.end()));
        first..=last
    }

    fn rejection(&self, k: usize, needed: u64, left: u64) -> Rejection {
        Rejection::Headroom {
            level: self.level,
            slot: Vcpus(1 << k),
            needed,
            left,
        }
    }
}

/// The memory with which as many vCPUs are as many blocks.
fn run(free: Amounts) -> RangeInclusive<u64> {
    let block = BLOCK.get();
    let by_memory = free.memory_mib / block;
    if by_memory >= free.vcpus {
        return free.vcpus * block..=u64::MAX;
    }
    let first = by_memory * block;
    first..=first.saturating_add(block - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amounts(vcpus: u64, memory_mib: u64) -> Amounts {
        Amounts { vcpus, memory_mib }
    }

    /// What a node with `free` would be asked: its blocks before and after.
    fn around(free: Amounts, asked: Amounts) -> (u64, Option<u64>) {
        (blocks(free), free.after(asked).map(blocks))
    }

    proptest! {
        /// Whatever is passed over with one node would have had the same answer.
        #[test]
        fn what_is_alike_loses_the_same(
            (vcpus, memory_mib) in (0_u64..64, 0_u64..300_000),
            (asked_vcpus, asked_mib) in (0_u64..16, 0_u64..70_000),
            other_mib in 0_u64..300_000,
        ) {
            let (free, asked) = (amounts(vcpus, memory_mib), amounts(asked_vcpus, asked_mib));
            prop_assume!(free.after(asked).is_some());
            let bar = Bar {
                level: Headroom::Node,
                asked,
                refused: None,
                spare: [None; CLASSES],
                slots: Slots::default(),
            };
            let alike = bar.alike(free);
            prop_assert!(alike.contains(&memory_mib));
            for mib in [other_mib, *alike.start(), *alike.end()] {
                if alike.contains(&mib) {
                    prop_assert_eq!(around(amounts(vcpus, mib), asked), around(free, asked));
                }
            }
        }
    }

    /// The usual sizes round to their vCPUs, others to the next power of two of either quantity.
    #[test]
    fn guests_round_up_to_classes() {
        let class_of =
            |vcpus, gib: u64| class(Usage::of(&crate::fixture::claim(vcpus, gib * 1024)));
        for k in 0..10_u32 {
            let vcpus = 1 << k;
            let expected = usize::try_from(k).ok();
            assert_eq!(
                class_of(vcpus, 4 * u64::from(vcpus)),
                expected,
                "{vcpus} vCPUs"
            );
        }
        assert_eq!(
            (class_of(3, 4), class_of(1, 8), class_of(0, 0)),
            (Some(2), Some(1), Some(0))
        );
        assert_eq!((class_of(4096, 1), class_of(4097, 1)), (Some(12), None));
    }

    /// What one class too many would be: more than the highest can't be covered, and nothing else
    /// can be admitted beside it until it is gone.
    #[test]
    fn an_oversized_guest_closes_the_headroom() {
        use crate::{Fleet, Policy, fixture, place};
        let policy = Policy {
            headroom: Headroom::Node,
            ..Policy::PACK
        };
        let fleet = Fleet::default().with((1..4).map(|number| fixture::put(fixture::node(number))));
        let asked = fixture::request(1, 1024);
        assert!(place(&fleet, &asked, &policy).is_ok());
        let oversized = fleet.with([fixture::claimed(1, 1, fixture::claim(5000, 1024))]);
        let refused = place(&oversized, &asked, &policy).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no node fits: 2 are needed as headroom, 1 lacks vCPUs"
        );
        assert!(place(&oversized, &asked, &Policy::PACK).is_ok());
        let released = oversized.with([fixture::released(1, 1)]);
        assert!(place(&released, &asked, &policy).is_ok());
    }

    /// One node carries as many guests of class 2 as the others have slots of it. One with 12 free
    /// blocks would break up its third slot for a guest of one block; one with as many vCPUs and a
    /// block or two more than whole slots loses none, however memory is preferred.
    #[test]
    fn slots_that_larger_guests_need_are_not_broken_up() {
        use crate::{Fleet, Goal, Policy, fixture, place};
        let with_blocks = |number, blocks: u64| {
            let mut node = fixture::node(number);
            node.capacity.memory = MemoryMib(blocks * BLOCK.get() + 1000);
            fixture::put(node)
        };
        for (goal, other, slots) in [(Goal::Pack, 14, 6), (Goal::Spread, 10, 5)] {
            let mut carrier = fixture::node(1);
            carrier.capacity.vcpus = Vcpus(u32::from(slots));
            carrier.capacity.memory = MemoryMib(1 << 20);
            let guest = fixture::claim(4, 16 * 1024);
            let guests = (0..slots).map(|number| fixture::claimed(1, number + 1, guest.clone()));
            let fleet = Fleet::default()
                .with([
                    fixture::put(carrier),
                    with_blocks(2, 12),
                    with_blocks(3, other),
                ])
                .with(guests);
            let asked = fixture::request(1, 4 * 1024);
            let chosen = |headroom| {
                let placed = place(&fleet, &asked, &Policy { goal, headroom });
                placed.unwrap().node
            };
            assert_eq!(chosen(Headroom::None), fixture::node_id(2));
            assert_eq!(chosen(Headroom::Node), fixture::node_id(3));
        }
    }

    /// What nodes of another class have free covers nobody here.
    #[test]
    fn isolation_classes_cover_themselves() {
        use crate::{Fleet, Policy, fixture, place};
        let secret = |number| {
            let mut node = fixture::node(number);
            node.isolation = Some("secret".parse().unwrap());
            fixture::put(node)
        };
        let policy = Policy {
            headroom: Headroom::Node,
            ..Policy::PACK
        };
        let common = (1..4).map(|number| fixture::put(fixture::node(number)));
        let fleet = Fleet::default().with(common).with([secret(9)]);
        let mut asked = fixture::request(1, 1024);
        assert!(place(&fleet, &asked, &policy).is_ok());
        asked.isolation = Some("secret".parse().unwrap());
        let refused = place(&fleet, &asked, &policy).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no node fits: 3 are for another isolation class, 1 is needed as headroom"
        );
        assert!(place(&fleet.with([secret(8)]), &asked, &policy).is_ok());
    }

    /// An instance's own threads are none of what is kept free; its memory, which others share, is.
    #[test]
    fn shared_amounts_of_bound_guests_count() {
        use crate::fixture;
        let mut bound = fixture::request(8, 16 * 1024);
        bound.needs.dedicated_cpus = true;
        assert_eq!(class(Usage::asked(&bound)), Some(2));
        bound.needs.huge_pages = "1GiB".parse().ok();
        assert_eq!(class(Usage::asked(&bound)), Some(0));
    }
}
