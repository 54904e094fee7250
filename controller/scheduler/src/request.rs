//! What is asked of the fleet, and which of the nodes that fit is preferred.

use std::collections::BTreeSet;

use kapok_types::{NodeId, Vcpus, instance::Arch, instance::MemoryClaim};
use serde::{Deserialize, Serialize};

use crate::{held::Claim, place::Score};

/// What a new incarnation needs of its node.
///
/// Sizes are taken as they are: limits on them are the caller's, a size that no node has is
/// refused by every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The architecture that its image was built for.
    pub arch: Arch,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// The guest's memory and QEMU's beside it.
    pub memory: MemoryClaim,
    /// Nodes that it must not go to, for example the one it leaves.
    #[serde(default)]
    pub avoid: BTreeSet<NodeId>,
}

impl Request {
    /// What an incarnation placed for this request claims.
    pub fn claim(&self) -> Claim {
        Claim {
            vcpus: self.vcpus,
            memory: self.memory,
        }
    }
}

/// Which of the nodes that fit is preferred.
///
/// A node's rank is the weighted sum of what the placement would leave free there. Equal ranks
/// go to the lower node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether full or empty nodes are preferred.
    pub goal: Goal,
    /// What counts for how much.
    pub weights: Weights,
}

/// Whether full or empty nodes are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Best fit: the node that is left with least. Needs the fewest nodes.
    #[default]
    Pack,
    /// Worst fit: the node that is left with most. Loses the fewest instances with a node.
    Spread,
}

/// How much each free resource counts in a node's rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Weight of one free vCPU.
    pub vcpu: u32,
    /// Weight of one free MiB.
    pub memory_mib: u32,
}

impl Weights {
    /// vCPU first: below 4 PiB of free memory, memory decides only between nodes that would be
    /// left with equally many vCPUs. On recorded public-cloud demand this needs fewer nodes than
    /// first fit, than adding the leftovers up, and than the dot product.
    pub const VCPU_FIRST: Self = Self {
        vcpu: u32::MAX,
        memory_mib: 1,
    };
}

impl Default for Weights {
    fn default() -> Self {
        Self::VCPU_FIRST
    }
}

impl Policy {
    /// Prefers full nodes.
    pub const PACK: Self = Self {
        goal: Goal::Pack,
        weights: Weights {
            vcpu: u32::MAX,
            memory_mib: 1,
        },
    };

    /// Prefers empty nodes.
    pub const SPREAD: Self = Self {
        goal: Goal::Spread,
        ..Self::PACK
    };

    /// A node's place in the order of preference; the lowest is best.
    pub(crate) fn rank(&self, score: &Score) -> u128 {
        // At most 2^64 + 2^96: no weight overflows it.
        let left = u128::from(self.weights.vcpu) * u128::from(score.vcpus_left.get())
            + u128::from(self.weights.memory_mib) * u128::from(score.memory_left.get());
        match self.goal {
            Goal::Pack => left,
            Goal::Spread => u128::MAX - left,
        }
    }
}

#[cfg(test)]
mod tests {
    use kapok_types::MemoryMib;

    use super::*;

    fn score(vcpus: u32, memory_mib: u64) -> Score {
        Score {
            vcpus_left: Vcpus(vcpus),
            memory_left: MemoryMib(memory_mib),
        }
    }

    #[test]
    fn the_default_packs_with_vcpus_first() {
        assert_eq!(Policy::default(), Policy::PACK);
        let policy = Policy::default();
        assert!(policy.rank(&score(1, 1 << 31)) < policy.rank(&score(2, 0)));
        assert!(policy.rank(&score(1, 100)) < policy.rank(&score(1, 101)));
        assert!(Policy::SPREAD.rank(&score(2, 0)) < Policy::SPREAD.rank(&score(1, 1 << 31)));
    }

    /// FAULTS 28: the heaviest weights and the largest leftovers have a rank.
    #[test]
    fn no_weight_overflows() {
        let weights = Weights {
            vcpu: u32::MAX,
            memory_mib: u32::MAX,
        };
        for goal in [Goal::Pack, Goal::Spread] {
            let policy = Policy { goal, weights };
            let (most, less) = (score(u32::MAX, u64::MAX), score(u32::MAX, u64::MAX - 1));
            assert_ne!(policy.rank(&most), policy.rank(&less));
        }
    }

    #[test]
    fn a_policy_is_read_with_its_defaults_and_without_unknown_keys() {
        let read = |text| serde_json::from_str::<Policy>(text);
        assert_eq!(read(r#"{"goal": "spread"}"#).unwrap(), Policy::SPREAD);
        assert_eq!(read("{}").unwrap(), Policy::PACK);
        assert!(read(r#"{"gaol": "spread"}"#).is_err());
    }
}
