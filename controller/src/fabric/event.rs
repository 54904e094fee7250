//! What happened: the facts that the log keeps and that the fabric is a fold of.
//!
//! Serialized for ever. A field or a kind is never renamed or given another meaning; new ones
//! are added, and a version that doesn't know a kind refuses to fold the log.

use std::{collections::BTreeSet, sync::Arc};

use kapok_scheduler::Claim;
use kapok_store::Segment;
use kapok_trust::{Fingerprint, Serial, Subject, TokenId};
use kapok_types::{
    Epoch, Equipment, Generation, ImageId, IncarnationId, InstanceId, MemoryMib, Name, NodeId,
    OperationId, Seq, Timestamp, Vcpus,
    instance::{Counters, Power},
};
use serde::{Deserialize, Serialize};

use super::System;
use super::accounting::{AvailabilityChange, Reading};
use super::adoption::Cause;
use super::{
    Actor, Amounts, Answered, AuthorityRecord, Capacity, CertificateRecord, Cordon, EnrollToken,
    Flavor, Group, Health, HostFingerprint, Image, Incarnation, Instance, Node, Operation,
    OperationEnd, PartChange, Parts, Quarantine, Quota, Release, Revocation, Site, Tenant, User,
    tenant,
};
use crate::audit::Refusal;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A controller leads from here on.
    LeaderElected {
        /// Its epoch.
        epoch: Epoch,
    },
    /// A server became a node.
    NodeJoined {
        /// It.
        node: Box<Node>,
    },
    /// A known node came back with a token. Its instances and claims are what they were.
    NodeRejoined {
        /// Its name.
        node: Name,
        /// Where its agent listens now.
        address: String,
        /// What its server is made of, as far as it is known.
        host: HostFingerprint,
    },
    /// An administrator's word on a node.
    NodeUpdated {
        /// Its name.
        node: Name,
        /// Where its agent listens.
        address: String,
        /// vCPUs a thread may carry, in permille.
        vcpu_overcommit_permille: u32,
    },
    /// A node stands elsewhere than before, or is for something else, by people's word.
    NodeSited {
        /// Its name.
        node: Name,
        /// Where, and what for.
        site: Site,
    },
    /// A node runs on another server than the fabric knows, or on that one again.
    NodeFingerprintChanged {
        /// Its name.
        node: Name,
        /// What its server is made of; none when it is as before.
        found: Option<HostFingerprint>,
    },
    /// The server that a node runs on is its own from now on.
    NodeRebound {
        /// Its name.
        node: Name,
        /// What it is made of.
        host: HostFingerprint,
    },
    /// A node's key is believed no more. Its guests are taken to run on.
    NodeRevoked {
        /// Its name.
        node: Name,
        /// Why and by whom.
        revocation: Revocation,
    },
    /// A node is forgotten.
    NodeRemoved {
        /// Its name.
        node: Name,
        /// Its id.
        id: NodeId,
    },
    /// A node can carry something else than before.
    NodeChanged {
        /// Its name.
        node: Name,
        /// What.
        capacity: Capacity,
    },
    /// A node has something else beyond amounts than before.
    NodeEquipped {
        /// Its name.
        node: Name,
        /// What.
        equipment: Arc<Equipment>,
    },
    /// A node's agent answers.
    NodeReached {
        /// Its name.
        node: Name,
    },
    /// A node's agent doesn't answer. Its instances are taken to run on.
    NodeLost {
        /// Its name.
        node: Name,
        /// What was seen.
        reason: String,
    },
    /// A node's agent waits for the full intent, or has it.
    NodeResyncing {
        /// Its name.
        node: Name,
        /// Whether it waits.
        waits: bool,
    },
    /// A node takes nothing new.
    NodeCordoned {
        /// Its name.
        node: Name,
        /// Why and by whom.
        cordon: Cordon,
    },
    /// A node takes instances again.
    NodeUncordoned {
        /// Its name.
        node: Name,
    },
    /// A node's server does otherwise than before: another condition, or other verdicts.
    NodeJudged {
        /// Its name.
        node: Name,
        /// How it does.
        health: Health,
    },
    /// A node's verdicts call for no new instances, for another reason than before, or held or no
    /// longer held.
    NodeQuarantined {
        /// Its name.
        node: Name,
        /// Since when, what for, and whether it is held.
        quarantine: Quarantine,
    },
    /// Nothing calls for a node's quarantine any more, or something does again.
    NodeRecovering {
        /// Its name.
        node: Name,
        /// Since when nothing does.
        since: Option<Timestamp>,
    },
    /// A node takes instances again, as far as its health goes.
    NodeQuarantineEnded {
        /// Its name.
        node: Name,
    },
    /// A person's word goes before a node's verdicts.
    NodeReleased {
        /// Its name.
        node: Name,
        /// Whose, why and until when.
        release: Release,
    },
    /// A node's verdicts decide again.
    NodeReleaseEnded {
        /// Its name.
        node: Name,
    },
    /// A node's instances are asked to move because its server fails, or no longer.
    NodeDrainRequested {
        /// Its name.
        node: Name,
        /// When; none if they no longer are.
        at: Option<Timestamp>,
    },
    /// It is known for the first time what a node's server is made of.
    NodePartsLearned {
        /// Its name.
        node: Name,
        /// What.
        parts: Parts,
    },
    /// A node's server is made of something else than it was.
    NodePartsChanged {
        /// Its name.
        node: Name,
        /// What differs.
        changes: Vec<PartChange>,
    },
    /// A node's present parts are accepted as its own, and its agent is to be told or has been.
    NodePartsAccepted {
        /// Its name.
        node: Name,
        /// Whether its agent knows.
        told: bool,
    },
    /// An image can be used.
    ImageRegistered {
        /// It.
        image: Image,
    },
    /// An image is no more.
    ImageRemoved {
        /// Its id.
        image: ImageId,
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
    },
    /// A flavor exists.
    FlavorCreated {
        /// It.
        flavor: Flavor,
    },
    /// A flavor is another size, or somebody else's.
    FlavorChanged {
        /// As it is now.
        flavor: Flavor,
    },
    /// A flavor is no more. Instances keep their numbers.
    FlavorRemoved {
        /// Its name.
        flavor: Name,
        /// The tenants that could use it.
        visible_to: BTreeSet<Name>,
    },
    /// A system exists.
    SystemCreated {
        /// It.
        system: Box<System>,
    },
    /// Something else is recorded of a system than before.
    SystemChanged {
        /// As it is now.
        system: Box<System>,
    },
    /// The first creation of one of a system's instances succeeded.
    SystemLive {
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
        /// When.
        at: Timestamp,
    },
    /// A system's end is near. Nothing is stopped.
    SystemEnding {
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
        /// When it is to end.
        ends_at: Timestamp,
        /// Which warning it is: that of so many days before.
        days: u32,
    },
    /// A system is no more.
    SystemRemoved {
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
    },
    /// A group exists.
    GroupCreated {
        /// It.
        group: Group,
    },
    /// A group is no more.
    GroupRemoved {
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
    },
    /// An instance exists as intent.
    InstanceCreated {
        /// It, without incarnations.
        instance: Box<Instance>,
    },
    /// An instance has a life on a node, and its claim counts.
    IncarnationPlaced {
        /// Whose.
        instance: InstanceId,
        /// It.
        incarnation: Incarnation,
    },
    /// People, or the guest, changed what an instance is meant to do.
    IntentChanged {
        /// Whose.
        instance: InstanceId,
        /// Whether it is meant to run.
        power: Power,
        /// One-time acts so far.
        counters: Counters,
        /// Which change this is.
        generation: Generation,
        /// The operation that does it; none when the guest did.
        operation: Option<OperationId>,
        /// Whether the guest's own shutdown did it.
        by_guest: bool,
    },
    /// An instance belongs to another system of its tenant from now on.
    InstanceSystemChanged {
        /// Which.
        instance: InstanceId,
        /// Its tenant.
        tenant: Name,
        /// Its system from now on.
        system: Name,
    },
    /// An instance is meant to be of another size.
    InstanceResized {
        /// Which.
        instance: InstanceId,
        /// Its virtual CPUs from now on.
        vcpus: Vcpus,
        /// Its guest memory from now on.
        memory: MemoryMib,
        /// The flavor that the numbers come from, if they come from one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flavor: Option<Name>,
        /// Which change this is.
        generation: Generation,
        /// The operation that does it.
        operation: OperationId,
    },
    /// An incarnation holds more or less of its node than before.
    ClaimChanged {
        /// Whose.
        instance: InstanceId,
        /// Which.
        incarnation: IncarnationId,
        /// Where it is.
        node: NodeId,
        /// What it holds from now on.
        claim: Claim,
    },
    /// An instance is being deleted.
    InstanceDeleting {
        /// Which.
        instance: InstanceId,
        /// Which change this is.
        generation: Generation,
        /// The operation that does it.
        operation: OperationId,
    },
    /// An incarnation's end is proven; its claim ends.
    IncarnationEnded {
        /// Whose.
        instance: InstanceId,
        /// Which.
        incarnation: IncarnationId,
        /// Where it was.
        node: NodeId,
        /// What proves it, in words.
        proof: String,
    },
    /// A node's agent read how much processor time its instances used.
    UsageMeasured {
        /// The node.
        node: Name,
        /// Its kernel's boot id.
        boot: Box<str>,
        /// What was read.
        readings: Vec<Reading>,
    },
    /// Instances were seen to run, or not to run any more, and it stayed so for a moment.
    AvailabilityChanged {
        /// The node whose agent said so.
        node: Name,
        /// Which instances, and since when.
        changes: Vec<AvailabilityChange>,
    },
    /// An instance is no more.
    InstanceRemoved {
        /// Which.
        instance: InstanceId,
        /// Its tenant.
        tenant: Name,
        /// Its name.
        name: Name,
    },
    /// A long-running change began.
    OperationStarted {
        /// It.
        operation: Operation,
    },
    /// A long-running change ended.
    OperationEnded {
        /// Which.
        operation: OperationId,
        /// How.
        end: OperationEnd,
    },
    /// A request was answered; the same again gets the same.
    RequestAnswered {
        /// Who asked.
        by: Actor,
        /// Its id.
        request_id: String,
        /// With what.
        answered: Answered,
    },
    /// Requests answered before then are forgotten.
    RequestsExpired {
        /// When.
        before: Timestamp,
    },
    /// Ended operations are forgotten.
    OperationsExpired {
        /// Which.
        operations: Vec<OperationId>,
    },
    /// A tenant exists.
    TenantCreated {
        /// It.
        tenant: Tenant,
    },
    /// A tenant has another name for people, or others to ask about it.
    TenantUpdated {
        /// Which.
        tenant: Name,
        /// Its name for people.
        display: String,
        /// Whom to ask.
        contacts: Vec<String>,
    },
    /// A tenant may do more or less than before. What runs, runs on.
    TenantStateChanged {
        /// Which.
        tenant: Name,
        /// What it may do.
        state: tenant::State,
    },
    /// A tenant may have another amount than before, or another one is kept for it.
    TenantQuotaSet {
        /// Whose.
        tenant: Name,
        /// How much it may have.
        quota: Quota,
        /// How much is kept for it.
        reserved: Amounts,
    },
    /// A tenant has another isolation class of its own, or none. What runs stays where it is.
    TenantIsolationSet {
        /// Whose.
        tenant: Name,
        /// Which; none inherits.
        isolation: Option<Name>,
    },
    /// A tenant is no more.
    TenantDeleted {
        /// Which.
        tenant: Name,
        /// The tenant that was above it.
        parent: Name,
    },
    /// A user exists.
    UserCreated {
        /// Whom.
        user: User,
    },
    /// What a user may do has changed.
    UserChanged {
        /// As they are now.
        user: User,
    },
    /// A user is no more.
    UserDeleted {
        /// Whom.
        user: Subject,
    },
    /// A token was made.
    TokenCreated {
        /// It, its secret hashed.
        token: EnrollToken,
    },
    /// A token was shown and taken.
    TokenUsed {
        /// Which.
        token: TokenId,
        /// When.
        at: Timestamp,
    },
    /// A token was taken back.
    TokenDeleted {
        /// Which.
        token: TokenId,
    },
    /// Tokens that had ended are forgotten.
    TokensExpired {
        /// Which.
        tokens: Vec<TokenId>,
    },
    /// A certificate was given out.
    CertificateIssued {
        /// It.
        certificate: CertificateRecord,
    },
    /// A certificate is believed no more.
    CertificateRevoked {
        /// Its number.
        serial: Serial,
        /// Why and by whom.
        revocation: Revocation,
    },
    /// Certificates that ended before then are forgotten.
    CertificatesExpired {
        /// When.
        before: Timestamp,
    },
    /// An authority is trusted.
    AuthorityAdded {
        /// It.
        authority: AuthorityRecord,
    },
    /// An authority signs from here on; the one before signs nothing new.
    AuthorityActivated {
        /// Which.
        authority: Fingerprint,
        /// When.
        at: Timestamp,
    },
    /// An authority is trusted no longer.
    AuthorityRetired {
        /// Which.
        authority: Fingerprint,
        /// When.
        at: Timestamp,
    },
    /// Somebody may open an instance's console once.
    ConsoleGranted {
        /// Whose.
        instance: InstanceId,
        /// Its name.
        name: Name,
    },
    /// Somebody was refused; nothing changed.
    Refused {
        /// Who, what, why and how often.
        refusal: Refusal,
    },
    /// The record was restored or rebuilt: nodes are to be adopted before they follow it.
    AdoptionBegan {
        /// What happened.
        cause: Cause,
        /// When.
        at: Timestamp,
        /// When the backup was made, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backup_at: Option<Timestamp>,
        /// Which nodes, besides those that are to be already.
        nodes: BTreeSet<Name>,
    },
    /// A node's differences from the record are settled, and it follows it again.
    NodeAdopted {
        /// Its name.
        node: Name,
    },
    /// A part of the log was sealed and moved out of the store.
    SegmentSealed {
        /// It.
        segment: Segment,
        /// The time of its newest entry.
        newest: Timestamp,
    },
    /// A part of the log is past its retention and gone; its hash stays.
    SegmentDeleted {
        /// Its first entry.
        first: Seq,
        /// When.
        at: Timestamp,
    },
}

impl Event {
    /// A stable word for what happened: "instance.created".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LeaderElected { .. } => "controller.elected",
            Self::NodeJoined { .. } => "node.joined",
            Self::NodeRejoined { .. } => "node.rejoined",
            Self::NodeUpdated { .. } => "node.updated",
            Self::NodeSited { .. } => "node.sited",
            Self::NodeFingerprintChanged { .. } => "node.fingerprint_changed",
            Self::NodeRebound { .. } => "node.rebound",
            Self::NodeRevoked { .. } => "node.revoked",
            Self::NodeRemoved { .. } => "node.removed",
            Self::NodeChanged { .. } => "node.changed",
            Self::NodeEquipped { .. } => "node.equipped",
            Self::NodeReached { .. } => "node.reached",
            Self::NodeLost { .. } => "node.lost",
            Self::NodeResyncing { .. } => "node.resyncing",
            Self::NodeCordoned { .. } => "node.cordoned",
            Self::NodeUncordoned { .. } => "node.uncordoned",
            Self::NodeJudged { .. } => "node.judged",
            Self::NodeQuarantined { quarantine, .. } if quarantine.held => "node.quarantine_held",
            Self::NodeQuarantined { .. } => "node.quarantined",
            Self::NodeRecovering { .. } => "node.recovering",
            Self::NodeQuarantineEnded { .. } => "node.quarantine_ended",
            Self::NodeReleased { .. } => "node.released",
            Self::NodeReleaseEnded { .. } => "node.release_ended",
            Self::NodeDrainRequested { .. } => "node.drain_requested",
            Self::NodePartsLearned { .. } => "node.parts_learned",
            Self::NodePartsChanged { .. } => "node.parts_changed",
            Self::NodePartsAccepted { .. } => "node.parts_accepted",
            Self::ImageRegistered { .. } => "image.registered",
            Self::ImageRemoved { .. } => "image.removed",
            Self::FlavorCreated { .. } => "flavor.created",
            Self::FlavorChanged { .. } => "flavor.changed",
            Self::FlavorRemoved { .. } => "flavor.removed",
            Self::SystemCreated { .. } => "system.created",
            Self::SystemChanged { .. } => "system.changed",
            Self::SystemLive { .. } => "system.live",
            Self::SystemEnding { .. } => "system.ending",
            Self::SystemRemoved { .. } => "system.removed",
            Self::GroupCreated { .. } => "group.created",
            Self::GroupRemoved { .. } => "group.removed",
            Self::InstanceCreated { .. } => "instance.created",
            Self::IncarnationPlaced { .. } => "incarnation.placed",
            Self::IntentChanged { by_guest: true, .. } => "instance.stopped_by_guest",
            Self::IntentChanged { .. } => "instance.changed",
            Self::InstanceSystemChanged { .. } => "instance.system_changed",
            Self::InstanceResized { .. } => "instance.resized",
            Self::ClaimChanged { .. } => "incarnation.claim_changed",
            Self::InstanceDeleting { .. } => "instance.deleting",
            Self::IncarnationEnded { .. } => "incarnation.ended",
            Self::UsageMeasured { .. } => "usage.measured",
            Self::AvailabilityChanged { .. } => "instance.availability_changed",
            Self::InstanceRemoved { .. } => "instance.removed",
            Self::OperationStarted { .. } => "operation.started",
            Self::OperationEnded { .. } => "operation.ended",
            Self::RequestAnswered { .. } => "request.answered",
            Self::RequestsExpired { .. } => "request.expired",
            Self::OperationsExpired { .. } => "operation.expired",
            Self::TenantCreated { .. } => "tenant.created",
            Self::TenantUpdated { .. } => "tenant.updated",
            Self::TenantStateChanged { state, .. } => match state {
                tenant::State::Active => "tenant.resumed",
                tenant::State::Suspended => "tenant.suspended",
                tenant::State::Closing => "tenant.closing",
            },
            Self::TenantQuotaSet { .. } => "tenant.quota_set",
            Self::TenantIsolationSet { .. } => "tenant.isolation_set",
            Self::TenantDeleted { .. } => "tenant.deleted",
            Self::UserCreated { .. } => "user.created",
            Self::UserChanged { .. } => "user.changed",
            Self::UserDeleted { .. } => "user.deleted",
            Self::TokenCreated { .. } => "token.created",
            Self::TokenUsed { .. } => "token.used",
            Self::TokenDeleted { .. } => "token.deleted",
            Self::TokensExpired { .. } => "token.expired",
            Self::CertificateIssued { .. } => "certificate.issued",
            Self::CertificateRevoked { .. } => "certificate.revoked",
            Self::CertificatesExpired { .. } => "certificate.expired",
            Self::AuthorityAdded { .. } => "authority.added",
            Self::AuthorityActivated { .. } => "authority.activated",
            Self::AuthorityRetired { .. } => "authority.retired",
            Self::ConsoleGranted { .. } => "console.granted",
            Self::Refused { .. } => "refused",
            Self::AdoptionBegan { .. } => "adoption.began",
            Self::NodeAdopted { .. } => "node.adopted",
            Self::SegmentSealed { .. } => "audit.segment_sealed",
            Self::SegmentDeleted { .. } => "audit.segment_deleted",
        }
    }
}
