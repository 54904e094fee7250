//! Who is at the other end of a connection.

use std::{net::SocketAddr, sync::Arc};

use crate::{Certificate, Identity, Serial, Subject};

/// What stands for what a peer didn't show.
const NONE: &str = "-";

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
    /// A controller whose own certificate was verified says so, of a peer of its own.
    PassedOn(Arc<Identity>, Option<Serial>),
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

    /// What one controller tells another of a peer: who, by which certificate, from where.
    pub fn told(&self) -> String {
        let word = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        [
            word(self.identity().map(Identity::uri)),
            word(self.serial().map(|serial| serial.to_string())),
            word(self.address.map(|address| address.to_string())),
        ]
        .join(" ")
    }

    /// The peer that another controller was told of with [`Peer::told`], or nothing if the text says
    /// none. Only a controller is to be believed: who told it is the caller's to check.
    pub fn passed_on(told: &str) -> Option<Self> {
        let mut words = told.split(' ');
        let mut next = || {
            words
                .next()
                .map(|word| Some(word).filter(|word| *word != NONE))
        };
        let (identity, serial, address) = (next()?, next()?, next()?);
        if words.next().is_some() {
            return None;
        }
        let identity = identity.map(str::parse::<Identity>).transpose().ok()?;
        let serial = serial.map(str::parse::<Serial>).transpose().ok()?;
        let address = address.map(str::parse).transpose().ok()?;
        Some(Self {
            who: identity.map_or(Who::Nobody, |identity| {
                Who::PassedOn(Arc::new(identity), serial)
            }),
            address,
        })
    }

    /// The certificate that it showed, verified.
    pub const fn certificate(&self) -> Option<&Arc<Certificate>> {
        match &self.who {
            Who::Proven(certificate) => Some(certificate),
            Who::Vouched(_) | Who::PassedOn(..) | Who::Nobody => None,
        }
    }

    /// Who it is.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.who {
            Who::Proven(certificate) => Some(&certificate.identity),
            Who::Vouched(identity) | Who::PassedOn(identity, _) => Some(identity),
            Who::Nobody => None,
        }
    }

    /// Who it is, within the fabric.
    pub fn subject(&self) -> Option<&Subject> {
        self.identity().map(|identity| &identity.subject)
    }

    /// The number of its certificate.
    pub fn serial(&self) -> Option<Serial> {
        match &self.who {
            Who::Proven(certificate) => Some(certificate.serial),
            Who::PassedOn(_, serial) => *serial,
            Who::Vouched(_) | Who::Nobody => None,
        }
    }

    /// Where its connection comes from.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_passed_on_as_it_is() {
        let address = Some("[2001:db8::7]:51234".parse().unwrap());
        let identity: Identity = "spiffe://city/user/li-wei".parse().unwrap();
        let serial: Serial = "4a".repeat(16).parse().unwrap();
        let known = Peer {
            who: Who::PassedOn(Arc::new(identity.clone()), Some(serial)),
            address,
        };
        let again = Peer::passed_on(&known.told()).unwrap();
        assert_eq!(again.identity(), Some(&identity));
        assert_eq!((again.serial(), again.address()), (Some(serial), address));
        let again = Peer::passed_on(&Peer::anonymous(None).told()).unwrap();
        assert_eq!((again.identity(), again.address()), (None, None));
        for wrong in ["", "- -", "- - - -", "li - -", "- zz -", "- - nowhere"] {
            assert!(Peer::passed_on(wrong).is_none(), "{wrong:?}");
        }
    }
}
