//! The people and programs that work in tenants.

use std::{collections::BTreeSet, fmt, str::FromStr};

use kapok_trust::Subject;
use kapok_types::{Name, Timestamp, Violation};
use serde::{Deserialize, Serialize};

use super::{Actor, Fabric, city};

/// Somebody who uses the fabric: a person, or a program of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who: a user or a machine, never a node or a controller.
    pub subject: Subject,
    /// Their name for people.
    pub display: String,
    /// What they may do.
    pub grants: BTreeSet<Grant>,
    /// Who they are to the identity provider.
    pub external: Option<External>,
    /// Whether they may do nothing at present.
    pub disabled: bool,
    /// When they were made.
    pub created_at: Timestamp,
    /// Who made them.
    pub created_by: Actor,
}

/// A role, and where it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The tenant in which a tenant's role holds, with all below it; none for the fabric's roles.
    pub tenant: Option<Name>,
}

/// What somebody may do. The fabric's three are kept apart: who has one has nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs nodes, images, instances, tenants.
    SystemAdministrator,
    /// Users, roles, tokens, certificates, authorities.
    SecurityAdministrator,
    /// Reads everything, the audit too.
    Auditor,
    /// Everything inside one tenant, its members' roles too.
    TenantAdministrator,
    /// Instances and images inside one tenant.
    TenantMember,
}

/// Who somebody is to the identity provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// The provider's issuer URL.
    pub issuer: String,
    /// Its "sub" for this person.
    pub subject: String,
}

/// Of whose things a command may speak. Everything else is absent to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole fabric.
    Everything,
    /// These tenants and all below them.
    Tenants(BTreeSet<Name>),
}

impl Role {
    /// Whether it holds inside a tenant.
    pub const fn is_tenants(self) -> bool {
        matches!(self, Self::TenantAdministrator | Self::TenantMember)
    }

    /// A stable word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SystemAdministrator => "system_administrator",
            Self::SecurityAdministrator => "security_administrator",
            Self::Auditor => "auditor",
            Self::TenantAdministrator => "tenant_administrator",
            Self::TenantMember => "tenant_member",
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.as_str())?;
        match &self.tenant {
            Some(tenant) => write!(f, " in {tenant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Role {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let all = [
            Self::SystemAdministrator,
            Self::SecurityAdministrator,
            Self::Auditor,
            Self::TenantAdministrator,
            Self::TenantMember,
        ];
        let known = all.into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| Violation::new("role", format!("{text:?} is no role")))
    }
}

impl User {
    /// The tenant in which bare names are looked up: that of the only grant in a tenant, else the
    /// root.
    pub fn home(&self) -> Name {
        let mut tenants: Vec<_> = self
            .grants
            .iter()
            .filter_map(|one| one.tenant.as_ref())
            .collect();
        tenants.dedup();
        match tenants.as_slice() {
            [only] => (*only).clone(),
            _ => city(),
        }
    }

    /// Whether they have this role, wherever it holds.
    pub fn has(&self, role: Role) -> bool {
        self.grants.iter().any(|grant| grant.role == role)
    }
}

impl Scope {
    /// Whether a tenant's things are within it.
    pub fn covers(&self, fabric: &Fabric, tenant: &Name) -> bool {
        match self {
            Self::Everything => true,
            Self::Tenants(named) => fabric.upwards(tenant).any(|above| named.contains(above)),
        }
    }

    /// Whether a grant is within it: only tenants' roles are within tenants.
    pub fn covers_grant(&self, fabric: &Fabric, grant: &Grant) -> bool {
        match (self, &grant.tenant) {
            (Self::Everything, _) => true,
            (Self::Tenants(_), Some(tenant)) => self.covers(fabric, tenant),
            (Self::Tenants(_), None) => false,
        }
    }

    /// Whether somebody is seen from within it: they have a grant there.
    pub fn sees(&self, fabric: &Fabric, user: &User) -> bool {
        *self == Self::Everything
            || user
                .grants
                .iter()
                .any(|grant| self.covers_grant(fabric, grant))
    }

    /// Whether somebody is wholly within it: who speaks for them gains nothing outside.
    pub fn governs(&self, fabric: &Fabric, user: &User) -> bool {
        *self == Self::Everything
            || (!user.grants.is_empty()
                && user
                    .grants
                    .iter()
                    .all(|grant| self.covers_grant(fabric, grant)))
    }
}

impl Fabric {
    /// Whoever logs in through the identity provider as this one.
    pub fn user_by_external(&self, external: &External) -> Option<&User> {
        self.users
            .values()
            .find(|user| user.external.as_ref() == Some(external))
    }
}
