//! Who asks, and what it is about.

use std::{collections::BTreeSet, fmt};

use kapok_types::{ImageId, InstanceId, Name, OperationId};

use crate::{Action, directory::Role};

/// Somebody who uses the fabric. Nodes and controllers are none: they have no rights here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A person.
    User(Name),
    /// A program.
    Machine(Name),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user/{name}"),
            Self::Machine(name) => write!(f, "machine/{name}"),
        }
    }
}

/// What an action is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The fabric: what belongs to no tenant and has no name of its own.
    Fabric,
    /// A node.
    Node(Name),
    /// A tenant. Also what is asked about creating and listing in it.
    Tenant(Name),
    /// An instance.
    Instance {
        /// Which.
        id: InstanceId,
        /// Its name.
        name: Name,
        /// Its tenant.
        tenant: Name,
    },
    /// An image.
    Image {
        /// Which.
        id: ImageId,
        /// Its name.
        name: Name,
        /// Its tenant.
        tenant: Name,
    },
    /// A system.
    System {
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
    },
    /// A group.
    Group {
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
    },
    /// A flavor.
    Flavor {
        /// Its name.
        name: Name,
        /// The tenants that may use it, with all below them.
        visible_to: BTreeSet<Name>,
    },
    /// An operation.
    Operation {
        /// Which.
        id: OperationId,
        /// The tenant of its instance.
        tenant: Name,
    },
    /// A user.
    User(Principal),
    /// A role of a user's: for `user.grant` alone.
    Grant {
        /// Who has it or is to have it.
        user: Principal,
        /// The role.
        role: Role,
        /// Where, if it is a tenant's role.
        tenant: Option<Name>,
    },
}

impl Object {
    /// What somebody must be allowed so that they may know of it; none for what everybody knows of.
    pub fn seen_by(&self) -> Option<Action> {
        match self {
            Self::Fabric => None,
            Self::Node(_) => Some(Action::NodeGet),
            Self::Tenant(_) => Some(Action::TenantGet),
            Self::Instance { .. } => Some(Action::InstanceGet),
            Self::Image { .. } => Some(Action::ImageGet),
            Self::System { .. } => Some(Action::SystemGet),
            Self::Group { .. } => Some(Action::GroupGet),
            Self::Flavor { .. } => Some(Action::FlavorGet),
            Self::Operation { .. } => Some(Action::OperationGet),
            Self::User(_) | Self::Grant { .. } => Some(Action::UserGet),
        }
    }
}

/// As people and refusals name it.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fabric => f.write_str("the fabric"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Tenant(name) => write!(f, "tenant/{name}"),
            Self::Instance { name, tenant, .. } => write!(f, "instance/{tenant}/{name}"),
            Self::Image { name, tenant, .. } => write!(f, "image/{tenant}/{name}"),
            Self::System { tenant, name } => write!(f, "system/{tenant}/{name}"),
            Self::Group { tenant, name } => write!(f, "group/{tenant}/{name}"),
            Self::Flavor { name, .. } => write!(f, "flavor/{name}"),
            Self::Operation { id, .. } => write!(f, "operation/{id}"),
            Self::User(user) | Self::Grant { user, .. } => write!(f, "{user}"),
        }
    }
}
