//! What still fits: by shape, with and without the headroom, and what is free in vain.
//!
//! For people, and slow: it looks at every node, and places as decisions do until nothing fits.

use kapok_types::{Equipment, MemoryMib};
use serde::{Deserialize, Serialize};

use crate::{
    assign::{assign, is_exact},
    fleet::Fleet,
    headroom::Headroom,
    node::NodeView,
    place::place,
    question::Question,
    request::{Policy, Request},
};

/// What a fleet has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// For each shape, in the caller's order.
    pub fits: Vec<Fits>,
    /// Free on open nodes.
    pub free: Free,
    /// That part of it which is where none of the shapes that take of it fits. What none of them
    /// takes at all isn't judged.
    pub stranded: Stranded,
}

/// How many of one shape, were nothing else placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fits {
    /// Until no node has the numbers.
    pub in_all: u64,
    /// Until the policy's headroom would be used up; none where it keeps none.
    pub within_headroom: Option<u64>,
}

/// An amount of every dimension.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Free {
    /// Nodes that have any of it.
    pub nodes: u64,
    /// Shared vCPUs.
    pub vcpus: u64,
    /// Common memory in MiB.
    pub memory: MemoryMib,
    /// Threads for dedicated CPUs.
    #[serde(default)]
    pub dedicated_cpus: u64,
    /// Memory in MiB in huge pages of any size.
    #[serde(default)]
    pub huge_pages: MemoryMib,
    /// Devices of any class.
    #[serde(default)]
    pub devices: u64,
}

/// Free, and of use for none of the shapes.
pub type Stranded = Free;

/// Counts how many of each of `shapes` still fit, and what is left in vain.
///
/// A shape is a request; what it says of labels, groups and nodes to avoid counts, but the ones
/// that are counted know nothing of each other. A shape of nothing fits never.
pub fn capacity(fleet: &Fleet, shapes: &[Request], policy: &Policy) -> Remaining {
    let plain = Policy {
        headroom: Headroom::None,
        ..*policy
    };
    let questions: Vec<_> = shapes
        .iter()
        .map(|shape| Question::new(fleet, shape, plain))
        .collect();
    let mut in_all = vec![0_u64; shapes.len()];
    let (mut free, mut stranded) = (Free::default(), Free::default());
    let judged = Takes::any(questions.iter());
    for view in fleet.nodes() {
        let Some(here) = free_on(view) else {
            continue;
        };
        let mut fitting = Vec::new();
        for (sum, question) in in_all.iter_mut().zip(&questions) {
            if question.answer(view).is_ok() {
                *sum = sum.saturating_add(times(view, question));
                fitting.push(question);
            }
        }
        free.add(here);
        let useful = Takes::any(fitting.into_iter());
        stranded.add(here.of(judged.without(useful)));
    }
    let fits = in_all.into_iter().zip(shapes).map(|(in_all, shape)| Fits {
        in_all,
        within_headroom: (policy.headroom != Headroom::None)
            .then(|| within_headroom(fleet, shape, *policy, in_all)),
    });
    Remaining {
        fits: fits.collect(),
        free,
        stranded,
    }
}

/// Places one after the other until the policy refuses.
fn within_headroom(fleet: &Fleet, shape: &Request, policy: Policy, most: u64) -> u64 {
    let mut overlay = fleet.clone();
    let mut placed = 0;
    while placed < most {
        let Ok(placement) = place(&overlay, shape, &policy) else {
            break;
        };
        let number = usize::try_from(placed).unwrap_or(usize::MAX);
        overlay.reserve(placement.node, number, &placement.claim);
        placed += 1;
    }
    placed
}

/// How often a shape that fits a node does so.
fn times(view: NodeView<'_>, question: &Question<'_>) -> u64 {
    let (here, asked) = (view.free(), question.asked.amounts());
    let (here, asked) = (here.unwrap_or_default(), asked.unwrap_or_default());
    let by = [
        here.vcpus.checked_div(asked.vcpus),
        here.memory_mib.checked_div(asked.memory_mib),
    ];
    let most = by.into_iter().flatten().min().unwrap_or_default();
    if !is_exact(question.request) {
        return most;
    }
    let (node, mut held) = (view.node(), view.held.clone());
    let mut times = 0;
    while times < most
        && let Some(assignment) = assign(NodeView { node, held: &held }, question.request)
    {
        held.occupy(&assignment);
        times += 1;
    }
    times
}

/// What an open node has free; nothing on one that takes nothing.
fn free_on(view: NodeView<'_>) -> Option<Free> {
    let amounts = view.free().filter(|_| view.node().is_open())?;
    let Equipment { cells, devices, .. } = view.free_equipment();
    let sum = |each: &mut dyn Iterator<Item = u64>| each.fold(0, u64::saturating_add);
    let pages = cells.iter().flat_map(|cell| &cell.pages);
    Some(Free {
        nodes: 1,
        vcpus: amounts.vcpus,
        memory: MemoryMib(amounts.memory_mib),
        dedicated_cpus: sum(&mut cells.iter().map(|cell| count(cell.dedicated.len()))),
        huge_pages: MemoryMib(sum(
            &mut pages.map(|(size, pages)| pages.saturating_mul(size.mib()))
        )),
        devices: count(devices.len()),
    })
}

fn count(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

/// Which dimensions something takes of.
#[derive(Debug, Clone, Copy, Default)]
struct Takes {
    vcpus: bool,
    memory: bool,
    dedicated_cpus: bool,
    huge_pages: bool,
    devices: bool,
}

impl Takes {
    fn any<'q>(questions: impl Iterator<Item = &'q Question<'q>>) -> Self {
        questions.fold(Self::default(), |all, question| {
            let needs = &question.request.needs;
            Self {
                vcpus: all.vcpus || question.asked.vcpus > 0,
                memory: all.memory || question.asked.memory_mib > 0,
                dedicated_cpus: all.dedicated_cpus || needs.dedicated_cpus,
                huge_pages: all.huge_pages || needs.huge_pages.is_some(),
                devices: all.devices || !needs.devices.is_empty(),
            }
        })
    }

    fn without(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus && !other.vcpus,
            memory: self.memory && !other.memory,
            dedicated_cpus: self.dedicated_cpus && !other.dedicated_cpus,
            huge_pages: self.huge_pages && !other.huge_pages,
            devices: self.devices && !other.devices,
        }
    }
}

impl Free {
    /// The part of it in these dimensions.
    fn of(self, takes: Takes) -> Self {
        let memory = |of: MemoryMib, takes| if takes { of } else { MemoryMib(0) };
        let number = |of: u64, takes| if takes { of } else { 0 };
        Self {
            nodes: self.nodes,
            vcpus: number(self.vcpus, takes.vcpus),
            memory: memory(self.memory, takes.memory),
            dedicated_cpus: number(self.dedicated_cpus, takes.dedicated_cpus),
            huge_pages: memory(self.huge_pages, takes.huge_pages),
            devices: number(self.devices, takes.devices),
        }
    }

    /// Adds what one node has.
    fn add(&mut self, here: Self) {
        let nothing = Self {
            nodes: here.nodes,
            ..Self::default()
        };
        self.nodes += u64::from(here != nothing);
        self.vcpus = self.vcpus.saturating_add(here.vcpus);
        self.memory = self.memory.saturating_add(here.memory);
        self.dedicated_cpus = self.dedicated_cpus.saturating_add(here.dedicated_cpus);
        self.huge_pages = self.huge_pages.saturating_add(here.huge_pages);
        self.devices = self.devices.saturating_add(here.devices);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{claim, claimed, node, put, request};

    fn fleet() -> Fleet {
        let mut closed = node(4);
        closed.cordoned = true;
        Fleet::default().with([
            put(node(1)),
            put(node(2)),
            put(node(3)),
            put(closed),
            claimed(1, 1, claim(15, 1024)),
        ])
    }

    #[test]
    fn what_fits_and_what_is_in_vain() {
        let shapes = [request(4, 8 * 1024), request(2, 30 * 1024), request(0, 0)];
        let remaining = capacity(&fleet(), &shapes, &Policy::PACK);
        let in_all: Vec<_> = remaining.fits.iter().map(|fits| fits.in_all).collect();
        // The last shape's overhead alone is 128 MiB.
        assert_eq!(in_all[..2], [8, 4]);
        assert!(
            remaining
                .fits
                .iter()
                .all(|fits| fits.within_headroom.is_none())
        );
        let held = claim(15, 1024).memory.total().get();
        assert_eq!(
            remaining.free,
            Free {
                nodes: 3,
                vcpus: 1 + 16 + 16,
                memory: MemoryMib(3 * 64 * 1024 - held),
                ..Free::default()
            }
        );
        // One vCPU is too few for those that take any, but memory is of use for the last one.
        let vcpu = Free {
            nodes: 1,
            vcpus: 1,
            ..Free::default()
        };
        assert_eq!(remaining.stranded, vcpu);
        let stranded = capacity(&fleet(), &shapes[..2], &Policy::PACK).stranded;
        assert_eq!(
            stranded,
            Free {
                nodes: 1,
                vcpus: 1,
                memory: MemoryMib(64 * 1024 - held),
                ..Free::default()
            }
        );
        assert_eq!(
            capacity(&fleet(), &[], &Policy::PACK).stranded,
            Free::default()
        );
    }

    /// One vCPU and 4 GiB is one block: 3 nodes of 15 blocks, of which one's worth stays free.
    #[test]
    fn the_headroom_takes_its_share() {
        let policy = Policy {
            headroom: Headroom::Node,
            ..Policy::PACK
        };
        let fleet = Fleet::default().with([put(node(1)), put(node(2)), put(node(3))]);
        let fits = capacity(&fleet, &[request(1, 4096)], &policy).fits[0];
        assert_eq!((fits.in_all, fits.within_headroom), (45, Some(30)));
        let alone = Fleet::default().with([put(node(1))]);
        let fits = capacity(&alone, &[request(1, 4096)], &policy).fits[0];
        assert_eq!((fits.in_all, fits.within_headroom), (15, Some(0)));
    }

    /// Shapes that need something of their own are counted by it, and each dimension is judged by
    /// the shapes that take of it.
    #[test]
    fn equipment_is_counted_and_stranded_by_dimension() {
        use crate::fixture::{cell, device, with};
        let equipped = |number, threads: &[u16], gib: u64, devices: u8| {
            let mut one = node(number);
            with(&mut one, |equipment| {
                equipment.cells = vec![cell(0, threads, gib * 1024)];
                equipment.devices = (0..devices).map(|at| device(at, "gpu", None)).collect();
            });
            put(one)
        };
        let fleet = Fleet::default().with([
            equipped(1, &[0, 1, 2, 3, 4], 8, 0),
            equipped(2, &[0], 0, 1),
            equipped(3, &[], 3, 2),
        ]);
        let mut dedicated = request(2, 1024);
        dedicated.needs.dedicated_cpus = true;
        let mut gpu = request(1, 1024);
        gpu.needs.devices = [("gpu".parse().unwrap(), 1)].into();
        let mut huge = request(1, 2 * 1024);
        huge.needs.huge_pages = "2MiB".parse().ok();
        let mut all = gpu.clone();
        all.vcpus = dedicated.vcpus;
        all.needs.dedicated_cpus = true;
        let shapes = [dedicated, gpu, huge, all];
        let remaining = capacity(&fleet, &shapes, &Policy::PACK);
        let in_all: Vec<_> = remaining.fits.iter().map(|fits| fits.in_all).collect();
        assert_eq!(in_all, [2, 3, 5, 0]);
        assert_eq!(
            remaining.free,
            Free {
                nodes: 3,
                vcpus: 48,
                memory: MemoryMib(3 * 64 * 1024),
                dedicated_cpus: 6,
                huge_pages: MemoryMib(11 * 1024),
                devices: 3,
            }
        );
        let thread = Free {
            nodes: 1,
            dedicated_cpus: 1,
            ..Free::default()
        };
        assert_eq!(remaining.stranded, thread);
        // Nobody asks for a device: none is in vain.
        let stranded = capacity(&fleet, &shapes[..1], &Policy::PACK).stranded;
        assert_eq!((stranded.devices, stranded.dedicated_cpus), (0, 1));
    }
}
