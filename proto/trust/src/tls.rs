//! What both ends have in common: the provider, the clock, the one version, the stock verifiers.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use kapok_types::Env;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateRevocationListDer, UnixTime},
    server::{
        StoresServerSessions, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};

use crate::{ClientAuth, credentials::Error};

/// TLS 1.3, and nothing before it.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// HTTP/2: what gRPC speaks.
const H2: &[u8] = b"h2";
/// HTTP/1.1: what those who come without a certificate may speak, too.
const HTTP1: &[u8] = b"http/1.1";

/// The one provider. No process-wide default is installed, and none is needed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// The environment's clock, as the verifiers read it.
#[derive(Debug)]
pub(crate) struct Clock(pub(crate) Arc<dyn Env>);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

pub(crate) const fn unix_time(at: kapok_types::Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(at.get()))
}

/// What one end trusts, and what it shows.
pub(crate) struct Parts {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) crls: Vec<CertificateRevocationListDer<'static>>,
    pub(crate) shown: Option<Arc<CertifiedKey>>,
}

impl Parts {
    /// The listening end. `key` is what it shows; those who must show a certificate have it
    /// verified, and so have those who may.
    pub(crate) fn server(
        &self,
        key: Arc<CertifiedKey>,
        auth: ClientAuth,
    ) -> Result<Arc<ServerConfig>, Error> {
        let mut config =
            ServerConfig::builder_with_details(provider(), Arc::new(Clock(self.env.clone())))
                .with_protocol_versions(VERSIONS)
                .map_err(Error::Tls)?
                .with_client_cert_verifier(self.client_verifier(auth)?)
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.session_storage = Arc::new(Receipts);
        config.send_tls13_tickets = 1;
        config.alpn_protocols = match auth {
            ClientAuth::Required => vec![H2.to_vec()],
            ClientAuth::Optional => vec![H2.to_vec(), HTTP1.to_vec()],
        };
        Ok(Arc::new(config))
    }

    /// The dialling end.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, Error> {
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider())
            .with_crls(self.crls.iter().cloned())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(Error::Verifier)?;
        let builder =
            ClientConfig::builder_with_details(provider(), Arc::new(Clock(self.env.clone())))
                .with_protocol_versions(VERSIONS)
                .map_err(Error::Tls)?
                .with_webpki_verifier(verifier);
        let mut config = match &self.shown {
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(Arc::new(config))
    }

    /// A list of revocations that is late is still believed, and an authority without one is, too:
    /// neither may lock a fabric out. Only leaves are revoked; an authority is dropped from the
    /// bundle.
    fn client_verifier(&self, auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider())
            .with_crls(self.crls.iter().cloned())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status();
        let built: Result<_, VerifierBuilderError> = match auth {
            ClientAuth::Required => builder.build(),
            ClientAuth::Optional => builder.allow_unauthenticated().build(),
        };
        built.map_err(Error::Verifier)
    }
}

/// Hands out session tickets that never resume anything.
///
/// A resumed session would bring its old certificate along unverified, past its end and past its
/// revocation. The ticket itself has a use: a server sends it once it has *accepted* the client's
/// certificate, which TLS 1.3 tells a client in no other way (see [`crate::connector`]).
#[derive(Debug)]
struct Receipts;

impl StoresServerSessions for Receipts {
    fn put(&self, _: Vec<u8>, _: Vec<u8>) -> bool {
        true
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}
