//! Logging in at the site's identity provider with a browser: authorization code with PKCE, the
//! answer caught on a loopback port (RFC 8252). What comes out is an ID token, which the
//! controller verifies; here it is neither looked into nor shown.

use std::{io, process, sync::Arc, time::Duration};

use kapok_proto::fabric::v1::GetFabricResponse;
use openidconnect::{
    AuthorizationCode, ClientId, CsrfToken, IssuerUrl, Nonce, PkceCodeChallenge, RedirectUrl,
    Scope, TokenResponse as _,
    core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata},
    url::{Host, Url},
};
use reqwest::redirect;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{
    error::{Doing, Error, root_cause},
    human::plain,
    output::Out,
};

/// How long a person may take unless `--timeout` says otherwise.
const PERSON: Duration = Duration::from_mins(5);
/// How long one exchange with the provider may take.
const EXCHANGE: Duration = Duration::from_secs(15);
/// How long a browser may take to send its request.
const REQUEST: Duration = Duration::from_secs(5);
/// Connections that are read at a time: a browser opens some in advance and says nothing on them.
const CONNECTIONS: usize = 64;
/// A longer request isn't the browser's.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Where the provider sends the browser.
const CALLBACK: &str = "/callback";

/// Has the person log in at the fabric's provider. `open` starts a browser, too. Gives an ID token
/// that holds `nonce`.
///
/// # Errors
///
/// The provider can't be reached or refuses; the person takes too long.
pub(crate) async fn log_in(
    out: &Out,
    fabric: &GetFabricResponse,
    nonce: &str,
    open: bool,
    patience: Option<Duration>,
) -> Result<String, Error> {
    let failed = |error: &dyn std::error::Error| refused(&root_cause(error));
    let http = http()?;
    let issuer = IssuerUrl::new(fabric.oidc_issuer.clone()).map_err(|error| failed(&error))?;
    private(issuer.url())?;
    let metadata = CoreProviderMetadata::discover_async(issuer, &http)
        .await
        .map_err(|error| failed(&error))?;
    private(metadata.authorization_endpoint().url())?;
    if let Some(endpoint) = metadata.token_endpoint() {
        private(endpoint.url())?;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .map_err(|error| Error::io("can't listen for the browser", &error))?;
    let port = listener
        .local_addr()
        .map_err(|error| Error::io("can't listen for the browser", &error))?
        .port();
    let redirect = RedirectUrl::new(format!("http://127.0.0.1:{port}{CALLBACK}"));
    let client = ClientId::new(fabric.oidc_client_id.clone());
    let client = CoreClient::from_provider_metadata(metadata, client, None)
        .set_redirect_uri(redirect.map_err(|error| failed(&error))?);
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    // The library asks for "openid" by itself.
    let scopes = fabric.oidc_scopes.iter().filter(|scope| *scope != "openid");
    let nonce = nonce.to_owned();
    let (url, state, _) = client
        .authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            CsrfToken::new_random,
            move || Nonce::new(nonce),
        )
        .add_scopes(scopes.cloned().map(Scope::new))
        .set_pkce_challenge(challenge)
        .url();
    show(out, &url, open);
    let patience = patience.unwrap_or(PERSON);
    let caught = catch(&listener, state.secret(), &fabric.oidc_issuer);
    let code = timeout(patience, caught)
        .await
        .map_err(|_| Error::TimedOut {
            doing: Doing::new("have you log in with the browser", "kapok context ls"),
            after: patience,
            change: None,
        })??;
    let tokens = client
        .exchange_code(AuthorizationCode::new(code))
        .map_err(|error| failed(&error))?
        .set_pkce_verifier(verifier)
        .request_async(&http)
        .await
        .map_err(|error| failed(&error))?;
    let token = tokens.id_token();
    let token = token.ok_or_else(|| refused("it gives no ID token"))?;
    Ok(token.to_string())
}

/// Whether nobody between can read what is said there: TLS, or this machine.
fn private(url: &Url) -> Result<(), Error> {
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "https" || (url.scheme() == "http" && here) {
        return Ok(());
    }
    Err(refused(&format!("{} isn't https", plain(url.as_str()))))
}

fn refused(reason: &str) -> Error {
    Error::Content {
        message: format!("can't log in at the identity provider: {reason}"),
        hint: "nothing was changed; try again, or log in with a token".to_owned(),
    }
}

/// An HTTP client that trusts the system's authorities (`SSL_CERT_FILE` names others), and follows
/// nothing.
fn http() -> Result<reqwest::Client, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&root_cause(&error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .redirect(redirect::Policy::none())
        .timeout(EXCHANGE)
        .user_agent(concat!("kapok/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| refused(&root_cause(&error)))
}

/// Tells the person where to go. Said even when they want quiet: nothing works without it.
fn show(out: &Out, url: &Url, open: bool) {
    eprintln!("log in with a browser on this machine:\n  {url}");
    let screen = ["DISPLAY", "WAYLAND_DISPLAY"];
    if open && screen.iter().any(|name| std::env::var_os(name).is_some()) {
        // Where there is none, the person has the address.
        let browser = process::Command::new("xdg-open")
            .arg(url.as_str())
            .stdin(process::Stdio::null())
            .stdout(process::Stdio::null())
            .stderr(process::Stdio::null())
            .spawn();
        if browser.is_ok() {
            out.remark("a browser was asked to open it");
        }
    }
}

/// Waits for the browser to come back with the provider's answer; anything else that connects is
/// sent away, and holds up nobody.
async fn catch(listener: &TcpListener, state: &str, issuer: &str) -> Result<String, Error> {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            Some(answer) = open.join_next() => {
                if let Ok(Some(answer)) = answer {
                    return Result::map_err(answer, |reason: String| refused(&reason));
                }
            }
            accepted = listener.accept(), if open.len() < CONNECTIONS => {
                let (browser, _) =
                    accepted.map_err(|error| Error::io("can't listen for the browser", &error))?;
                let (state, issuer) = (state.to_owned(), issuer.to_owned());
                open.spawn(async move { hear(browser, &state, &issuer).await });
            }
        }
    }
}

/// Reads one request and answers it; gives what it says if it is the provider's answer to us.
async fn hear(mut browser: TcpStream, state: &str, issuer: &str) -> Option<Result<String, String>> {
    let target = timeout(REQUEST, read(&mut browser)).await.ok()?.ok()?;
    let answer = answer(&target, state, issuer);
    let (status, page) = match &answer {
        None => ("404 Not Found", "This is not the page."),
        Some(Ok(_)) => (
            "200 OK",
            "Kapok has the answer. You can close this page and go back to the terminal.",
        ),
        Some(Err(_)) => (
            "400 Bad Request",
            "The login failed. The terminal says why.",
        ),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         cache-control: no-store\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    );
    // A browser that went away has nothing to read.
    let _ = timeout(REQUEST, async {
        browser.write_all(response.as_bytes()).await?;
        browser.shutdown().await
    })
    .await;
    answer
}

/// The path and query of a GET request.
async fn read(browser: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 2048];
        let length = browser.read(&mut piece).await?;
        if length == 0 || head.len() > MAX_REQUEST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&piece[..length]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some(target)) if target.starts_with('/') => Ok(target.to_owned()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The code in the provider's answer, or why there is none; `None` when it isn't an answer to us.
fn answer(target: &str, state: &str, issuer: &str) -> Option<Result<String, String>> {
    let url = Url::parse("http://127.0.0.1").ok()?.join(target).ok()?;
    let value = |wanted: &str| {
        let mut found = url.query_pairs().filter(|(name, _)| name == wanted);
        let value = found.next()?.1.into_owned();
        found.next().is_none().then_some(value)
    };
    // Whoever doesn't know the state doesn't come from the login that was begun here.
    if url.path() != CALLBACK || value("state")? != state {
        return None;
    }
    if value("iss").is_some_and(|other| other != issuer) {
        return Some(Err("another provider answers".to_owned()));
    }
    Some(match (value("code"), value("error")) {
        (Some(code), None) => Ok(code),
        (_, Some(error)) => {
            let more = value("error_description").unwrap_or_default();
            Err(format!("it says {} {}", plain(&error), plain(&more)))
        }
        (None, None) => Err("it gives no code".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections on which nothing is said, as browsers open them in advance, keep nobody out.
    #[tokio::test]
    async fn silent_connections_hold_up_nobody() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut silent = Vec::new();
        for _ in 0..8 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let browser = async {
            let mut browser = TcpStream::connect(address).await.unwrap();
            let request = b"GET /callback?code=c&state=s1 HTTP/1.1\r\n\r\n";
            browser.write_all(request).await.unwrap();
            let mut page = String::new();
            browser.read_to_string(&mut page).await.unwrap();
            page
        };
        let caught = timeout(REQUEST * 4, async {
            tokio::join!(catch(&listener, "s1", "https://id.example"), browser)
        });
        let (code, page) = caught.await.unwrap();
        assert_eq!(code.unwrap(), "c");
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    }

    #[test]
    fn providers_are_spoken_to_in_private() {
        for (url, good) in [
            ("https://id.example/a", true),
            ("http://127.0.0.1:1/a", true),
            ("http://[::1]:1/a", true),
            ("http://localhost/a", true),
            ("http://id.example/a", false),
            ("http://127.0.0.1.example/a", false),
            ("ftp://127.0.0.1/a", false),
        ] {
            assert_eq!(private(&url.parse().unwrap()).is_ok(), good, "{url}");
        }
    }

    #[test]
    fn only_an_answer_to_this_login_counts() {
        let read = |target: &str| answer(target, "s1", "https://id.example");
        assert_eq!(read("/callback?code=c&state=s1"), Some(Ok("c".to_owned())));
        let whole = "/callback?code=c%2F1&state=s1&iss=https%3A%2F%2Fid.example";
        assert_eq!(read(whole), Some(Ok("c/1".to_owned())));
        for other in [
            "/",
            "/favicon.ico",
            "/callback",
            "/callback?code=c",
            "/callback?code=c&state=s2",
            "/callback?code=c&state=s1&state=s2",
            "/other?code=c&state=s1",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
        for (failed, why) in [
            (
                "/callback?state=s1&error=access_denied&error_description=no",
                "access_denied no",
            ),
            ("/callback?state=s1", "no code"),
            (
                "/callback?state=s1&code=c&iss=https://evil.example",
                "another provider",
            ),
            ("/callback?state=s1&code=c&error=x", "it says x"),
        ] {
            let reason = read(failed).unwrap().unwrap_err();
            assert!(reason.contains(why), "{reason}");
        }
    }
}
