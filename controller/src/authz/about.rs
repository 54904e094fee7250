//! The fabric's things as objects of authorization.

use kapok_authz::{Object, Principal};
use kapok_trust::Subject;
use kapok_types::{ImageId, InstanceId, Name, OperationId};
use uuid::Uuid;

use crate::fabric::{Flavor, Grant, Group, Image, Instance, Node, Operation, System, Tenant};

/// Somebody who can have rights: people and machines.
pub fn principal(subject: &Subject) -> Option<Principal> {
    match subject {
        Subject::User(name) => Some(Principal::User(name.clone())),
        Subject::Machine(name) => Some(Principal::Machine(name.clone())),
        Subject::Node(_) | Subject::Controller(_) => None,
    }
}

/// A node.
pub fn node(node: &Node) -> Object {
    Object::Node(node.name.clone())
}

/// A tenant, or what is asked about creating and listing in it.
pub fn tenant(name: &Name) -> Object {
    Object::Tenant(name.clone())
}

/// What is asked about whatever comes to a tenant from above: the tenant above it, and the fabric
/// for the root.
pub fn above(below: &Tenant) -> Object {
    below.parent.as_ref().map_or(Object::Fabric, tenant)
}

/// An instance.
pub fn instance(instance: &Instance) -> Object {
    Object::Instance {
        id: instance.id,
        name: instance.name.clone(),
        tenant: instance.tenant.clone(),
    }
}

/// An image.
pub fn image(image: &Image) -> Object {
    Object::Image {
        id: image.id,
        name: image.name.clone(),
        tenant: image.tenant.clone(),
    }
}

/// A system.
pub fn system(system: &System) -> Object {
    Object::System {
        tenant: system.tenant.clone(),
        name: system.name.clone(),
    }
}

/// A group.
pub fn group(group: &Group) -> Object {
    Object::Group {
        tenant: group.tenant.clone(),
        name: group.name.clone(),
    }
}

/// A flavor.
pub fn flavor(flavor: &Flavor) -> Object {
    Object::Flavor {
        name: flavor.name.clone(),
        visible_to: flavor.visible_to.clone(),
    }
}

/// An operation.
pub fn operation(operation: &Operation) -> Object {
    Object::Operation {
        id: operation.id,
        tenant: operation.tenant.clone(),
    }
}

/// Some instance of a tenant, for what somebody could do if there was one.
pub fn some_instance(tenant: &Name) -> Object {
    Object::Instance {
        id: InstanceId(Uuid::nil()),
        name: tenant.clone(),
        tenant: tenant.clone(),
    }
}

/// Some image of a tenant.
pub fn some_image(tenant: &Name) -> Object {
    Object::Image {
        id: ImageId(Uuid::nil()),
        name: tenant.clone(),
        tenant: tenant.clone(),
    }
}

/// Some operation of a tenant.
pub fn some_operation(tenant: &Name) -> Object {
    Object::Operation {
        id: OperationId(Uuid::nil()),
        tenant: tenant.clone(),
    }
}

/// Some system of a tenant.
pub fn some_system(tenant: &Name) -> Object {
    Object::System {
        tenant: tenant.clone(),
        name: tenant.clone(),
    }
}

/// Some group of a tenant.
pub fn some_group(tenant: &Name) -> Object {
    Object::Group {
        tenant: tenant.clone(),
        name: tenant.clone(),
    }
}

/// Some flavor that a tenant may use.
pub fn some_flavor(tenant: &Name) -> Object {
    Object::Flavor {
        name: tenant.clone(),
        visible_to: [tenant.clone()].into(),
    }
}

/// A user. Who is none is the fabric's own, which nobody may change.
pub fn user(subject: &Subject) -> Object {
    principal(subject).map_or(Object::Fabric, Object::User)
}

/// A role of a user's.
pub fn grant(subject: &Subject, grant: &Grant) -> Object {
    principal(subject).map_or(Object::Fabric, |user| Object::Grant {
        user,
        role: super::role(grant.role),
        tenant: grant.tenant.clone(),
    })
}

/// What an object is called in refusals.
pub fn kind(object: &Object) -> &'static str {
    match object {
        Object::Fabric => "fabric",
        Object::Node(_) => "node",
        Object::Tenant(_) => "tenant",
        Object::Instance { .. } => "instance",
        Object::Image { .. } => "image",
        Object::System { .. } => "system",
        Object::Group { .. } => "group",
        Object::Flavor { .. } => "flavor",
        Object::Operation { .. } => "operation",
        Object::User(_) | Object::Grant { .. } => "user",
    }
}
