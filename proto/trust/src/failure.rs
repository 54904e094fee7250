//! Why a dial came to nothing, in the words that a status shows.
//!
//! A certificate's trouble must never look like a dead server: whoever dials asks [`of`] first.

use std::{error::Error, fmt, io};

use rustls::{AlertDescription, CertificateError, Error as Tls};

/// What is wrong between two ends that could reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsFailure {
    /// The other end's certificate has expired.
    Expired,
    /// The other end's certificate doesn't hold yet; one of the two clocks is wrong.
    NotYetValid,
    /// No authority that is trusted here has signed the other end's certificate.
    UnknownIssuer,
    /// The other end's certificate was revoked.
    Revoked,
    /// Somebody else answers at that address.
    WrongName,
    /// The other end shows a certificate that is not for listening.
    WrongPurpose,
    /// The other end doesn't want our certificate.
    PeerRefusedUs(Alert),
    /// Something answers, but it doesn't speak TLS.
    NotTls,
    /// The handshake failed in another way.
    Other,
}

/// What the other end says is wrong with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alert {
    /// Our certificate is out of its dates.
    Expired,
    /// Our certificate was revoked.
    Revoked,
    /// It doesn't trust the authority that signed our certificate.
    UnknownIssuer,
    /// It wants a certificate, and we showed none.
    NoCertificate,
    /// Our certificate is not for dialling.
    WrongPurpose,
    /// It can't make sense of our certificate.
    BadCertificate,
    /// There is no version or method in common.
    Protocol,
    /// Something else.
    Other,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "its certificate has expired",
            Self::NotYetValid => "its certificate doesn't hold yet; compare the clocks",
            Self::UnknownIssuer => "its certificate is not signed by an authority of this fabric",
            Self::Revoked => "its certificate was revoked",
            Self::WrongName => "its certificate is for another name",
            Self::WrongPurpose => "its certificate is not for a server",
            Self::NotTls => "it doesn't speak TLS",
            Self::Other => "the TLS handshake failed",
            Self::PeerRefusedUs(alert) => match alert {
                Alert::Expired => "it refused us: our certificate is out of its dates",
                Alert::Revoked => "it refused us: our certificate was revoked",
                Alert::UnknownIssuer => "it refused us: it doesn't know our authority",
                Alert::NoCertificate => "it refused us: it wants a client certificate",
                Alert::WrongPurpose => "it refused us: our certificate is not for a client",
                Alert::BadCertificate => "it refused us: it can't use our certificate",
                Alert::Protocol => "it refused us: no TLS version or method in common",
                Alert::Other => "it refused us",
            },
        })
    }
}

/// Finds the failure in an error of a dial or a call, wherever in its chain of sources it is:
/// in a `tonic::Status`, a `tonic::transport::Error`, a [`crate::connector::Error`], an
/// [`io::Error`]. `None` means that it wasn't TLS: the other end may be away.
pub fn of(error: &(dyn Error + 'static)) -> Option<TlsFailure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<TlsFailure>() {
            return Some(*failure);
        }
        if let Some(tls) = error.downcast_ref::<Tls>() {
            return Some(of_tls(tls));
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(failure) = inner.and_then(|inner| of(inner)) {
            return Some(failure);
        }
        next = error.source();
    }
    None
}

impl Error for TlsFailure {}

fn of_tls(error: &Tls) -> TlsFailure {
    match error {
        Tls::InvalidCertificate(wrong) => {
            match wrong {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    TlsFailure::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    TlsFailure::NotYetValid
                }
                CertificateError::UnknownIssuer => TlsFailure::UnknownIssuer,
                CertificateError::Revoked => TlsFailure::Revoked,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => TlsFailure::WrongName,
                CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. } => TlsFailure::WrongPurpose,
                _ => TlsFailure::Other,
            }
        }
        Tls::AlertReceived(alert) => TlsFailure::PeerRefusedUs(match alert {
            AlertDescription::CertificateExpired => Alert::Expired,
            AlertDescription::CertificateRevoked => Alert::Revoked,
            AlertDescription::UnknownCA => Alert::UnknownIssuer,
            AlertDescription::CertificateRequired => Alert::NoCertificate,
            AlertDescription::UnsupportedCertificate => Alert::WrongPurpose,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError => Alert::BadCertificate,
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::NoApplicationProtocol => Alert::Protocol,
            _ => Alert::Other,
        }),
        Tls::InvalidMessage(_) => TlsFailure::NotTls,
        _ => TlsFailure::Other,
    }
}
