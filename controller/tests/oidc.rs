//! ID tokens of a real provider, believed and refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "a test program"
)]

#[path = "oidc/mod.rs"]
mod provider;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use kapok_controller::oidc::{Config, Error, Provider, Refusal, Verified};
use kapok_types::{Env, Timestamp, env::System};
use openidconnect::{
    AuthorizationCode, ClientId, CsrfToken, IssuerUrl, Nonce, PkceCodeChallenge, RedirectUrl,
    Scope, TokenResponse as _,
    core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata},
};
use serde_json::{Value, json};

use crate::provider::{Options, Site, http, log_in};

const NONCE: &str = "the-nonce-of-this-login";
const REDIRECT: &str = "http://127.0.0.1:9/callback";

/// The real clocks, moved forward.
#[derive(Debug)]
struct Clock {
    system: Arc<System>,
    ahead_s: AtomicU64,
}

impl Clock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            system: System::new(),
            ahead_s: AtomicU64::new(0),
        })
    }

    fn set_ahead(&self, seconds: u64) {
        self.ahead_s.store(seconds, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_secs(self.ahead_s.load(Ordering::SeqCst))
    }
}

impl Env for Clock {
    fn now(&self) -> Timestamp {
        let ahead = u64::try_from(self.ahead().as_millis()).unwrap();
        Timestamp(self.system.now().get() + ahead)
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic() + self.ahead()
    }

    fn random(&self) -> u64 {
        self.system.random()
    }
}

/// A whole login: authorization code with PKCE, as the command does it.
async fn id_token(site: &Site, issuer: &str, client: &str, person: &str) -> String {
    let http = http(&site.authority());
    let issuer = IssuerUrl::new(issuer.to_owned()).unwrap();
    let metadata = CoreProviderMetadata::discover_async(issuer, &http)
        .await
        .unwrap();
    let client =
        CoreClient::from_provider_metadata(metadata, ClientId::new(client.to_owned()), None)
            .set_redirect_uri(RedirectUrl::new(REDIRECT.to_owned()).unwrap());
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state, _) = client
        .authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            CsrfToken::new_random,
            || Nonce::new(NONCE.to_owned()),
        )
        .add_scope(Scope::new("profile".to_owned()))
        .set_pkce_challenge(challenge)
        .url();
    let back = log_in(&http, url, person).await;
    let answer = |wanted: &str| {
        let found = back.query_pairs().find(|(name, _)| name == wanted);
        found
            .unwrap_or_else(|| panic!("no {wanted} in {back}"))
            .1
            .into_owned()
    };
    assert_eq!(answer("state"), *state.secret());
    let tokens = client
        .exchange_code(AuthorizationCode::new(answer("code")))
        .unwrap()
        .set_pkce_verifier(verifier)
        .request_async(&http)
        .await
        .unwrap();
    tokens.id_token().unwrap().to_string()
}

fn config(site: &Site, issuer: &str, client: &str) -> Config {
    let issuer = Value::from(issuer);
    let config = json!({
        "issuer": issuer,
        "client_id": client,
        "ca_file": site.authority(),
    });
    serde_json::from_value(config).unwrap()
}

async fn refused(provider: &Provider, token: &str, nonce: &str) -> Refusal {
    match provider.verify(token, nonce).await {
        Err(Error::Refused { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// The same token with another header and payload, and its old signature or none.
fn forged(token: &str, change: impl Fn(&mut Value, &mut Value), signed: bool) -> String {
    let parts: Vec<_> = token.split('.').collect();
    let decode = |part| -> Value { serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap() };
    let (mut header, mut payload) = (decode(parts[0]), decode(parts[1]));
    change(&mut header, &mut payload);
    let encode = |part: &Value| BASE64.encode(part.to_string());
    let signature = if signed { parts[2] } else { "" };
    format!("{}.{}.{signature}", encode(&header), encode(&payload))
}

#[tokio::test]
async fn a_token_of_this_login_is_believed_and_no_other() {
    let Some(site) = Site::new() else { return };
    let (real, other) = (
        site.start(Options::default()),
        site.start(Options::default()),
    );
    let clock = Clock::new();
    let provider = |issuer: &str, client: &str| {
        Provider::new(config(&site, issuer, client), clock.clone()).unwrap()
    };
    let ours = provider(&real.issuer, "kapok");
    let token = id_token(&site, &real.issuer, "kapok", "ada").await;

    let known = ours.verify(&token, NONCE).await.unwrap();
    let expected = Verified {
        issuer: real.issuer.clone(),
        subject: "ada".to_owned(),
        username: Some("ada.chen".to_owned()),
    };
    assert_eq!(known, expected);
    // A claim that no standard knows names people as well.
    let mut own = config(&site, &real.issuer, "kapok");
    own.username_claim = "employee".to_owned();
    let own = Provider::new(own, clock.clone()).unwrap();
    let known = own.verify(&token, NONCE).await.unwrap();
    assert_eq!(known.username.as_deref(), Some("e-ada"));
    // The other signature that is allowed.
    let elliptic = id_token(&site, &real.issuer, "kapok-es", "ada").await;
    let known = provider(&real.issuer, "kapok-es")
        .verify(&elliptic, NONCE)
        .await
        .unwrap();
    assert_eq!(known.subject, "ada");

    // Somebody else's, or for somebody else.
    assert_eq!(
        refused(&ours, &token, "another nonce").await,
        Refusal::Nonce
    );
    assert_eq!(refused(&ours, &token, "").await, Refusal::Malformed);
    let elsewhere = id_token(&site, &real.issuer, "other", "ada").await;
    assert_eq!(refused(&ours, &elsewhere, NONCE).await, Refusal::Audience);
    let mut audience = config(&site, &real.issuer, "kapok");
    audience.audience = Some("the-fabric".to_owned());
    let audience = Provider::new(audience, clock.clone()).unwrap();
    assert_eq!(refused(&audience, &token, NONCE).await, Refusal::Audience);
    let foreign = id_token(&site, &other.issuer, "kapok", "ada").await;
    assert_eq!(refused(&ours, &foreign, NONCE).await, Refusal::Issuer);

    // Forged.
    let renamed = forged(&foreign, |_, p| p["iss"] = real.issuer.clone().into(), true);
    assert_eq!(refused(&ours, &renamed, NONCE).await, Refusal::Signature);
    let promoted = forged(&token, |_, p| p["sub"] = "root".into(), true);
    assert_eq!(refused(&ours, &promoted, NONCE).await, Refusal::Signature);
    for signed in [true, false] {
        let unsigned = forged(&token, |h, _| h["alg"] = "none".into(), signed);
        assert_eq!(refused(&ours, &unsigned, NONCE).await, Refusal::Algorithm);
    }
    let symmetric = forged(&token, |h, _| h["alg"] = "HS256".into(), true);
    assert_eq!(refused(&ours, &symmetric, NONCE).await, Refusal::Algorithm);
    let other_key = forged(&token, |h, _| h["kid"] = "first-ES256".into(), true);
    assert_eq!(refused(&ours, &other_key, NONCE).await, Refusal::Signature);
    let pss = id_token(&site, &real.issuer, "kapok-ps", "ada").await;
    assert_eq!(
        refused(&provider(&real.issuer, "kapok-ps"), &pss, NONCE).await,
        Refusal::Algorithm
    );
    for text in ["", "a.b.c", "🦀", &"a".repeat(100_000)] {
        assert_eq!(refused(&ours, text, NONCE).await, Refusal::Malformed);
    }

    // It isn't issued for later.
    clock.set_ahead(11 * 60);
    assert_eq!(refused(&ours, &token, NONCE).await, Refusal::NotFresh);
}

#[tokio::test]
async fn a_token_ends() {
    let Some(site) = Site::new() else { return };
    let real = site.start(Options {
        token_life_s: 60,
        ..Options::default()
    });
    let clock = Clock::new();
    let ours = Provider::new(config(&site, &real.issuer, "kapok"), clock.clone()).unwrap();
    let token = id_token(&site, &real.issuer, "kapok", "ada").await;
    // Within the leeway for clocks that differ.
    clock.set_ahead(61);
    assert!(ours.verify(&token, NONCE).await.is_ok());
    clock.set_ahead(60 + 31);
    assert_eq!(refused(&ours, &token, NONCE).await, Refusal::Expired);
}

#[tokio::test]
async fn rotated_keys_are_fetched_and_a_provider_that_is_away_lets_nobody_in() {
    let Some(site) = Site::new() else { return };
    let first = site.start(Options::default());
    let (issuer, port) = (first.issuer.clone(), first.port());
    let clock = Clock::new();
    let provider = || Provider::new(config(&site, &issuer, "kapok"), clock.clone()).unwrap();
    let ours = provider();
    let old = id_token(&site, &issuer, "kapok", "ada").await;
    ours.verify(&old, NONCE).await.unwrap();
    drop(first);

    // Its keys are known and recent, so its own absence keeps nobody out; who doesn't know them
    // says that it can't tell.
    ours.verify(&old, NONCE).await.unwrap();
    let unknown = provider().verify(&old, NONCE).await.unwrap_err();
    assert!(matches!(unknown, Error::Unreachable { .. }), "{unknown:?}");
    assert!(!unknown.to_string().contains(&old));
    clock.set_ahead(2 * 60 * 60);
    let stale = ours.verify(&old, NONCE).await.unwrap_err();
    assert!(matches!(stale, Error::Unreachable { .. }), "{stale:?}");
    clock.set_ahead(0);

    let second = site.start(Options {
        port,
        keys: "second",
        ..Options::default()
    });
    assert_eq!(second.issuer, issuer);
    let new = id_token(&site, &issuer, "kapok", "ada").await;
    // Asked for a moment ago: not asked again so soon.
    let recent = provider();
    recent.verify(&new, NONCE).await.unwrap();
    assert_eq!(refused(&recent, &old, NONCE).await, Refusal::Signature);
    clock.set_ahead(11);
    ours.verify(&new, NONCE).await.unwrap();
}

#[tokio::test]
async fn a_provider_is_what_its_certificate_says() {
    let (Some(site), Some(stranger)) = (Site::new(), Site::new()) else {
        return;
    };
    let real = site.start(Options::default());
    let token = id_token(&site, &real.issuer, "kapok", "ada").await;
    let mut distrustful = config(&site, &real.issuer, "kapok");
    distrustful.ca_file = Some(stranger.authority());
    let distrustful = Provider::new(distrustful, Clock::new()).unwrap();
    let error = distrustful.verify(&token, NONCE).await.unwrap_err();
    assert!(
        error.to_string().contains("invalid peer certificate"),
        "{error}"
    );
    // The same server under another name is another issuer.
    let renamed = format!("{}/", real.issuer);
    let renamed = Provider::new(config(&site, &renamed, "kapok"), Clock::new()).unwrap();
    let error = renamed.verify(&token, NONCE).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let good = json!({"issuer": "https://id.example", "client_id": "kapok"});
    let config: Config = serde_json::from_value(good.clone()).unwrap();
    assert_eq!(config.scopes, ["openid", "profile"]);
    Provider::new(config, System::new()).unwrap();
    for (key, value, reason) in [
        ("issuer", json!("http://id.example"), "https"),
        ("issuer", json!("id.example"), "no URL"),
        ("client_id", json!(""), "empty"),
        ("scopes", json!(["profile"]), "openid"),
        ("ca_file", json!("/nonexistent/ca.pem"), "can't be read"),
        ("ca_file", json!("/dev/null"), "no certificate"),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        let config: Config = serde_json::from_value(bad).unwrap();
        let error = Provider::new(config, System::new()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(key) && text.contains(reason), "{text}");
    }
    let mut unknown = good;
    unknown["client_secret"] = "x".into();
    assert!(serde_json::from_value::<Config>(unknown).is_err());
}
