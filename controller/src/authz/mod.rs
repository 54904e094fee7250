//! Who may do what: [`kapok_authz`] over the fabric's tenants and users.
//!
//! Owns the policies in force and the one directory of present tenants and users. Nothing here is
//! kept in the log: a site's policies are files of the controller's host, and are read at start
//! and on SIGHUP, all of them or none.
//!
//! **Invariant:** the directory is built once per change of tenants or users, never per call: both
//! are persistent maps, so "the same" is one comparison of pointers.

pub mod about;
mod policies;
pub mod refused;

use std::{path::Path, sync::Arc};

pub use self::policies::Error;
use arc_swap::ArcSwap;
use imbl::OrdMap;
pub use kapok_authz::{Action, Decision, Object, Policy, Principal};
use kapok_authz::{Authz, Cache, Directory, Role as Known, Tenant, User};
use kapok_trust::Subject;

use crate::fabric::{Fabric, Tenants, people};

/// Decides what somebody may do. Cheap to clone; all clones share policies and directory.
#[derive(Debug, Clone)]
pub struct Access {
    policies: Arc<ArcSwap<Authz>>,
    cache: Arc<Cache<Key>>,
}

impl Access {
    /// With the built-in policies and those of a directory, if there is one.
    ///
    /// # Errors
    ///
    /// A file can't be read, or a policy is refused.
    pub fn load(policies: Option<&Path>) -> Result<Self, Error> {
        Ok(Self {
            policies: Arc::new(ArcSwap::from_pointee(policies::read(policies)?)),
            cache: Arc::default(),
        })
    }

    /// Reads the policies anew. The number of a site's policies that are in force now.
    ///
    /// # Errors
    ///
    /// A file can't be read, or a policy is refused: then those before stay in force.
    pub fn reload(&self, policies: Option<&Path>) -> Result<usize, Error> {
        let read = policies::read(policies)?;
        let of_the_site = |policy: &&Arc<Policy>| policy.source != kapok_authz::Source::BuiltIn;
        let count = read.policies().filter(of_the_site).count();
        self.policies.store(Arc::new(read));
        Ok(count)
    }

    /// Whether somebody may do something, and which policies say so.
    pub fn decide(
        &self,
        fabric: &Fabric,
        who: &Principal,
        action: Action,
        object: &Object,
    ) -> Decision {
        let directory = self.directory(fabric);
        self.policies.load().decide(&directory, who, action, object)
    }

    /// Whether an action is about objects of this kind.
    pub fn is_about(&self, action: Action, object: &Object) -> bool {
        self.policies.load().is_about(action, object)
    }

    fn directory(&self, fabric: &Fabric) -> Arc<Directory> {
        let key = Key {
            tenants: fabric.tenants.clone(),
            users: fabric.users.clone(),
        };
        self.cache.get(key, || build(fabric))
    }
}

/// The state that a directory was built of. Equal when both maps are the very same.
#[derive(Debug)]
struct Key {
    tenants: Tenants,
    users: OrdMap<Subject, people::User>,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.tenants.ptr_eq(&other.tenants) && self.users.ptr_eq(&other.users)
    }
}

fn build(fabric: &Fabric) -> Directory {
    let tenants = fabric.tenants.values().map(|tenant| Tenant {
        name: tenant.name.clone(),
        parent: tenant.parent.clone(),
    });
    let users = fabric.users.values().filter_map(|user| {
        let roles = user.grants.iter();
        Some(User {
            principal: about::principal(&user.subject)?,
            roles: roles
                .map(|grant| (role(grant.role), grant.tenant.clone()))
                .collect(),
            disabled: user.disabled,
        })
    });
    Directory::build(tenants, users)
}

const fn role(role: people::Role) -> Known {
    match role {
        people::Role::SystemAdministrator => Known::SystemAdministrator,
        people::Role::SecurityAdministrator => Known::SecurityAdministrator,
        people::Role::Auditor => Known::Auditor,
        people::Role::TenantAdministrator => Known::TenantAdministrator,
        people::Role::TenantMember => Known::TenantMember,
    }
}

#[cfg(test)]
mod tests;
