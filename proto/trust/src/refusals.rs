//! Counts of those who were not let in, by reason.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{CertificateError, Error as Tls};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a connection was refused before its first request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason as a metric's label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// It didn't speak TLS.
    Plaintext = "plaintext",
    /// It spoke an older TLS, or shares no method with us.
    Protocol = "protocol",
    /// It showed no certificate where one is needed.
    NoCertificate = "no_certificate",
    /// Its certificate has expired.
    Expired = "expired",
    /// Its certificate doesn't hold yet.
    NotYetValid = "not_yet_valid",
    /// No authority that is trusted here has signed its certificate.
    UnknownIssuer = "unknown_issuer",
    /// Its certificate is not for this end of a connection.
    WrongPurpose = "wrong_purpose",
    /// Its certificate was revoked.
    Revoked = "revoked",
    /// Its certificate names no subject of this fabric.
    NoIdentity = "no_identity",
    /// It didn't finish the handshake in time.
    Timeout = "timeout",
    /// There were too many connections, its own or all.
    TooMany = "too_many",
    /// It broke off, or the handshake failed in another way.
    Other = "other",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Reason {
    /// Reads the error that a handshake ended with.
    pub(crate) fn of_handshake(error: &io::Error) -> Self {
        let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Tls>())
        else {
            return Self::Other;
        };
        match tls {
            Tls::InvalidMessage(_) => Self::Plaintext,
            Tls::NoCertificatesPresented => Self::NoCertificate,
            Tls::PeerIncompatible(_) => Self::Protocol,
            Tls::InvalidCertificate(wrong) => match wrong {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::UnknownIssuer => Self::UnknownIssuer,
                CertificateError::Revoked => Self::Revoked,
                CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. } => Self::WrongPurpose,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// The counters. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Refusals(Arc<BTreeMap<Reason, AtomicU64>>);

impl Refusals {
    pub(crate) fn new() -> Self {
        let zero = |reason: &Reason| (*reason, AtomicU64::new(0));
        Self(Arc::new(Reason::ALL.iter().map(zero).collect()))
    }

    pub(crate) fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(&reason) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were refused for `reason` so far.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(&reason).map_or(0, |n| n.load(Ordering::Relaxed))
    }

    /// How many were refused so far, by reason; every reason is there.
    pub fn snapshot(&self) -> BTreeMap<Reason, u64> {
        let read = |(reason, n): (&Reason, &AtomicU64)| (*reason, n.load(Ordering::Relaxed));
        self.0.iter().map(read).collect()
    }
}
