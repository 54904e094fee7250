//! What is asked of the fleet, and which of the nodes that fit is preferred.

use std::collections::{BTreeMap, BTreeSet};

use kapok_types::{Name, Needs, NodeId, Vcpus, instance::Arch, instance::MemoryClaim};
use serde::{Deserialize, Serialize};

use crate::{groups::Group, headroom::Headroom};

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
    /// What it needs besides amounts.
    #[serde(default)]
    pub needs: Needs,
    /// The isolation class of its tenant: it goes to nodes of exactly this one.
    #[serde(default)]
    pub isolation: Option<Name>,
    /// Groups whose other members it is to keep away from.
    #[serde(default)]
    pub apart: Vec<Group>,
    /// Groups one of whose other members it is to be with.
    #[serde(default)]
    pub together: Vec<Group>,
}

impl Request {
    /// A request for these amounts, anywhere.
    pub fn new(arch: Arch, vcpus: Vcpus, memory: MemoryClaim) -> Self {
        Self {
            arch,
            vcpus,
            memory,
            avoid: BTreeSet::new(),
            needs: Needs::default(),
            isolation: None,
            apart: Vec::new(),
            together: Vec::new(),
        }
    }

    /// The first label that it needs and that isn't among `labels` with that value.
    pub(crate) fn missing_label(
        &self,
        labels: &BTreeMap<Name, String>,
    ) -> Option<(&Name, &String)> {
        (self.needs.labels)
            .iter()
            .find(|(label, value)| labels.get(*label) != Some(value))
    }
}

/// Which of the nodes that fit is preferred, and what is never used up.
///
/// The order is lexicographic: the lower tier; fewer preferences of groups that aren't met; then
/// by [`Goal`] the shared vCPUs and the common memory that would be left; of equals the node that has been in use
/// for longest, because it will be anyway, so that others can empty; then the lower id. Nothing is
/// weighed against anything else: that keeps the index exact, and an answer easy to explain. On
/// recorded public-cloud demand it needs fewer nodes than first fit, than adding the leftovers up,
/// and than the dot product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether full or empty nodes are preferred.
    pub goal: Goal,
    /// What is kept free for the loss of nodes.
    pub headroom: Headroom,
}

/// Whether full or empty nodes are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Best fit: the node that is left with the fewest vCPUs, then with the least memory. Needs the
    /// fewest nodes.
    #[default]
    Pack,
    /// Worst fit: the node that is left with the most vCPUs, then with the most memory. Loses the
    /// fewest instances with a node.
    Spread,
}

impl Policy {
    /// Prefers full nodes, and keeps nothing free.
    pub const PACK: Self = Self {
        goal: Goal::Pack,
        headroom: Headroom::None,
    };

    /// Prefers empty nodes, and keeps nothing free.
    pub const SPREAD: Self = Self {
        goal: Goal::Spread,
        headroom: Headroom::None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_packs_and_keeps_nothing_free() {
        assert_eq!(Policy::default(), Policy::PACK);
    }

    #[test]
    fn a_policy_is_read_with_its_defaults_and_without_unknown_keys() {
        let read = |text| serde_json::from_str::<Policy>(text);
        assert_eq!(read(r#"{"goal": "spread"}"#).unwrap(), Policy::SPREAD);
        assert_eq!(read("{}").unwrap(), Policy::PACK);
        assert_eq!(
            read(r#"{"headroom": "rack"}"#).unwrap().headroom,
            Headroom::Rack
        );
        assert!(read(r#"{"gaol": "spread"}"#).is_err());
    }
}
