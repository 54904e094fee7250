//! Groups as people see them.

use kapok_proto::{convert::timestamp, fabric::v1 as wire};
use kapok_scheduler::Domain;

use super::{count, named};
use crate::fabric::{Fabric, Group, Instance, group::Kind};

/// A group as people see it, without its members.
pub(in crate::api) fn group(fabric: &Fabric, group: &Group) -> wire::Group {
    wire::Group {
        tenant: group.tenant.to_string(),
        name: group.name.to_string(),
        kind: kind(group.kind).into(),
        domain: domain(group.domain).into(),
        soft: !group.strict,
        size: count(fabric.members_of(group).count()),
        kept: fabric.is_kept(group),
        members: Vec::new(),
        create_time: Some(timestamp(group.created_at)),
        created_by: group.created_by.to_string(),
    }
}

/// A member of a group, and where it is.
pub(in crate::api) fn member(fabric: &Fabric, instance: &Instance) -> wire::GroupMember {
    let places = instance.incarnations.iter().map(|one| {
        let Some(node) = fabric.node_by_id(one.node) else {
            return wire::GroupPlace {
                node: one.node.to_string(),
                ..wire::GroupPlace::default()
            };
        };
        wire::GroupPlace {
            node: node.name.to_string(),
            rack: named(node.site.rack.as_ref()),
            room: named(node.site.room.as_ref()),
        }
    });
    wire::GroupMember {
        instance: instance.name.to_string(),
        places: places.collect(),
    }
}

const fn kind(kind: Kind) -> wire::GroupKind {
    match kind {
        Kind::Apart => wire::GroupKind::Apart,
        Kind::Together => wire::GroupKind::Together,
    }
}

const fn domain(domain: Domain) -> wire::GroupDomain {
    match domain {
        Domain::Node => wire::GroupDomain::Node,
        Domain::Rack => wire::GroupDomain::Rack,
        Domain::Room => wire::GroupDomain::Room,
    }
}
