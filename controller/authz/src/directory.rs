//! Tenants and users as Cedar's entities, built once per change of either.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Entity, EntityUid, RestrictedExpression};
use kapok_types::Name;

use crate::{Principal, words::Words};

/// What somebody may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs nodes, images, instances, tenants.
    SystemAdministrator,
    /// Users, roles, credentials, authorities.
    SecurityAdministrator,
    /// Reads everything, changes nothing.
    Auditor,
    /// Everything inside one tenant, its members' roles too.
    TenantAdministrator,
    /// Instances and images inside one tenant.
    TenantMember,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::SystemAdministrator,
        Self::SecurityAdministrator,
        Self::Auditor,
        Self::TenantAdministrator,
        Self::TenantMember,
    ];

    /// Its word, such as "auditor".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SystemAdministrator => "system_administrator",
            Self::SecurityAdministrator => "security_administrator",
            Self::Auditor => "auditor",
            Self::TenantAdministrator => "tenant_administrator",
            Self::TenantMember => "tenant_member",
        }
    }

    /// Whether it holds in one tenant and not in the fabric.
    pub const fn is_tenants(self) -> bool {
        matches!(self, Self::TenantAdministrator | Self::TenantMember)
    }
}

/// A tenant and the one above it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its name.
    pub name: Name,
    /// The one above; none for the root.
    pub parent: Option<Name>,
}

/// A user and what was given to them.
#[derive(Debug, Clone)]
pub struct User {
    /// Who.
    pub principal: Principal,
    /// Their roles, those of tenants with their tenant. A tenant's role without a tenant, and a
    /// fabric's role with one, give nothing.
    pub roles: BTreeSet<(Role, Option<Name>)>,
    /// Whether they may do nothing at present.
    pub disabled: bool,
}

/// Every tenant's and every user's entity, with all that they are in. Immutable: a change makes
/// another one.
#[derive(Debug)]
pub struct Directory {
    users: BTreeMap<Principal, Entity>,
    tenants: BTreeMap<Name, (Entity, Vec<EntityUid>)>,
}

impl Directory {
    /// Builds it. Milliseconds for thousands of users: see [`crate::Cache`].
    pub fn build(
        tenants: impl IntoIterator<Item = Tenant>,
        users: impl IntoIterator<Item = User>,
    ) -> Self {
        let words = Words::new();
        let parents: BTreeMap<Name, Option<Name>> = tenants
            .into_iter()
            .map(|tenant| (tenant.name, tenant.parent))
            .collect();
        let tenants: BTreeMap<Name, (Entity, Vec<EntityUid>)> = parents
            .keys()
            .map(|name| (name.clone(), tenant(&words, &parents, name)))
            .collect();
        let users = users
            .into_iter()
            .map(|user| (user.principal.clone(), entity(&words, &tenants, &user)))
            .collect();
        Self { users, tenants }
    }

    /// Whether somebody is known.
    pub fn knows(&self, principal: &Principal) -> bool {
        self.users.contains_key(principal)
    }

    pub(crate) fn user(&self, principal: &Principal) -> Option<&Entity> {
        self.users.get(principal)
    }

    pub(crate) fn tenant(&self, name: &Name) -> Option<&Entity> {
        self.tenants.get(name).map(|(entity, _)| entity)
    }

    /// A tenant by Cedar's name for it.
    pub(crate) fn tenant_of(&self, uid: &EntityUid) -> Option<&Entity> {
        let name = uid.id().unescaped().parse().ok()?;
        self.tenant(&name)
    }

    /// A tenant and all above it, in Cedar's words; the tenant alone if it isn't known.
    pub(crate) fn path(&self, words: &Words, name: &Name) -> Vec<EntityUid> {
        self.tenants
            .get(name)
            .map_or_else(|| vec![words.tenant(name)], |(_, path)| path.clone())
    }
}

/// A tenant's entity, and the tenant with all above it. A loop in the tree, which no decision of
/// the fabric makes, ends where it closes.
fn tenant(
    words: &Words,
    parents: &BTreeMap<Name, Option<Name>>,
    name: &Name,
) -> (Entity, Vec<EntityUid>) {
    let mut seen = BTreeSet::from([name]);
    let mut path = vec![words.tenant(name)];
    let mut at = name;
    while let Some(Some(above)) = parents.get(at)
        && seen.insert(above)
    {
        path.push(words.tenant(above));
        at = above;
    }
    let above = path.iter().skip(1).cloned().collect();
    (Entity::new_no_attrs(words.tenant(name), above), path)
}

fn entity(
    words: &Words,
    tenants: &BTreeMap<Name, (Entity, Vec<EntityUid>)>,
    user: &User,
) -> Entity {
    let of = |wanted: Role| {
        let granted = user.roles.iter().filter(move |(role, _)| *role == wanted);
        granted.filter_map(|(_, tenant)| tenant.as_ref())
    };
    let set = |wanted: Role| {
        let uids = of(wanted).map(|name| words.tenant(name));
        RestrictedExpression::new_set(uids.map(RestrictedExpression::new_entity_uid))
    };
    let fabric = user
        .roles
        .iter()
        .filter(|(role, tenant)| !role.is_tenants() && tenant.is_none())
        .map(|(role, _)| words.role(role.as_str()));
    let inside = [Role::TenantAdministrator, Role::TenantMember]
        .into_iter()
        .flat_map(of)
        .filter_map(|name| tenants.get(name))
        .flat_map(|(_, path)| path.iter().cloned());
    let attributes = [
        ("disabled", RestrictedExpression::new_bool(user.disabled)),
        ("administers", set(Role::TenantAdministrator)),
        ("member_of", set(Role::TenantMember)),
    ];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
    let uid = words.principal(&user.principal);
    let built = Entity::new(
        uid.clone(),
        attributes.into_iter().collect(),
        fabric.chain(inside).collect(),
    );
    // Attributes are constants: nothing of them is evaluated, so nothing can fail.
    built.unwrap_or_else(|_| Entity::with_uid(uid))
}
