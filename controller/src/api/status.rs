//! Which refusal an error is: the one table for this server. The form is `kapok_proto::refusal`'s.
//!
//! Nothing that a caller sent is repeated at any length: statuses travel in headers.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use kapok_proto::refusal;
use kapok_scheduler::Rejections;
use kapok_types::{Name, Seq, Violation};
use tonic::{Code, Status};

use super::explain;
use crate::{
    fabric::{Denied, quota::Short},
    images::{self, blob},
    ledger, oidc, trust,
};

/// When a caller should come back to a server that can't answer now.
const RETRY: Duration = Duration::from_secs(1);
/// Longest message and longest detail, in bytes.
const MAX_MESSAGE_BYTES: usize = 2048;
const MAX_DETAIL_BYTES: usize = 256;
/// Fields that one refusal names, and the longest reason of each, in bytes.
const MAX_FIELDS: usize = 8;
const MAX_REASON_BYTES: usize = 384;
/// Nodes whose answer a refusal for lack of capacity spells out.
const MAX_NODES: usize = 12;

/// How tonic begins its refusal of a message over the limit.
const TOO_LARGE: &str = "Error, decoded message length too large";

/// A refusal of a command.
pub(super) fn denied(denied: &Denied) -> Status {
    let message = denied.to_string();
    let with = |code, reason, details: &[(&str, &str)]| status(code, reason, &message, details);
    match denied {
        Denied::Absent { kind, which } => with(
            Code::NotFound,
            "NOT_FOUND",
            &[("kind", kind), ("which", which)],
        ),
        Denied::Exists { kind, name, .. } => with(
            Code::AlreadyExists,
            "ALREADY_EXISTS",
            &[("kind", kind), ("name", name)],
        ),
        Denied::Invalid(violations) => bad_fields(violations),
        Denied::NoCapacity(no_fit) => no_capacity(no_fit.rejections()),
        Denied::OverQuota { tenant, short } => over_quota(&message, Some(tenant), short),
        Denied::OverQuotaAbove { dimensions, .. } => {
            let words: Vec<_> = dimensions.iter().map(|one| one.as_str()).collect();
            let details = [("dimensions", &*words.join(","))];
            with(Code::ResourceExhausted, "QUOTA", &details)
        }
        Denied::OverCapacity { short } => over_quota(&message, None, short),
        Denied::TenantState { tenant, state, .. } => with(
            Code::FailedPrecondition,
            "TENANT_STATE",
            &[("tenant", tenant.as_str()), ("state", state.as_str())],
        ),
        Denied::TenantInUse { tenant, .. } => with(
            Code::FailedPrecondition,
            "TENANT_IN_USE",
            &[("tenant", tenant.as_str())],
        ),
        Denied::Deleting { name } => {
            with(Code::FailedPrecondition, "DELETING", &[("instance", name)])
        }
        Denied::NotRunning { name } => with(
            Code::FailedPrecondition,
            "NOT_RUNNING",
            &[("instance", name)],
        ),
        Denied::NoRoom {
            instance,
            node,
            why,
        } => with(
            Code::ResourceExhausted,
            "NO_ROOM",
            &[
                ("instance", instance),
                ("node", node),
                ("filter", explain::filter_word(why.filter())),
            ],
        ),
        Denied::StaleEtag { present, .. } => {
            with(Code::Aborted, "STALE_ETAG", &[("etag", present)])
        }
        Denied::ImageInUse { name, such_as, .. } => with(
            Code::FailedPrecondition,
            "IMAGE_IN_USE",
            &[("image", name), ("instance", such_as)],
        ),
        Denied::SystemInUse { name, such_as, .. } => with(
            Code::FailedPrecondition,
            "SYSTEM_IN_USE",
            &[("system", name), ("instance", such_as)],
        ),
        Denied::GroupInUse { name, such_as, .. } => with(
            Code::FailedPrecondition,
            "GROUP_IN_USE",
            &[("group", name), ("instance", such_as)],
        ),
        Denied::OneOf {
            name,
            number,
            of,
            why,
        } => one_of(&self::denied(why), name.as_str(), *number, *of),
        Denied::OperationEnded { operation } => with(
            Code::FailedPrecondition,
            "OPERATION_ENDED",
            &[("operation", &operation.to_string())],
        ),
        Denied::NotCancellable { operation, .. } => with(
            Code::FailedPrecondition,
            "NOT_CANCELLABLE",
            &[("operation", &operation.to_string())],
        ),
        Denied::RequestIdReused { request_id } => with(
            Code::InvalidArgument,
            "REQUEST_ID_REUSED",
            &[("request_id", request_id)],
        ),
        Denied::TooLarge { size, limit } => with(
            Code::InvalidArgument,
            "TOO_LARGE",
            &[("size", &size.to_string()), ("limit", &limit.to_string())],
        ),
        Denied::WrongNode { node, known, found } => with(
            Code::FailedPrecondition,
            "WRONG_NODE",
            &[("node", node), ("known", known), ("found", found)],
        ),
        Denied::TokenRefused => with(Code::Unauthenticated, "TOKEN_REFUSED", &[]),
        Denied::Revoked { what } => with(Code::FailedPrecondition, "REVOKED", &[("what", what)]),
        Denied::Adopting { cause, .. } => with(
            Code::FailedPrecondition,
            "ADOPTING",
            &[("cause", cause.as_str())],
        ),
        Denied::NotAdopting { node } => {
            with(Code::FailedPrecondition, "NOT_ADOPTING", &[("node", node)])
        }
        Denied::FingerprintUnchanged { node } => with(
            Code::FailedPrecondition,
            "FINGERPRINT_UNCHANGED",
            &[("node", node)],
        ),
        Denied::NodeNotQuarantined { node } => with(
            Code::FailedPrecondition,
            "NODE_NOT_QUARANTINED",
            &[("node", node)],
        ),
        Denied::NodeNotReleased { node } => with(
            Code::FailedPrecondition,
            "NODE_NOT_RELEASED",
            &[("node", node)],
        ),
        Denied::NodeInUse { node, incarnations } => with(
            Code::FailedPrecondition,
            "NODE_IN_USE",
            &[("node", node), ("incarnations", &incarnations.to_string())],
        ),
        Denied::LastSecurityAdministrator { user } => with(
            Code::FailedPrecondition,
            "LAST_SECURITY_ADMINISTRATOR",
            &[("user", user)],
        ),
        Denied::Forbidden { .. } => with(Code::PermissionDenied, "FORBIDDEN", &[]),
        Denied::Disabled { user } => with(Code::PermissionDenied, "DISABLED", &[("user", user)]),
        Denied::NoAuthority { authority } => with(
            Code::FailedPrecondition,
            "NO_AUTHORITY",
            &[("authority", authority)],
        ),
        Denied::TooMany { what, most, .. } => with(
            Code::ResourceExhausted,
            "TOO_MANY",
            &[("what", what), ("most", &most.to_string())],
        ),
        Denied::OutOfOrder { first, expected } => with(
            Code::FailedPrecondition,
            "OUT_OF_ORDER",
            &[
                ("first", &first.to_string()),
                ("expected", &expected.to_string()),
            ],
        ),
    }
}

/// The refusal of one of several: which, and why. `number` is from 1.
pub(super) fn one_of(why: &Status, name: &str, number: usize, of: usize) -> Status {
    let name = clip(name, MAX_DETAIL_BYTES);
    let message = format!("{name}, {number} of {of}: {}", why.message());
    let details = [("instance", name), ("number", number.to_string())];
    let details = details.map(|(key, value)| (key.to_owned(), value));
    refusal::of_one(why, clip(&message, MAX_MESSAGE_BYTES), details)
}

/// A ticket that doesn't count for this caller and this blob, now. Why isn't said.
pub(super) fn ticket_refused() -> Status {
    let message =
        "the ticket is for another caller or another blob, has ended, or is no controller's";
    status(Code::PermissionDenied, "TICKET_REFUSED", message, &[])
}

/// A server that isn't the one that the node's name stands for.
pub(super) fn fingerprint_changed(node: &str) -> Status {
    let message = format!(
        "this server isn't the one that node {node} was; if its parts were swapped, allow it with \
         kapok node rebind {node} and join again"
    );
    status(
        Code::FailedPrecondition,
        "FINGERPRINT_CHANGED",
        &message,
        &[("node", node)],
    )
}

/// Certificates that can't be made or given.
pub(super) fn trust(error: &trust::Error) -> Status {
    match error {
        trust::Error::Ledger(error) => ledger(error),
        error => {
            // What is wrong with keys and disks is for the journal.
            tracing::error!(%error, "trust failed");
            let message = "certificates can't be given at present";
            status(Code::Internal, "TRUST_FAILED", message, &[])
        }
    }
}

/// Somebody whom the identity provider doesn't vouch for, or who can't be asked for.
pub(super) fn oidc(error: &oidc::Error) -> Status {
    match error {
        oidc::Error::Refused { .. } => login_refused(),
        oidc::Error::Unreachable { .. } | oidc::Error::Config { .. } => {
            tracing::warn!(%error, "nobody can log in through the identity provider");
            let message = "the identity provider can't be asked at present";
            unavailable("OIDC_UNREACHABLE", message)
        }
    }
}

/// Somebody whom the identity provider vouches for in vain. Why isn't said.
pub(super) fn login_refused() -> Status {
    let message = "the login is refused: log in anew; if that doesn't help, ask a security \
                   administrator whether the fabric knows you";
    status(Code::Unauthenticated, "LOGIN_REFUSED", message, &[])
}

/// A command that was not taken.
pub(super) fn ledger(error: &ledger::Error) -> Status {
    match error {
        ledger::Error::Denied(refused) => denied(refused),
        ledger::Error::Unavailable { .. } => unavailable("LOG_UNAVAILABLE", &error.to_string()),
        ledger::Error::Busy => unavailable("BUSY", &error.to_string()),
    }
}

/// An import that ended early.
pub(super) fn import(error: &images::Error) -> Status {
    match error {
        images::Error::Refused(violation) => bad_fields(std::slice::from_ref(violation)),
        images::Error::Blob(error) => blob(error),
        images::Error::Busy => unavailable("TOO_MANY_IMPORTS", &error.to_string()),
    }
}

/// A blob that can't be written or read.
pub(super) fn blob(error: &blob::Error) -> Status {
    let message = error.to_string();
    let with = |code, reason, details: &[(&str, &str)]| status(code, reason, &message, details);
    match error {
        blob::Error::Absent { digest } => with(
            Code::NotFound,
            "NOT_FOUND",
            &[("kind", "blob"), ("which", &digest.to_string())],
        ),
        blob::Error::Behind { .. } => with(Code::OutOfRange, "BEHIND_THE_END", &[]),
        blob::Error::Size { .. } => bad_field("size_bytes", &message),
        blob::Error::Mismatch { found, .. } => with(
            Code::DataLoss,
            "DIGEST_MISMATCH",
            &[("found", &found.to_string())],
        ),
        blob::Error::Full { .. } => with(Code::ResourceExhausted, "NO_SPACE", &[]),
        blob::Error::Io { source, .. } => {
            // What the system said is for the journal.
            tracing::error!(%error, %source, "the blobs' disk failed");
            with(Code::Internal, "STORAGE_FAILED", &[])
        }
    }
}

/// A log that was cut before the place that a follower asked for.
pub(super) fn trimmed(first: Seq) -> Status {
    let message = format!("the log begins at {first}; follow from there, or from 0");
    status(
        Code::OutOfRange,
        "TRIMMED",
        &message,
        &[("first", &first.to_string())],
    )
}

/// A place that the log has not reached: of another fabric, or from before a restore.
pub(super) fn ahead(after: u64, head: Seq) -> Status {
    let message = format!("the log ends at {head}, before {after}");
    status(
        Code::OutOfRange,
        "AHEAD_OF_LOG",
        &message,
        &[("head", &head.to_string())],
    )
}

/// A log that can't be read at present.
pub(super) fn store(error: &kapok_store::Error) -> Status {
    tracing::error!(%error, "the log can't be followed");
    unavailable("LOG_UNAVAILABLE", "the log can't be read at present")
}

/// Something that can't be answered now.
pub(super) fn unavailable(reason: &str, message: &str) -> Status {
    refusal::unavailable(reason, clip(message, MAX_MESSAGE_BYTES), RETRY)
}

/// One refused field.
pub(super) fn bad_field(field: &str, reason: impl Into<String>) -> Status {
    bad_fields(&[Violation::new(field, reason)])
}

/// Refused fields.
pub(super) fn bad_fields(violations: &[Violation]) -> Status {
    let clipped: Vec<_> = violations
        .iter()
        .take(MAX_FIELDS)
        .map(|one| Violation::new(&*one.field, clip(&one.reason, MAX_REASON_BYTES)))
        .collect();
    refusal::bad_request(&clipped)
}

fn no_capacity(rejections: &Rejections) -> Status {
    let mut message = rejections.to_string();
    for line in rejections.lines().take(MAX_NODES) {
        message.push_str("\n  ");
        message.push_str(&line);
    }
    let more = rejections.per_node.len().saturating_sub(MAX_NODES);
    if more > 0 {
        let _ = write!(message, "\n  and {more} more nodes; explain shows them all");
    }
    status(Code::ResourceExhausted, "NO_CAPACITY", &message, &[])
}

/// A quota that is too small, with the numbers of each dimension in which it is.
fn over_quota(message: &str, tenant: Option<&Name>, short: &[Short]) -> Status {
    let subject = tenant.map_or_else(|| "fabric".to_owned(), |name| format!("tenant/{name}"));
    let words: Vec<_> = short.iter().map(|one| one.dimension.as_str()).collect();
    let mut metadata = BTreeMap::from([("dimensions".to_owned(), words.join(","))]);
    metadata.extend(tenant.map(|name| ("tenant".to_owned(), name.to_string())));
    let violations = short.iter().map(|one| (subject.clone(), one.to_string()));
    let message = clip(message, MAX_MESSAGE_BYTES);
    refusal::over_quota("QUOTA", message, metadata, violations)
}

/// A status with a stable reason and its details.
pub(super) fn status(code: Code, reason: &str, message: &str, details: &[(&str, &str)]) -> Status {
    let details: BTreeMap<_, _> = details
        .iter()
        .map(|(key, value)| ((*key).to_owned(), clip(value, MAX_DETAIL_BYTES)))
        .collect();
    refusal::status(code, reason, clip(message, MAX_MESSAGE_BYTES), details)
}

/// FAULTS 18: a message over the limit is a resource that isn't there, not a range.
pub(super) fn too_large(status: Status) -> Status {
    if status.code() == Code::OutOfRange && status.message().starts_with(TOO_LARGE) {
        let message = format!(
            "a message of this size isn't taken; the limit is {} bytes",
            kapok_proto::MAX_MESSAGE_BYTES
        );
        return self::status(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", &message, &[]);
    }
    status
}

/// The same for messages that are refused before a handler sees them.
pub(super) fn oversize<B: Default>(
    response: tonic::codegen::http::Response<B>,
) -> tonic::codegen::http::Response<B> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::OutOfRange => {
            let mapped = too_large(status);
            if mapped.code() == Code::ResourceExhausted {
                return mapped.into_http();
            }
            response
        }
        _ => response,
    }
}

fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut cut = text
        .get(..text.floor_char_boundary(most))
        .unwrap_or_default()
        .to_owned();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests;
