//! What can be asked of the fabric, by people and by the controller's own reconcilers.

use std::{collections::BTreeSet, fmt, sync::Arc};

use kapok_scheduler::Domain;
use kapok_store::Segment;
use kapok_trust::{Fingerprint, Serial, Subject, TokenId};
use kapok_types::{
    Assignment, Bytes, Digest, Equipment, Generation, ImageId, IncarnationId, InstanceId,
    MemoryMib, Name, Needs, NodeId, OperationId, Seq, Timestamp, TraceContext, Vcpus,
    instance::{Arch, DiskFormat, Power, RunPolicy},
    phase::Size,
};
use serde::{Deserialize, Serialize};

use super::{
    Capacity, CertificateRecord, External, FlavorChange, Grant, HostFingerprint, Judgement,
    OperationOutcome, Parts, Scope, SiteChange, SystemChange, TenantChange, TokenSubject, TokenUse,
    accounting::Reading,
    adoption::{Cause, Held},
    city, group, health,
};
use crate::audit::Refusal;

/// An incarnation as it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sighting {
    /// Which.
    pub incarnation: IncarnationId,
    /// Whether it runs.
    pub up: bool,
    /// Since when it is seen so.
    pub at: Timestamp,
    /// What its agent says, in words.
    pub why: String,
}

/// A command with everything that a pure decision needs beside the fabric and the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Who asks, and how far they reach.
    pub origin: Origin,
    /// The same one again means the same answer; none for the controller's own commands.
    pub request_id: Option<String>,
    /// What is asked.
    pub command: Command,
    /// Its hash, by [`Command::content`]; made by whoever asks, so that the ledger doesn't have to.
    pub content: Digest,
    /// Ids for what may come of it.
    pub fresh: Fresh,
}

/// Who asks, from where, and how far they reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Who asks.
    pub by: Actor,
    /// Where from: an address, or empty for the controller itself.
    pub from: String,
    /// The tenant in which bare names are looked up.
    pub home: Name,
    /// Whose things the command may speak of.
    pub scope: Scope,
    /// The trace of the request; what follows from the command is a part of it.
    pub trace: Option<TraceContext>,
}

/// Ids made before the decision, so that deciding is pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fresh {
    /// For a new instance.
    pub instance: InstanceId,
    /// For its incarnation.
    pub incarnation: IncarnationId,
    /// For the operation.
    pub operation: OperationId,
    /// For a new image.
    pub image: ImageId,
}

/// Who did something: "user/NAME", "machine/NAME", "node/NAME", or the controller itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(pub Arc<str>);

/// What can be asked. Serialized only to hash its content: what is made anew for each call
/// (secrets' hashes, keys) is skipped, or the same request could never come twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    // People's instances.
    /// Places and creates an instance.
    CreateInstance(CreateInstance),
    /// Turns an instance on.
    StartInstance {
        /// Name or id.
        instance: String,
    },
    /// Turns an instance off.
    StopInstance {
        /// Name or id.
        instance: String,
    },
    /// Shuts an instance down and starts it.
    RestartInstance {
        /// Name or id.
        instance: String,
    },
    /// Places and creates instances: all of them, or none.
    CreateInstances {
        /// What they are to be.
        instances: Vec<CreateInstance>,
        /// Ids for each of them.
        #[serde(skip)]
        fresh: Vec<Fresh>,
    },
    /// An instance belongs to another system of its tenant.
    ChangeInstanceSystem {
        /// Name or id.
        instance: String,
        /// The system.
        system: Name,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Makes an instance larger or smaller.
    ResizeInstance(ResizeInstance),
    /// Deletes an instance with its root disk.
    DeleteInstance {
        /// Name or id.
        instance: String,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Puts on record that somebody may open an instance's console.
    GrantConsole {
        /// Name or id.
        instance: String,
    },
    /// Ends an operation early.
    CancelOperation {
        /// Which.
        operation: OperationId,
    },
    /// Registers a checked and stored blob as an image.
    RegisterImage {
        /// The tenant that it is to belong to; none means the caller's home.
        tenant: Option<Name>,
        /// Its name.
        name: Name,
        /// Its content.
        digest: Digest,
        /// Its layout.
        format: DiskFormat,
        /// Size of its blob.
        size: Bytes,
        /// Size of the disk it holds.
        virtual_size: Bytes,
        /// The architecture it was built for.
        arch: Arch,
    },
    /// Removes an image.
    DeleteImage {
        /// Name, id or digest.
        image: String,
    },

    // Flavors.
    /// Makes a flavor.
    CreateFlavor(CreateFlavor),
    /// Makes a flavor another one. No instance changes.
    UpdateFlavor {
        /// Its name.
        flavor: Name,
        /// What is to be otherwise.
        changes: Vec<FlavorChange>,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Removes a flavor. No instance changes.
    DeleteFlavor {
        /// Its name.
        flavor: Name,
        /// If not empty, what its etag must be.
        etag: String,
    },

    // Systems.
    /// Makes a system.
    CreateSystem(CreateSystem),
    /// Changes what is recorded of a system.
    UpdateSystem {
        /// Its name, or "TENANT/NAME".
        system: String,
        /// What is to be otherwise.
        changes: Vec<SystemChange>,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Removes a system that has no instances.
    DeleteSystem {
        /// Its name, or "TENANT/NAME".
        system: String,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Warns of ends that are near. Reconciler's.
    ReviewSystems,

    // Groups.
    /// Makes a group.
    CreateGroup(CreateGroup),
    /// Removes a group that has no members.
    DeleteGroup {
        /// Its name, or "TENANT/NAME".
        group: String,
    },

    // Nodes.
    /// A server becomes a node, or a known node comes back. The token says its name.
    JoinNode(Box<JoinNode>),
    /// Changes what an administrator decides about a node.
    UpdateNode {
        /// Name or id.
        node: String,
        /// If set, vCPUs that one thread may carry, in permille.
        vcpu_overcommit_permille: Option<u32>,
        /// If set, where its agent listens.
        address: Option<String>,
        /// What is to be otherwise about its site.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        site: Vec<SiteChange>,
    },
    /// A node takes nothing new.
    CordonNode {
        /// Name or id.
        node: String,
        /// Why.
        reason: String,
    },
    /// A node takes instances again.
    UncordonNode {
        /// Name or id.
        node: String,
    },
    /// The server's present hardware is the node's from now on.
    RebindNode {
        /// Name or id.
        node: String,
        /// Whether its agent says that parts differ from those that were accepted: observed, and
        /// no part of what is asked.
        #[serde(skip)]
        parts_differ: bool,
    },
    /// A node takes instances although its server isn't healthy, until a time.
    ReleaseNode {
        /// Name or id.
        node: String,
        /// Why.
        reason: String,
        /// For how long; 0 means the default.
        life_ms: u64,
    },
    /// A node's verdicts decide again.
    EndNodeRelease {
        /// Name or id.
        node: String,
        /// What is done about health: no part of what is asked.
        #[serde(skip)]
        policy: health::Policy,
    },
    /// Nobody with the node's key, or with a token for its name, is believed any more.
    RevokeNode {
        /// Name or id.
        node: String,
        /// Why.
        reason: String,
    },
    /// The record was restored or rebuilt. The controller's own.
    BeginAdoption {
        /// What happened.
        cause: Cause,
        /// When the backup was made, if there was one.
        backup_at: Option<Timestamp>,
    },
    /// Settles a node's differences from the record.
    AdoptNode(Box<AdoptNode>),
    /// Forgets a node that carries nothing.
    DeleteNode {
        /// Name or id.
        node: String,
    },
    /// A node's agent was reached and says what it is. Reconciler's.
    ReportNode {
        /// Its name.
        node: Name,
        /// Its identity, proven by its certificate.
        id: NodeId,
        /// What it can carry.
        capacity: Capacity,
        /// What it has beyond that.
        equipment: Arc<Equipment>,
        /// What its server is made of; empty says nothing.
        host: HostFingerprint,
        /// Whether it waits for the full intent.
        resyncing: bool,
    },
    /// A node's agent doesn't answer any more. Reconciler's.
    LoseNode {
        /// Its name.
        node: Name,
        /// What was seen, in words.
        reason: String,
    },

    /// A node's agent judges its server. Reconciler's.
    JudgeNode {
        /// Its name.
        node: Name,
        /// Its identity, proven by its certificate.
        id: NodeId,
        /// How it does.
        judgement: Judgement,
        /// What is done about it.
        policy: health::Policy,
    },
    /// Quarantines that may end, releases that have ended, and held nodes for which there is room.
    /// Reconciler's.
    ReviewQuarantines {
        /// What is done about health.
        policy: health::Policy,
    },
    /// A node's agent says what its server is made of. Reconciler's.
    ReportParts {
        /// Its name.
        node: Name,
        /// Its identity, proven by its certificate.
        id: NodeId,
        /// What it is made of; empty says nothing.
        parts: Parts,
    },
    /// A node's agent knows that its parts are accepted. Reconciler's.
    PartsAccepted {
        /// Its name.
        node: Name,
    },

    // The record of use.
    /// A node's agent read how much processor time its instances used. Reconciler's.
    RecordUsage {
        /// Its name.
        node: Name,
        /// Its identity.
        id: NodeId,
        /// Its kernel's boot id.
        boot: String,
        /// What it read.
        readings: Vec<Reading>,
    },
    /// Instances are seen to run, or not to. Reconciler's.
    RecordAvailability {
        /// The node's name.
        node: Name,
        /// Its identity.
        id: NodeId,
        /// What was seen.
        sightings: Vec<Sighting>,
    },

    // People and tenants.
    /// Makes a tenant.
    CreateTenant {
        /// Its name.
        name: Name,
        /// Its name for people; empty means the name.
        display: String,
        /// The tenant above it; none means the root.
        parent: Option<Name>,
        /// Whom to ask about it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        contacts: Vec<String>,
    },
    /// Makes a tenant another one.
    UpdateTenant {
        /// Its name.
        tenant: Name,
        /// What is to be otherwise: all of it or nothing.
        changes: Vec<TenantChange>,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Removes a tenant in which there is nothing.
    DeleteTenant {
        /// Its name.
        tenant: Name,
        /// If not empty, what its etag must be.
        etag: String,
    },
    /// Makes a user.
    CreateUser {
        /// A user or a machine.
        subject: Subject,
        /// Their name for people; empty means the name.
        display: String,
        /// What they may do.
        grants: BTreeSet<Grant>,
        /// Who they are to the identity provider.
        external: Option<External>,
    },
    /// Changes what a user may do.
    UpdateUser {
        /// Whom.
        user: Subject,
        /// What they may do from now on, too.
        grant: BTreeSet<Grant>,
        /// What they may do no longer.
        revoke: BTreeSet<Grant>,
        /// If set, whether they may do nothing.
        disabled: Option<bool>,
    },
    /// Removes a user with their certificates and tokens.
    DeleteUser {
        /// Whom.
        user: Subject,
    },

    // What proves who somebody is.
    /// Makes a token.
    CreateToken {
        /// Who it is for.
        subject: TokenSubject,
        /// Its life; 0 means the default.
        life_ms: u64,
        /// Its id and the hash of its secret.
        #[serde(skip)]
        new: TokenUse,
    },
    /// Takes a token back; certificates that go back to it are revoked.
    DeleteToken {
        /// Which.
        token: TokenId,
    },
    /// A certificate was made and may be given out once this is durable.
    RecordCertificate {
        /// It. Its token and its issue time follow from the grounds and the clock.
        certificate: CertificateRecord,
        /// By what right.
        grounds: Grounds,
    },
    /// Ends a certificate at once.
    RevokeCertificate {
        /// Which.
        serial: Serial,
        /// Why.
        reason: String,
    },
    /// A new authority signs from now on; the one before is trusted while a certificate of it
    /// lives. Also how the first one comes to be.
    RotateAuthority {
        /// It.
        #[serde(skip)]
        new: NewAuthority,
    },

    // The record, and what follows from what is seen. Reconcilers'.
    /// A guest shut itself down, by its agent's word.
    GuestStopped {
        /// The node that says so; only its own incarnations are believed.
        node: NodeId,
        /// Which incarnation.
        incarnation: IncarnationId,
        /// The generation of the intent under which it did.
        generation: Generation,
    },
    /// An incarnation's end is proven by its agent's word.
    IncarnationGone {
        /// The node that says so; only its own incarnations are believed.
        node: NodeId,
        /// Which.
        incarnation: IncarnationId,
    },
    /// An agent has seen how large an incarnation is: what is claimed beyond that is given back.
    SettleClaim {
        /// The node that says so; only its own incarnations are believed.
        node: NodeId,
        /// Which.
        incarnation: IncarnationId,
        /// The intent that it follows.
        generation: Generation,
        /// How large it is.
        size: Size,
        /// What is its own, if any start would give it the same.
        #[serde(skip_serializing_if = "Option::is_none")]
        assignment: Option<Box<Assignment>>,
    },
    /// An operation reached its end.
    EndOperation {
        /// Which.
        operation: OperationId,
        /// How.
        outcome: OperationOutcome,
        /// Why, in words.
        detail: String,
    },
    /// Puts refusals on record.
    RecordRefusals {
        /// Those alike counted together.
        refusals: Vec<Refusal>,
    },
    /// A part of the log was sealed and moved out of the store.
    RecordSegment {
        /// It.
        segment: Segment,
        /// The time of its newest entry.
        newest: Timestamp,
    },
    /// A part of the log is past its retention and gone; its hash stays.
    DeleteSegment {
        /// Its first entry.
        first: Seq,
        /// When.
        at: Timestamp,
    },
    /// Forgets what is past its retention, and retires authorities that nobody needs.
    Expire,
}

/// What a new instance is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateInstance {
    /// The tenant that it is to belong to; none means the caller's home.
    pub tenant: Option<Name>,
    /// Its name.
    pub name: Name,
    /// The system of the tenant that it is to belong to; none means the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Name>,
    /// Its image's name, id or digest.
    pub image: String,
    /// The groups of its tenant that it is to be in.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<Name>,
    /// The flavor that has its numbers; then vCPUs and memory are left at 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: MemoryMib,
    /// Root disk, or the flavor's, or the image's virtual size.
    pub root_disk: Option<Bytes>,
    /// What the guest's own end means.
    pub run_policy: RunPolicy,
    /// Whether it is turned on.
    pub power: Power,
    /// What it needs of its node besides amounts; beside a flavor, what that says nothing of.
    #[serde(skip_serializing_if = "Needs::is_none")]
    pub needs: Needs,
}

/// How large an instance is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResizeInstance {
    /// Name or id.
    pub instance: String,
    /// The flavor that its numbers are to come from, instead of stating them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// Virtual CPUs; zero for as many as now.
    pub vcpus: Vcpus,
    /// Guest memory; zero for as much as now.
    pub memory: MemoryMib,
    /// If not empty, what its etag must be.
    pub etag: String,
}

/// A node whose differences from the record are to be settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdoptNode {
    /// Name or id.
    pub node: String,
    /// The differences that people were shown.
    pub etag: String,
    /// The tenant for instances whose own one isn't known; none means the caller's home.
    pub tenant: Option<Name>,
    /// What the node holds: observed, and no part of what is asked.
    #[serde(skip)]
    pub held: Vec<Held>,
    /// The certificate that it shows: observed as well.
    #[serde(skip)]
    pub certificate: Option<CertificateRecord>,
    /// Ids for what may come of each difference.
    #[serde(skip)]
    pub fresh: Vec<Fresh>,
}

/// What a new group is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateGroup {
    /// The tenant that it is to belong to; none means the caller's home.
    pub tenant: Option<Name>,
    /// Its name.
    pub name: Name,
    /// What its members are to be to each other.
    pub kind: group::Kind,
    /// What they are to share, or not to share.
    pub domain: Domain,
    /// Whether it must be so; else nodes where it is so are preferred.
    pub strict: bool,
}

/// What a new flavor is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateFlavor {
    /// Its name.
    pub name: Name,
    /// Virtual CPUs.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: MemoryMib,
    /// Root disk; none means the image's own size.
    pub root_disk: Option<Bytes>,
    /// What it is meant for.
    pub description: String,
    /// The tenants that may use it, with all below them; none named means everybody.
    pub visible_to: BTreeSet<Name>,
    /// What its instances need of their node besides amounts.
    #[serde(skip_serializing_if = "Needs::is_none")]
    pub needs: Needs,
}

/// What a new system is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateSystem {
    /// The tenant that it is to belong to; none means the caller's home.
    pub tenant: Option<Name>,
    /// Its name.
    pub name: Name,
    /// What is known of it.
    pub facts: Vec<SystemChange>,
}

/// A server that wants to be a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinNode {
    /// The token that it shows.
    pub token: TokenUse,
    /// Its identity, made once on the server.
    pub id: NodeId,
    /// Where its agent listens, "HOST:PORT".
    pub address: String,
    /// What it is made of.
    pub host: HostFingerprint,
    /// vCPUs that one thread may carry, in permille, if it is new.
    pub vcpu_overcommit_permille: u32,
    /// Its certificate, which may be given out once this is durable.
    pub certificate: CertificateRecord,
}

/// By what right a certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grounds {
    /// A token for a person, a program or a controller was shown.
    Token(TokenUse),
    /// The identity provider said who it is.
    External(External),
    /// The subject has this certificate, and it lives.
    Renewal(Serial),
    /// The controller's own word: for itself, and for the first people of a fabric.
    Own,
}

/// An authority that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAuthority {
    /// Its identity.
    pub fingerprint: Fingerprint,
    /// Its certificate.
    pub certificate_pem: String,
    /// The same, signed by each authority that is trusted before it.
    pub cross_pem: Vec<String>,
}

impl Origin {
    /// The controller itself.
    pub fn controller() -> Self {
        Self::own(Actor::controller())
    }

    /// A node's agent, whose word the controller brings in.
    pub fn node(name: &Name) -> Self {
        Self::own(Actor::node(name))
    }

    fn own(by: Actor) -> Self {
        Self {
            by,
            from: String::new(),
            home: city(),
            scope: Scope::Everything,
            trace: None,
        }
    }
}

impl Actor {
    /// The controller itself.
    pub fn controller() -> Self {
        Self("controller".into())
    }

    /// A person.
    pub fn user(name: &str) -> Self {
        Self(format!("user/{name}").into())
    }

    /// A node's agent.
    pub fn node(name: &Name) -> Self {
        Self(format!("node/{name}").into())
    }
}

impl From<&Subject> for Actor {
    /// Whoever a certificate names. A node is called by its id: its name is the fabric's to tell.
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::Controller(_) => Self::controller(),
            subject => Self(subject.to_string().into()),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Command {
    /// Hash of what is asked: a request id may come back only with the same one.
    pub fn content(&self) -> Digest {
        // A command is plain data: writing it can't fail. An empty text would only make equal
        // what is equal anyway.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}
