//! What nodes have beyond amounts, and who has what of it, without any cleverness.

use std::collections::{BTreeMap, BTreeSet};

use kapok_scheduler::{Claim, Node, Request};
use kapok_types::{
    Assignment, Equipment, MemoryMib, Name, Needs, Vcpus,
    equipment::{Cell, CellShare, Device, Feature, PageSize, PciAddress},
};
use proptest::prelude::*;

// ------------------------------------------------------------------ the naive model

/// What claims name of one node, as often as they do.
#[derive(Debug, Default)]
pub struct Named {
    threads: Vec<u16>,
    pages: BTreeMap<(u16, PageSize), u64>,
    devices: Vec<PciAddress>,
}

impl Named {
    pub fn by<'a>(claims: impl Iterator<Item = &'a Claim>) -> Self {
        let mut named = Self::default();
        for assignment in claims
            .flat_map(|claim| [&claim.assignment, &claim.surplus])
            .flatten()
        {
            named.devices.extend(&assignment.devices);
            for share in &assignment.cells {
                named.threads.extend(&share.threads);
                if let Some(size) = assignment.huge_pages {
                    let pages = share.memory.get().div_ceil(size.mib());
                    *named.pages.entry((share.cell, size)).or_default() += pages;
                }
            }
        }
        named
    }

    /// Threads, pages of a size and devices that are named and not there, or named again.
    pub fn excess(&self, equipment: &Equipment) -> (u64, [u64; 2], u64) {
        let all: Vec<u16> = all_threads(equipment).map(|(_, thread)| thread).collect();
        let addresses: Vec<_> = equipment.devices.iter().map(|one| one.address).collect();
        let pages = PageSize::ALL.map(|size| {
            let of_size = self.pages.iter().filter(|((_, one), _)| *one == size);
            of_size
                .map(|((cell, _), named)| named.saturating_sub(there(equipment, *cell, size)))
                .sum()
        });
        (
            above(&self.threads, &all),
            pages,
            above(&self.devices, &addresses),
        )
    }

    fn pages_left(&self, equipment: &Equipment, cell: u16, size: PageSize) -> u64 {
        let named = self.pages.get(&(cell, size)).copied().unwrap_or(0);
        there(equipment, cell, size).saturating_sub(named)
    }

    fn threads_left(&self, equipment: &Equipment, cell: u16) -> u32 {
        let here = all_threads(equipment).filter(|(of, _)| *of == cell);
        let left = here.filter(|(_, thread)| !self.threads.contains(thread));
        left.count().try_into().unwrap()
    }

    /// Whether there is any way to give a request what is to be its own.
    pub fn leaves_room(&self, equipment: &Equipment, request: &Request) -> bool {
        let needs = &request.needs;
        let (threads, pages, devices) = self.excess(equipment);
        let page_excess = |size| pages[usize::from(size == PageSize::Gib1)];
        if needs.dedicated_cpus && threads > 0
            || needs.huge_pages.is_some_and(|size| page_excess(size) > 0)
            || !needs.devices.is_empty() && devices > 0
        {
            return false;
        }
        let enough = needs.devices.iter().all(|(class, asked)| {
            let of_class = equipment.devices.iter().filter(|one| one.class == *class);
            let left = of_class.filter(|one| !self.devices.contains(&one.address));
            left.count() >= usize::try_from(*asked).unwrap()
        });
        enough && (!needs.is_bound() || self.fewest_cells(equipment, request).is_some())
    }

    /// The fewest cells that a request goes to, by trying all.
    fn fewest_cells(&self, equipment: &Equipment, request: &Request) -> Option<u32> {
        let unit = request.needs.huge_pages.map_or(1, PageSize::mib);
        let units = u32::try_from(request.memory.guest.get().div_ceil(unit)).unwrap();
        let most = u32::from(request.needs.most_cells())
            .min(request.vcpus.get())
            .min(units)
            .max(1);
        (1..=most).find(|parts| self.fits_on(equipment, request, *parts, &mut Vec::new()))
    }

    fn fits_on(
        &self,
        equipment: &Equipment,
        request: &Request,
        parts: u32,
        used: &mut Vec<u16>,
    ) -> bool {
        let number = u32::try_from(used.len()).unwrap();
        if number == parts {
            return true;
        }
        let vcpus = request.vcpus.get() / parts + u32::from(number < request.vcpus.get() % parts);
        equipment.cells.iter().any(|cell| {
            let threads = self.threads_left(equipment, cell.id);
            let pages = |size: PageSize| {
                let (all, parts) = (
                    request.memory.guest.get().div_ceil(size.mib()),
                    u64::from(parts),
                );
                let asked = all / parts + u64::from(u64::from(number) < all % parts);
                asked <= self.pages_left(equipment, cell.id, size)
            };
            let fits = !used.contains(&cell.id)
                && (!request.needs.dedicated_cpus || vcpus <= threads)
                && request.needs.huge_pages.is_none_or(pages);
            if !fits {
                return false;
            }
            used.push(cell.id);
            let rest = self.fits_on(equipment, request, parts, used);
            used.pop();
            rest
        })
    }

    /// Whether a claim gives a request what it asked for, and nothing that is named already.
    pub fn check(&self, node: &Node, request: &Request, claim: &Claim) {
        assert_eq!((claim.vcpus, claim.memory), (request.vcpus, request.memory));
        let (needs, equipment) = (&request.needs, &*node.equipment);
        let Some(assignment) = claim.assignment.as_deref() else {
            assert!(!needs.is_bound() && needs.devices.is_empty(), "{request:?}");
            return;
        };
        let Assignment {
            cells,
            huge_pages,
            devices,
        } = assignment;
        assert_eq!(*huge_pages, needs.huge_pages);
        if needs.is_bound() {
            let fewest = self.fewest_cells(equipment, request).unwrap();
            assert_eq!(cells.len(), usize::try_from(fewest).unwrap());
            let sum: u32 = cells.iter().map(|share| share.vcpus.get()).sum();
            let mib: u64 = cells.iter().map(|share| share.memory.get()).sum();
            assert_eq!(
                (sum, mib),
                (request.vcpus.get(), request.memory.guest.get())
            );
            let (first, last) = (&cells[0], &cells[cells.len() - 1]);
            assert!(first.vcpus.get() - last.vcpus.get() <= 1, "{cells:?}");
        } else {
            assert!(cells.is_empty());
        }
        let mut ids = BTreeSet::new();
        for share in cells {
            assert!(ids.insert(share.cell), "a cell twice: {cells:?}");
            let is_empty = share.vcpus == Vcpus::ZERO || share.memory == MemoryMib::ZERO;
            assert!(
                !is_empty || cells.len() == 1,
                "a cell for nothing: {cells:?}"
            );
            let dedicated = if needs.dedicated_cpus {
                share.vcpus.get()
            } else {
                0
            };
            assert_eq!(share.threads.len(), usize::try_from(dedicated).unwrap());
            let mut own = BTreeSet::new();
            for thread in &share.threads {
                assert!(own.insert(*thread) && !self.threads.contains(thread));
                assert!(all_threads(equipment).any(|one| one == (share.cell, *thread)));
            }
            if let Some(size) = huge_pages {
                let pages = share.memory.get().div_ceil(size.mib());
                assert!(pages <= self.pages_left(equipment, share.cell, *size));
            }
        }
        assert!(
            devices.is_sorted() && devices.iter().collect::<BTreeSet<_>>().len() == devices.len()
        );
        let mut classes: BTreeMap<Name, u32> = BTreeMap::new();
        for address in devices {
            assert!(!self.devices.contains(address), "{address} has two owners");
            let device = equipment.devices.iter().find(|one| one.address == *address);
            *classes.entry(device.unwrap().class.clone()).or_default() += 1;
        }
        assert_eq!(classes, needs.devices);
    }
}

/// Whether a node has the sorts of things that a request needs.
pub fn has_sorts(node: &Node, request: &Request) -> bool {
    let (needs, equipment) = (&request.needs, &node.equipment);
    node.isolation == request.isolation
        && (needs.labels.iter()).all(|(key, value)| node.labels.get(key) == Some(value))
        && (needs.cpu_features.iter()).all(|one| equipment.cpu_features.contains(one))
        && (needs.pool.iter()).all(|pool| equipment.pools.contains(pool))
        && (needs.network.iter()).all(|network| equipment.networks.contains(network))
}

/// What a claim takes of the shared amounts: vCPUs and MiB.
pub fn shared(claim: &Claim) -> (u128, u128) {
    let own = claim.assignment.as_deref();
    let dedicated = own.is_some_and(|own| own.cells.iter().any(|share| !share.threads.is_empty()));
    // Something is its own, or the assignment says nothing.
    let huge = own.is_some_and(|own| own.huge_pages.is_some() && !own.is_none());
    let total = super::total_mib(claim.memory);
    let guest = u128::from(claim.memory.guest.get());
    (
        if dedicated {
            0
        } else {
            u128::from(claim.vcpus.get())
        },
        if huge { total - guest } else { total },
    )
}

/// What a request asks of the shared amounts: vCPUs and MiB.
pub fn asked(request: &Request) -> (u128, u128) {
    let total = super::total_mib(request.memory);
    let guest = u128::from(request.memory.guest.get());
    (
        if request.needs.dedicated_cpus {
            0
        } else {
            u128::from(request.vcpus.get())
        },
        if request.needs.huge_pages.is_some() {
            total - guest
        } else {
            total
        },
    )
}

fn all_threads(equipment: &Equipment) -> impl Iterator<Item = (u16, u16)> {
    let cells = equipment.cells.iter();
    cells.flat_map(|cell| cell.dedicated.iter().map(|thread| (cell.id, *thread)))
}

fn there(equipment: &Equipment, cell: u16, size: PageSize) -> u64 {
    let cells = equipment.cells.iter().filter(|one| one.id == cell);
    cells.filter_map(|cell| cell.pages.get(&size)).sum()
}

fn above<T: PartialEq>(named: &[T], there: &[T]) -> u64 {
    let mut left: Vec<_> = there.iter().collect();
    let above = named
        .iter()
        .filter(|one| match left.iter().position(|other| other == one) {
            Some(at) => {
                left.remove(at);
                false
            }
            None => true,
        });
    above.count().try_into().unwrap()
}

// ------------------------------------------------------------------ generators

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn feature(text: &str) -> Feature {
    text.parse().unwrap()
}

fn address(number: u8) -> PciAddress {
    format!("0000:65:00.{number}").parse().unwrap()
}

fn any_class() -> impl Strategy<Value = Name> {
    prop_oneof![Just("gpu-a100"), Just("vf")].prop_map(name)
}

fn any_size() -> impl Strategy<Value = PageSize> {
    prop::sample::select(PageSize::ALL.as_slice())
}

/// Up to three cells of a few threads and pages, up to five devices; few different ones.
pub fn any_equipment() -> impl Strategy<Value = Equipment> {
    let threads = prop::sample::select(vec![0_u16, 2, 4, 5]);
    let pages =
        prop::collection::btree_map(any_size(), prop::sample::select(vec![0, 4, 9, 4096]), 0..3);
    let cells = prop::collection::vec((threads, pages), 0..4);
    let device = (any_class(), prop::option::of(0_u16..3));
    let devices = prop::collection::vec(device, 0..6);
    let some = |of: &'static str| prop::option::weighted(0.8, Just(of));
    let sorts = (some("avx2"), some("avx512f"), some("fast"), some("dmz"));
    let full = (cells, devices, sorts).prop_map(|(cells, devices, sorts)| Equipment {
        cells: (0_u16..)
            .zip(cells)
            .map(|(id, (threads, pages))| Cell {
                id,
                dedicated: (0..threads).map(|thread| 5 * id + thread).collect(),
                pages,
            })
            .collect(),
        cpu_features: [sorts.0, sorts.1]
            .into_iter()
            .flatten()
            .map(feature)
            .collect(),
        devices: (0..)
            .zip(devices)
            .map(|(number, (class, cell))| Device {
                address: address(number),
                class,
                cell,
            })
            .collect(),
        pools: sorts.2.map(name).into_iter().collect(),
        networks: sorts.3.map(name).into_iter().collect(),
    });
    prop_oneof![1 => Just(Equipment::default()), 3 => full]
}

/// Mostly nothing; else mostly one sort of thing.
pub fn any_needs() -> impl Strategy<Value = Needs> {
    let devices = prop::collection::btree_map(any_class(), 1_u32..3, 0..2);
    let rarely = |of: &'static str| prop::option::weighted(0.05, Just(of));
    let sorts = (
        rarely("avx2"),
        rarely("avx512f"),
        rarely("fast"),
        rarely("dmz"),
        rarely("nvme"),
    );
    let some = (
        prop::bool::weighted(0.4),
        prop::option::weighted(0.3, any_size()),
        0_u8..4,
        prop_oneof![2 => Just(BTreeMap::new()), 1 => devices],
        sorts,
    );
    let some = some.prop_map(
        |(dedicated_cpus, huge_pages, cells, devices, sorts)| Needs {
            dedicated_cpus,
            huge_pages,
            cells,
            cpu_features: [sorts.0, sorts.1]
                .into_iter()
                .flatten()
                .map(feature)
                .collect(),
            devices,
            pool: sorts.2.map(name),
            network: sorts.3.map(name),
            labels: (sorts.4.into_iter())
                .map(|disk| (name("disk"), disk.to_owned()))
                .collect(),
        },
    );
    prop_oneof![1 => Just(Needs::default()), 1 => some]
}

pub fn any_isolation() -> impl Strategy<Value = Option<Name>> {
    prop::option::weighted(0.3, Just("secret")).prop_map(|class| class.map(name))
}

/// Whatever a claim may say, of things that nodes have or don't.
pub fn any_assignment() -> impl Strategy<Value = Option<Box<Assignment>>> {
    let threads = prop::collection::btree_set(0_u16..16, 0..3);
    let share = (0_u16..4, threads, 0_u64..6).prop_map(|(cell, threads, gib)| CellShare {
        cell,
        vcpus: Vcpus(threads.len().try_into().unwrap()),
        threads: threads.into_iter().collect(),
        memory: MemoryMib(gib * 1024),
    });
    let devices = prop::collection::btree_set(0_u8..6, 0..3);
    let some = (
        prop::collection::vec(share, 0..3),
        prop::option::of(any_size()),
        devices,
    );
    let some = some.prop_map(|(cells, huge_pages, devices)| {
        Some(Box::new(Assignment {
            cells,
            huge_pages,
            devices: devices.into_iter().map(address).collect(),
        }))
    });
    prop_oneof![4 => Just(None), 1 => some]
}
