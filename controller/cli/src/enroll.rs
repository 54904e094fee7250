//! Getting a certificate where one needs none: the `EnrollService` on the controllers' HTTPS port.
//!
//! The server is believed by its authority alone: a token names it, a context has it, or the
//! person types its fingerprint. **Invariant:** nothing secret is said before that is verified.

use std::{sync::Arc, time::Duration};

use kapok_proto::fabric::v1::{
    GetFabricRequest, GetFabricResponse, LoginRequest, LoginResponse,
    enroll_service_client::EnrollServiceClient, login_request::Proof,
};
use kapok_trust::{Bundle, Csr, Key, Pin, connector, pinned};
use kapok_types::{Name, env::System};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::{
    client::{call_failed, unmade},
    controllers::tuned,
    credential::Credential,
    error::{Doing, Error, root_cause},
    race,
    settings::Addresses,
};

/// How long a connection to one controller may take to come about: two handshakes.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take. Whoever logs in through the provider waits for it as well.
const ANSWER: Duration = Duration::from_secs(30);

/// A key that waits for its certificate.
pub(crate) struct Wish {
    key: Key,
    csr_pem: String,
    /// What an ID token must hold to be for this key.
    pub(crate) nonce: String,
}

impl Wish {
    /// With a new key.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub(crate) fn new() -> Result<Self, Error> {
        let key = Key::generate().map_err(|error| unmade(&error))?;
        let csr_pem = key.request().map_err(|error| unmade(&error))?;
        let csr = Csr::parse(&csr_pem).map_err(|error| unmade(&error))?;
        Ok(Self {
            key,
            nonce: csr.nonce(),
            csr_pem,
        })
    }
}

/// A connection without a certificate, to a controller whose authority is known.
#[derive(Debug)]
pub(crate) struct Enroll {
    channel: Channel,
    /// The fabric that the controller was verified to be of.
    fabric: Name,
    /// What it was asked of.
    addresses: Addresses,
}

/// Those authorities of a context that may vouch for a controller.
pub(crate) fn pins(credential: &Credential) -> Vec<Pin> {
    let bundle = Bundle::parse_pem(&credential.material.bundle_pem);
    let roots = bundle.iter().flat_map(Bundle::roots);
    let mut pins: Vec<_> = roots
        .map(|root| {
            let pin = Pin {
                fabric: root.fabric.clone(),
                authority: root.fingerprint,
            };
            (root.not_before, pin)
        })
        .collect();
    // After a rotation, the newest is the likeliest to be shown.
    pins.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
    pins.into_iter().map(|(_, pin)| pin).collect()
}

/// Connects to the controller at `address` if it is of one of these authorities; says which fabric
/// that is, or why not.
async fn one(address: &str, pins: &[Pin], env: Arc<System>) -> Result<(Channel, Name), String> {
    let mut reason = String::new();
    for pin in pins {
        let connect = pinned::channel(address, pin, env.clone(), tuned);
        reason = match timeout(CONNECT, connect).await {
            Ok(Ok((channel, _))) => return Ok((channel, pin.fabric.clone())),
            Ok(Err(error)) => match (&error, connector::failure(&error)) {
                (connector::Error::Pin { .. }, _) => format!(
                    "it isn't a controller of {} with the authority {}",
                    pin.fabric, pin.authority
                ),
                (_, Some(failure)) => failure.to_string(),
                (_, None) => root_cause(&error),
            },
            Err(_) => format!("no answer within {}s", CONNECT.as_secs()),
        };
    }
    Err(reason)
}

impl Enroll {
    /// Connects to the first controller that answers and is of one of these authorities.
    ///
    /// # Errors
    ///
    /// There is none.
    pub(crate) async fn connect(
        env: &Arc<System>,
        addresses: &Addresses,
        pins: &[Pin],
    ) -> Result<Self, Error> {
        let tries = addresses.iter().map(|address| {
            let (address, pins, env) = (address.to_owned(), pins.to_vec(), env.clone());
            async move {
                let found = one(&address, &pins, env).await;
                found.map_err(|reason| (address, reason))
            }
        });
        let found = race::first(tries).await;
        let (channel, fabric) = found.map_err(|reasons| Error::Unreachable { reasons })?;
        Ok(Self {
            channel,
            fabric,
            addresses: addresses.clone(),
        })
    }

    /// What is needed to log in through the identity provider.
    ///
    /// # Errors
    ///
    /// Refused or broken.
    pub(crate) async fn fabric(&self) -> Result<GetFabricResponse, Error> {
        let doing = Doing::new("ask how to log in", "kapok context ls");
        let mut client = EnrollServiceClient::new(self.channel.clone());
        let answer = client.get_fabric(GetFabricRequest {});
        match timeout(ANSWER, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(call_failed(&doing, status, None)),
            Err(_) => Err(Error::TimedOut {
                doing,
                after: ANSWER,
                change: None,
            }),
        }
    }

    /// Gets a certificate for a key. Asked once: what proves who one is may work
    /// only once, so a lost answer isn't asked for again.
    ///
    /// # Errors
    ///
    /// Refused or broken.
    pub(crate) async fn login(
        self,
        wish: &Wish,
        proof: Proof,
        life: Option<Duration>,
        controllers: Option<Addresses>,
    ) -> Result<Credential, Error> {
        let doing = Doing::new("log in", "kapok context ls");
        let oidc_nonce = match &proof {
            Proof::OidcIdToken(_) => wish.nonce.clone(),
            Proof::Token(_) => String::new(),
        };
        let request = LoginRequest {
            csr_pem: wish.csr_pem.clone(),
            proof: Some(proof),
            oidc_nonce,
            life_seconds: life.unwrap_or_default().as_secs(),
        };
        let mut client = EnrollServiceClient::new(self.channel);
        let answer = match timeout(ANSWER, client.login(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(call_failed(&doing, status, None)),
            Err(_) => {
                return Err(Error::TimedOut {
                    doing,
                    after: ANSWER,
                    change: None,
                });
            }
        };
        let LoginResponse {
            credential,
            controllers: named,
        } = answer;
        // What was said on the command line is what this machine can reach.
        let controllers = controllers.or_else(|| named.join(",").parse().ok());
        let issued = credential.unwrap_or_default();
        let new = Credential::issued(&wish.key, issued, controllers, Some(self.addresses))?;
        new.only_of(&self.fabric)
    }
}
