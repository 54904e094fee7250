//! Why a command was refused: one closed list, mapped to statuses in `api/status.rs`.

use kapok_scheduler::{NoFit, Rejection};
use kapok_types::{Name, OperationId, Seq, Violation};

use super::{Dimension, adoption::Cause, quota::Short, tenant};

/// A refusal. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no such thing.
    #[error("no {kind} is called {which:?}")]
    Absent {
        /// "instance", "node", "image", "flavor", "system", "group", "operation", "tenant",
        /// "user", "token", "certificate".
        kind: &'static str,
        /// As it was asked for.
        which: String,
    },
    /// The name is taken.
    #[error("{kind} {name} exists already{}", otherwise(.but))]
    Exists {
        /// "instance", "image", "flavor", "system", "group", "tenant", "user".
        kind: &'static str,
        /// The name.
        name: String,
        /// What is different and what to do, or empty.
        but: &'static str,
    },
    /// Fields break their limits.
    #[error("{}", list(.0))]
    Invalid(Vec<Violation>),
    /// No node takes it.
    #[error("{0}")]
    NoCapacity(NoFit),
    /// A quota on the way from a tenant to the root has no room for it.
    #[error("the quota of tenant {tenant} has no room for it: {}", list(.short))]
    OverQuota {
        /// Whose quota.
        tenant: Name,
        /// In which dimensions, with the numbers.
        short: Vec<Short>,
    },
    /// The same with a quota of which the caller may not know the numbers.
    #[error("a quota above tenant {tenant} has no room for it: {}", nouns(.dimensions))]
    OverQuotaAbove {
        /// Who asked for more.
        tenant: Name,
        /// In which dimensions.
        dimensions: Vec<Dimension>,
    },
    /// More would be reserved than the fabric's nodes have.
    #[error("the fabric's nodes have no room for the reservation: {}", list(.short))]
    OverCapacity {
        /// In which dimensions, with the numbers.
        short: Vec<Short>,
    },
    /// The tenant, or one above it, may not do this at present.
    #[error("tenant {tenant} is {}: {refused}", .state.as_str())]
    TenantState {
        /// Which of them.
        tenant: Name,
        /// What it is.
        state: tenant::State,
        /// What it may not do, in words.
        refused: &'static str,
    },
    /// There is something in the tenant, or somebody has a role in it.
    #[error("tenant {tenant} isn't empty: it has {has}, such as {such_as}")]
    TenantInUse {
        /// Which.
        tenant: Name,
        /// What and how many, in words.
        has: String,
        /// One of them.
        such_as: String,
    },
    /// The instance is being deleted.
    #[error("instance {name} is being deleted; create it anew once it is gone")]
    Deleting {
        /// Its name.
        name: String,
    },
    /// It makes no sense while the instance is meant to be off.
    #[error("instance {name} is meant to be off; start it instead")]
    NotRunning {
        /// Its name.
        name: String,
    },
    /// The instance's node can't give it more.
    #[error(
        "node {node} can't give instance {instance} more: {why:#}; it would have to move first, \
         and moving comes later"
    )]
    NoRoom {
        /// Which instance.
        instance: String,
        /// Where it is.
        node: String,
        /// Why not, with the numbers.
        why: Box<Rejection>,
    },
    /// The caller's picture of it is old.
    #[error(
        "the etag is {given}, but the {kind} has changed: it is {present} now; read it again and retry with the new etag"
    )]
    StaleEtag {
        /// "instance", "flavor", "system", "list of differences".
        kind: &'static str,
        /// What was given.
        given: String,
        /// What it is.
        present: String,
    },
    /// The image is used.
    #[error("image {name} is used by {instances} instances, such as {such_as}; delete them first")]
    ImageInUse {
        /// Its name.
        name: String,
        /// By how many.
        instances: usize,
        /// One of them.
        such_as: String,
    },
    /// The group has members.
    #[error("group {name} has {instances} members, such as {such_as}; delete them first")]
    GroupInUse {
        /// Its name.
        name: String,
        /// How many.
        instances: usize,
        /// One of them.
        such_as: String,
    },
    /// One of several can't be, so none is.
    #[error("{name}, {number} of {of}: {why}")]
    OneOf {
        /// Its name.
        name: Name,
        /// Its place among them, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// Why.
        why: Box<Denied>,
    },
    /// The system has instances.
    #[error("system {name} has {instances} instances, such as {such_as}; delete them first")]
    SystemInUse {
        /// Its name.
        name: String,
        /// How many.
        instances: usize,
        /// One of them.
        such_as: String,
    },
    /// The operation has ended.
    #[error("operation {operation} has ended already; read it to see how")]
    OperationEnded {
        /// Which.
        operation: OperationId,
    },
    /// This operation can't be taken back.
    #[error("operation {operation} can't be cancelled: {reason}")]
    NotCancellable {
        /// Which.
        operation: OperationId,
        /// Why.
        reason: &'static str,
    },
    /// The request id came before with other content.
    #[error("request id {request_id:?} was used before for something else; choose a new one")]
    RequestIdReused {
        /// The id.
        request_id: String,
    },
    /// The facts that follow don't fit into one entry of the log.
    #[error(
        "the change takes {size} bytes of the log, at most {limit} are allowed; ask for less at once"
    )]
    TooLarge {
        /// What it takes, in bytes.
        size: u64,
        /// What it may take.
        limit: u64,
    },
    /// A node's name and another identity, or the other way round.
    #[error(
        "node {node} is {known}, but here is {found}; give the new server another name, or put \
         the old one back"
    )]
    WrongNode {
        /// The name.
        node: String,
        /// Whom the fabric knows.
        known: String,
        /// Who came.
        found: String,
    },
    /// The token is no good. Which of the reasons holds isn't said.
    #[error("the token is refused: it is unknown, used up, or has ended; ask for a new one")]
    TokenRefused,
    /// It was revoked.
    #[error("{what} is revoked; a new token brings it back")]
    Revoked {
        /// "node NAME" or "certificate SERIAL".
        what: String,
    },
    /// There is nothing to rebind.
    #[error("the server of node {node} is the one that the fabric knows, and so are its parts")]
    FingerprintUnchanged {
        /// Its name.
        node: String,
    },
    /// No verdict keeps instances off the node.
    #[error("node {node} is in no quarantine; there is nothing to release it from")]
    NodeNotQuarantined {
        /// Its name.
        node: String,
    },
    /// Nobody's word goes before the node's verdicts.
    #[error("node {node} is not released; its verdicts decide already")]
    NodeNotReleased {
        /// Its name.
        node: String,
    },
    /// Something waits for nodes to be adopted.
    #[error(
        "the fabric's record was {}, and {nodes} nodes are still to be adopted: look at kapok node \
         differences, then kapok node adopt",
        .cause.as_str()
    )]
    Adopting {
        /// What happened to the record.
        cause: Cause,
        /// How many nodes.
        nodes: usize,
    },
    /// The node follows the record already.
    #[error("node {node} follows the fabric's record; there is nothing to adopt")]
    NotAdopting {
        /// Its name.
        node: String,
    },
    /// The node carries something.
    #[error("node {node} carries {incarnations} instances; delete or move them first")]
    NodeInUse {
        /// Its name.
        node: String,
        /// How many incarnations.
        incarnations: usize,
    },
    /// Nobody would be left who can give roles.
    #[error("{user} is the last security administrator; make another one first")]
    LastSecurityAdministrator {
        /// Who.
        user: String,
    },
    /// The caller may not do this, whatever the policies say.
    #[error("{reason}")]
    Forbidden {
        /// Why, in words.
        reason: &'static str,
    },
    /// Somebody may do nothing at present.
    #[error("{user} is disabled")]
    Disabled {
        /// Who.
        user: String,
    },
    /// No authority signs yet, or not this one.
    #[error("authority {authority} doesn't sign certificates of this fabric")]
    NoAuthority {
        /// Its fingerprint.
        authority: String,
    },
    /// There are as many of something as there may be.
    #[error("{what}: there are {most} already; {instead}")]
    TooMany {
        /// Of what, and whose.
        what: String,
        /// How many there may be.
        most: usize,
        /// What to do.
        instead: &'static str,
    },
    /// A part of the log that doesn't follow the one before.
    #[error("the segment begins at entry {first}, where {expected} is the next")]
    OutOfOrder {
        /// Where it begins.
        first: Seq,
        /// Where it must.
        expected: Seq,
    },
}

impl Denied {
    /// Why itself: of one of several, why that one.
    pub fn cause(&self) -> &Self {
        match self {
            Self::OneOf { why, .. } => why.cause(),
            other => other,
        }
    }
}

fn otherwise(but: &str) -> &str {
    if but.is_empty() {
        "; choose another name"
    } else {
        but
    }
}

fn nouns(dimensions: &[Dimension]) -> String {
    let nouns: Vec<_> = dimensions.iter().map(|one| one.noun()).collect();
    nouns.join(", ")
}

fn list(all: &[impl ToString]) -> String {
    all.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
