//! What went wrong, as people and scripts learn it: a message, details, what to do next, and an
//! exit code. The whole table is here and tested here.

#[cfg(test)]
mod tests;

use std::{
    error::Error as _,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use kapok_proto::{fabric::v1::OperationState, refusal};
use tonic::{Code, Status};

use crate::{
    exit,
    human::{plain, plain_lines},
    settings::Addresses,
    view::operation::Operation,
};

/// What was being done, in words for messages and hints.
#[derive(Debug, Clone)]
pub(crate) struct Doing {
    /// As in "can't WHAT".
    pub(crate) what: String,
    /// The command that lists what could have been meant.
    pub(crate) look: &'static str,
    /// The command that lists what it brings about.
    pub(crate) shown_by: &'static str,
}

impl Doing {
    /// Doing `what`, where `look` lists what could have been meant.
    pub(crate) fn new(what: impl Into<String>, look: &'static str) -> Self {
        Self {
            what: what.into(),
            look,
            shown_by: look,
        }
    }

    /// The same, where another command lists what it brings about.
    pub(crate) fn shown_by(self, shown_by: &'static str) -> Self {
        Self { shown_by, ..self }
    }
}

/// What went wrong.
#[derive(Debug)]
pub(crate) enum Error {
    /// A variable of the environment has a bad value.
    Config {
        name: &'static str,
        value: String,
        reason: String,
    },
    /// What was typed can't be done as typed.
    Usage { message: String, hint: String },
    /// No connection to a controller came about; nothing was sent. Each address with its reason.
    Unreachable { reasons: Vec<(String, String)> },
    /// There is no credential that a controller would accept; nothing was sent.
    NotLoggedIn {
        reason: String,
        /// Where one logs in, if it is known.
        enroll: Option<Addresses>,
    },
    /// A credential's file can't be used. Says nothing of what is in it.
    Credential {
        path: PathBuf,
        reason: String,
        hint: String,
    },
    /// The controller refused, or the call broke. `change` is the `request_id` of a change;
    /// `tried` says of each address why nobody answers there, if nobody does anywhere.
    Call {
        doing: Doing,
        status: Box<Status>,
        change: Option<String>,
        tried: Vec<(String, String)>,
    },
    /// The answer or the end didn't come in time.
    TimedOut {
        doing: Doing,
        after: Duration,
        change: Option<String>,
    },
    /// An operation ended other than well.
    Ended(Box<Operation>),
    /// Waiting for an operation ended before the operation did.
    StoppedWaiting {
        operation: Box<Operation>,
        reason: String,
    },
    /// What was stored or read isn't what was meant.
    Content { message: String, hint: String },
    /// The person said no.
    Declined,
    /// This side's files or output failed.
    Io { message: String, reason: String },
    /// Several things failed, in order.
    Several(Vec<Error>),
}

/// An error as it is shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// What was wrong and where.
    pub(crate) message: String,
    /// Where exactly: one line each.
    pub(crate) details: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// The exit code.
    pub(crate) exit: u8,
    /// Errors that follow this one.
    pub(crate) more: Vec<Report>,
}

impl Report {
    fn new(exit: u8, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into()).filter(|hint: &String| !hint.is_empty());
        Self {
            message: message.into(),
            details: Vec::new(),
            hint,
            exit,
            more: Vec::new(),
        }
    }

    /// Prints it.
    pub(crate) fn write(&self, sink: &mut impl Write) {
        let details = self
            .details
            .iter()
            .map(|detail| format!("  {}\n", plain(detail)));
        let hint = self
            .hint
            .iter()
            .map(|hint| format!("hint: {}\n", plain_lines(hint)));
        let text = format!("error: {}\n", plain_lines(&self.message));
        let text = text + &details.collect::<String>() + &hint.collect::<String>();
        // Nobody can be told that standard error is gone.
        let _ = sink.write_all(text.as_bytes());
        for report in &self.more {
            report.write(sink);
        }
    }
}

impl Error {
    /// This side's files or output failed.
    pub(crate) fn io(message: impl Into<String>, error: &io::Error) -> Self {
        Self::Io {
            message: message.into(),
            reason: error.to_string(),
        }
    }

    /// One error of several, or none of none.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }

    /// Whether something was asked of a controller, so that its log may say more.
    pub(crate) fn was_asked(&self) -> bool {
        match self {
            Self::Call { .. }
            | Self::TimedOut { .. }
            | Self::Ended(_)
            | Self::StoppedWaiting { .. } => true,
            Self::Several(errors) => errors.iter().any(Self::was_asked),
            _ => false,
        }
    }

    /// How it is shown. Of several errors, the first decides the exit code.
    pub(crate) fn report(&self) -> Report {
        match self {
            Self::Config {
                name,
                value,
                reason,
            } => Report::new(
                exit::CONFIG,
                format!("the environment variable {name} is {value:?}; it {reason}"),
                format!("unset {name}, or correct it"),
            ),
            Self::Usage { message, hint } => Report::new(exit::USAGE, message, hint),
            Self::Unreachable { reasons } => unreachable(reasons),
            Self::NotLoggedIn { reason, enroll } => Report::new(
                exit::NOT_ALLOWED,
                format!("not logged in: {reason}"),
                match enroll {
                    Some(at) => {
                        format!("kapok login --controller {at} --token-file FILE, or --oidc")
                    }
                    None => "kapok login --controller HOST:7780 --token-file FILE (a security \
                             administrator makes tokens), or set KAPOK_CREDENTIAL"
                        .to_owned(),
                },
            ),
            Self::Credential { path, reason, hint } => Report::new(
                exit::CONFIG,
                format!("the credential {} {reason}", path.display()),
                hint,
            ),
            Self::Call {
                doing,
                status,
                change,
                tried,
            } => with_tried(refused(doing, status, change.as_deref()), tried),
            Self::TimedOut {
                doing,
                after,
                change,
            } => Report::new(
                exit::UNKNOWN,
                format!(
                    "gave up waiting to {} after {}",
                    doing.what,
                    humantime::format_duration(*after)
                ),
                match change {
                    Some(id) => again(doing, id),
                    None => "nothing was cancelled; wait longer with --timeout".to_owned(),
                },
            ),
            Self::Ended(operation) => ended(operation),
            Self::StoppedWaiting { operation, reason } => Report::new(
                exit::UNKNOWN,
                format!(
                    "{reason}, and {} of {} goes on",
                    operation.kind,
                    operation.subject()
                ),
                format!(
                    "nothing was cancelled; watch it: kapok op watch {}",
                    operation.id_text()
                ),
            ),
            Self::Content { message, hint } => Report::new(exit::FAILED, message, hint),
            Self::Declined => Report::new(exit::CANCELLED, "nothing was done", ""),
            Self::Io { message, reason } => {
                Report::new(exit::FAILED, format!("{message}: {reason}"), "")
            }
            Self::Several(errors) => {
                let mut reports = errors.iter().map(Self::report);
                let mut first = reports
                    .next()
                    .unwrap_or_else(|| Report::new(exit::FAILED, "", ""));
                first.more = reports.collect();
                first
            }
        }
    }
}

/// Whether the connection broke, rather than the controller answered.
///
/// A status that the transport made up carries its cause; one from the wire has none.
pub(crate) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether trying again can help.
pub(crate) fn is_transient(status: &Status) -> bool {
    status.code() == Code::Unavailable
        || is_broken(status)
        || refusal::reason(status).as_deref() == Some("TOO_FAST")
}

/// The innermost reason of an error, which says what people need.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn unreachable(reasons: &[(String, String)]) -> Report {
    let hint = "is kapok-controller running? Set --server or KAPOK_SERVER if it is elsewhere";
    if let [(server, reason)] = reasons {
        let message = format!("can't reach the controller at {server}: {reason}");
        return Report::new(exit::UNAVAILABLE, message, hint);
    }
    let report = Report::new(exit::UNAVAILABLE, "can't reach any controller", hint);
    with_tried(report, reasons)
}

/// The same, with where nobody answers.
fn with_tried(mut report: Report, tried: &[(String, String)]) -> Report {
    let each = tried.iter().map(|(at, why)| format!("{at}: {why}"));
    report.details.extend(each);
    report
}

fn again(doing: &Doing, request_id: &str) -> String {
    format!(
        "whether it was accepted isn't known: look with {}, or run the same command again with \
         --request-id {request_id} (no second effect)",
        doing.shown_by
    )
}

fn ended(operation: &Operation) -> Report {
    let what = format!("{} of {}", operation.kind, operation.subject());
    let why = if operation.detail.is_empty() {
        String::new()
    } else {
        format!(": {}", operation.detail)
    };
    let show = format!("see kapok instance show {}", operation.subject());
    match operation.wire_state {
        OperationState::Cancelled => {
            Report::new(exit::CANCELLED, format!("{what} was cancelled{why}"), show)
        }
        OperationState::Superseded => Report::new(
            exit::CANCELLED,
            format!("{what} was superseded by a later change{why}"),
            format!("see kapok op ls --instance {}", operation.subject()),
        ),
        OperationState::Detached => Report::new(
            exit::UNKNOWN,
            format!("{what} passed its deadline, its outcome isn't known{why}"),
            format!("the fabric goes on with it; {show}"),
        ),
        _ => Report::new(exit::FAILED, format!("{what} failed{why}"), show),
    }
}

/// The command that lists what isn't there: by its kind if the controller says it, for a change may
/// name several things.
fn listing(status: &Status, doing: &Doing) -> &'static str {
    match refusal::detail(status, "kind").as_deref() {
        Some("image") => "kapok image ls",
        Some("flavor") => "kapok flavor ls",
        Some("system") => "kapok system ls",
        Some("tenant") => "kapok tenant ls",
        _ => doing.look,
    }
}

fn refused(doing: &Doing, status: &Status, change: Option<&str>) -> Report {
    let what = format!("can't {}", doing.what);
    if is_broken(status) {
        let why = root_cause(status);
        return match change {
            Some(id) => Report::new(
                exit::UNKNOWN,
                format!("{what}: the connection to the controller broke: {why}"),
                again(doing, id),
            ),
            None => Report::new(
                exit::UNAVAILABLE,
                format!("{what}: the connection to the controller broke: {why}"),
                "try again; is kapok-controller running?",
            ),
        };
    }
    let reason = refusal::reason(status);
    let (exit, hint) = by_reason(reason.as_deref()).map_or_else(
        || by_code(status, doing, change),
        |(exit, hint)| (exit, hint.to_owned()),
    );
    let violations = refusal::violations(status);
    let message = match (violations.as_slice(), status.message()) {
        ([], "") => format!("{what}: {}", status.code()),
        ([], message) => format!("{what}: {message}"),
        _ => format!("{what}: the controller refuses"),
    };
    let mut report = Report::new(exit, message, hint);
    report.details = violations.iter().map(ToString::to_string).collect();
    report
}

/// Refusals whose reason says more than their code.
fn by_reason(reason: Option<&str>) -> Option<(u8, &'static str)> {
    Some(match reason? {
        "NO_CAPACITY" => (
            exit::NO_CAPACITY,
            "kapok instance explain --image … shows each node's answer; free or add capacity",
        ),
        "QUOTA" => (
            exit::NO_CAPACITY,
            "kapok quota show says what there is; remove something, or ask whoever governs the \
             tenant above for more",
        ),
        "TENANT_STATE" => (
            exit::REFUSED,
            "whoever governs the tenant above can let it go on: kapok tenant resume",
        ),
        "TENANT_IN_USE" => (
            exit::REFUSED,
            "remove that first; kapok tenant close keeps new things out meanwhile",
        ),
        "REQUEST_ID_REUSED" => (
            exit::REFUSED,
            "this --request-id was used for another change: leave it out, or choose a new one",
        ),
        "IMAGE_IN_USE" => (
            exit::REFUSED,
            "remove the instances that were made from it first: kapok instance ls -o wide",
        ),
        "SYSTEM_IN_USE" => (
            exit::REFUSED,
            "remove its instances first: kapok instance ls --system",
        ),
        "NOT_RUNNING" => (exit::REFUSED, "turn it on instead: kapok instance start"),
        "NO_ROOM" => (
            exit::NO_CAPACITY,
            "kapok node show says what its node has; ask for less, or free something there",
        ),
        "NO_SPACE" => (
            exit::NO_CAPACITY,
            "make room where the controller keeps its images: kapok image rm",
        ),
        "TOO_MANY_IMPORTS" => (exit::UNAVAILABLE, "wait until another import has ended"),
        "DELETING" => (
            exit::REFUSED,
            "it is on its way out: kapok instance show says how far",
        ),
        "NOT_CANCELLABLE" | "OPERATION_ENDED" => {
            (exit::REFUSED, "kapok op show says how it stands")
        }
        "TOKEN_REFUSED" => (
            exit::NOT_ALLOWED,
            "it was never made, has been used, or has ended: ask for a new one",
        ),
        "LOGIN_REFUSED" => (
            exit::NOT_ALLOWED,
            "log in at the identity provider again; a security administrator must know you: kapok \
             user ls",
        ),
        "NO_OIDC" => (exit::REFUSED, "log in with a token: --token-file"),
        "OIDC_UNREACHABLE" => (
            exit::UNAVAILABLE,
            "nobody is let in on a guess: try again when the identity provider is back",
        ),
        "TICKET_REFUSED" => (exit::NOT_ALLOWED, "open the console again"),
        "FINGERPRINT_CHANGED" => (
            exit::REFUSED,
            "kapok node show names what changed; if it was meant to: kapok node rebind",
        ),
        "ADOPTING" => (
            exit::REFUSED,
            "look at kapok node differences, then settle them: kapok node adopt",
        ),
        "NOT_ADOPTING" => (
            exit::REFUSED,
            "it follows the fabric's record: kapok node differences",
        ),
        "NODE_UNASKED" => (
            exit::UNAVAILABLE,
            "try again when its agent knows all of them: kapok node show",
        ),
        "FINGERPRINT_UNCHANGED" => (
            exit::REFUSED,
            "its hardware is as it was: nothing to rebind",
        ),
        "NODE_NOT_QUARANTINED" => (
            exit::REFUSED,
            "it takes instances as far as its health goes: kapok node show",
        ),
        "NODE_NOT_RELEASED" => (
            exit::REFUSED,
            "nobody's word goes before its verdicts: kapok node show",
        ),
        "NODE_IN_USE" => (
            exit::REFUSED,
            "remove its instances first: kapok instance ls --node",
        ),
        "LAST_SECURITY_ADMINISTRATOR" => (
            exit::REFUSED,
            "somebody must be able to give rights: make another one first",
        ),
        "TOO_FAST" => (
            exit::UNAVAILABLE,
            "this credential asks too often: slow down",
        ),
        "NO_LEADER" => (
            exit::UNAVAILABLE,
            "nothing was changed; another controller takes over within seconds if enough of them \
             and of their store run: try again, then see the controllers' journals",
        ),
        "NO_SUCCESSOR" => (
            exit::REFUSED,
            "kapok controller ls shows who follows, and how far; start another controller, or wait \
             until it has caught up",
        ),
        "TRIMMED" => (
            exit::REFUSED,
            "older events are gone; kapok events --after 0 starts at the first kept",
        ),
        _ => return None,
    })
}

fn by_code(status: &Status, doing: &Doing, change: Option<&str>) -> (u8, String) {
    let fixed = |exit, hint: &str| (exit, hint.to_owned());
    match status.code() {
        Code::Ok => fixed(exit::OK, ""),
        Code::InvalidArgument => fixed(
            exit::USAGE,
            "correct the value; kapok help … shows what is allowed",
        ),
        Code::NotFound => (
            exit::NOT_FOUND,
            format!("{} lists what there is", listing(status, doing)),
        ),
        Code::AlreadyExists => (
            exit::REFUSED,
            format!(
                "choose another name; {} lists what there is",
                doing.shown_by
            ),
        ),
        Code::FailedPrecondition => (
            exit::REFUSED,
            format!("{} shows how things stand", doing.look),
        ),
        Code::Aborted => fixed(
            exit::REFUSED,
            "it changed in the meantime: look, then try again",
        ),
        Code::OutOfRange => fixed(exit::REFUSED, ""),
        Code::PermissionDenied => fixed(
            exit::NOT_ALLOWED,
            "kapok whoami shows your roles, kapok auth why the reason; a security administrator \
             gives rights",
        ),
        Code::Unauthenticated => fixed(
            exit::NOT_ALLOWED,
            "kapok whoami shows who you are; log in again: kapok login",
        ),
        Code::Unimplemented => fixed(
            exit::REFUSED,
            "the controller is older or newer than this kapok: compare versions",
        ),
        Code::ResourceExhausted => {
            fixed(exit::NO_CAPACITY, "ask for less, or free something first")
        }
        Code::Unavailable => match change {
            Some(id) => (
                exit::UNAVAILABLE,
                format!("try again later; {}", again(doing, id)),
            ),
            None => fixed(
                exit::UNAVAILABLE,
                "try again later; see the controller's journal",
            ),
        },
        Code::Cancelled => fixed(exit::CANCELLED, ""),
        Code::DataLoss => fixed(
            exit::FAILED,
            "the content isn't what was announced: check the file and its digest",
        ),
        // An answer that says nothing about the change leaves its outcome open.
        Code::DeadlineExceeded | Code::Internal | Code::Unknown => match change {
            Some(id) => (exit::UNKNOWN, again(doing, id)),
            None => fixed(exit::UNKNOWN, "see the controller's journal"),
        },
    }
}
