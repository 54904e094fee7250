//! A leaf certificate, read.

use std::{sync::Arc, time::Duration};

use kapok_types::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use crate::{Fingerprint, Identity, Serial, Subject, authority::BACKDATED};

/// Longest certificate that is looked at, in bytes. Ours have about 700.
pub(crate) const MAX_DER_BYTES: usize = 16 * 1024;

/// Why a certificate can't be one of a fabric's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It isn't a certificate at all.
    #[error("not an X.509 certificate")]
    Malformed,
    /// It names nobody, or several, or somebody that no fabric has.
    #[error("the certificate names no subject of a fabric")]
    Identity,
    /// Its number, its dates or the key that signed it are not of the form that an authority of
    /// ours gives.
    #[error("the certificate was not issued by an authority of Kapok")]
    Foreign,
}

/// What a leaf certificate says. Whether it is *true* is for the verifiers: a value that came
/// from [`crate::Peer`] or [`crate::Opened`] has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it names.
    pub identity: Identity,
    /// Its number.
    pub serial: Serial,
    /// The authority that signed it.
    pub authority: Fingerprint,
    /// From when on it holds.
    pub not_before: Timestamp,
    /// Until when it holds.
    pub not_after: Timestamp,
    /// SHA-256 of its DER.
    pub fingerprint: Fingerprint,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// It isn't one that an authority of Kapok gives to a subject.
    pub fn parse_der(der: &[u8]) -> Result<Self, Error> {
        let parsed = parse(der)?;
        let identity = uri_name(&parsed)
            .and_then(|uri| uri.parse().ok())
            .ok_or(Error::Identity)?;
        let serial = Serial::from_bytes(parsed.raw_serial()).ok_or(Error::Foreign)?;
        let authority = parsed
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref(),
                _ => None,
            })
            .and_then(|id| Fingerprint::from_bytes(id.0))
            .ok_or(Error::Foreign)?;
        let not_before = timestamp(parsed.validity().not_before);
        let not_after = timestamp(parsed.validity().not_after);
        if not_before > not_after {
            return Err(Error::Foreign);
        }
        Ok(Self {
            identity,
            serial,
            authority,
            not_before,
            not_after,
            fingerprint: Fingerprint::of(der),
        })
    }

    /// Reads the first certificate of a chain.
    ///
    /// # Errors
    /// There is none, or it isn't one that an authority of Kapok gives to a subject.
    pub fn parse_pem(pem: &str) -> Result<Self, Error> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::Malformed)?;
        Self::parse_der(&der)
    }

    /// Whom it names, within the fabric.
    pub const fn subject(&self) -> &Subject {
        &self.identity.subject
    }

    /// Whether its dates cover `now`.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The life that it was given: without what it is dated back by.
    pub fn life(&self) -> Duration {
        let dated = Duration::from_millis(self.not_after.millis_since(self.not_before));
        dated.saturating_sub(BACKDATED)
    }

    /// When it should be renewed: at two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        let left = u64::try_from((self.life() / 3).as_millis()).unwrap_or(0);
        Timestamp(self.not_after.get().saturating_sub(left))
    }
}

/// A certificate that the other end of a connection showed, with what leads from it to an
/// authority: enough to verify it again.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl Shown {
    /// Reads a chain, leaf first, as a handshake verified it.
    pub(crate) fn read(chain: &[CertificateDer<'_>]) -> Result<Self, Error> {
        let leaf = chain.first().ok_or(Error::Malformed)?;
        Ok(Self {
            certificate: Arc::new(Certificate::parse_der(leaf)?),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        })
    }
}

/// Parses DER strictly: nothing may follow the certificate.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Error> {
    if der.len() > MAX_DER_BYTES {
        return Err(Error::Malformed);
    }
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(Error::Malformed),
    }
}

/// The certificate's URI name, if it has exactly one.
pub(crate) fn uri_name<'a>(parsed: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = parsed.subject_alternative_name().ok().flatten()?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    uris.next().filter(|_| uris.next().is_none())
}

pub(crate) fn timestamp(time: x509_parser::time::ASN1Time) -> Timestamp {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    Timestamp(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, Issuer, KeyIdMethod, KeyPair, PKCS_ECDSA_P256_SHA256, SanType,
        SerialNumber, date_time_ymd,
    };

    use super::*;

    #[test]
    fn a_certificate_ends_after_it_begins() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut issuer = CertificateParams::default();
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 32]);
        let issuer = Issuer::new(issuer, &key);
        let serial = Serial::new(&*kapok_types::env::Seeded::new(1));
        let (earlier, later) = (date_time_ymd(2029, 1, 1), date_time_ymd(2030, 1, 1));
        let parsed = |not_before, not_after| {
            let mut params = CertificateParams::default();
            params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
            let name = "spiffe://city/user/ada".try_into().unwrap();
            params.subject_alt_names.push(SanType::URI(name));
            params.use_authority_key_identifier_extension = true;
            (params.not_before, params.not_after) = (not_before, not_after);
            Certificate::parse_der(params.signed_by(&key, &issuer).unwrap().der())
        };
        parsed(earlier, later).unwrap();
        assert_eq!(parsed(later, earlier), Err(Error::Foreign));
    }
}
