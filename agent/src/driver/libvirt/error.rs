//! From libvirt's failures to the driver's.

use kapok_libvirt::{Error as Failure, Kind, storage::TransferError};

use crate::driver::Error;

/// What a failed libvirt call means to the agent.
pub(super) fn from(failure: Failure) -> Error {
    let Failure {
        kind,
        call,
        message: reason,
        ..
    } = failure;
    match kind {
        Kind::Disconnected => Error::Unavailable { reason },
        Kind::Locked => Error::Locked { reason },
        Kind::NoSpace => Error::NoSpace { reason },
        Kind::NotFound => Error::Absent { what: reason },
        Kind::Unsupported => Error::Lacking { capability: call },
        Kind::Timeout
        | Kind::Busy
        | Kind::AlreadyExists
        | Kind::InvalidState
        | Kind::AgentUnresponsive
        | Kind::Refused
        | Kind::Invalid
        | Kind::Other => Error::Failed { call, reason },
    }
}

/// What a failed attempt to connect means: whatever it was, nobody can be reached.
pub(super) fn from_open(failure: &Failure) -> Error {
    Error::Unavailable {
        reason: failure.message.clone(),
    }
}

/// What a broken transfer means.
pub(super) fn from_transfer(failure: TransferError) -> Error {
    match failure {
        TransferError::Libvirt(failure) => from(failure),
        TransferError::Local { done, source } => Error::Failed {
            call: "reading the file",
            reason: format!("after {done} bytes: {source}"),
        },
        TransferError::Short { done, expected } => Error::Failed {
            call: "reading the file",
            reason: format!("it ended after {done} of {expected} bytes"),
        },
    }
}

/// Lets a call that failed for want of its object succeed.
pub(super) fn absent_is_fine(outcome: Result<(), Failure>) -> Result<(), Error> {
    match outcome {
        Err(failure) if failure.is(Kind::NotFound) => Ok(()),
        other => other.map_err(from),
    }
}
