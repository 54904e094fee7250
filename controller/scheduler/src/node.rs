//! One node as the scheduler sees it: what it has, and a view of what is left.
//!
//! A node's limit is what Kapok may hand out: physical vCPUs times the overcommit ratio, and
//! memory, each minus what domains use that Kapok did not make. Foreign vCPUs are subtracted
//! after the ratio, because they share the physical ones as Kapok's own do. Threads that are set
//! aside for dedicated vCPUs and memory in huge pages are none of these: they are equipment.

use std::{collections::BTreeMap, fmt, sync::Arc};

use kapok_types::{Equipment, IncarnationId, MemoryMib, Name, NodeId, Vcpus, instance::Arch};
use serde::{Deserialize, Serialize};

use crate::{
    held::{Amounts, Claim, Held, Usage, to_memory, to_vcpus},
    in_use::{Excess, cells_left, devices_left},
};

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
    /// The isolation class that it is for; it takes requests of exactly this one.
    #[serde(default)]
    pub isolation: Option<Name>,
    /// What it has beyond amounts.
    #[serde(default)]
    pub equipment: Arc<Equipment>,
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
    /// Physical threads that vCPUs share: without those set aside for dedicated ones.
    pub vcpus: Vcpus,
    /// Memory in MiB, already without the host's own reserve and without huge pages.
    pub memory: MemoryMib,
    /// Memory in MiB of domains that Kapok did not make.
    pub foreign_memory: MemoryMib,
    /// vCPUs of domains that Kapok did not make.
    pub foreign_vcpus: Vcpus,
}

/// By how much the claims on a node exceed what it has, after that shrank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overcommit {
    /// So many vCPUs too many.
    Vcpus(Vcpus),
    /// So much memory (MiB) too much.
    Memory(MemoryMib),
    /// So many host threads that the node doesn't set aside (any more), or that have two owners.
    DedicatedCpus(Vcpus),
    /// So much memory (MiB) too much in huge pages.
    HugePages(MemoryMib),
    /// So many devices that the node doesn't have (any more), or that have two owners.
    Devices(u32),
}

impl fmt::Display for Overcommit {
    /// As in "overcommitted by 2 vCPUs".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpus(by) => write!(f, "{by} vCPUs"),
            Self::Memory(MemoryMib(by)) => write!(f, "{by} MiB of memory"),
            Self::DedicatedCpus(by) => write!(f, "{by} dedicated CPUs"),
            Self::HugePages(MemoryMib(by)) => write!(f, "{by} MiB of huge pages"),
            Self::Devices(by) => write!(f, "{by} devices"),
        }
    }
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

    /// vCPUs that incarnations hold; dedicated ones aren't among them.
    pub fn claimed_vcpus(self) -> Vcpus {
        to_vcpus(self.held.sum.vcpus)
    }

    /// Memory in MiB that incarnations hold, QEMU's overhead included, huge pages not.
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
        let excess = (self.held.in_use()).map_or_else(Excess::default, |in_use| {
            in_use.excess(&self.node.equipment)
        });
        let Excess {
            threads, devices, ..
        } = excess;
        let huge = excess.huge_mib();
        [
            (vcpus > 0).then(|| Overcommit::Vcpus(to_vcpus(vcpus))),
            (memory > 0).then(|| Overcommit::Memory(to_memory(memory))),
            (threads > 0).then(|| Overcommit::DedicatedCpus(to_vcpus(threads))),
            (huge > 0).then(|| Overcommit::HugePages(to_memory(huge))),
            (devices > 0).then(|| Overcommit::Devices(u32::try_from(devices).unwrap_or(u32::MAX))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is left of its equipment: threads, huge pages and devices that are nobody's own.
    pub fn free_equipment(self) -> Equipment {
        let (equipment, in_use) = (&*self.node.equipment, self.held.in_use());
        Equipment {
            cells: cells_left(equipment, in_use),
            devices: (devices_left(equipment, in_use).into_iter().cloned()).collect(),
            ..equipment.clone()
        }
    }

    /// The claims on it, ordered by incarnation.
    pub fn claims(self) -> impl ExactSizeIterator<Item = (IncarnationId, &'a Claim)> + 'a {
        self.held.claims.iter().map(|(id, claim)| (*id, claim))
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

    /// vCPUs left after so much more, or nothing if it doesn't fit.
    pub(crate) fn vcpus_after(self, asked: Usage) -> Option<Vcpus> {
        let taken = self.held.sum.vcpus.checked_add(asked.vcpus)?;
        self.wide_vcpu_limit().checked_sub(taken).map(to_vcpus)
    }

    /// Memory left after so much more, or nothing if it doesn't fit.
    pub(crate) fn memory_after(self, asked: Usage) -> Option<MemoryMib> {
        let taken = self.held.sum.memory_mib.checked_add(asked.memory_mib)?;
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
