//! Which certificate of a management controller is trusted.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use sha2::{Digest as _, Sha256};

use super::Settings;

/// TLS as these settings want it. 1.2 is spoken, too: many controllers know nothing newer.
pub(super) fn tls(settings: &Settings) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let config = if let Some(file) = &settings.ca_file {
        builder
            .with_root_certificates(roots(file)?)
            .with_no_client_auth()
    } else {
        let wanted = settings
            .fingerprint
            .as_deref()
            .map(fingerprint)
            .transpose()?;
        if wanted.is_none() && !settings.insecure {
            return Err("nothing says which certificate is trusted".to_owned());
        }
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { wanted, provider }))
            .with_no_client_auth()
    };
    Ok(Arc::new(config))
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let wrong = |reason: String| format!("{}: {reason}", file.display());
    let certificates = CertificateDer::pem_file_iter(file).map_err(|it| wrong(it.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// A SHA-256 in hex, colons allowed.
pub(super) fn fingerprint(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "a fingerprint is a SHA-256 in hex, 64 digits".to_owned();
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return Err(wrong());
    };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().map_err(|_| wrong())
}

/// One certificate, or any: whoever shows it still has to prove that it has its key.
#[derive(Debug)]
struct Pinned {
    wanted: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_wanted = |wanted: [u8; 32]| Sha256::digest(shown)[..] == wanted;
        if self.wanted.is_none_or(is_wanted) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General(
            "its certificate isn't the one of the fingerprint".to_owned(),
        ))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, shown, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, shown, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
