//! What still fits: by shape, with and without the headroom, and what is free in vain.
//!
//! For people, and slow: it looks at every node, and places as decisions do until nothing fits.

use kapok_types::MemoryMib;
use serde::{Deserialize, Serialize};

use crate::{
    fleet::Fleet,
    headroom::Headroom,
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
    /// That part of it which is on nodes where none of the shapes fits.
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
    /// vCPUs.
    pub vcpus: u64,
    /// Memory in MiB.
    pub memory: MemoryMib,
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
    for view in fleet.nodes() {
        let Some(here) = view.free().filter(|_| view.node().is_open()) else {
            continue;
        };
        let mut useful = false;
        for (sum, question) in in_all.iter_mut().zip(&questions) {
            if question.answer(view).is_err() {
                continue;
            }
            useful = true;
            let asked = question.claim.amounts().unwrap_or_default();
            let by = [
                here.vcpus.checked_div(asked.vcpus),
                here.memory_mib.checked_div(asked.memory_mib),
            ];
            let times = by.into_iter().flatten().min().unwrap_or_default();
            *sum = sum.saturating_add(times);
        }
        free.add(here.vcpus, here.memory_mib);
        if !useful && !shapes.is_empty() {
            stranded.add(here.vcpus, here.memory_mib);
        }
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
    let claim = shape.claim();
    let mut placed = 0;
    while placed < most {
        let Ok(placement) = place(&overlay, shape, &policy) else {
            break;
        };
        let number = usize::try_from(placed).unwrap_or(usize::MAX);
        overlay.reserve(placement.node, number, &claim);
        placed += 1;
    }
    placed
}

impl Free {
    fn add(&mut self, vcpus: u64, memory_mib: u64) {
        self.nodes += u64::from(vcpus > 0 || memory_mib > 0);
        self.vcpus = self.vcpus.saturating_add(vcpus);
        self.memory = self.memory.saturating_add(MemoryMib(memory_mib));
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
            }
        );
        assert_eq!(remaining.stranded, Free::default());
        let stranded = capacity(&fleet(), &shapes[..2], &Policy::PACK).stranded;
        assert_eq!(
            stranded,
            Free {
                nodes: 1,
                vcpus: 1,
                memory: MemoryMib(64 * 1024 - held),
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
}
