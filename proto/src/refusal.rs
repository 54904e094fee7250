//! How a refusal looks on the wire: a status with `google.rpc.ErrorInfo` and friends.
//!
//! The servers' own `status.rs` decide *which* refusal an error is; this module only writes and
//! reads the form, so that it is the same everywhere.

use std::{collections::BTreeMap, time::Duration};

use kapok_types::Violation;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `ErrorInfo.domain` of every refusal of ours.
pub const DOMAIN: &str = "kapok";

/// A status with an `ErrorInfo` whose reason is a stable upper-case word.
pub fn status(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: BTreeMap<String, String>,
) -> Status {
    let details = ErrorDetails::with_error_info(
        reason,
        DOMAIN,
        metadata.into_iter().collect::<tonic_types_map::Map>(),
    );
    Status::with_error_details(code, message, details)
}

/// `INVALID_ARGUMENT` with one field violation each.
pub fn bad_request(violations: &[Violation]) -> Status {
    let mut details = ErrorDetails::new();
    for violation in violations {
        details.add_bad_request_violation(&violation.field, &violation.reason);
    }
    details.set_error_info("BAD_REQUEST", DOMAIN, tonic_types_map::Map::new());
    let message = violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// `UNAVAILABLE` that tells the caller when to try again.
pub fn unavailable(reason: &str, message: impl Into<String>, retry: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(retry));
    details.set_error_info(reason, DOMAIN, tonic_types_map::Map::new());
    Status::with_error_details(Code::Unavailable, message, details)
}

/// `RESOURCE_EXHAUSTED` for somebody who asks too often, with the time to wait.
pub fn too_fast(reason: &str, message: impl Into<String>, retry: Duration) -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(retry));
    details.set_error_info(reason, DOMAIN, tonic_types_map::Map::new());
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// `RESOURCE_EXHAUSTED` with one quota violation for each (subject, description).
pub fn over_quota(
    reason: &str,
    message: impl Into<String>,
    metadata: BTreeMap<String, String>,
    violations: impl IntoIterator<Item = (String, String)>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(
        reason,
        DOMAIN,
        metadata.into_iter().collect::<tonic_types_map::Map>(),
    );
    for (subject, description) in violations {
        details.add_quota_failure_violation(subject, description);
    }
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// The same refusal with another message and further details: it holds for one of several.
pub fn of_one(
    why: &Status,
    message: impl Into<String>,
    more: impl IntoIterator<Item = (String, String)>,
) -> Status {
    let mut details = why.get_error_details();
    if let Some(mut info) = details.error_info().cloned() {
        info.metadata.extend(more);
        details.set_error_info(info.reason, info.domain, info.metadata);
    }
    Status::with_error_details(why.code(), message, details)
}

/// The stable reason of a refusal of ours, if it is one.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}

/// One of a refusal's details, by its key, such as the "kind" of what isn't there.
pub fn detail(status: &Status, key: &str) -> Option<String> {
    let info = status.get_details_error_info()?;
    let ours = info.domain == DOMAIN;
    info.metadata.get(key).filter(|_| ours).cloned()
}

/// The field violations of a refusal.
pub fn violations(status: &Status) -> Vec<Violation> {
    status
        .get_details_bad_request()
        .map(|bad| {
            bad.field_violations
                .into_iter()
                .map(|violation| Violation::new(violation.field, violation.description))
                .collect()
        })
        .unwrap_or_default()
}

/// `tonic-types` wants the unordered map of the standard library in its signature.
mod tonic_types_map {
    #[expect(clippy::disallowed_types, reason = "the signature of a foreign crate")]
    pub(super) type Map = std::collections::HashMap<String, String>;
}
