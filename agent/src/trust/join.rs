//! Joining a fabric: from a token to a certificate, over the controller's HTTPS port.
//!
//! The token carries the fingerprint of the fabric's authority, so the controller is known to be
//! the right one before anything is sent to it. The key is made here and stays here.

use std::{sync::Arc, time::Duration};

use kapok_proto::{
    MAX_MESSAGE_BYTES,
    fabric::v1::{
        Credential, JoinNodeRequest, JoinNodeResponse, enroll_service_client::EnrollServiceClient,
    },
    refusal,
};
use kapok_trust::{
    Certificate, Credentials, Identity, Key, Material, Subject, TlsFailure, Token, connector,
    pinned,
};
use kapok_types::{Env, Name, NodeId, Timestamp};
use tonic::{Code, Status};

use super::with_causes;
use crate::fingerprint::Fingerprint;

/// How long the controller may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Who wants to join, and where.
#[derive(Debug)]
pub struct Options {
    /// Where the controller serves HTTPS, "HOST:PORT".
    pub controller: String,
    /// The right to join.
    pub token: Token,
    /// This server's id.
    pub node: NodeId,
    /// Where the agent listens, as the controller is to dial it; ":PORT" means the address that
    /// the request comes from.
    pub address: String,
    /// What the server is made of.
    pub fingerprint: Fingerprint,
}

/// What joining gives.
#[derive(Debug)]
pub struct Joined {
    /// The node's certificate and key, and whom it trusts.
    pub material: Material,
    /// The node's name in the fabric.
    pub name: String,
    /// The fabric.
    pub fabric: Name,
    /// When the certificate ends.
    pub until: Timestamp,
}

/// Why a server could not join. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there.
    #[error(
        "{controller} can't be reached ({reason}): check --controller (it wants the controller's \
         HTTPS port, 7780 by default), and that nothing between blocks it"
    )]
    Unreachable {
        /// Which address.
        controller: String,
        /// What the system said.
        reason: String,
    },
    /// Somebody else answers there.
    #[error(
        "{controller} isn't a controller of the fabric {fabric} that the token was made in \
         ({reason}): check --controller, and make a token in that controller's fabric. If the \
         address is right, somebody stands between"
    )]
    WrongAuthority {
        /// Which address.
        controller: String,
        /// The token's fabric.
        fabric: Name,
        /// What is wrong with who answered.
        reason: String,
    },
    /// What answers there doesn't speak TLS.
    #[error(
        "{controller} doesn't speak TLS: check --controller (it wants the controller's HTTPS \
         port, 7780 by default)"
    )]
    NotTls {
        /// Which address.
        controller: String,
    },
    /// The two clocks don't agree.
    #[error(
        "the certificate of {controller} {problem}, by this server's clock ({now}): set the clock \
         (`timedatectl`), here or there, and try again"
    )]
    Clock {
        /// Which address.
        controller: String,
        /// "isn't valid yet" or "ran out".
        problem: &'static str,
        /// This server's time.
        now: Timestamp,
    },
    /// The token isn't taken.
    #[error(
        "the token isn't taken: it is unknown, was used, or its time is over. Make another with \
         `kapok node token create NODE`"
    )]
    Token,
    /// The token's name is another node's.
    #[error(
        "the token's name belongs to another node ({reason}): make a token with another name, or \
         `kapok node rm` the node that is gone"
    )]
    NameTaken {
        /// What the controller said.
        reason: String,
    },
    /// The server isn't made of what the fabric knows of this node.
    #[error(
        "this server isn't the one that the fabric knows under this node's id ({reason}). If its \
         hardware was changed, `kapok node rebind NODE`, then join with a fresh token. If its disk \
         is a copy of another server's, move the state directory away first"
    )]
    FingerprintChanged {
        /// What the controller said.
        reason: String,
    },
    /// The node was shut out.
    #[error(
        "this node was revoked ({reason}): `kapok node rm NODE`, move the state directory away, \
         and join as a new node"
    )]
    Revoked {
        /// What the controller said.
        reason: String,
    },
    /// The controller refuses for another reason.
    #[error("the controller refuses: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// What the controller gave can't be used.
    #[error("what the controller gave can't be used ({reason}): nothing was changed")]
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
}

/// Makes a key, and has the fabric certify it. Keeps nothing: see [`kapok_trust::files`].
///
/// # Errors
///
/// Why not, and what to do next.
pub async fn join(options: Options, env: &Arc<dyn Env>) -> Result<Joined, Error> {
    let Options {
        controller,
        token,
        node,
        address,
        fingerprint,
    } = options;
    let unusable = |error: &dyn std::error::Error| Error::Unusable {
        reason: with_causes(error),
    };
    let key = Key::generate().map_err(|error| unusable(&error))?;
    let request = JoinNodeRequest {
        token: token.reveal().to_string(),
        csr_pem: key.request().map_err(|error| unusable(&error))?,
        node_id: node.to_string(),
        address,
        fingerprint,
    };
    let tune =
        |endpoint: tonic::transport::Endpoint| endpoint.connect_timeout(CONNECT).timeout(ANSWER);
    let dialled = pinned::channel(&controller, &token.pin(), Arc::clone(env), tune).await;
    let (channel, _) =
        dialled.map_err(|error| undialled(&controller, &token, &error, env.now()))?;
    let mut client = EnrollServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client
        .join_node(request)
        .await
        .map_err(|status| refused(&controller, &token, &status, env.now()))?;
    let JoinNodeResponse {
        credential, name, ..
    } = answer.into_inner();
    let Credential {
        chain_pem,
        bundle_pem,
        crl_pem,
        ..
    } = credential.unwrap_or_default();
    let material = Material {
        chain_pem,
        key_pem: key.to_pem().to_string(),
        bundle_pem,
        crl_pem,
    };
    let certificate =
        Certificate::parse_pem(&material.chain_pem).map_err(|error| unusable(&error))?;
    let expected = Identity::new(token.fabric().clone(), Subject::Node(node));
    if certificate.identity != expected {
        let reason = format!("it names {}, not {expected}", certificate.identity);
        return Err(Error::Unusable { reason });
    }
    // What can't be served with now must not be kept.
    Credentials::new(material.clone(), Arc::clone(env)).map_err(|error| unusable(&error))?;
    Ok(Joined {
        material,
        name,
        fabric: expected.fabric,
        until: certificate.not_after,
    })
}

/// Why the controller could not be dialled.
fn undialled(
    controller: &str,
    token: &Token,
    error: &(dyn std::error::Error + 'static),
    now: Timestamp,
) -> Error {
    let controller = controller.to_owned();
    let reason = with_causes(error);
    match connector::failure(error) {
        None => Error::Unreachable { controller, reason },
        Some(TlsFailure::NotTls) => Error::NotTls { controller },
        Some(TlsFailure::NotYetValid) => Error::Clock {
            controller,
            problem: "isn't valid yet",
            now,
        },
        Some(TlsFailure::Expired) => Error::Clock {
            controller,
            problem: "ran out",
            now,
        },
        Some(_) => Error::WrongAuthority {
            controller,
            fabric: token.fabric().clone(),
            reason,
        },
    }
}

/// Why the controller didn't take us.
fn refused(controller: &str, token: &Token, status: &Status, now: Timestamp) -> Error {
    let reason = status.message().to_owned();
    match refusal::reason(status).as_deref() {
        Some("TOKEN_REFUSED") => Error::Token,
        Some("WRONG_NODE") => Error::NameTaken { reason },
        Some("FINGERPRINT_CHANGED") => Error::FingerprintChanged { reason },
        Some("REVOKED") => Error::Revoked { reason },
        Some(_) => Error::Refused { reason },
        None if connector::failure(status).is_some() => undialled(controller, token, status, now),
        None if status.code() == Code::Unavailable => Error::Unreachable {
            controller: controller.to_owned(),
            reason,
        },
        None => Error::Refused {
            reason: format!("{:?}: {reason}", status.code()),
        },
    }
}
