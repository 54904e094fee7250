//! One node as the scheduler sees it: what it has, and a view of what is left.
//!
//! A node's limit is what Kapok may hand out: physical vCPUs times the overcommit ratio, and
//! memory, each minus what domains use that Kapok did not make. Foreign vCPUs are subtracted
//! after the ratio, because they share the physical ones as Kapok's own do.

use std::collections::BTreeMap;

use kapok_types::{IncarnationId, MemoryMib, Name, NodeId, Vcpus, instance::Arch};
use serde::{Deserialize, Serialize};

use crate::held::{Amounts, Claim, Held, to_memory, to_vcpus, wide};

/// A node and what decides about it, without its claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// Its name, for people.
    pub name: Name,
    /// Its processors' architecture.
    pub arch: Arch,
    /// What it has.
    pub capacity: Capacity,
    /// vCPUs handed out per physical one, in permille: 4000 is 4.0.
    pub vcpu_overcommit_permille: u32,
    /// People keep new instances away from it.
    pub cordoned: bool,
    /// Its server's verdicts keep new instances away from it.
    pub quarantined: bool,
    /// Its agent answers.
    pub reachable: bool,
    /// Its agent has lost its store and takes no create until it has the full intent again.
    pub resyncing: bool,
    /// Why its word isn't taken, if it isn't.
    pub distrust: Option<Distrust>,
    /// How much speaks against it without closing it: pressure, pending moves, a condition other
    /// than healthy. Nodes of a lower tier are preferred, whatever they have free.
    #[serde(default)]
    pub tier: u8,
    /// The rack that it stands in. Unique within its room.
    #[serde(default)]
    pub rack: Option<Name>,
    /// The room that it stands in.
    #[serde(default)]
    pub room: Option<Name>,
    /// What else requests can ask of it.
    #[serde(default)]
    pub labels: BTreeMap<Name, String>,
}

impl Node {
    /// Whether it takes new instances at all, however much it has free.
    pub fn is_open(&self) -> bool {
        self.reachable
            && !self.resyncing
            && self.distrust.is_none()
            && !self.cordoned
            && !self.quarantined
    }
}

/// Why a node's word isn't taken. What runs there runs on and is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distrust {
    /// It runs on another server than the fabric knows, and nobody has rebound it.
    FingerprintChanged,
    /// Its certificates were revoked.
    Revoked,
}

/// What a node has, and what others than Kapok use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Physical threads.
    pub vcpus: Vcpus,
    /// Memory in MiB, already without the host's own reserve.
    pub memory: MemoryMib,
    /// Memory in MiB of domains that Kapok did not make.
    pub foreign_memory: MemoryMib,
    /// vCPUs of domains that Kapok did not make.
    pub foreign_vcpus: Vcpus,
}

/// By how much the claims on a node exceed its limit, after its capacity shrank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overcommit {
    /// So many vCPUs too many.
    Vcpus(Vcpus),
    /// So much memory (MiB) too much.
    Memory(MemoryMib),
}

/// A node of a fleet together with what is claimed of it.
///
/// Quantities beyond their type's range are shown as the largest one; decisions use exact sums.
#[derive(Debug, Clone, Copy)]
pub struct NodeView<'a> {
    pub(crate) node: &'a Node,
    pub(crate) held: &'a Held,
}

impl<'a> NodeView<'a> {
    /// The node itself.
    pub fn node(self) -> &'a Node {
        self.node
    }

    /// vCPUs that Kapok may hand out: physical × ratio (rounded down) − foreign.
    pub fn vcpu_limit(self) -> Vcpus {
        to_vcpus(self.wide_vcpu_limit())
    }

    /// Memory in MiB that Kapok may hand out: capacity − foreign.
    pub fn memory_limit(self) -> MemoryMib {
        to_memory(self.wide_memory_limit())
    }

    /// vCPUs that incarnations hold.
    pub fn claimed_vcpus(self) -> Vcpus {
        to_vcpus(self.held.sum.vcpus)
    }

    /// Memory in MiB that incarnations hold, QEMU's overhead included.
    pub fn claimed_memory(self) -> MemoryMib {
        to_memory(self.held.sum.memory_mib)
    }

    /// vCPUs that are left; none on an overcommitted node.
    pub fn free_vcpus(self) -> Vcpus {
        to_vcpus(self.wide_vcpu_limit().saturating_sub(self.held.sum.vcpus))
    }

    /// Memory in MiB that is left; none on an overcommitted node.
    pub fn free_memory(self) -> MemoryMib {
        to_memory(
            self.wide_memory_limit()
                .saturating_sub(self.held.sum.memory_mib),
        )
    }

    /// Where the claims exceed the limit, and by how much; empty on a sound node.
    pub fn overcommitted(self) -> Vec<Overcommit> {
        let vcpus = self.held.sum.vcpus.saturating_sub(self.wide_vcpu_limit());
        let memory = self
            .held
            .sum
            .memory_mib
            .saturating_sub(self.wide_memory_limit());
        [
            (vcpus > 0).then(|| Overcommit::Vcpus(to_vcpus(vcpus))),
            (memory > 0).then(|| Overcommit::Memory(to_memory(memory))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The claims on it, ordered by incarnation.
    pub fn claims(self) -> impl ExactSizeIterator<Item = (IncarnationId, Claim)> + 'a {
        self.held.claims.iter().map(|(id, claim)| (*id, *claim))
    }

    /// What is left, exactly; nothing on a node that is overcommitted in any dimension, because it
    /// takes nothing more.
    pub(crate) fn free(self) -> Option<Amounts> {
        let vcpus = self.wide_vcpu_limit().checked_sub(self.held.sum.vcpus)?;
        let memory_mib = self
            .wide_memory_limit()
            .checked_sub(self.held.sum.memory_mib)?;
        // Limits are 2^64 at most: see `wide_vcpu_limit`.
        Some(Amounts {
            vcpus: u64::try_from(vcpus).ok()?,
            memory_mib: u64::try_from(memory_mib).ok()?,
        })
    }

    /// vCPUs left after a further claim, or nothing if it doesn't fit.
    pub(crate) fn vcpus_after(self, claim: &Claim) -> Option<Vcpus> {
        let taken = self
            .held
            .sum
            .vcpus
            .checked_add(u128::from(claim.vcpus.get()))?;
        self.wide_vcpu_limit().checked_sub(taken).map(to_vcpus)
    }

    /// Memory left after a further claim, or nothing if it doesn't fit.
    pub(crate) fn memory_after(self, claim: &Claim) -> Option<MemoryMib> {
        let taken = self.held.sum.memory_mib.checked_add(wide(claim.memory))?;
        self.wide_memory_limit().checked_sub(taken).map(to_memory)
    }

    fn wide_vcpu_limit(self) -> u128 {
        let physical = u64::from(self.node.capacity.vcpus.get());
        // 32 bits times 32 bits: fits in 64.
        let handed_out = physical * u64::from(self.node.vcpu_overcommit_permille) / 1000;
        u128::from(handed_out.saturating_sub(u64::from(self.node.capacity.foreign_vcpus.get())))
    }

    fn wide_memory_limit(self) -> u128 {
        let capacity = &self.node.capacity;
        u128::from(
            capacity
                .memory
                .saturating_sub(capacity.foreign_memory)
                .get(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Fleet,
        fixture::{claim, claimed, node, node_id, put},
    };

    #[test]
    fn the_limit_is_the_ratio_of_physical_minus_foreign() {
        let mut odd = node(1);
        odd.capacity.vcpus = Vcpus(5);
        odd.vcpu_overcommit_permille = 1500;
        odd.capacity.foreign_vcpus = Vcpus(3);
        odd.capacity.foreign_memory = MemoryMib(1024);
        let fleet = Fleet::default().with([put(odd)]);
        let view = fleet.node(node_id(1)).unwrap();
        assert_eq!(view.vcpu_limit(), Vcpus(7 - 3));
        assert_eq!(view.memory_limit(), MemoryMib(64 * 1024 - 1024));
    }

    #[test]
    fn shrinkage_shows_the_dimension_and_the_amount() {
        let mut fleet = Fleet::default().with([put(node(1)), claimed(1, 1, claim(6, 40 * 1024))]);
        assert_eq!(fleet.node(node_id(1)).unwrap().overcommitted(), []);
        let mut small = node(1);
        small.capacity.vcpus = Vcpus(1);
        small.capacity.memory = MemoryMib(32 * 1024);
        fleet.apply(put(small));
        let view = fleet.node(node_id(1)).unwrap();
        let over = claim(6, 40 * 1024).memory.total().get() - 32 * 1024;
        assert_eq!(
            view.overcommitted(),
            [
                Overcommit::Vcpus(Vcpus(2)),
                Overcommit::Memory(MemoryMib(over))
            ]
        );
        assert_eq!(
            (view.free_vcpus(), view.free_memory()),
            (Vcpus(0), MemoryMib(0))
        );
    }

    /// Foreign domains alone don't make a node overcommitted: Kapok holds nothing there.
    #[test]
    fn foreign_use_above_capacity_is_no_overcommitment() {
        let mut full = node(1);
        full.capacity.foreign_memory = MemoryMib(u64::MAX);
        full.capacity.foreign_vcpus = Vcpus(u32::MAX);
        let fleet = Fleet::default().with([put(full)]);
        let view = fleet.node(node_id(1)).unwrap();
        assert_eq!(
            (view.vcpu_limit(), view.memory_limit()),
            (Vcpus(0), MemoryMib(0))
        );
        assert_eq!(view.overcommitted(), []);
    }
}
