//! Words that outlive a connection: signed by a controller, checked by whoever holds the bundle.
//!
//! Tickets that one agent shows another, and the log's heads that agents keep. A seal is bound to
//! its purpose, so that one can't pass for the other, and carries the signer's chain, so that it
//! can be checked years later against the authorities of its day.

use std::{fmt, sync::Arc};

use kapok_types::Timestamp;
use rustls::{SignatureScheme, pki_types::CertificateDer, sign::CertifiedKey};
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs::ECDSA_P256_SHA256};

use crate::{
    Bundle, Certificate, Subject,
    certificate::{self, MAX_DER_BYTES},
    credentials::MAX_CHAIN,
    tls::{self, unix_time},
};

/// Most bytes a payload may have.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// What every signed text begins with, so that no other use of the key can be taken for a seal.
const DOMAIN: &[u8] = b"kapok seal 1\0";

/// The layout of [`Sealed::to_bytes`].
const VERSION: u8 = 1;

/// Why a seal can't be made or believed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no seal.
    #[error("not a sealed message")]
    Malformed,
    /// The payload is too long, in bytes.
    #[error("a payload of {0} bytes; at most {MAX_PAYLOAD_BYTES} can be sealed")]
    TooLong(usize),
    /// The signer's certificate can't be read.
    #[error("could not use the signer's certificate")]
    Certificate(#[from] certificate::Error),
    /// The signer's certificate doesn't lead to an authority of the bundle, or didn't hold then.
    #[error("the signer's certificate did not hold at the time")]
    Chain(#[source] webpki::Error),
    /// Somebody else than a controller has signed.
    #[error("sealed by {0}; only a controller may")]
    Signer(Subject),
    /// The signer is of another fabric.
    #[error("sealed in another fabric")]
    OtherFabric,
    /// The signer's certificate was revoked.
    #[error("the signer's certificate was revoked")]
    Revoked,
    /// The payload was changed, or sealed for another purpose.
    #[error("the signature does not fit the message and its purpose")]
    Signature,
    /// The key refuses.
    #[error("could not sign")]
    Sign(#[source] rustls::Error),
}

/// Signs with a certificate's key.
#[derive(Clone)]
pub struct Signer {
    certificate: Arc<Certificate>,
    key: Arc<CertifiedKey>,
}

impl Signer {
    pub(crate) const fn new(certificate: Arc<Certificate>, key: Arc<CertifiedKey>) -> Self {
        Self { certificate, key }
    }

    /// The certificate it signs with.
    pub const fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }

    /// Signs `payload` for `purpose`, a constant of the code. Only a controller's seal will be
    /// believed.
    ///
    /// # Errors
    /// The payload is too long, or the key refuses.
    pub fn seal(&self, purpose: &str, payload: &[u8]) -> Result<Sealed, Error> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Error::TooLong(payload.len()));
        }
        let unfit = || Error::Sign(rustls::Error::General("not a P-256 key".into()));
        let signer = self
            .key
            .key
            .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
            .ok_or_else(unfit)?;
        let signature = signer
            .sign(&signed(purpose, payload))
            .map_err(Error::Sign)?;
        Ok(Sealed {
            payload: payload.to_vec(),
            signature,
            chain: self.key.cert.iter().map(|der| der.to_vec()).collect(),
        })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// A payload, its signature and who signed. Nothing in it is believed before [`Sealed::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What was said.
    pub payload: Vec<u8>,
    /// ECDSA over P-256 and SHA-256, DER.
    pub signature: Vec<u8>,
    /// The signer's certificates in DER: the leaf, then what leads to an authority.
    pub chain: Vec<Vec<u8>>,
}

/// What a seal says, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What was said.
    pub payload: Vec<u8>,
    /// The controller that said it.
    pub certificate: Certificate,
}

impl Sealed {
    /// Checks that a controller of the bundle's fabric sealed this for `purpose`, with a
    /// certificate that held at `at`. Revocations are not looked at: see
    /// [`crate::Credentials::open`].
    ///
    /// # Errors
    /// It was sealed by nobody who may, for something else, or changed since.
    pub fn open(&self, purpose: &str, bundle: &Bundle, at: Timestamp) -> Result<Opened, Error> {
        if self.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Error::TooLong(self.payload.len()));
        }
        let chain: Vec<_> = self
            .chain
            .iter()
            .take(MAX_CHAIN)
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let leaf = chain.first().ok_or(Error::Malformed)?;
        let certificate = Certificate::parse_der(leaf)?;
        if certificate.identity.fabric != *bundle.fabric() {
            return Err(Error::OtherFabric);
        }
        if !certificate.subject().is_controller() {
            return Err(Error::Signer(certificate.identity.subject));
        }
        verify_chain(&chain, bundle, at).map_err(Error::Chain)?;
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                let text = signed(purpose, &self.payload);
                leaf.verify_signature(ECDSA_P256_SHA256, &text, &self.signature)
            })
            .map_err(|_| Error::Signature)?;
        Ok(Opened {
            payload: self.payload.clone(),
            certificate,
        })
    }

    /// One byte string: a version, then each part after its length (32 bits, big-endian).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        let parts = [&self.payload, &self.signature];
        for part in parts.into_iter().chain(&self.chain) {
            // No part comes near: payload and certificates are bounded.
            out.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend(part);
        }
        out
    }

    /// Reads [`Sealed::to_bytes`].
    ///
    /// # Errors
    /// It isn't one, or a part is too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (&VERSION, mut rest) = bytes.split_first().ok_or(Error::Malformed)? else {
            return Err(Error::Malformed);
        };
        let mut next = |limit: usize| -> Result<Option<Vec<u8>>, Error> {
            let Some((length, tail)) = rest.split_first_chunk::<4>() else {
                return if rest.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::Malformed)
                };
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > limit || length > tail.len() {
                return Err(Error::Malformed);
            }
            let (part, tail) = tail.split_at(length);
            rest = tail;
            Ok(Some(part.to_vec()))
        };
        let payload = next(MAX_PAYLOAD_BYTES)?.ok_or(Error::Malformed)?;
        let signature = next(256)?.ok_or(Error::Malformed)?;
        let mut chain = Vec::new();
        while let Some(der) = next(MAX_DER_BYTES)? {
            if chain.len() == MAX_CHAIN {
                return Err(Error::Malformed);
            }
            chain.push(der);
        }
        Ok(Self {
            payload,
            signature,
            chain,
        })
    }
}

/// What is really signed: the purpose's length keeps it and the payload apart.
fn signed(purpose: &str, payload: &[u8]) -> Vec<u8> {
    let length = u64::try_from(purpose.len()).unwrap_or(u64::MAX);
    [DOMAIN, &length.to_be_bytes(), purpose.as_bytes(), payload].concat()
}

/// Whether a chain leads from its leaf to an authority of the bundle, at that time.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    at: Timestamp,
) -> Result<(), webpki::Error> {
    let Some((leaf, bridges)) = chain.split_first() else {
        return Err(webpki::Error::UnknownIssuer);
    };
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(
            tls::provider().signature_verification_algorithms.all,
            &bundle.store().roots,
            bridges,
            unix_time(at),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map(drop)
}
