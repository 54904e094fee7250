//! How the provider is asked: HTTPS with a bound on everything, and no redirects, so that the
//! configured host alone decides what is fetched.

use std::{fs, net::IpAddr, path::Path, time::Duration};

use openidconnect::{HttpRequest, HttpResponse, IssuerUrl};
use reqwest::redirect;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// A longer answer is refused.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// An answer that didn't come, or not as it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No answer.
    #[error("no answer")]
    Call(#[from] reqwest::Error),
    /// Too much of it.
    #[error("the answer has more than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// The answer can't be put together.
    #[error("the answer can't be read")]
    Form(#[from] openidconnect::http::Error),
}

/// An HTTP client for the provider alone.
#[derive(Debug, Clone)]
pub(super) struct Client(reqwest::Client);

impl Client {
    /// One that trusts the authorities in this file, or the system's.
    ///
    /// # Errors
    ///
    /// In words: the file can't be read or holds no authority.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = authorities {
            let pem = fs::read(path).map_err(|error| format!("can't be read: {error}"))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let added = certificate
                    .map_err(|error| error.to_string())
                    .and_then(|one| roots.add(one).map_err(|error| error.to_string()));
                added.map_err(|error| format!("holds a bad certificate: {error}"))?;
            }
            if roots.is_empty() {
                return Err("holds no certificate".to_owned());
            }
        } else {
            // Those that can't be read are left out: none at all shows when the provider is asked.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("can't be used: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .user_agent(concat!("kapok-controller/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(|error| format!("can't be used: {}", chain(&error)))
    }

    /// Sends one request and reads all of the answer.
    ///
    /// # Errors
    ///
    /// No answer, or one that is too long.
    pub(super) async fn send(&self, request: HttpRequest) -> Result<HttpResponse, Error> {
        let mut answer = self.0.execute(request.try_into()?).await?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(Error::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        let mut response = HttpResponse::new(body);
        *response.status_mut() = answer.status();
        std::mem::swap(response.headers_mut(), answer.headers_mut());
        Ok(response)
    }
}

/// Reads an issuer URL.
///
/// # Errors
///
/// In words, when it isn't an `https` one (or `http` on a loopback address).
pub(super) fn issuer(text: &str) -> Result<IssuerUrl, String> {
    let issuer = IssuerUrl::new(text.to_owned()).map_err(|error| format!("is no URL: {error}"))?;
    let url = issuer.url();
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host
        .parse()
        .is_ok_and(|address: IpAddr| address.is_loopback());
    match url.scheme() {
        "https" => Ok(issuer),
        "http" if loopback => Ok(issuer),
        _ => Err("must be an https URL".to_owned()),
    }
}

/// An error with what caused it, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
