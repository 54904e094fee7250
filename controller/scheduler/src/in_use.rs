//! What of a node's equipment incarnations have for themselves, and what is left of it.
//!
//! Counted is what claims say, fact by fact: what two of them name counts twice, and what the node
//! doesn't have (any more) counts all the same. So each release gives back exactly what its claim
//! took, and what is too much can be told by its amount.

use std::collections::{BTreeMap, BTreeSet};

use kapok_types::{
    Assignment, Equipment,
    equipment::{Cell, Device, PageSize, PciAddress},
};

/// How often each thing is claimed; nothing is in it that isn't.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InUse {
    threads: BTreeMap<u16, u128>,
    /// Pages by cell and size.
    pages: BTreeMap<(u16, PageSize), u128>,
    devices: BTreeMap<PciAddress, u128>,
}

/// By how much claims exceed what a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) threads: u128,
    /// Pages of each size, as in [`PageSize::ALL`].
    pub(crate) pages: [u128; PageSize::ALL.len()],
    pub(crate) devices: u128,
}

impl InUse {
    /// Counts what an incarnation has for itself.
    pub(crate) fn add(&mut self, assignment: &Assignment) {
        for thread in threads(assignment) {
            *self.threads.entry(thread).or_default() += 1;
        }
        for (of, pages) in pages(assignment) {
            *self.pages.entry(of).or_default() += pages;
        }
        for address in &assignment.devices {
            *self.devices.entry(*address).or_default() += 1;
        }
        // An assignment may name a cell and take no page of it.
        self.pages.retain(|_, pages| *pages > 0);
    }

    /// Counts what an incarnation had no more.
    pub(crate) fn remove(&mut self, assignment: &Assignment) {
        for thread in threads(assignment) {
            remove(&mut self.threads, &thread, 1);
        }
        for (of, by) in pages(assignment) {
            remove(&mut self.pages, &of, by);
        }
        for address in &assignment.devices {
            remove(&mut self.devices, address, 1);
        }
    }

    /// How many different threads are claimed.
    pub(crate) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// How many pages of a size are claimed.
    pub(crate) fn pages(&self, asked: PageSize) -> u128 {
        let of_size = self.pages.iter().filter(|((_, size), _)| *size == asked);
        of_size.map(|(_, pages)| *pages).sum()
    }

    /// How many different devices are claimed.
    pub(crate) fn devices(&self) -> usize {
        self.devices.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.threads.is_empty() && self.pages.is_empty() && self.devices.is_empty()
    }

    /// What is claimed above what there is: all that a node doesn't have, and of what it has, all
    /// claims but one.
    pub(crate) fn excess(&self, equipment: &Equipment) -> Excess {
        let there: BTreeSet<_> = (equipment.cells.iter())
            .flat_map(|cell| &cell.dedicated)
            .collect();
        let addresses: BTreeSet<_> = (equipment.devices.iter())
            .map(|device| &device.address)
            .collect();
        let pages = PageSize::ALL.map(|asked| {
            let of_size = self.pages.iter().filter(|((_, size), _)| *size == asked);
            of_size
                .map(|((cell, _), taken)| taken.saturating_sub(pages_of(equipment, *cell, asked)))
                .sum()
        });
        Excess {
            threads: above(&self.threads, |thread| there.contains(thread)),
            pages,
            devices: above(&self.devices, |address| addresses.contains(address)),
        }
    }
}

impl Excess {
    /// Pages of one size.
    pub(crate) fn of(&self, size: PageSize) -> u128 {
        let mut each = PageSize::ALL.iter().zip(self.pages);
        each.find(|(one, _)| **one == size)
            .map_or(0, |(_, pages)| pages)
    }

    /// Memory of huge pages, in MiB.
    pub(crate) fn huge_mib(&self) -> u128 {
        let each = PageSize::ALL.iter().zip(self.pages);
        each.map(|(size, pages)| pages.saturating_mul(u128::from(size.mib())))
            .fold(0, u128::saturating_add)
    }
}

/// Each cell with what is left in it. What a node's word names twice is there once, where it is
/// named first.
pub(crate) fn cells_left(equipment: &Equipment, in_use: Option<&InUse>) -> Vec<Cell> {
    let (mut cells, mut threads) = (BTreeSet::new(), BTreeSet::new());
    let first = (equipment.cells.iter()).filter(|cell| cells.insert(cell.id));
    let left = first.map(|cell| {
        let taken = |thread: &u16| in_use.is_some_and(|in_use| in_use.threads.contains_key(thread));
        let pages_left = |(size, there): (&PageSize, &u64)| {
            let taken = in_use.and_then(|in_use| in_use.pages.get(&(cell.id, *size)));
            let taken = u64::try_from(taken.copied().unwrap_or(0)).unwrap_or(u64::MAX);
            (*size, there.saturating_sub(taken))
        };
        Cell {
            id: cell.id,
            dedicated: (cell.dedicated.iter())
                .filter(|thread| threads.insert(**thread) && !taken(thread))
                .copied()
                .collect(),
            pages: cell.pages.iter().map(pages_left).collect(),
        }
    });
    left.collect()
}

/// The devices that are nobody's, by address.
pub(crate) fn devices_left<'a>(
    equipment: &'a Equipment,
    in_use: Option<&InUse>,
) -> Vec<&'a Device> {
    let taken = |address| in_use.is_some_and(|in_use| in_use.devices.contains_key(address));
    let mut left = BTreeMap::new();
    for device in &equipment.devices {
        if !taken(&device.address) {
            left.entry(device.address).or_insert(device);
        }
    }
    left.into_values().collect()
}

fn pages_of(equipment: &Equipment, cell: u16, size: PageSize) -> u128 {
    let cell = equipment.cells.iter().find(|one| one.id == cell);
    let pages = cell.and_then(|cell| cell.pages.get(&size)).copied();
    u128::from(pages.unwrap_or(0))
}

fn above<K>(counts: &BTreeMap<K, u128>, is_there: impl Fn(&K) -> bool) -> u128 {
    let each = counts.iter();
    each.map(|(of, count)| count.saturating_sub(u128::from(is_there(of))))
        .sum()
}

fn threads(assignment: &Assignment) -> impl Iterator<Item = u16> {
    let shares = assignment.cells.iter();
    shares.flat_map(|share| share.threads.iter().copied())
}

fn pages(assignment: &Assignment) -> impl Iterator<Item = ((u16, PageSize), u128)> {
    assignment.huge_pages.into_iter().flat_map(|size| {
        let shares = assignment.cells.iter();
        shares.map(move |share| {
            let pages = share.memory.get().div_ceil(size.mib());
            ((share.cell, size), u128::from(pages))
        })
    })
}

fn remove<K: Ord>(counts: &mut BTreeMap<K, u128>, of: &K, by: u128) {
    if let Some(count) = counts.get_mut(of) {
        *count = count.saturating_sub(by);
        if *count == 0 {
            counts.remove(of);
        }
    }
}
