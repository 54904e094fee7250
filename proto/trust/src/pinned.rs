//! Dialling a controller without a certificate, knowing only its authority's fingerprint.
//!
//! ```text
//!  1st handshake   the server shows its chain, the authority's certificate with it; we pick the
//!                  one whose key has the pinned fingerprint, and always break off
//!  2nd handshake   rustls' stock verifier, with that authority as the only root
//! ```
//!
//! **Invariant:** the first handshake never succeeds, so nothing is ever said over a connection
//! whose server was not verified by the stock verifier.

use std::sync::{Arc, Mutex, PoisonError};

use kapok_types::{Env, Name};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as Tls, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    Bundle, Fingerprint, Root, TlsFailure,
    connector::{Dial, Error, Source, failure},
    dns,
    tls::{self, Parts},
};

/// Whom somebody without a certificate trusts: one authority of one fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The fabric.
    pub fabric: Name,
    /// SHA-256 of its authority's public key.
    pub authority: Fingerprint,
}

/// A channel to the controller at `address`, without a certificate of our own, verified against
/// the pinned authority alone; and that authority. For the service that gives certificates.
///
/// # Errors
/// Nobody answers, or it isn't a controller of the pinned authority ([`Error::Pin`]).
pub async fn channel(
    address: &str,
    pin: &Pin,
    env: Arc<dyn Env>,
    tune: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<(Channel, Bundle), Error> {
    let root = probe(address, pin, env.clone()).await?;
    let bundle = Bundle::new([root]).map_err(crate::credentials::Error::from)?;
    let dial = dial(address, pin, &bundle, env)?;
    let endpoint = tune(dial.endpoint()?);
    Ok((endpoint.connect_with_connector(dial).await?, bundle))
}

/// How the controller is dialled with the stock verifier and one root.
fn dial(address: &str, pin: &Pin, bundle: &Bundle, env: Arc<dyn Env>) -> Result<Dial, Error> {
    let parts = Parts {
        env: env.clone(),
        roots: Arc::new(bundle.store()),
        crls: Vec::new(),
        shown: None,
    };
    let source = Source::anonymous(parts.client()?, env);
    Dial::new(source, address, &dns::controller(&pin.fabric))
}

/// The first handshake.
async fn probe(address: &str, pin: &Pin, env: Arc<dyn Env>) -> Result<Root, Error> {
    let probe = Arc::new(Probe {
        pin: pin.clone(),
        found: Mutex::new(None),
    });
    let config =
        ClientConfig::builder_with_details(tls::provider(), Arc::new(tls::Clock(env.clone())))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(crate::credentials::Error::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(probe.clone())
            .with_no_client_auth();
    let source = Source::anonymous(Arc::new(config), env);
    let dialled = Dial::new(source, address, &dns::controller(&pin.fabric))?
        .dial()
        .await;
    let found = probe.found.lock();
    if let Some(root) = found.unwrap_or_else(PoisonError::into_inner).take() {
        return Ok(root);
    }
    match dialled {
        // It never succeeds; if it did, there would be nobody to trust.
        Ok(_) => Err(wrong(address)),
        Err(error) if failure(&error) == Some(TlsFailure::UnknownIssuer) => Err(wrong(address)),
        Err(error) => Err(error),
    }
}

fn wrong(address: &str) -> Error {
    Error::Pin {
        address: address.to_owned(),
        source: TlsFailure::UnknownIssuer,
    }
}

/// Looks at a server's chain and refuses it, whatever it is.
#[derive(Debug)]
struct Probe {
    pin: Pin,
    found: Mutex<Option<Root>>,
}

impl ServerCertVerifier for Probe {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Tls> {
        let pinned = chain.iter().find_map(|der| {
            let root = Root::parse_der(der.clone().into_owned()).ok()?;
            let is_pinned =
                root.fingerprint == self.pin.authority && root.fabric == self.pin.fabric;
            is_pinned.then_some(root)
        });
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = pinned;
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Tls> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Tls> {
        Err(CertificateError::BadSignature.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = tls::provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
