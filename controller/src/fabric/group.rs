//! Groups: instances of a tenant that are to be apart from each other, or together.
//!
//! A group says what its members are to share or not to share; which nodes that means is resolved
//! anew for each placement, from where its other members are by then. A member counts on each node
//! where it has an incarnation, until the end of that one is proven.
//!
//! Absent on purpose: moving anything. A group holds when an instance is placed; whether it is kept
//! at present is shown ([`Fabric::is_kept`]), since nodes can be moved to other racks.

use std::collections::{BTreeMap, BTreeSet};

use kapok_scheduler::{self as scheduler, Domain, Request};
use kapok_types::{InstanceId, Name, NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Actor, Fabric, Instance, named};

/// Groups that one instance is in, at most.
pub const MAX_GROUPS: usize = 8;

/// Instances of a tenant that are to be apart from each other, or together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The tenant that it belongs to, as all its members do.
    pub tenant: Name,
    /// Its name, unique in its tenant.
    pub name: Name,
    /// What its members are to be to each other.
    pub kind: Kind,
    /// What they are to share, or not to share.
    pub domain: Domain,
    /// Whether it must be so; else nodes where it is so are preferred.
    pub strict: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Actor,
}

/// What the members of a group are to be to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No two of them share a domain.
    Apart,
    /// All of them share one domain.
    Together,
}

/// What a node is a part of, as far as a group's domain goes.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'f> {
    Node(NodeId),
    Rack(Option<&'f Name>, Option<&'f Name>),
    Room(Option<&'f Name>),
}

impl Kind {
    /// The kind in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Together => "together",
        }
    }
}

impl Fabric {
    /// A group as people name it: "NAME" in their home tenant, or "TENANT/NAME".
    pub fn group(&self, which: &str, home: &Name) -> Option<&Group> {
        self.groups.get(&named(which, home)?)
    }

    /// The members of a group. Costs as much as there are.
    pub fn members_of(&self, group: &Group) -> impl Iterator<Item = &Instance> {
        let (tenant, name) = (group.tenant.clone(), group.name.clone());
        let first = (tenant.clone(), name.clone(), InstanceId(Uuid::nil()));
        self.in_group
            .range(first..)
            .take_while(move |(of, within, _)| *of == tenant && *within == name)
            .filter_map(|(.., id)| self.instances.get(id))
    }

    /// A placement's question along with the groups of a tenant that the instance is in; `own` is
    /// the instance itself, whose present lives are none of another member's.
    #[must_use]
    pub fn with_groups(
        &self,
        mut request: Request,
        tenant: &Name,
        groups: &BTreeSet<Name>,
        own: Option<InstanceId>,
    ) -> Request {
        let known = groups.iter().filter_map(|name| {
            let called = (tenant.clone(), name.clone());
            self.groups.get(&called)
        });
        for group in known {
            let others = self.members_of(group).filter(|one| Some(one.id) != own);
            let lives = others.flat_map(|one| &one.incarnations);
            let resolved = scheduler::Group {
                called: Some(format!("{}/{}", group.tenant, group.name)),
                domain: group.domain,
                strict: group.strict,
                with: lives.map(|one| one.node).collect(),
            };
            match group.kind {
                Kind::Apart => request.apart.push(resolved),
                Kind::Together => request.together.push(resolved),
            }
        }
        request
    }

    /// Whether a group's members are as it asks at present.
    pub fn is_kept(&self, group: &Group) -> bool {
        let mut taken: BTreeMap<Place<'_>, BTreeSet<InstanceId>> = BTreeMap::new();
        for member in self.members_of(group) {
            for one in &member.incarnations {
                let place = self.place(group.domain, one.node);
                taken.entry(place).or_default().insert(member.id);
            }
        }
        match group.kind {
            Kind::Apart => taken.values().all(|members| members.len() == 1),
            Kind::Together => taken.len() <= 1,
        }
    }

    fn place(&self, domain: Domain, id: NodeId) -> Place<'_> {
        let site = self.node_by_id(id).map(|node| &node.site);
        let Some(site) = site else {
            // A node that is forgotten is near nothing.
            return Place::Node(id);
        };
        match domain {
            Domain::Node => Place::Node(id),
            Domain::Rack => Place::Rack(site.room.as_ref(), site.rack.as_ref()),
            Domain::Room => Place::Room(site.room.as_ref()),
        }
    }

    /// Keeps track of whom a group has.
    pub(super) fn index_groups(&mut self, instance: &Instance) {
        for group in &instance.groups {
            let (tenant, group) = (instance.tenant.clone(), group.clone());
            self.in_group.insert((tenant, group, instance.id));
        }
    }

    pub(super) fn leave_groups(&mut self, instance: &Instance) {
        for group in &instance.groups {
            let (tenant, group) = (instance.tenant.clone(), group.clone());
            self.in_group.remove(&(tenant, group, instance.id));
        }
    }
}
