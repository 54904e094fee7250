//! The schema's words as Cedar's values, parsed once.

use cedar_policy::{EntityId, EntityTypeName, EntityUid};
use kapok_types::Name;

use crate::{Action, Object, Principal};

/// Types of entities, as the schema calls them.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    action: EntityTypeName,
    role: EntityTypeName,
    tenant: EntityTypeName,
    user: EntityTypeName,
    machine: EntityTypeName,
    fabric: EntityTypeName,
    node: EntityTypeName,
    instance: EntityTypeName,
    image: EntityTypeName,
    flavor: EntityTypeName,
    system: EntityTypeName,
    group: EntityTypeName,
    operation: EntityTypeName,
}

fn uid(kind: &EntityTypeName, id: impl AsRef<str>) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

impl Words {
    #[expect(clippy::expect_used, reason = "constants, parsed by every test")]
    pub(crate) fn new() -> Self {
        let kind = |word: &str| word.parse().expect("a type's name");
        Self {
            action: kind("Action"),
            role: kind("Role"),
            tenant: kind("Tenant"),
            user: kind("User"),
            machine: kind("Machine"),
            fabric: kind("Fabric"),
            node: kind("Node"),
            instance: kind("Instance"),
            image: kind("Image"),
            flavor: kind("Flavor"),
            system: kind("System"),
            group: kind("Group"),
            operation: kind("Operation"),
        }
    }

    pub(crate) fn action(&self, action: Action) -> EntityUid {
        uid(&self.action, action.as_str())
    }

    pub(crate) fn role(&self, word: &str) -> EntityUid {
        uid(&self.role, word)
    }

    pub(crate) fn tenant_type(&self) -> &EntityTypeName {
        &self.tenant
    }

    pub(crate) fn tenant(&self, name: &Name) -> EntityUid {
        uid(&self.tenant, name.as_str())
    }

    pub(crate) fn principal(&self, principal: &Principal) -> EntityUid {
        match principal {
            Principal::User(name) => uid(&self.user, name.as_str()),
            Principal::Machine(name) => uid(&self.machine, name.as_str()),
        }
    }

    pub(crate) fn object(&self, object: &Object) -> EntityUid {
        match object {
            Object::Fabric => uid(&self.fabric, "fabric"),
            Object::Node(name) => uid(&self.node, name.as_str()),
            Object::Tenant(name) => self.tenant(name),
            Object::Instance { id, .. } => uid(&self.instance, id.to_string()),
            Object::Image { id, .. } => uid(&self.image, id.to_string()),
            Object::System { tenant, name } => uid(&self.system, format!("{tenant}/{name}")),
            Object::Group { tenant, name } => uid(&self.group, format!("{tenant}/{name}")),
            Object::Flavor { name, .. } => uid(&self.flavor, name.as_str()),
            Object::Operation { id, .. } => uid(&self.operation, id.to_string()),
            Object::User(user) | Object::Grant { user, .. } => self.principal(user),
        }
    }
}
