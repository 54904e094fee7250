//! Who is at the other end of a connection.

use std::{net::SocketAddr, sync::Arc};

use crate::{Certificate, Identity, Serial, Subject};

/// The other end of a connection, as the handshake proved it. Every request carries it in its
/// extensions: `request.extensions().get::<Peer>()`.
#[derive(Debug, Clone)]
pub struct Peer {
    who: Who,
    address: Option<SocketAddr>,
}

#[derive(Debug, Clone)]
enum Who {
    /// It showed a certificate that was verified.
    Proven(Arc<Certificate>),
    /// The transport itself knows, and can't be lied to.
    Vouched(Arc<Identity>),
    /// It showed none, where none is needed.
    Nobody,
}

impl Peer {
    pub(crate) const fn proven(certificate: Arc<Certificate>, address: Option<SocketAddr>) -> Self {
        Self {
            who: Who::Proven(certificate),
            address,
        }
    }

    /// A peer on a transport that knows its ends by itself: pipes within one process, as the
    /// simulated network has them. Never what a socket's peer says of itself.
    pub fn vouched(identity: Identity, address: Option<SocketAddr>) -> Self {
        Self {
            who: Who::Vouched(Arc::new(identity)),
            address,
        }
    }

    /// A peer that showed no certificate.
    pub const fn anonymous(address: Option<SocketAddr>) -> Self {
        Self {
            who: Who::Nobody,
            address,
        }
    }

    /// The certificate that it showed, verified.
    pub const fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.who {
            Who::Proven(certificate) => Some(certificate),
            Who::Vouched(_) | Who::Nobody => None,
        }
    }

    /// Who it is.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.who {
            Who::Proven(certificate) => Some(&certificate.identity),
            Who::Vouched(identity) => Some(identity),
            Who::Nobody => None,
        }
    }

    /// Who it is, within the fabric.
    pub fn subject(&self) -> Option<&Subject> {
        self.identity().map(|identity| &identity.subject)
    }

    /// The number of its certificate.
    pub fn serial(&self) -> Option<Serial> {
        self.certificate().map(|certificate| certificate.serial)
    }

    /// Where its connection comes from.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}
