//! Which nodes are near those that hold a group's other members.
//!
//! A group is stated as the nodes that its members are on; who they are, the caller knows. What
//! follows for a node depends only on whether it shares a domain with one of those. So the nodes
//! *near* them are asked one by one, and all others are alike to the groups and come out of the
//! index. The costs of groups grow with the nodes of the domains that they touch.

use std::collections::BTreeSet;

use imbl::{OrdMap, OrdSet};
use kapok_types::{Name, NodeId};
use serde::{Deserialize, Serialize};

use crate::{fleet::Fleet, node::Node, request::Request};

/// What a group's members share, or don't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// A node.
    Node,
    /// A rack of a room. All nodes of a room whose rack isn't named count as one rack: nothing
    /// shows that they are apart.
    Rack,
    /// A room. All nodes whose room isn't named count as one.
    Room,
}

/// Other members of a group, for one that is to be placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What the caller calls it. Requests of one batch whose groups are called alike are members of
    /// one group to each other; without it, they aren't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<String>,
    /// What they are to share, or not to share.
    pub domain: Domain,
    /// Whether it must be so; else nodes where it is so are preferred.
    pub strict: bool,
    /// The nodes that the other members are on. One that the fleet doesn't know says nothing.
    pub with: BTreeSet<NodeId>,
}

/// What a request's group says of every node.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    pub(crate) apart: bool,
    pub(crate) strict: bool,
    pub(crate) domain: Domain,
    /// The domains that its members are in; never empty.
    taken: BTreeSet<Site<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Site<'a> {
    Node(NodeId),
    Rack(Option<&'a Name>, Option<&'a Name>),
    Room(Option<&'a Name>),
}

/// The nodes of each room and rack.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sites(OrdMap<(Option<Name>, Option<Name>), OrdSet<NodeId>>);

impl Domain {
    /// The domain in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Rack => "rack",
            Self::Room => "room",
        }
    }

    /// What a node's rack or room is called.
    pub(crate) fn name(self, node: &Node) -> Option<&Name> {
        match self {
            Self::Node => None,
            Self::Rack => node.rack.as_ref(),
            Self::Room => node.room.as_ref(),
        }
    }

    fn site(self, node: &Node) -> Site<'_> {
        match self {
            Self::Node => Site::Node(node.id),
            Self::Rack => Site::Rack(node.room.as_ref(), node.rack.as_ref()),
            Self::Room => Site::Room(node.room.as_ref()),
        }
    }
}

impl<'a> Resolved<'a> {
    /// What a request's groups come to; those without a member are left out.
    pub(crate) fn all(fleet: &'a Fleet, request: &Request) -> Vec<Self> {
        let apart = request.apart.iter().map(|group| (true, group));
        let together = request.together.iter().map(|group| (false, group));
        let groups = apart.chain(together).map(|(apart, group)| Self {
            apart,
            strict: group.strict,
            domain: group.domain,
            taken: (group.with.iter())
                .filter_map(|id| fleet.node(*id))
                .map(|view| group.domain.site(view.node()))
                .collect(),
        });
        groups.filter(|group| !group.taken.is_empty()).collect()
    }

    /// Whether it is on this node as the group asks.
    pub(crate) fn is_met(&self, node: &Node) -> bool {
        self.taken.contains(&self.domain.site(node)) != self.apart
    }

    /// Whether it is as the group asks on nodes that are near none of its members.
    pub(crate) fn is_met_afar(&self) -> bool {
        self.apart
    }

    /// Adds the nodes that share a domain with a member.
    pub(crate) fn add_near(&self, sites: &Sites, near: &mut BTreeSet<NodeId>) {
        for site in &self.taken {
            match *site {
                Site::Node(id) => {
                    near.insert(id);
                }
                Site::Rack(room, rack) => near.extend(sites.rack(room, rack)),
                Site::Room(room) => near.extend(sites.room(room)),
            }
        }
    }
}

impl Sites {
    pub(crate) fn insert(&mut self, node: &Node) {
        let rack = (node.room.clone(), node.rack.clone());
        self.0.entry(rack).or_default().insert(node.id);
    }

    pub(crate) fn remove(&mut self, node: &Node) {
        let rack = (node.room.clone(), node.rack.clone());
        if let Some(nodes) = self.0.get_mut(&rack) {
            nodes.remove(&node.id);
            if nodes.is_empty() {
                self.0.remove(&rack);
            }
        }
    }

    fn rack(&self, room: Option<&Name>, rack: Option<&Name>) -> impl Iterator<Item = NodeId> {
        let nodes = self.0.get(&(room.cloned(), rack.cloned()));
        nodes.into_iter().flatten().copied()
    }

    fn room(&self, room: Option<&Name>) -> impl Iterator<Item = NodeId> {
        // A room's unnamed rack comes first.
        let racks = self.0.range((room.cloned(), None)..);
        racks
            .take_while(move |((other, _), _)| other.as_ref() == room)
            .flat_map(|(_, nodes)| nodes)
            .copied()
    }
}
