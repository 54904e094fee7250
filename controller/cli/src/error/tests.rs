//! The whole table of errors: message, hint, exit code.

use std::collections::BTreeMap;

use kapok_types::Violation;

use super::*;

fn call(status: Status, change: Option<&str>) -> Report {
    let doing = Doing::new("create instance web", "kapok instance ls");
    let change = change.map(str::to_owned);
    Error::Call {
        doing,
        status: Box::new(status),
        change,
        tried: Vec::new(),
    }
    .report()
}

#[test]
fn every_code_has_its_exit_code_and_a_next_step() {
    let table = [
        (Code::InvalidArgument, 2),
        (Code::NotFound, 3),
        (Code::AlreadyExists, 4),
        (Code::FailedPrecondition, 4),
        (Code::Aborted, 4),
        (Code::OutOfRange, 4),
        (Code::PermissionDenied, 9),
        (Code::Unauthenticated, 9),
        (Code::Unimplemented, 4),
        (Code::ResourceExhausted, 5),
        (Code::Unavailable, 6),
        (Code::DeadlineExceeded, 7),
        (Code::Internal, 7),
        (Code::Unknown, 7),
        (Code::Cancelled, 8),
        (Code::DataLoss, 1),
    ];
    for (code, exit) in table {
        let report = call(Status::new(code, "because"), None);
        assert_eq!(report.exit, exit, "{code:?}");
        assert_eq!(report.message, "can't create instance web: because");
        let silent = matches!(code, Code::OutOfRange | Code::Cancelled);
        assert_eq!(report.hint.is_none(), silent, "{code:?}");
    }
}

/// A change may name several things: the hint lists the kind of the one that isn't there.
#[test]
fn what_is_absent_is_listed_by_its_kind() {
    for (kind, list) in [
        ("flavor", "kapok flavor ls"),
        ("image", "kapok image ls"),
        ("anything", "kapok instance ls"),
    ] {
        let details = BTreeMap::from([("kind".to_owned(), kind.to_owned())]);
        let absent = refusal::status(Code::NotFound, "NOT_FOUND", "because", details);
        let hint = call(absent, None).hint.unwrap();
        assert_eq!(hint, format!("{list} lists what there is"));
    }
}

#[test]
fn a_reason_says_more_than_its_code() {
    let table = [
        (Code::ResourceExhausted, "NO_CAPACITY", 5, "explain"),
        (
            Code::InvalidArgument,
            "REQUEST_ID_REUSED",
            4,
            "--request-id",
        ),
        (Code::FailedPrecondition, "IMAGE_IN_USE", 4, "instance ls"),
        (Code::Unavailable, "NO_LEADER", 6, "nothing was changed"),
        (
            Code::FailedPrecondition,
            "NO_SUCCESSOR",
            4,
            "kapok controller ls",
        ),
        (
            Code::FailedPrecondition,
            "SYSTEM_IN_USE",
            4,
            "instance ls --system",
        ),
        (Code::ResourceExhausted, "QUOTA", 5, "quota show"),
        (Code::FailedPrecondition, "TENANT_STATE", 4, "tenant resume"),
        (Code::FailedPrecondition, "TENANT_IN_USE", 4, "tenant close"),
        (Code::FailedPrecondition, "NOT_RUNNING", 4, "instance start"),
        (Code::ResourceExhausted, "NO_ROOM", 5, "node show"),
        (Code::ResourceExhausted, "NO_SPACE", 5, "image rm"),
        (Code::Unavailable, "TOO_MANY_IMPORTS", 6, "another import"),
        (Code::FailedPrecondition, "DELETING", 4, "on its way out"),
        (Code::FailedPrecondition, "NOT_CANCELLABLE", 4, "op show"),
        (Code::FailedPrecondition, "OPERATION_ENDED", 4, "op show"),
        (Code::OutOfRange, "TRIMMED", 4, "--after 0"),
        (Code::Unauthenticated, "TOKEN_REFUSED", 9, "a new one"),
        (Code::Unauthenticated, "LOGIN_REFUSED", 9, "kapok user ls"),
        (Code::FailedPrecondition, "NO_OIDC", 4, "--token-file"),
        (Code::Unavailable, "OIDC_UNREACHABLE", 6, "is back"),
        (Code::Unauthenticated, "TICKET_REFUSED", 9, "again"),
        (Code::FailedPrecondition, "FINGERPRINT_CHANGED", 4, "rebind"),
        (
            Code::FailedPrecondition,
            "FINGERPRINT_UNCHANGED",
            4,
            "nothing",
        ),
        (Code::FailedPrecondition, "NODE_IN_USE", 4, "instance ls"),
        (
            Code::FailedPrecondition,
            "LAST_SECURITY_ADMINISTRATOR",
            4,
            "another one",
        ),
        (Code::PermissionDenied, "FORBIDDEN", 9, "auth why"),
        (Code::ResourceExhausted, "TOO_FAST", 6, "slow down"),
        (
            Code::FailedPrecondition,
            "FROM_A_NEWER_VERSION",
            4,
            "kapok instance ls",
        ),
    ];
    for (code, reason, exit, hint) in table {
        let report = call(refusal::status(code, reason, "x", BTreeMap::new()), None);
        assert_eq!(report.exit, exit, "{reason}");
        assert!(report.hint.unwrap().contains(hint), "{reason}");
    }
}

#[test]
fn field_violations_are_listed() {
    let report = call(
        refusal::bad_request(&[
            Violation::new("vcpus", "is 0; must be 1 to 512"),
            Violation::new("name", "contains '\u{1b}'"),
        ]),
        None,
    );
    let mut text = Vec::new();
    report.write(&mut text);
    assert_eq!(
        String::from_utf8(text).unwrap(),
        "error: can't create instance web: the controller refuses\n  \
         vcpus: is 0; must be 1 to 512\n  name: contains '\u{fffd}'\n\
         hint: correct the value; kapok help … shows what is allowed\n"
    );
}

#[test]
fn a_change_with_an_unknown_outcome_names_its_request_id() {
    let broken = || Status::from_error(Box::new(io::Error::other("connection reset")));
    let report = call(broken(), Some("r-1"));
    assert_eq!(report.exit, exit::UNKNOWN);
    assert!(report.message.contains("connection reset"));
    assert!(report.hint.unwrap().contains("--request-id r-1"));
    assert_eq!(call(broken(), None).exit, exit::UNAVAILABLE);
    let doing = Doing::new("create instance web", "");
    let after = Duration::from_secs(30);
    let timed_out = Error::TimedOut {
        doing,
        after,
        change: Some("r-2".into()),
    };
    let report = timed_out.report();
    assert_eq!(report.exit, exit::UNKNOWN);
    assert_eq!(
        report.message,
        "gave up waiting to create instance web after 30s"
    );
    assert!(report.hint.unwrap().contains("--request-id r-2"));
}

#[test]
fn an_operation_ends_with_its_states_exit_code() {
    let table = [
        (OperationState::Failed, 1),
        (OperationState::Detached, 7),
        (OperationState::Cancelled, 8),
        (OperationState::Superseded, 8),
    ];
    for (state, exit) in table {
        let wire = kapok_proto::fabric::v1::Operation {
            state: state.into(),
            instance_name: "web".into(),
            detail: "why".into(),
            ..Default::default()
        };
        let report = Error::Ended(Box::new(Operation::from(wire))).report();
        assert_eq!(report.exit, exit, "{state:?}");
        assert!(report.message.contains("web") && report.message.contains("why"));
    }
}

#[test]
fn the_rest_of_the_table() {
    let usage = Error::Usage {
        message: "a".into(),
        hint: "b".into(),
    };
    let content = Error::Content {
        message: "a".into(),
        hint: "b".into(),
    };
    let unreachable = Error::Unreachable {
        reasons: vec![("127.0.0.1:7700".into(), "connection refused".into())],
    };
    assert_eq!(
        unreachable.report().message,
        "can't reach the controller at 127.0.0.1:7700: connection refused"
    );
    let nobody = Error::NotLoggedIn {
        reason: "there is no credential".into(),
        enroll: Some("a:7780".parse().unwrap()),
    };
    assert!(
        nobody
            .report()
            .hint
            .unwrap()
            .contains("--controller a:7780")
    );
    let credential = Error::Credential {
        path: "/c.pem".into(),
        reason: "is cut off".into(),
        hint: "again".into(),
    };
    let nowhere = Error::Unreachable {
        reasons: vec![("a:1".into(), "x".into()), ("b:1".into(), "y".into())],
    };
    assert_eq!(nowhere.report().details, ["a:1: x", "b:1: y"]);
    for (error, exit) in [
        (nobody, exit::NOT_ALLOWED),
        (credential, exit::CONFIG),
        (usage, exit::USAGE),
        (content, exit::FAILED),
        (unreachable, exit::UNAVAILABLE),
        (Error::Declined, exit::CANCELLED),
        (Error::io("a", &io::Error::other("b")), exit::FAILED),
    ] {
        assert_eq!(error.report().exit, exit);
    }
    let several = Error::Several(vec![
        Error::Declined,
        Error::io("a", &io::Error::other("b")),
    ]);
    let report = several.report();
    assert_eq!((report.exit, report.more.len()), (exit::CANCELLED, 1));
}
