//! What incarnations hold of one node, and its sum.
//!
//! The sum is kept beside the claims and changes with each of them. It is wider than the claims
//! are, so that no number of claims of any size overflows it or makes a release inexact.

use imbl::OrdMap;
use kapok_types::{IncarnationId, MemoryMib, Vcpus, instance::MemoryClaim};
use serde::{Deserialize, Serialize};

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
        let new = Usage::of(&claim);
        if let Some(old) = self.claims.insert(incarnation, claim) {
            self.sum.remove(Usage::of(&old));
        }
        self.sum.add(new);
    }

    /// Gives back exactly what the incarnation claimed; nothing if it holds nothing.
    pub(crate) fn release(&mut self, incarnation: IncarnationId) {
        if let Some(old) = self.claims.remove(&incarnation) {
            self.sum.remove(Usage::of(&old));
        }
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
