//! Groups.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, View, age, some, time, when, word, yes_no};
use crate::{
    human::{or_dash, plain},
    output::{columns, pairs},
};

/// Instances of a tenant that are to be apart from each other, or together.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Group {
    tenant: String,
    name: String,
    kind: String,
    domain: String,
    soft: bool,
    size: u32,
    kept: bool,
    /// Empty in a list.
    members: Vec<Member>,
    create_time: Option<Time>,
    created_by: String,
}

/// An instance that is in a group.
#[derive(Debug, Clone, Serialize)]
struct Member {
    instance: String,
    places: Vec<Place>,
}

/// A node, and where that stands.
#[derive(Debug, Clone, Serialize)]
struct Place {
    node: String,
    /// Null when it isn't named.
    rack: Option<String>,
    /// Null when it isn't named.
    room: Option<String>,
}

impl From<wire::GroupMember> for Member {
    fn from(member: wire::GroupMember) -> Self {
        let places = member.places.into_iter().map(|place| Place {
            node: place.node,
            rack: some(place.rack),
            room: some(place.room),
        });
        Self {
            instance: member.instance,
            places: places.collect(),
        }
    }
}

impl From<wire::Group> for Group {
    fn from(group: wire::Group) -> Self {
        Self {
            tenant: group.tenant,
            name: group.name,
            kind: word!(wire::GroupKind, "GROUP_KIND_", group.kind),
            domain: word!(wire::GroupDomain, "GROUP_DOMAIN_", group.domain),
            soft: group.soft,
            size: group.size,
            kept: group.kept,
            members: group.members.into_iter().map(Member::from).collect(),
            create_time: time(group.create_time),
            created_by: group.created_by,
        }
    }
}

impl Group {
    fn strength(&self) -> String {
        if self.soft { "preferred" } else { "required" }.to_owned()
    }
}

impl View for Group {
    fn columns(_: bool) -> Vec<&'static str> {
        vec![
            "NAME", "TENANT", "KIND", "DOMAIN", "STRENGTH", "MEMBERS", "KEPT", "AGE",
        ]
    }

    fn row(&self, now: Timestamp, _: bool) -> Vec<String> {
        vec![
            plain(&self.name),
            plain(&self.tenant),
            self.kind.clone(),
            self.domain.clone(),
            self.strength(),
            self.size.to_string(),
            yes_no(self.kept),
            age(self.create_time, now),
        ]
    }

    fn details(&self, now: Timestamp) -> String {
        let head = pairs(&[
            ("Name", plain(&self.name)),
            ("Tenant", plain(&self.tenant)),
            ("Kind", self.kind.clone()),
            ("Domain", self.domain.clone()),
            ("Strength", self.strength()),
            ("Members", self.size.to_string()),
            ("Kept", yes_no(self.kept)),
            ("Created", when(self.create_time, now)),
            ("By", or_dash(&self.created_by)),
        ]);
        if self.members.is_empty() {
            return head;
        }
        let rows = self.members.iter().map(|member| {
            let each = |show: fn(&Place) -> Option<&str>| {
                let shown = member.places.iter().filter_map(show);
                or_dash(&shown.collect::<Vec<_>>().join(", "))
            };
            vec![
                plain(&member.instance),
                each(|place| Some(&place.node)),
                each(|place| place.rack.as_deref()),
                each(|place| place.room.as_deref()),
            ]
        });
        head + "\n" + &columns(&["INSTANCE", "NODE", "RACK", "ROOM"], rows)
    }
}
