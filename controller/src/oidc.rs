//! Logging in through the site's identity provider: from an ID token to who somebody is there.
//!
//! The command gets the ID token by itself, as a public client with PKCE, and shows it to the
//! `EnrollService`; this module says whether to believe it. [`Provider`] owns what is known of the
//! provider: its metadata and signing keys, fetched when first needed, fetched again when they are
//! old or a token names a key that isn't among them. Whom the fabric takes the person for, and
//! what they may do, is decided elsewhere.
//!
//! **Invariant:** nobody is let in on a guess. A provider that can't be asked is an error of its
//! own; a token is believed only with a signature by a key of the provider, for this fabric's
//! client, with the caller's nonce, within its time, and freshly issued.
//!
//! Absent on purpose: a client secret (the command runs on people's machines and could keep
//! none), symmetric and absent signatures, `userinfo`, sessions, and groups that become roles.

mod http;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use kapok_types::{Env, Timestamp};
use openidconnect::{
    AdditionalClaims, ClaimsVerificationError, ClientId, IdToken, IssuerUrl, Nonce,
    SignatureVerificationError,
    core::{
        CoreGenderClaim, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm,
        CoreJwsSigningAlgorithm, CoreProviderMetadata,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::timeout};

/// How far the provider's clock may be from ours.
const LEEWAY: Duration = Duration::from_secs(30);
/// A token that was issued longer ago is refused though it hasn't ended: whoever finds an old one
/// can't use it.
const FRESH: Duration = Duration::from_mins(10);
/// Keys that were fetched longer ago are fetched again before they are used.
const KEYS_LIFE: Duration = Duration::from_hours(1);
/// An unknown key makes us ask again at most this often.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long all of one exchange with the provider may take.
const EXCHANGE: Duration = Duration::from_secs(15);
/// A longer token is refused unread.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// What the provider may sign with.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 2] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
];

/// The section `[oidc]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The provider's issuer URL, exactly as its tokens say it; `https`, or `http` on a loopback
    /// address.
    pub issuer: String,
    /// The public client that is registered there for the command.
    pub client_id: String,
    /// Whom ID tokens must be made out for; the client's id unless given.
    #[serde(default)]
    pub audience: Option<String>,
    /// Scopes that the command asks for.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The claim that holds a person's name at the provider.
    #[serde(default = "username_claim")]
    pub username_claim: String,
    /// PEM file with the authorities that may vouch for the provider; the system's unless given.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

fn scopes() -> Vec<String> {
    vec!["openid".to_owned(), "profile".to_owned()]
}

fn username_claim() -> String {
    "preferred_username".to_owned()
}

/// Who somebody is to the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The provider's issuer URL.
    pub issuer: String,
    /// Its own, never reused name for the person ("sub").
    pub subject: String,
    /// The name that people know them by there, if it says one.
    pub username: Option<String>,
}

/// Why nobody was let in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can't be used.
    #[error("the identity provider's setting {key} {reason}")]
    Config {
        /// The key below `[oidc]`.
        key: &'static str,
        /// What is wrong, as in "KEY REASON".
        reason: String,
    },
    /// The provider can't be asked for its keys.
    #[error("the identity provider {issuer} can't be asked: {reason}")]
    Unreachable {
        /// The configured issuer.
        issuer: String,
        /// Why.
        reason: String,
    },
    /// The token is not believed.
    #[error("the ID token is refused: {reason}")]
    Refused {
        /// Why.
        reason: Refusal,
    },
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no ID token.
    #[error("it isn't an ID token")]
    Malformed,
    /// It has no signature, or one of a kind that isn't allowed.
    #[error("its signature is of a kind that isn't allowed")]
    Algorithm,
    /// It wasn't signed by a key of the provider, or was changed.
    #[error("its signature isn't the provider's")]
    Signature,
    /// It is another provider's.
    #[error("it is another provider's")]
    Issuer,
    /// It was made out for somebody else than this fabric.
    #[error("it was made out for another client")]
    Audience,
    /// It wasn't asked for by this login.
    #[error("it belongs to another login")]
    Nonce,
    /// It has ended.
    #[error("it has ended")]
    Expired,
    /// It was issued too long ago, or in the future.
    #[error("it wasn't issued just now")]
    NotFresh,
}

/// Claims that the standard doesn't name.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
struct Others(serde_json::Map<String, serde_json::Value>);

impl AdditionalClaims for Others {}

type Token =
    IdToken<Others, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;
type Verifier<'a> = openidconnect::IdTokenVerifier<'a, openidconnect::core::CoreJsonWebKey>;

/// The provider's keys, and when they were fetched, by the monotonic clock.
struct Known {
    keys: CoreJsonWebKeySet,
    fetched: Duration,
}

/// The identity provider. Cheap to share behind an `Arc`.
pub struct Provider {
    config: Config,
    issuer: IssuerUrl,
    http: http::Client,
    env: Arc<dyn Env>,
    /// Held while asking, so that many logins at once ask once.
    known: Mutex<Option<Known>>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("issuer", &self.config.issuer)
            .finish_non_exhaustive()
    }
}

impl Provider {
    /// A provider by its configuration. Asks nobody yet: one that is away keeps no controller from
    /// starting.
    ///
    /// # Errors
    ///
    /// [`Error::Config`].
    pub fn new(config: Config, env: Arc<dyn Env>) -> Result<Self, Error> {
        let issuer = http::issuer(&config.issuer).map_err(|reason| Error::Config {
            key: "issuer",
            reason,
        })?;
        for (key, value) in [
            ("client_id", &config.client_id),
            ("username_claim", &config.username_claim),
        ] {
            if value.is_empty() {
                return Err(Error::Config {
                    key,
                    reason: "is empty".to_owned(),
                });
            }
        }
        if !config.scopes.iter().any(|scope| scope == "openid") {
            return Err(Error::Config {
                key: "scopes",
                reason: "must hold \"openid\"".to_owned(),
            });
        }
        let http =
            http::Client::new(config.ca_file.as_deref()).map_err(|reason| Error::Config {
                key: "ca_file",
                reason,
            })?;
        Ok(Self {
            config,
            issuer,
            http,
            env,
            known: Mutex::new(None),
        })
    }

    /// Its configuration: what `GetFabric` tells the command.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Says who an ID token is about, if it is to be believed. `nonce` is what the login asked the
    /// provider to put into it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; [`Error::Unreachable`] when the provider's keys are needed and it can't
    /// be asked.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost but the answer.
    pub async fn verify(&self, token: &str, nonce: &str) -> Result<Verified, Error> {
        let malformed = Error::Refused {
            reason: Refusal::Malformed,
        };
        if token.len() > MAX_TOKEN_BYTES || nonce.is_empty() {
            return Err(malformed);
        }
        let token: Token = token.parse().map_err(|_| malformed)?;
        let nonce = Nonce::new(nonce.to_owned());
        let (keys, age) = self.keys(KEYS_LIFE).await?;
        let outcome = self.check(&token, &nonce, keys);
        match outcome {
            // Its keys may have been rotated since we asked.
            Err(Refusal::Signature) if age >= ASK_AGAIN => {
                let (keys, _) = self.keys(ASK_AGAIN).await?;
                self.check(&token, &nonce, keys)
            }
            other => other,
        }
        .map_err(|reason| Error::Refused { reason })
    }

    /// The provider's keys, not older than `life`, with their age.
    async fn keys(&self, life: Duration) -> Result<(CoreJsonWebKeySet, Duration), Error> {
        let mut known = self.known.lock().await;
        if let Some(known) = &*known {
            let age = self.env.monotonic().saturating_sub(known.fetched);
            if age < life {
                return Ok((known.keys.clone(), age));
            }
        }
        let keys = self.ask().await?;
        *known = Some(Known {
            keys: keys.clone(),
            fetched: self.env.monotonic(),
        });
        Ok((keys, Duration::ZERO))
    }

    async fn ask(&self) -> Result<CoreJsonWebKeySet, Error> {
        // By value: a future that borrows the client can't be proven to be one for all threads.
        let send = |request| {
            let http = self.http.clone();
            async move { http.send(request).await }
        };
        // Checks that the metadata names this very issuer, and fetches the keys it points to.
        let asked = CoreProviderMetadata::discover_async(self.issuer.clone(), &send);
        let unreachable = |reason| Error::Unreachable {
            issuer: self.config.issuer.clone(),
            reason,
        };
        match timeout(EXCHANGE, asked).await {
            Ok(Ok(metadata)) => Ok(metadata.jwks().clone()),
            Ok(Err(error)) => Err(unreachable(http::chain(&error))),
            Err(_) => Err(unreachable(format!("no answer in {}s", EXCHANGE.as_secs()))),
        }
    }

    fn check(
        &self,
        token: &Token,
        nonce: &Nonce,
        keys: CoreJsonWebKeySet,
    ) -> Result<Verified, Refusal> {
        let now = self.env.now();
        let audience = self.config.audience.as_ref();
        let audience = ClientId::new(audience.unwrap_or(&self.config.client_id).clone());
        // A public client has no secret, so symmetric signatures are refused as well.
        let verifier = Verifier::new_public_client(audience, self.issuer.clone(), keys)
            .set_allowed_algs(ALGORITHMS)
            .set_time_fn(move || chrono(before(now, LEEWAY)))
            .set_issue_time_verifier_fn(move |issued| {
                let oldest = chrono(before(before(now, FRESH), LEEWAY));
                let newest = chrono(after(now, LEEWAY));
                if (oldest..=newest).contains(&issued) {
                    Ok(())
                } else {
                    Err(NOT_FRESH.to_owned())
                }
            });
        let claims = token
            .claims(&verifier, nonce)
            .map_err(|error| why(&error))?;
        // Where the provider says who asked for the token, it must have been this client.
        let party = claims.authorized_party();
        if party.is_some_and(|party| **party != self.config.client_id) {
            return Err(Refusal::Audience);
        }
        let claim = |name: &str| {
            let claims = serde_json::to_value(claims).ok()?;
            Some(claims.get(name)?.as_str()?.to_owned())
        };
        Ok(Verified {
            issuer: self.config.issuer.clone(),
            subject: claims.subject().to_string(),
            username: claim(&self.config.username_claim),
        })
    }
}

/// Marks a refusal by the time of issue among those that the library calls expired.
const NOT_FRESH: &str = "not fresh";

fn why(error: &ClaimsVerificationError) -> Refusal {
    match error {
        ClaimsVerificationError::Expired(why) if why == NOT_FRESH => Refusal::NotFresh,
        ClaimsVerificationError::Expired(_) => Refusal::Expired,
        ClaimsVerificationError::InvalidAudience(_) => Refusal::Audience,
        ClaimsVerificationError::InvalidIssuer(_) => Refusal::Issuer,
        ClaimsVerificationError::InvalidNonce(_) => Refusal::Nonce,
        ClaimsVerificationError::SignatureVerification(error) => match error {
            SignatureVerificationError::DisallowedAlg(_)
            | SignatureVerificationError::NoSignature
            | SignatureVerificationError::UnsupportedAlg(_) => Refusal::Algorithm,
            _ => Refusal::Signature,
        },
        _ => Refusal::Malformed,
    }
}

fn before(time: Timestamp, span: Duration) -> Timestamp {
    Timestamp(time.get().saturating_sub(millis(span)))
}

fn after(time: Timestamp, span: Duration) -> Timestamp {
    Timestamp(time.get().saturating_add(millis(span)))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The library's form of a time. One beyond its range is so far away that no token lives then.
fn chrono(time: Timestamp) -> DateTime<Utc> {
    let millis = i64::try_from(time.get()).unwrap_or(i64::MAX);
    DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
