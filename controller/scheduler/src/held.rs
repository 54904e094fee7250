//! What incarnations hold of one node, and its sum.
//!
//! The sum is kept beside the claims and changes with each of them. It is wider than the claims
//! are, so that no number of claims of any size overflows it or makes a release inexact.

use imbl::OrdMap;
use kapok_types::{IncarnationId, MemoryMib, Vcpus, instance::MemoryClaim};
use serde::{Deserialize, Serialize};

use crate::headroom::Load;

/// The capacity that one incarnation holds until its end is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// The guest's memory and QEMU's beside it.
    pub memory: MemoryClaim,
}

/// The claims on one node, by incarnation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) claims: OrdMap<IncarnationId, Claim>,
    pub(crate) sum: Usage,
    /// What a restart of all of them elsewhere would take.
    pub(crate) load: Load,
    /// The first claim that only a what-if counts.
    reserved: Option<usize>,
}

/// How long a node has been in use, by its oldest claim: ids of incarnations are in the order of
/// their making. The oldest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Age {
    Since(IncarnationId),
    /// In what-ifs, since the claim of this number.
    Reserved(usize),
    Unused,
}

/// Exact amounts of what nodes are asked for and have free: numbers that fit a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amounts {
    pub(crate) vcpus: u64,
    pub(crate) memory_mib: u64,
}

/// A sum of claims: vCPUs, and memory in MiB. 2⁶⁴ of the largest claims fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) vcpus: u128,
    pub(crate) memory_mib: u128,
}

impl Held {
    /// Takes a claim. One that the incarnation already holds is replaced, not added to.
    pub(crate) fn claim(&mut self, incarnation: IncarnationId, claim: Claim) {
        if let Some(old) = self.claims.insert(incarnation, claim) {
            self.give_back(&old);
        }
        self.take(&claim);
    }

    /// Counts a claim that no incarnation holds, the what-if's one of this number.
    pub(crate) fn reserve(&mut self, number: usize, claim: &Claim) {
        self.reserved.get_or_insert(number);
        self.take(claim);
    }

    pub(crate) fn age(&self) -> Age {
        match (self.claims.get_min(), self.reserved) {
            (Some((oldest, _)), _) => Age::Since(*oldest),
            (None, Some(number)) => Age::Reserved(number),
            (None, None) => Age::Unused,
        }
    }

    fn take(&mut self, claim: &Claim) {
        self.sum.add(Usage::of(claim));
        self.load.add(claim);
    }

    /// Gives back exactly what the incarnation claimed; nothing if it holds nothing.
    pub(crate) fn release(&mut self, incarnation: IncarnationId) {
        if let Some(old) = self.claims.remove(&incarnation) {
            self.give_back(&old);
        }
    }

    fn give_back(&mut self, claim: &Claim) {
        self.sum.remove(Usage::of(claim));
        self.load.remove(claim);
    }
}

impl Claim {
    /// What it takes of a node; nothing if no node can have so much.
    pub(crate) fn amounts(&self) -> Option<Amounts> {
        Some(Amounts {
            vcpus: u64::from(self.vcpus.get()),
            memory_mib: u64::try_from(wide(self.memory)).ok()?,
        })
    }
}

impl Amounts {
    /// What is left of it after `asked`; nothing if that doesn't fit.
    pub(crate) fn after(self, asked: Self) -> Option<Self> {
        Some(Self {
            vcpus: self.vcpus.checked_sub(asked.vcpus)?,
            memory_mib: self.memory_mib.checked_sub(asked.memory_mib)?,
        })
    }
}

impl Usage {
    fn of(claim: &Claim) -> Self {
        Self {
            vcpus: u128::from(claim.vcpus.get()),
            memory_mib: wide(claim.memory),
        }
    }

    fn add(&mut self, other: Self) {
        self.vcpus = self.vcpus.saturating_add(other.vcpus);
        self.memory_mib = self.memory_mib.saturating_add(other.memory_mib);
    }

    fn remove(&mut self, other: Self) {
        self.vcpus = self.vcpus.saturating_sub(other.vcpus);
        self.memory_mib = self.memory_mib.saturating_sub(other.memory_mib);
    }
}

/// A memory claim's exact total in MiB; [`MemoryClaim::total`] saturates.
pub(crate) fn wide(claim: MemoryClaim) -> u128 {
    [claim.guest, claim.tables, claim.vcpus, claim.fixed]
        .into_iter()
        .map(|part| u128::from(part.get()))
        .sum()
}

/// `vcpus` as the shared type, or its largest number.
pub(crate) fn to_vcpus(vcpus: u128) -> Vcpus {
    Vcpus(u32::try_from(vcpus).unwrap_or(u32::MAX))
}

/// `memory_mib` as the shared type, or its largest number.
pub(crate) fn to_memory(memory_mib: u128) -> MemoryMib {
    MemoryMib(u64::try_from(memory_mib).unwrap_or(u64::MAX))
}
