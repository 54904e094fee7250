//! Private keys, and how one asks for a certificate without showing it.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kapok_types::Digest;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_parser::{
    certification_request::X509CertificationRequest, oid_registry::OID_EC_P256,
    prelude::FromDer as _,
};
use zeroize::Zeroizing;

/// Longest request that is looked at, in bytes. Ours have about 300.
const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Why a key or a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The provider couldn't make a key, or sign with it.
    #[error("could not make a key")]
    Generate(#[source] rcgen::Error),
    /// The text isn't a private key of the one kind in use.
    #[error("not a P-256 private key in PKCS #8 PEM form")]
    Key,
    /// The text isn't a signing request of the one kind in use.
    #[error("not a certificate signing request for a P-256 key in PEM form")]
    Request,
    /// Whoever asks doesn't hold the private key.
    #[error("the request is not signed by its own key")]
    Signature,
}

/// A P-256 private key. Made where it is used, and never sent anywhere.
pub struct Key(pub(crate) KeyPair);

impl Key {
    /// A new key, from the provider's own randomness.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Self, Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(Error::Generate)
    }

    /// Reads PKCS #8 in PEM form.
    ///
    /// # Errors
    /// The text is no P-256 private key.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(|_| Error::Key)
    }

    /// PKCS #8 in PEM form; wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// A signing request in PEM form. It says nothing but the public key: whom the certificate
    /// names is for the authority to decide.
    ///
    /// # Errors
    /// The provider couldn't sign.
    pub fn request(&self) -> Result<String, Error> {
        CertificateParams::default()
            .serialize_request(&self.0)
            .and_then(|request| request.pem())
            .map_err(Error::Generate)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The public key of somebody who has shown to hold the private one. Everything else that a
/// request may ask for (names, purposes, dates) was not even read.
#[derive(Debug, Clone)]
pub struct Csr(pub(crate) rcgen::SubjectPublicKeyInfo);

impl Csr {
    /// Reads a request and checks that it is signed by its own key.
    ///
    /// # Errors
    /// It isn't a request for a P-256 key, or the signature is wrong.
    pub fn parse(pem: &str) -> Result<Self, Error> {
        if pem.len() > MAX_REQUEST_BYTES {
            return Err(Error::Request);
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| Error::Request)?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|_| Error::Request)?;
        let key = &request.certification_request_info.subject_pki;
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|p| p.as_oid().ok());
        if curve.as_ref() != Some(&OID_EC_P256) {
            return Err(Error::Request);
        }
        request.verify_signature().map_err(|_| Error::Signature)?;
        rcgen::SubjectPublicKeyInfo::from_der(key.raw)
            .map(Self)
            .map_err(|_| Error::Request)
    }

    /// The public key (`SubjectPublicKeyInfo`, DER).
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// What an ID token must hold to vouch for this key alone: SHA-256 over the public key, as
    /// base64url without padding.
    pub fn nonce(&self) -> String {
        URL_SAFE_NO_PAD.encode(Digest::of(&self.public_key()).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_the_key_and_proves_its_holder() {
        let key = Key::generate().unwrap();
        let request = key.request().unwrap();
        let csr = Csr::parse(&request).unwrap();
        assert_eq!(csr.public_key(), key.0.subject_public_key_info());
        let nonce = URL_SAFE_NO_PAD.decode(csr.nonce()).unwrap();
        assert_eq!(nonce, Digest::of(&csr.public_key()).0);
        assert_eq!(csr.nonce().len(), 43);
        let again = Csr::parse(&key.request().unwrap()).unwrap();
        assert_eq!(csr.nonce(), again.nonce(), "the key's, not the request's");

        // The other key's signature over this key's request: whoever copies a public key.
        let other = Key::generate().unwrap().request().unwrap();
        let der = |pem: &str| {
            CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
                .unwrap()
                .to_vec()
        };
        let (mut forged, foreign) = (der(&request), der(&other));
        let tail = forged.len() - 16;
        let from = foreign.len() - 16;
        forged[tail..].copy_from_slice(&foreign[from..]);
        let forged = rcgen_pem("CERTIFICATE REQUEST", &forged);
        assert!(matches!(Csr::parse(&forged), Err(Error::Signature)));
    }

    #[test]
    fn other_kinds_of_key_and_garbage_are_refused() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        assert!(matches!(Csr::parse(&request), Err(Error::Request)));
        assert!(matches!(
            Key::from_pem(&key.serialize_pem()),
            Err(Error::Key)
        ));
        for wrong in [
            "",
            "-----BEGIN CERTIFICATE REQUEST-----",
            &"x".repeat(10_000),
        ] {
            assert!(matches!(Csr::parse(wrong), Err(Error::Request)));
        }
    }

    #[test]
    fn a_key_survives_its_text_and_never_shows_itself() {
        let key = Key::generate().unwrap();
        let pem = key.to_pem();
        assert_eq!(Key::from_pem(&pem).unwrap().to_pem(), pem);
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    fn rcgen_pem(label: &str, der: &[u8]) -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    }
}
