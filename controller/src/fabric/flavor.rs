//! Flavors: named sizes, the fabric's for all tenants.
//!
//! **Invariant:** an instance keeps the numbers and only remembers the flavor's name, so nothing that
//! becomes of a flavor changes an instance.

use std::collections::BTreeSet;

use kapok_types::{Bytes, MemoryMib, Name, Needs, Timestamp, Vcpus};
use serde::{Deserialize, Serialize};

use super::{Actor, Fabric, etag};

/// A named size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flavor {
    /// Its name, unique in the fabric.
    pub name: Name,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: MemoryMib,
    /// Root disk; none means the image's own size, or what is asked for beside the flavor.
    pub root_disk: Option<Bytes>,
    /// What it is meant for, for people.
    pub description: String,
    /// The tenants that may use it, with all below them: the root's name means everybody.
    pub visible_to: BTreeSet<Name>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: Actor,
    /// What its instances need of their node besides amounts.
    #[serde(default, skip_serializing_if = "Needs::is_none")]
    pub needs: Needs,
}

/// One thing about a flavor that is to be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FlavorChange {
    /// Virtual CPUs.
    Vcpus(Vcpus),
    /// Guest memory.
    Memory(MemoryMib),
    /// Root disk; none means the image's own size.
    RootDisk(Option<Bytes>),
    /// What it is meant for.
    Description(String),
    /// The tenants that may use it.
    VisibleTo(BTreeSet<Name>),
    /// What its instances need, all of it.
    Needs(Needs),
}

impl Flavor {
    /// All of it as one opaque text that changes when anything does.
    pub fn etag(&self) -> String {
        etag(self)
    }

    /// The same with a change.
    #[must_use]
    pub fn with(mut self, change: &FlavorChange) -> Self {
        match change.clone() {
            FlavorChange::Vcpus(vcpus) => self.vcpus = vcpus,
            FlavorChange::Memory(memory) => self.memory = memory,
            FlavorChange::RootDisk(size) => self.root_disk = size,
            FlavorChange::Description(text) => self.description = text,
            FlavorChange::VisibleTo(tenants) => self.visible_to = tenants,
            FlavorChange::Needs(needs) => self.needs = needs,
        }
        self
    }
}

impl Fabric {
    /// A flavor that may be used in a tenant. Another tenant's isn't there.
    pub fn flavor(&self, name: &Name, tenant: &Name) -> Option<&Flavor> {
        let flavor = self.flavors.get(name)?;
        let mut path = self.upwards(tenant);
        path.any(|above| flavor.visible_to.contains(above))
            .then_some(flavor)
    }
}
