//! Why a session ended, and what that says about the node.

use std::{error::Error as _, fmt::Write as _, time::Duration};

use kapok_proto::refusal;
use kapok_trust::{Alert, TlsFailure, connector};
use kapok_types::{Name, NodeId, Violation};
use tonic::{Code, Status};

use super::session::CALL_DEADLINE;
use crate::{ledger, trust};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{}", dialled(.0))]
    Dial(#[from] connector::Error),
    #[error("the agent answers with {}: {}", .0.code(), .0.message())]
    Call(#[from] Status),
    #[error("the agent gave no answer within {CALL_DEADLINE:?}")]
    Slow,
    #[error("no life sign for {0:?}")]
    Silent(Duration),
    #[error("the agent ended its stream")]
    Closed,
    #[error("the node's address has changed")]
    Moved,
    #[error("the agent says that it is {said}, but this is the link to {dialled}")]
    Impostor { said: NodeId, dialled: NodeId },
    #[error(
        "the node is neither commanded nor believed until it is rebound (kapok node rebind {node}) \
         or back on its own server"
    )]
    OtherServer { node: Name },
    #[error(
        "the node has taken orders at epoch {seen}, this controller leads at {ours}: another one \
         leads it, or this one's store was restored; if so, start with --epoch-floor {seen}"
    )]
    Outranked { seen: u64, ours: u64 },
    #[error("the agent's stream has a gap")]
    Gap,
    #[error("the agent says something that can't be read: {0}")]
    Unreadable(#[from] Violation),
    #[error("the ledger refused: {0}")]
    Ledger(#[from] ledger::Error),
    #[error("tickets can't be made: {0}")]
    Trust(#[from] trust::Error),
}

impl Ended {
    /// What it says about certificates, if it is about them: the node isn't silent then.
    pub(super) fn refused(&self) -> Option<TlsFailure> {
        match self {
            Self::Dial(error) => connector::failure(error),
            Self::Call(status) => connector::failure(status),
            _ => None,
        }
    }
}

/// A dial that came to nothing, for people: what is wrong, and what to do where that is known.
fn dialled(error: &connector::Error) -> String {
    const REJOIN: &str = "bring it back with a new token (kapok node token create, then \
                          kapok-agent join on the server); its guests run on";
    match connector::failure(error) {
        None => {
            let mut words = format!("can't reach the agent: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                let _ = write!(words, ": {error}");
                source = error.source();
            }
            words
        }
        Some(TlsFailure::Expired) => format!("the node's certificate has ended: {REJOIN}"),
        Some(TlsFailure::Revoked) => format!("the node's certificate was revoked: {REJOIN}"),
        Some(TlsFailure::UnknownIssuer) => format!(
            "the node's certificate is by an authority that this fabric doesn't trust: {REJOIN}"
        ),
        Some(TlsFailure::NotYetValid) => {
            "the node's certificate isn't valid yet: compare the clocks".into()
        }
        Some(TlsFailure::WrongName) => {
            "another server answers at the node's address; correct it with kapok node update".into()
        }
        Some(TlsFailure::PeerRefusedUs(Alert::UnknownIssuer)) => format!(
            "the agent doesn't know the authority of this controller's certificate: {REJOIN}"
        ),
        Some(TlsFailure::PeerRefusedUs(Alert::Expired)) => {
            "the agent takes this controller's certificate for ended: compare the clocks".into()
        }
        Some(failure) => format!("the connection to the agent isn't trusted: {failure}"),
    }
}

/// What a failed call means, for people. No answer is *unknown*, not a refusal.
pub(super) fn words(status: &Status) -> String {
    match status.code() {
        Code::DeadlineExceeded => format!("the outcome is unknown, {}", status.message()),
        _ => format!("the agent refuses it, {}", status.message()),
    }
}

/// Whether the agent, not the way to it, says that it can't answer yet.
pub(super) fn is_not_yet(status: &Status) -> bool {
    status.code() == Code::Unavailable && refusal::reason(status).is_some()
}

/// Whether a failed call means that the link itself is dead.
pub(super) fn is_dead(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => refusal::reason(status).is_none(),
        Code::Cancelled | Code::Unknown => true,
        _ => false,
    }
}
