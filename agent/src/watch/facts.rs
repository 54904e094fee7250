//! Facts about the node that rarely change.

use kapok_types::{Digest, MemoryMib, NodeId, Vcpus};
use uuid::Uuid;

use crate::{
    driver::{Facts, Foreign},
    fingerprint::Fingerprint,
};

/// The host, as its operating system names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its name, for people.
    pub name: String,
    /// The kernel's boot id.
    pub boot: Uuid,
    /// The kernel's release.
    pub kernel: String,
    /// What the server is made of.
    pub fingerprint: Fingerprint,
}

/// What the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its identity.
    pub node: NodeId,
    /// Its host.
    pub host: Host,
    /// What the driver says.
    pub driver: Facts,
    /// Memory kept for the host.
    pub reserved: MemoryMib,
    /// Memory held by domains that Kapok did not make.
    pub foreign_memory: MemoryMib,
    /// vCPUs held by them.
    pub foreign_vcpus: Vcpus,
    /// What the node believes about others: see [`Trust::digest`](crate::trust::Trust::digest).
    pub trust: Digest,
    /// Where its metrics are served; 0 if they aren't.
    pub http_port: u16,
}

impl NodeFacts {
    /// Memory that instances may claim. Foreign domains' part is not taken off here: it changes,
    /// and the controller subtracts it.
    pub fn memory(&self) -> MemoryMib {
        self.driver.memory.saturating_sub(self.reserved)
    }

    /// Counts in what foreign domains hold. One that is off holds nothing now, but may be turned
    /// on by its owner at any time, so it counts as well.
    pub fn with_foreign<'a>(mut self, foreign: impl IntoIterator<Item = &'a Foreign>) -> Self {
        (self.foreign_memory, self.foreign_vcpus) = (MemoryMib::ZERO, Vcpus::ZERO);
        for domain in foreign {
            self.foreign_memory = self.foreign_memory.saturating_add(domain.memory);
            self.foreign_vcpus = self.foreign_vcpus.saturating_add(domain.vcpus);
        }
        self
    }
}
