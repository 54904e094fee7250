//! Which status each error becomes. The whole table is here, and a test holds it.

use std::{collections::BTreeMap, time::Duration};

use kapok_proto::refusal;
use kapok_types::{IncarnationId, Violation};
use tonic::{Code, Status};

use crate::{driver, health, images, instance::state::Refusal, trust, trust::with_causes};

/// When to try again after something that passes by itself.
const RETRY: Duration = Duration::from_secs(1);

/// A refused change.
pub fn refused(refusal: Refusal) -> Status {
    let text = with_causes(&refusal);
    let plain = |code, reason| refusal::status(code, reason, text.clone(), BTreeMap::new());
    let with = |code, reason, key: &str, value: String| {
        let metadata = BTreeMap::from([(key.to_owned(), value)]);
        refusal::status(code, reason, text.clone(), metadata)
    };
    match refusal {
        Refusal::StaleEpoch { stored, .. } => with(
            Code::FailedPrecondition,
            "STALE_EPOCH",
            "stored_epoch",
            stored.to_string(),
        ),
        Refusal::WrongNode { here, .. } => with(
            Code::FailedPrecondition,
            "WRONG_NODE",
            "node_id",
            here.to_string(),
        ),
        Refusal::Released => plain(Code::FailedPrecondition, "RELEASED"),
        Refusal::NeedsResync => plain(Code::FailedPrecondition, "NEEDS_RESYNC"),
        Refusal::StaleGeneration { held, .. } => with(
            Code::Aborted,
            "STALE_GENERATION",
            "generation",
            held.to_string(),
        ),
        Refusal::ContentMismatch { generation } => with(
            Code::Aborted,
            "CONTENT_MISMATCH",
            "generation",
            generation.to_string(),
        ),
        Refusal::Immutable(violation) => bad(&[violation]),
        Refusal::NotOffered(violation) => with(
            Code::FailedPrecondition,
            "NOT_OFFERED",
            "field",
            violation.field,
        ),
        Refusal::Busy => refusal::unavailable("BUSY", text, RETRY),
        Refusal::Starting { retry } => refusal::unavailable("HYPERVISOR_UNSEEN", text, retry),
        Refusal::TooMany { .. } => plain(Code::ResourceExhausted, "TOO_MANY"),
        Refusal::Store(_) => refusal::unavailable("STORE", text, RETRY),
        Refusal::Stopping => refusal::unavailable("STOPPING", text, RETRY),
    }
}

/// A failed call to the hypervisor that a person or the controller waited for.
pub fn driver(error: &driver::Error) -> Status {
    let text = error.to_string();
    let plain = |code, reason| refusal::status(code, reason, text.clone(), BTreeMap::new());
    match error {
        driver::Error::Absent { .. } => plain(Code::NotFound, "ABSENT"),
        driver::Error::Unavailable { .. } => refusal::unavailable("HYPERVISOR_DOWN", text, RETRY),
        driver::Error::Quarantined => refusal::unavailable("QUARANTINED", text, RETRY),
        driver::Error::Busy { .. } => refusal::unavailable("BUSY", text, RETRY),
        driver::Error::Locked { .. } => plain(Code::FailedPrecondition, "LOCKED"),
        driver::Error::NoSpace { .. } => plain(Code::ResourceExhausted, "NO_SPACE"),
        driver::Error::InUse { .. } => plain(Code::FailedPrecondition, "IMAGE_IN_USE"),
        driver::Error::Lacking { .. } => plain(Code::Unimplemented, "LACKING"),
        driver::Error::Failed { .. } => plain(Code::FailedPrecondition, "HYPERVISOR_REFUSED"),
    }
}

/// A failed call to the image cache.
pub fn image(error: &images::Error) -> Status {
    let text = with_causes(error);
    let plain = |code, reason| refusal::status(code, reason, text.clone(), BTreeMap::new());
    match error {
        images::Error::Mismatch { .. } => plain(Code::DataLoss, "IMAGE_MISMATCH"),
        images::Error::TooLong { .. } => plain(Code::DataLoss, "IMAGE_TOO_LONG"),
        images::Error::TooLarge { .. } => plain(Code::InvalidArgument, "IMAGE_TOO_LARGE"),
        images::Error::NoSource { .. } => refusal::unavailable("NO_IMAGE_SOURCE", text, RETRY),
        images::Error::Conflict { .. } => plain(Code::FailedPrecondition, "IMAGE_CONFLICT"),
        images::Error::Spool { .. } => refusal::unavailable("SPOOL", text, RETRY),
        images::Error::NoRoom { .. } => plain(Code::ResourceExhausted, "SPOOL_FULL"),
        images::Error::InUse { .. } => plain(Code::FailedPrecondition, "IMAGE_IN_USE"),
        images::Error::Pool(error) => driver(error),
        images::Error::Local { .. } => refusal::unavailable("STORE", text, RETRY),
        images::Error::Interrupted => refusal::unavailable("STOPPING", text, RETRY),
    }
}

/// Trust that can't be changed.
pub fn trust(error: &trust::Error) -> Status {
    let text = with_causes(error);
    match error {
        trust::Error::Illegal { field, reason } => bad(&[Violation::new(*field, reason.clone())]),
        trust::Error::Files { .. } => refusal::unavailable("STORE", text, RETRY),
        trust::Error::Key(_) => refusal::unavailable("KEY", text, RETRY),
        trust::Error::NotJoined | trust::Error::Stranger { .. } => refusal::status(
            Code::FailedPrecondition,
            "NOT_JOINED",
            text,
            BTreeMap::new(),
        ),
    }
}

/// The server's health half, which has nothing to tell yet, or can't keep what it was told.
pub fn health(error: &health::Error) -> Status {
    let text = with_causes(error);
    match error {
        health::Error::Unjudged => refusal::unavailable("HEALTH_UNREAD", text, RETRY),
        health::Error::Unread => refusal::unavailable("INVENTORY_UNREAD", text, RETRY),
        health::Error::Store(_) => refusal::unavailable("STORE", text, RETRY),
    }
}

/// Fields that can't be taken.
pub fn bad(violations: &[Violation]) -> Status {
    refusal::bad_request(violations)
}

/// An incarnation that this node doesn't have.
pub fn no_such_incarnation(incarnation: IncarnationId) -> Status {
    refusal::status(
        Code::NotFound,
        "ABSENT",
        format!("this node has no incarnation {incarnation}"),
        BTreeMap::new(),
    )
}

#[cfg(test)]
mod tests {
    use kapok_types::{Digest, Epoch, Generation, NodeId, instance::DiskFormat};
    use uuid::Uuid;

    use super::*;

    fn line(status: &Status) -> String {
        let reason = refusal::reason(status).unwrap_or_default();
        format!("{:?} {reason}", status.code())
    }

    /// The golden table: every error of ours, its code and its reason.
    #[test]
    fn the_whole_table() {
        let node = NodeId(Uuid::nil());
        let digest = Digest::of(b"x");
        let text = String::new;
        let stored = crate::local::Error::Io {
            file: "store".into(),
            reason: "full".into(),
        };
        let changes = [
            Refusal::StaleEpoch {
                sent: Epoch(1),
                stored: Epoch(2),
            },
            Refusal::WrongNode {
                here: node,
                sent: node,
            },
            Refusal::Released,
            Refusal::NeedsResync,
            Refusal::StaleGeneration {
                sent: Generation(1),
                held: Generation(2),
            },
            Refusal::ContentMismatch {
                generation: Generation(2),
            },
            Refusal::Immutable(Violation::new("spec.root", "can't change")),
            Refusal::NotOffered(Violation::new("assignment.devices", "none here")),
            Refusal::Busy,
            Refusal::Starting { retry: RETRY },
            Refusal::TooMany {
                what: "x",
                count: 2,
                limit: 1,
            },
            Refusal::Store(stored),
            Refusal::Stopping,
        ];
        let calls = [
            driver::Error::Absent { what: text() },
            driver::Error::Unavailable { reason: text() },
            driver::Error::Quarantined,
            driver::Error::Busy { lane: "query" },
            driver::Error::Locked { reason: text() },
            driver::Error::NoSpace { reason: text() },
            driver::Error::InUse { overlays: 1 },
            driver::Error::Lacking {
                capability: "console",
            },
            driver::Error::Failed {
                call: "start",
                reason: text(),
            },
        ];
        let pulls = [
            images::Error::Mismatch {
                place: "x",
                expected: digest,
                found: digest,
            },
            images::Error::TooLong {
                from: text(),
                announced: 1,
            },
            images::Error::TooLarge { bytes: 2, limit: 1 },
            images::Error::NoSource {
                digest,
                done_bytes: 0,
                last: text(),
            },
            images::Error::Conflict {
                digest,
                format: DiskFormat::Raw,
                bytes: 1,
            },
            images::Error::Spool { reason: text() },
            images::Error::NoRoom { reason: text() },
            images::Error::InUse { overlays: 1 },
            images::Error::Pool(driver::Error::Quarantined),
            images::Error::Local { reason: text() },
            images::Error::Interrupted,
        ];
        let trusts = [
            trust::Error::Illegal {
                field: "chain_pem",
                reason: text(),
            },
            trust::Error::Files {
                folder: "trust".into(),
                reason: text(),
            },
            trust::Error::NotJoined,
        ];
        let healths = [
            health::Error::Unjudged,
            health::Error::Unread,
            health::Error::Store(text()),
        ];
        let table: Vec<_> = changes
            .into_iter()
            .map(refused)
            .chain(calls.iter().map(driver))
            .chain(pulls.iter().map(image))
            .chain(trusts.iter().map(trust))
            .chain(healths.iter().map(health))
            .chain([no_such_incarnation(IncarnationId(Uuid::nil()))])
            .map(|status| line(&status))
            .collect();
        let expected = [
            "FailedPrecondition STALE_EPOCH",
            "FailedPrecondition WRONG_NODE",
            "FailedPrecondition RELEASED",
            "FailedPrecondition NEEDS_RESYNC",
            "Aborted STALE_GENERATION",
            "Aborted CONTENT_MISMATCH",
            "InvalidArgument BAD_REQUEST",
            "FailedPrecondition NOT_OFFERED",
            "Unavailable BUSY",
            "Unavailable HYPERVISOR_UNSEEN",
            "ResourceExhausted TOO_MANY",
            "Unavailable STORE",
            "Unavailable STOPPING",
            "NotFound ABSENT",
            "Unavailable HYPERVISOR_DOWN",
            "Unavailable QUARANTINED",
            "Unavailable BUSY",
            "FailedPrecondition LOCKED",
            "ResourceExhausted NO_SPACE",
            "FailedPrecondition IMAGE_IN_USE",
            "Unimplemented LACKING",
            "FailedPrecondition HYPERVISOR_REFUSED",
            "DataLoss IMAGE_MISMATCH",
            "DataLoss IMAGE_TOO_LONG",
            "InvalidArgument IMAGE_TOO_LARGE",
            "Unavailable NO_IMAGE_SOURCE",
            "FailedPrecondition IMAGE_CONFLICT",
            "Unavailable SPOOL",
            "ResourceExhausted SPOOL_FULL",
            "FailedPrecondition IMAGE_IN_USE",
            "Unavailable QUARANTINED",
            "Unavailable STORE",
            "Unavailable STOPPING",
            "InvalidArgument BAD_REQUEST",
            "Unavailable STORE",
            "FailedPrecondition NOT_JOINED",
            "Unavailable HEALTH_UNREAD",
            "Unavailable INVENTORY_UNREAD",
            "Unavailable STORE",
            "NotFound ABSENT",
        ];
        assert_eq!(table, expected);
    }
}
