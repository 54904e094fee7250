//! What incarnations hold of one node, and its sum.
//!
//! The sum is kept beside the claims and changes with each of them. It is wider than the claims
//! are, so that no number of claims of any size overflows it or makes a release inexact.
//!
//! Summed are *shared* amounts. vCPUs with host threads of their own are none of the shared ones,
//! and guest memory in huge pages is none of the common memory; QEMU's own always is. What is an
//! incarnation's own is counted one by one, in [`InUse`].

use imbl::OrdMap;
use kapok_types::{Assignment, IncarnationId, MemoryMib, Vcpus, instance::MemoryClaim};
use serde::{Deserialize, Serialize};

use crate::{headroom::Load, in_use::InUse, request::Request};

/// The capacity that one incarnation holds until its end is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Virtual CPUs, dedicated or not.
    pub vcpus: Vcpus,
    /// The guest's memory, in huge pages or not, and QEMU's beside it.
    pub memory: MemoryClaim,
    /// What is its own: host threads, huge pages, devices. While another size waits for the next
    /// start, it is what the guest has from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<Box<Assignment>>,
    /// What is its own beyond that, because the guest that runs may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surplus: Option<Box<Assignment>>,
}

/// The claims on one node, by incarnation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) claims: OrdMap<IncarnationId, Claim>,
    pub(crate) sum: Usage,
    /// What a restart of all of them elsewhere would take.
    pub(crate) load: Load,
    /// What is some incarnation's own; nothing on most nodes.
    in_use: Option<Box<InUse>>,
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

/// A sum of shared amounts: vCPUs, and memory in MiB. 2⁶⁴ of the largest claims fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) vcpus: u128,
    pub(crate) memory_mib: u128,
}

impl Held {
    /// Takes a claim. One that the incarnation already holds is replaced, not added to.
    pub(crate) fn claim(&mut self, incarnation: IncarnationId, claim: Claim) {
        self.take(&claim);
        if let Some(old) = self.claims.insert(incarnation, claim) {
            self.give_back(&old);
        }
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

    /// What is some incarnation's own.
    pub(crate) fn in_use(&self) -> Option<&InUse> {
        self.in_use.as_deref()
    }

    /// Counts what nobody holds as somebody's own, for what-ifs.
    pub(crate) fn occupy(&mut self, assignment: &Assignment) {
        self.change_in_use(|in_use| in_use.add(assignment));
    }

    fn change_in_use(&mut self, change: impl FnOnce(&mut InUse)) {
        let mut in_use = self.in_use.take().unwrap_or_default();
        change(&mut in_use);
        // Equal claims make equal counts: nothing in use is one thing only.
        self.in_use = (!in_use.is_empty()).then_some(in_use);
    }

    fn take(&mut self, claim: &Claim) {
        let usage = Usage::of(claim);
        self.sum.add(usage);
        self.load.add(usage);
        for own in claim.owned() {
            self.occupy(own);
        }
    }

    /// Gives back exactly what the incarnation claimed; nothing if it holds nothing.
    pub(crate) fn release(&mut self, incarnation: IncarnationId) {
        if let Some(old) = self.claims.remove(&incarnation) {
            self.give_back(&old);
        }
    }

    fn give_back(&mut self, claim: &Claim) {
        let usage = Usage::of(claim);
        self.sum.remove(usage);
        self.load.remove(usage);
        for own in claim.owned() {
            self.change_in_use(|in_use| in_use.remove(own));
        }
    }
}

impl Claim {
    /// The vCPUs that it takes of the shared ones: none if they have threads of their own.
    pub fn shared_vcpus(&self) -> Vcpus {
        to_vcpus(Usage::of(self).vcpus)
    }

    /// The memory, in MiB, that it takes of the common memory: QEMU's own alone if the guest's is
    /// in huge pages.
    pub fn common_memory(&self) -> MemoryMib {
        to_memory(Usage::of(self).memory_mib)
    }

    /// All that is its own, by its assignment and beyond it. No thread, page or device is in both.
    pub fn owned(&self) -> impl Iterator<Item = &Assignment> {
        let both = [&self.assignment, &self.surplus].into_iter().flatten();
        both.map(AsRef::as_ref).filter(|own| !own.is_none())
    }

    /// What is its own, if anything is.
    pub(crate) fn own(&self) -> Option<&Assignment> {
        self.assignment.as_deref().filter(|own| !own.is_none())
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
    /// The shared amounts of a claim.
    pub(crate) fn of(claim: &Claim) -> Self {
        let own = claim.own();
        Self::shared(
            claim.vcpus,
            claim.memory,
            own.is_some_and(Assignment::has_threads),
            own.is_some_and(|own| own.huge_pages.is_some()),
        )
    }

    /// The shared amounts of what will be claimed for a request.
    pub(crate) fn asked(request: &Request) -> Self {
        let needs = &request.needs;
        let huge = needs.huge_pages.is_some();
        Self::shared(request.vcpus, request.memory, needs.dedicated_cpus, huge)
    }

    fn shared(vcpus: Vcpus, memory: MemoryClaim, dedicated: bool, huge: bool) -> Self {
        let guest = if huge { memory.guest } else { MemoryMib(0) };
        Self {
            vcpus: u128::from(if dedicated { 0 } else { vcpus.get() }),
            memory_mib: wide(memory).saturating_sub(u128::from(guest.get())),
        }
    }

    /// It as numbers that fit a node; nothing if no node can have so much.
    pub(crate) fn amounts(self) -> Option<Amounts> {
        Some(Amounts {
            vcpus: u64::try_from(self.vcpus).ok()?,
            memory_mib: u64::try_from(self.memory_mib).ok()?,
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::claim;

    /// Logs are kept for ever: what was written before there were assignments is read, and is
    /// written the same again.
    #[test]
    fn a_claim_without_an_assignment_is_written_as_ever() {
        let old = r#"{"vcpus":2,"memory":{"guest":1024,"tables":4,"vcpus":16,"fixed":128}}"#;
        assert_eq!(serde_json::from_str::<Claim>(old).unwrap(), claim(2, 1024));
        assert_eq!(serde_json::to_string(&claim(2, 1024)).unwrap(), old);
    }

    /// The same for what was written before there was a surplus.
    #[test]
    fn a_claim_without_a_surplus_is_written_as_ever() {
        let old = r#"{"vcpus":2,"memory":{"guest":1024,"tables":4,"vcpus":16,"fixed":128},"assignment":{"cells":[{"cell":0,"vcpus":2,"threads":[2,3],"memory":1024}],"devices":[]}}"#;
        let claim: Claim = serde_json::from_str(old).unwrap();
        assert_eq!(claim.surplus, None);
        assert_eq!(serde_json::to_string(&claim).unwrap(), old);
    }
}
