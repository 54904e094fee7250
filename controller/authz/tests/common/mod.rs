//! A small city: two bureaus, one with an office, and somebody in each role.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared by suites; a test may panic"
)]

use kapok_authz::{Action, Directory, Object, Principal, Role, Tenant, User};
use kapok_types::{ImageId, InstanceId, Name, OperationId};

pub(crate) const TENANTS: [(&str, Option<&str>); 4] = [
    ("city", None),
    ("water", Some("city")),
    ("pumps", Some("water")),
    ("parks", Some("city")),
];

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn user(text: &str) -> Principal {
    Principal::User(name(text))
}

/// Whoever is called after a role.
pub(crate) fn called(role: Role) -> Principal {
    user(&role.as_str().replace('_', "-"))
}

pub(crate) fn tenants() -> Vec<Tenant> {
    let tenants = TENANTS.iter().map(|(tenant, parent)| Tenant {
        name: name(tenant),
        parent: parent.map(name),
    });
    tenants.collect()
}

/// Somebody with these roles; a tenant's role is in the tenant stated.
pub(crate) fn holding(who: Principal, roles: &[(Role, &str)]) -> User {
    let roles = roles.iter().map(|(role, tenant)| {
        let tenant = role.is_tenants().then(|| name(tenant));
        (*role, tenant)
    });
    User {
        principal: who,
        roles: roles.collect(),
        disabled: false,
    }
}

/// Somebody in each role, called after it, tenants' roles in "water"; "nobody" has none.
pub(crate) fn directory() -> Directory {
    let each = Role::ALL.map(|role| holding(called(role), &[(role, "water")]));
    let nobody = holding(user("nobody"), &[]);
    let other = holding(user("other"), &[(Role::TenantMember, "parks")]);
    Directory::build(tenants(), each.into_iter().chain([nobody, other]))
}

/// An object that an action is about, in a tenant if it is one of a tenant's.
pub(crate) fn about(action: Action, tenant: &str) -> Object {
    let id = uuid(tenant);
    let tenant_name = name(tenant);
    let word = action.as_str();
    match word {
        "instance.create" | "instance.list" | "system.create" | "system.list" | "image.import"
        | "group.create" | "group.list" | "tenant.isolate" | "image.list" | "operation.list"
        | "tenant.create" | "tenant.get" | "tenant.update" | "tenant.suspend" | "tenant.delete"
        | "quota.get" | "quota.set" | "usage.list" | "report.pooling" => {
            return Object::Tenant(tenant_name);
        }
        "node.list"
        | "controller.list"
        | "controller.stepdown"
        | "node.token.create"
        | "node.token.list"
        | "node.token.delete"
        | "flavor.create"
        | "flavor.list"
        | "tenant.list"
        | "user.create"
        | "user.list" => {
            return Object::Fabric;
        }
        "user.grant" => {
            return Object::Grant {
                user: user("nobody"),
                role: Role::TenantMember,
                tenant: Some(tenant_name),
            };
        }
        _ => {}
    }
    match word.split('.').next().unwrap() {
        "node" => Object::Node(name("node-1")),
        "instance" => Object::Instance {
            id: InstanceId(id),
            name: name("web"),
            tenant: tenant_name,
        },
        "image" => Object::Image {
            id: ImageId(id),
            name: name("debian"),
            tenant: tenant_name,
        },
        "system" => Object::System {
            tenant: tenant_name,
            name: name("billing"),
        },
        "group" => Object::Group {
            tenant: tenant_name,
            name: name("web"),
        },
        "flavor" => Object::Flavor {
            name: name("small"),
            visible_to: [tenant_name].into(),
        },
        "operation" => Object::Operation {
            id: OperationId(id),
            tenant: tenant_name,
        },
        "user" => Object::User(if tenant == "parks" {
            user("other")
        } else {
            user("tenant-member")
        }),
        _ => Object::Fabric,
    }
}

fn uuid(seed: &str) -> uuid::Uuid {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, seed.as_bytes())
}
