//! The functional core: the fabric's intent as a value, and the only two ways it changes.
//!
//! ```text
//!   Command ──decide(&Fabric, …, now)──▶ Vec<Event> ──append to the log──▶ Fabric::apply(&Event)
//!                    └─▶ Denied
//! ```
//!
//! Owned by the [ledger](crate::ledger), the one task that writes; everybody else reads a
//! published snapshot. Persistent maps make a snapshot a few reference counts.
//!
//! Invariants:
//! - `apply` takes facts, never decides, so that replay is the same in every version.
//! - `decide` reads no clock and makes no id, key or secret: they come with the command.
//! - What lies outside a command's [`Scope`] is refused exactly as what isn't there.
//! - Observations (what runs, heartbeats, progress) are absent on purpose: see
//!   [`observed`](crate::observed). Only transitions that change decisions become commands.
//! - A claim counts from `IncarnationPlaced` until `IncarnationEnded`; the [`Fleet`] is that sum
//!   and there is no second ledger.
//! - What a tenant uses is a fold of its instances, kept in steps and never stored.
//! - What was held and used over time is a fold of the entries and their times.
//! - No secret is ever in here, in a fact or in a refusal.

use imbl::{OrdMap, OrdSet};
use kapok_scheduler::Fleet;
use kapok_trust::{Fingerprint, Serial, Subject, TokenId};
use kapok_types::{
    Digest, ImageId, IncarnationId, InstanceId, Intent, Name, NodeId, OperationId, Seq, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::audit::SegmentRecord;

// What there is.
pub mod accounting;
pub mod adoption;
pub mod credential;
pub mod flavor;
pub mod group;
pub mod health;
pub mod instance;
pub mod node;
pub mod people;
pub mod quota;
pub mod room;
pub mod system;
pub mod tenant;
pub mod usage;

// What is asked, what happened, and what was refused.
pub mod command;
pub mod denied;
pub mod event;

// From the one to the other.
mod apply;
pub mod checkpoint;
pub mod decide;

#[cfg(test)]
pub(crate) mod fixture;

pub use accounting::Accounting;
pub use adoption::Adoption;
pub use command::{Actor, Ask, Command, Fresh, Origin};
pub use credential::{
    AuthorityRecord, AuthorityState, CertificateRecord, EnrollToken, Revocation, TokenSubject,
    TokenUse,
};
pub use decide::decide;
pub use denied::Denied;
pub use event::Event;
pub use flavor::{Flavor, FlavorChange};
pub use group::Group;
pub use health::{Condition, Health, Judgement, PartChange, Parts, Quarantine, Release, Verdict};
pub use instance::{
    Image, Incarnation, Instance, Operation, OperationEnd, OperationKind, OperationOutcome, Role,
};
pub use node::{Capacity, Cordon, HostFingerprint, Node, Site, SiteChange};
pub use people::{External, Grant, Scope, User};
pub use quota::{Amounts, Dimension, Quota};
pub use system::{AvailabilityClass, System, SystemChange};
pub use tenant::{Tenant, TenantChange, Tenants, city};
pub use usage::{Usage, Usages};

/// Everything that people meant, and every claim that follows from it.
#[derive(Debug, Clone)]
pub struct Fabric {
    /// Nodes by name.
    pub nodes: OrdMap<Name, Node>,
    /// Their names by id.
    pub node_names: OrdMap<NodeId, Name>,
    /// Nodes that their verdicts keep new instances off at present.
    pub quarantined: OrdSet<Name>,
    /// Nodes about which something is still to be done when time passes: in quarantine, held,
    /// released, or with parts whose agent is to be told that they are accepted.
    pub unsettled: OrdSet<Name>,
    /// Tenants by name; the root is always there.
    pub tenants: Tenants,
    /// What tenants use and what counts against their quotas.
    pub usage: Usages,
    /// Users by subject.
    pub users: OrdMap<Subject, User>,
    /// Tokens by id.
    pub tokens: OrdMap<TokenId, EnrollToken>,
    /// Certificates by serial number.
    pub certificates: OrdMap<Serial, CertificateRecord>,
    /// The same by whom they name.
    pub certificates_by_subject: OrdMap<Subject, OrdSet<Serial>>,
    /// The same by their end.
    pub certificates_by_end: OrdSet<(Timestamp, Serial)>,
    /// Those that were revoked. Changes only when what is believed does: cheap to compare.
    pub revoked: OrdSet<Serial>,
    /// Authorities by fingerprint.
    pub authorities: OrdMap<Fingerprint, AuthorityRecord>,
    /// Instances by id.
    pub instances: OrdMap<InstanceId, Instance>,
    /// Instances by tenant and name.
    pub instance_names: OrdMap<(Name, Name), InstanceId>,
    /// Which instance an incarnation belongs to.
    pub incarnations: OrdMap<IncarnationId, InstanceId>,
    /// Which incarnations a node carries.
    pub on_node: OrdMap<NodeId, OrdMap<IncarnationId, InstanceId>>,
    /// Images by id.
    pub images: OrdMap<ImageId, Image>,
    /// Images by tenant and name.
    pub image_names: OrdMap<(Name, Name), ImageId>,
    /// Systems by tenant and name.
    pub systems: OrdMap<(Name, Name), System>,
    /// Instances by the tenant and name of their system.
    pub in_system: OrdSet<(Name, Name, InstanceId)>,
    /// Systems of whose end somebody is still to be warned, by when.
    pub system_ends: OrdSet<(Timestamp, Name, Name)>,
    /// Groups by tenant and name.
    pub groups: OrdMap<(Name, Name), Group>,
    /// Instances by the tenant and name of each of their groups.
    pub in_group: OrdSet<(Name, Name, InstanceId)>,
    /// Flavors by name.
    pub flavors: OrdMap<Name, Flavor>,
    /// Operations by id; ids are time-ordered.
    pub operations: OrdMap<OperationId, Operation>,
    /// Operations that have not ended.
    pub running: OrdMap<OperationId, InstanceId>,
    /// Requests that were answered, by who asked and their id: nobody's id answers another's.
    pub requests: OrdMap<(Actor, String), Answered>,
    /// The same by age, for their end.
    pub requests_by_age: OrdSet<(Timestamp, Actor, String)>,
    /// Parts of the log that were moved out of the store, by their first entry.
    pub segments: OrdMap<Seq, SegmentRecord>,
    /// What was held and used, month by month.
    pub accounting: Accounting,
    /// Nodes that are still to be adopted after the record was restored or rebuilt.
    pub adoption: Option<Adoption>,
    /// Claims and capacities, as the scheduler needs them.
    pub fleet: Fleet,
}

/// An answer that is given again for the same request id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Hash of what was asked.
    pub content: Digest,
    /// What it came to.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
}

/// What an accepted command came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A long-running change began.
    Operation(OperationId),
    /// Several began, in the order of what was asked.
    Operations(Vec<OperationId>),
    /// An image was registered, or was there with the same content.
    Image(ImageId),
    /// A token was made.
    Token(TokenId),
    /// An authority signs from now on.
    Authority(Fingerprint),
    /// A node that wanted to join again runs on another server: that was recorded, and nothing
    /// else. It takes a rebind.
    HostChanged(NodeId),
    /// It is done, and there is nothing to name.
    Done,
}

impl Default for Fabric {
    /// A fabric with nothing but the root of its tenants.
    fn default() -> Self {
        Self {
            nodes: OrdMap::new(),
            node_names: OrdMap::new(),
            quarantined: OrdSet::new(),
            unsettled: OrdSet::new(),
            tenants: tenant::first(),
            usage: Usages::default(),
            users: OrdMap::new(),
            tokens: OrdMap::new(),
            certificates: OrdMap::new(),
            certificates_by_subject: OrdMap::new(),
            certificates_by_end: OrdSet::new(),
            revoked: OrdSet::new(),
            authorities: OrdMap::new(),
            instances: OrdMap::new(),
            instance_names: OrdMap::new(),
            incarnations: OrdMap::new(),
            on_node: OrdMap::new(),
            images: OrdMap::new(),
            image_names: OrdMap::new(),
            systems: OrdMap::new(),
            in_system: OrdSet::new(),
            system_ends: OrdSet::new(),
            groups: OrdMap::new(),
            in_group: OrdSet::new(),
            flavors: OrdMap::new(),
            operations: OrdMap::new(),
            running: OrdMap::new(),
            requests: OrdMap::new(),
            requests_by_age: OrdSet::new(),
            segments: OrdMap::new(),
            accounting: Accounting::default(),
            adoption: None,
            fleet: Fleet::default(),
        }
    }
}

impl Fabric {
    /// A node by name or id, as people type it.
    pub fn node(&self, which: &str) -> Option<&Node> {
        let by_name = which
            .parse::<Name>()
            .ok()
            .and_then(|name| self.nodes.get(&name));
        by_name.or_else(|| self.node_by_id(which.parse().ok()?))
    }

    /// A node by id.
    pub fn node_by_id(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(self.node_names.get(&id)?)
    }

    /// An instance as people name it: "NAME" in their home tenant, "TENANT/NAME", or its id.
    pub fn instance(&self, which: &str, home: &Name) -> Option<&Instance> {
        let id = match named(which, home) {
            Some((tenant, name)) => *self.instance_names.get(&(tenant, name))?,
            None => which.parse().ok()?,
        };
        self.instances.get(&id)
    }

    /// The instance that an incarnation belongs to, with the incarnation.
    pub fn incarnation(&self, id: IncarnationId) -> Option<(&Instance, &Incarnation)> {
        let instance = self.instances.get(self.incarnations.get(&id)?)?;
        Some((
            instance,
            instance.incarnations.iter().find(|one| one.id == id)?,
        ))
    }

    /// An image as people name it: "NAME" in their home tenant or the nearest one above it,
    /// "TENANT/NAME", its id, or its digest.
    pub fn image(&self, which: &str, home: &Name) -> Option<&Image> {
        if let Ok(digest) = which.parse::<Digest>() {
            // The same content may be in several tenants: the one that may be used goes first.
            let alike = self.images.values().filter(|image| image.digest == digest);
            return alike.max_by_key(|image| self.is_usable(image, home));
        }
        let Some((tenant, name)) = named(which, home) else {
            return self.images.get(&which.parse::<ImageId>().ok()?);
        };
        let id = if which.contains('/') {
            self.image_names.get(&(tenant, name))
        } else {
            self.upwards(&tenant)
                .find_map(|above| self.image_names.get(&(above.clone(), name.clone())))
        };
        self.images.get(id?)
    }

    /// Whether an image may be used in a tenant: it belongs to it or to one above it.
    pub fn is_usable(&self, image: &Image, tenant: &Name) -> bool {
        self.upwards(tenant).any(|above| *above == image.tenant)
    }

    /// What an agent is to follow for one of an instance's incarnations.
    ///
    /// The epoch is the sender's and filled in by it.
    pub fn intent(instance: &Instance, incarnation: &Incarnation) -> Intent {
        Intent {
            incarnation: incarnation.id,
            instance: instance.id,
            node: incarnation.node,
            name: instance.name.clone(),
            spec: instance.spec.clone(),
            power: instance.power,
            counters: instance.counters,
            generation: instance.generation,
            epoch: kapok_types::Epoch::ZERO,
            operation: Some(instance.operation),
            assignment: (incarnation.claim.assignment.as_deref().cloned()).unwrap_or_default(),
        }
    }
}

/// Plain data as one opaque text that changes when any of it does.
fn etag(value: &impl Serialize) -> String {
    // Plain data can't fail to be written.
    let content = serde_json::to_vec(value).unwrap_or_default();
    let hash = Digest::of(&content).hex();
    hash.get(..16).unwrap_or_default().to_owned()
}

/// "NAME" or "TENANT/NAME", or nothing for what is no name.
fn named(which: &str, home: &Name) -> Option<(Name, Name)> {
    match which.split_once('/') {
        Some((tenant, name)) => Some((tenant.parse().ok()?, name.parse().ok()?)),
        None => Some((home.clone(), which.parse().ok()?)),
    }
}
