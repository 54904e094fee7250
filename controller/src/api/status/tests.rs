use std::{io, sync::Arc};

use kapok_scheduler::{Capacity, Delta, Fleet, NoFit, Node, Policy, Rejection, Request, place};
use kapok_types::{
    Bytes, Digest, MemoryMib, NodeId, OperationId, Vcpus,
    instance::{Arch, MemoryClaim},
};

use tonic_types::StatusExt as _;

use super::*;
use crate::fabric::{Dimension, tenant::State};

/// One line an error: code, reason, message.
fn line(status: &Status) -> String {
    let reason = refusal::reason(status).expect("every refusal of ours has a reason");
    let retry = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    assert_eq!(
        retry.is_some(),
        status.code() == Code::Unavailable,
        "{status:?}"
    );
    format!("{:?} {reason}: {}", status.code(), status.message())
}

fn operation() -> OperationId {
    OperationId(uuid::Uuid::from_u128(7))
}

fn no_fit(nodes: u128) -> NoFit {
    let node = |number| {
        Delta::NodePut(Node {
            id: NodeId(uuid::Uuid::from_u128(number)),
            name: format!("node-{number}").parse().unwrap(),
            arch: Arch::X86_64,
            capacity: Capacity {
                vcpus: Vcpus(1),
                ..Capacity::default()
            },
            vcpu_overcommit_permille: 1000,
            cordoned: number == 2,
            quarantined: false,
            distrust: None,
            reachable: true,
            resyncing: false,
            tier: 0,
            rack: None,
            room: None,
            labels: BTreeMap::new(),
            isolation: None,
            equipment: Arc::default(),
        })
    };
    let memory = MemoryClaim::of(MemoryMib(64), Vcpus(2));
    let request = Request::new(Arch::X86_64, Vcpus(2), memory);
    let fleet = Fleet::default().with((1..=nodes).map(node));
    place(&fleet, &request, &Policy::default()).unwrap_err()
}

/// STYLE 9: the whole table. A new variant doesn't compile until it has its line above, and a
/// changed code or reason breaks programs of our users.
#[test]
fn every_refusal_has_its_status() {
    let name = || "web-1".to_owned();
    let table = [
        (
            Denied::Absent {
                kind: "instance",
                which: name(),
            },
            "NotFound NOT_FOUND: no instance is called \"web-1\"",
        ),
        (
            Denied::Exists {
                kind: "image",
                name: name(),
                but: " with other content; choose another name",
            },
            "AlreadyExists ALREADY_EXISTS: image web-1 exists already with other content; choose \
             another name",
        ),
        (
            Denied::Exists {
                kind: "instance",
                name: name(),
                but: "",
            },
            "AlreadyExists ALREADY_EXISTS: instance web-1 exists already; choose another name",
        ),
        (
            Denied::Invalid(vec![Violation::new("vcpus", "is 0; must be 1 to 512")]),
            "InvalidArgument BAD_REQUEST: vcpus: is 0; must be 1 to 512",
        ),
        (
            Denied::NoCapacity(no_fit(2)),
            "ResourceExhausted NO_CAPACITY: no node fits: 1 is cordoned, 1 lacks vCPUs\n  \
             node-1: vCPUs 1 free of 2 asked\n  node-2: cordoned",
        ),
        (
            Denied::OverQuota {
                tenant: "water".parse().unwrap(),
                short: vec![
                    Short {
                        dimension: Dimension::Vcpus,
                        held: 60,
                        asked: 8,
                        limit: 64,
                    },
                    Short {
                        dimension: Dimension::MemoryMib,
                        held: 200 << 10,
                        asked: 64 << 10,
                        limit: 256 << 10,
                    },
                ],
            },
            "ResourceExhausted QUOTA: the quota of tenant water has no room for it: vCPUs: 60 of \
             64 used or reserved, 8 more asked; memory: 200 GiB of 256 GiB used or reserved, 64 \
             GiB more asked",
        ),
        (
            Denied::OverQuotaAbove {
                tenant: "water".parse().unwrap(),
                dimensions: vec![Dimension::Vcpus, Dimension::VolumeBytes],
            },
            "ResourceExhausted QUOTA: a quota above tenant water has no room for it: vCPUs, volume \
             size",
        ),
        (
            Denied::OverCapacity {
                short: vec![Short {
                    dimension: Dimension::Vcpus,
                    held: 20,
                    asked: 5,
                    limit: 24,
                }],
            },
            "ResourceExhausted QUOTA: the fabric's nodes have no room for the reservation: vCPUs: \
             20 of 24 used or reserved, 5 more asked",
        ),
        (
            Denied::TenantState {
                tenant: "water".parse().unwrap(),
                state: State::Suspended,
                refused: "nothing new can be made in it",
            },
            "FailedPrecondition TENANT_STATE: tenant water is suspended: nothing new can be made \
             in it",
        ),
        (
            Denied::TenantInUse {
                tenant: "water".parse().unwrap(),
                has: "2 instances".into(),
                such_as: "web".into(),
            },
            "FailedPrecondition TENANT_IN_USE: tenant water isn't empty: it has 2 instances, such \
             as web",
        ),
        (
            Denied::Deleting { name: name() },
            "FailedPrecondition DELETING: instance web-1 is being deleted; create it anew once \
             it is gone",
        ),
        (
            Denied::NotRunning { name: name() },
            "FailedPrecondition NOT_RUNNING: instance web-1 is meant to be off; start it instead",
        ),
        (
            Denied::NoRoom {
                instance: name(),
                node: "node-1".into(),
                why: Box::new(Rejection::Quarantined),
            },
            "ResourceExhausted NO_ROOM: node node-1 can't give instance web-1 more: quarantined; it \
             would have to move first, and moving comes later",
        ),
        (
            Denied::StaleEtag {
                kind: "instance",
                given: "a".into(),
                present: "b".into(),
            },
            "Aborted STALE_ETAG: the etag is a, but the instance has changed: it is b now; read it \
             again and retry with the new etag",
        ),
        (
            Denied::ImageInUse {
                name: name(),
                instances: 2,
                such_as: "db".into(),
            },
            "FailedPrecondition IMAGE_IN_USE: image web-1 is used by 2 instances, such as db; delete \
             them first",
        ),
        (
            Denied::SystemInUse {
                name: name(),
                instances: 2,
                such_as: "db".into(),
            },
            "FailedPrecondition SYSTEM_IN_USE: system web-1 has 2 instances, such as db; delete \
             them first",
        ),
        (
            Denied::GroupInUse {
                name: "web".into(),
                instances: 3,
                such_as: name(),
            },
            "FailedPrecondition GROUP_IN_USE: group web has 3 members, such as web-1; delete them \
             first",
        ),
        (
            Denied::OneOf {
                name: "web-2".parse().unwrap(),
                number: 2,
                of: 3,
                why: Box::new(Denied::NoCapacity(no_fit(2))),
            },
            "ResourceExhausted NO_CAPACITY: web-2, 2 of 3: no node fits: 1 is cordoned, 1 lacks \
             vCPUs\n  node-1: vCPUs 1 free of 2 asked\n  node-2: cordoned",
        ),
        (
            Denied::OperationEnded {
                operation: operation(),
            },
            "FailedPrecondition OPERATION_ENDED: operation 00000000-0000-0000-0000-000000000007 \
             has ended already; read it to see how",
        ),
        (
            Denied::NotCancellable {
                operation: operation(),
                reason: "too late",
            },
            "FailedPrecondition NOT_CANCELLABLE: operation 00000000-0000-0000-0000-000000000007 \
             can't be cancelled: too late",
        ),
        (
            Denied::RequestIdReused { request_id: name() },
            "InvalidArgument REQUEST_ID_REUSED: request id \"web-1\" was used before for \
             something else; choose a new one",
        ),
        (
            Denied::TooLarge { size: 9, limit: 5 },
            "InvalidArgument TOO_LARGE: the change takes 9 bytes of the log, at most 5 are \
             allowed; ask for less at once",
        ),
        (
            Denied::WrongNode {
                node: name(),
                known: "a".into(),
                found: "b".into(),
            },
            "FailedPrecondition WRONG_NODE: node web-1 is a, but here is b; give the new server \
             another name, or put the old one back",
        ),
        (
            Denied::TokenRefused,
            "Unauthenticated TOKEN_REFUSED: the token is refused: it is unknown, used up, or has \
             ended; ask for a new one",
        ),
        (
            Denied::Revoked {
                what: "node web-1".into(),
            },
            "FailedPrecondition REVOKED: node web-1 is revoked; a new token brings it back",
        ),
        (
            Denied::FingerprintUnchanged { node: name() },
            "FailedPrecondition FINGERPRINT_UNCHANGED: the server of node web-1 is the one that \
             the fabric knows, and so are its parts",
        ),
        (
            Denied::NodeNotQuarantined { node: name() },
            "FailedPrecondition NODE_NOT_QUARANTINED: node web-1 is in no quarantine; there is \
             nothing to release it from",
        ),
        (
            Denied::Adopting {
                cause: crate::fabric::adoption::Cause::Restored,
                nodes: 3,
            },
            "FailedPrecondition ADOPTING: the fabric's record was restored, and 3 nodes are still to \
             be adopted: look at kapok node differences, then kapok node adopt",
        ),
        (
            Denied::NotAdopting { node: name() },
            "FailedPrecondition NOT_ADOPTING: node web-1 follows the fabric's record; there is \
             nothing to adopt",
        ),
        (
            Denied::NodeNotReleased { node: name() },
            "FailedPrecondition NODE_NOT_RELEASED: node web-1 is not released; its verdicts decide \
             already",
        ),
        (
            Denied::NodeInUse {
                node: name(),
                incarnations: 2,
            },
            "FailedPrecondition NODE_IN_USE: node web-1 carries 2 instances; delete or move them \
             first",
        ),
        (
            Denied::LastSecurityAdministrator {
                user: "user/li".into(),
            },
            "FailedPrecondition LAST_SECURITY_ADMINISTRATOR: user/li is the last security \
             administrator; make another one first",
        ),
        (
            Denied::Forbidden {
                reason: "this is the whole fabric's",
            },
            "PermissionDenied FORBIDDEN: this is the whole fabric's",
        ),
        (
            Denied::Disabled {
                user: "user/li".into(),
            },
            "PermissionDenied DISABLED: user/li is disabled",
        ),
        (
            Denied::NoAuthority {
                authority: "ab".into(),
            },
            "FailedPrecondition NO_AUTHORITY: authority ab doesn't sign certificates of this \
             fabric",
        ),
        (
            Denied::TooMany {
                what: "live certificates of user/li".into(),
                most: 32,
                instead: "revoke some",
            },
            "ResourceExhausted TOO_MANY: live certificates of user/li: there are 32 already; \
             revoke some",
        ),
        (
            Denied::OutOfOrder {
                first: Seq(9),
                expected: Seq(5),
            },
            "FailedPrecondition OUT_OF_ORDER: the segment begins at entry 9, where 5 is the next",
        ),
    ];
    for (error, expected) in table {
        assert_eq!(line(&denied(&error)), expected);
        assert_eq!(line(&ledger(&ledger::Error::Denied(error))), expected);
    }
}

#[test]
fn every_other_error_has_its_status() {
    let digest = Digest([0xab; 32]);
    let other = Digest([0xcd; 32]);
    let expected_hex = "ab".repeat(32);
    let table = [
        (
            ledger(&ledger::Error::Unavailable {
                reason: "full".into(),
            }),
            "Unavailable LOG_UNAVAILABLE: the log can't be written at present: full".to_owned(),
        ),
        (
            ledger(&ledger::Error::Busy),
            "Unavailable BUSY: too many changes wait; try again in a moment".into(),
        ),
        (
            import(&images::Error::Refused(Violation::new("format", "is raw"))),
            "InvalidArgument BAD_REQUEST: format: is raw".into(),
        ),
        (
            import(&images::Error::Busy),
            "Unavailable TOO_MANY_IMPORTS: 4 imports are under way already; try again when one \
             has ended"
                .into(),
        ),
        (
            blob(&blob::Error::Absent { digest }),
            format!("NotFound NOT_FOUND: no blob sha256:{expected_hex} is stored"),
        ),
        (
            blob(&blob::Error::Behind { offset: 2, size: 1 }),
            "OutOfRange BEHIND_THE_END: offset 2 lies behind the blob's end at 1".into(),
        ),
        (
            blob(&blob::Error::Size {
                announced: 2,
                found: 1,
            }),
            "InvalidArgument BAD_REQUEST: size_bytes: 2 bytes were announced, but 1 came".into(),
        ),
        (
            import(&images::Error::Blob(blob::Error::Mismatch {
                expected: digest,
                found: other,
            })),
            format!("DataLoss DIGEST_MISMATCH: the content is {other}, but {digest} was expected"),
        ),
        (
            blob(&blob::Error::Full {
                size: Bytes(2),
                free: Bytes(1),
                reserve: Bytes(0),
            }),
            "ResourceExhausted NO_SPACE: no room for a blob of 2 B: 1 B are free, and 0 B of them \
             are kept for the log"
                .into(),
        ),
        (
            blob(&blob::Error::Io {
                doing: "reading a blob",
                source: io::Error::other("/dev/x"),
            }),
            "Internal STORAGE_FAILED: reading a blob failed".into(),
        ),
        (
            ticket_refused(),
            "PermissionDenied TICKET_REFUSED: the ticket is for another caller or another blob, \
             has ended, or is no controller's"
                .into(),
        ),
        (
            fingerprint_changed("node-1"),
            "FailedPrecondition FINGERPRINT_CHANGED: this server isn't the one that node node-1 \
             was; if its parts were swapped, allow it with kapok node rebind node-1 and join again"
                .into(),
        ),
        (
            trust(&trust::Error::NoFabric { home: "x".into() }),
            "Internal TRUST_FAILED: certificates can't be given at present".into(),
        ),
        (
            login_refused(),
            "Unauthenticated LOGIN_REFUSED: the login is refused: log in anew; if that doesn't \
             help, ask a security administrator whether the fabric knows you"
                .into(),
        ),
        (
            trimmed(Seq(9)),
            "OutOfRange TRIMMED: the log begins at 9; follow from there, or from 0".into(),
        ),
        (
            ahead(9, Seq(3)),
            "OutOfRange AHEAD_OF_LOG: the log ends at 3, before 9".into(),
        ),
        (
            store(&kapok_store::Error::Stopped),
            "Unavailable LOG_UNAVAILABLE: the log can't be read at present".into(),
        ),
        (
            too_large(Status::out_of_range(format!("{TOO_LARGE}: found 9 bytes"))),
            "ResourceExhausted MESSAGE_TOO_LARGE: a message of this size isn't taken; the limit \
             is 4194304 bytes"
                .into(),
        ),
    ];
    for (status, expected) in table {
        assert_eq!(line(&status), expected);
    }
    assert_eq!(
        too_large(Status::out_of_range("else")).code(),
        Code::OutOfRange
    );
}

/// Statuses travel in headers, whose size is bounded on both sides.
#[test]
fn what_a_caller_sent_is_not_repeated_at_length() {
    let huge = "城".repeat(1 << 20);
    let long = [
        denied(&Denied::Absent {
            kind: "instance",
            which: huge.clone(),
        }),
        denied(&Denied::NoCapacity(no_fit(500))),
        denied(&Denied::RequestIdReused {
            request_id: huge.clone(),
        }),
        bad_fields(&vec![Violation::new("name", huge); 1000]),
    ];
    for status in long {
        let bytes = status.message().len() + status.details().len();
        assert!(bytes < 10 * 1024, "{bytes} bytes");
    }
    let many = denied(&Denied::NoCapacity(no_fit(500)));
    assert!(
        many.message()
            .ends_with("and 488 more nodes; explain shows them all")
    );
}
