//! How a server becomes one more controller: a token, over another controller's HTTPS port, gives it
//! a certificate; that certificate, over the port of the one that leads, gives it the authorities'
//! keys. Then it can follow, and lead when it is its turn.
//!
//! ```text
//!   token ─▶ certificate ─▶ trust/joining ─▶ each authority's key ─▶ trust/controller
//! ```
//!
//! The order makes every crash harmless. What came for a token is kept before anything else is
//! asked, so the same command goes on where it ended; and the certificate is where a start looks for
//! it only once the keys are there. What is there of the same fabric is a controller that comes
//! back; another fabric's is never touched.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kapok_proto::{
    MAX_MESSAGE_BYTES,
    fabric::v1::{
        Credential, GetAuthorityKeyRequest, GetAuthorityKeyResponse, JoinControllerRequest,
        JoinControllerResponse, enroll_service_client::EnrollServiceClient,
        follower_service_client::FollowerServiceClient,
    },
    refusal,
};
use kapok_trust::{
    Authority, Certificate, Credentials, Fingerprint, Identity, Key, Material, Subject, TlsFailure,
    Token, TokenId, connector, dns, files, pinned,
};
use kapok_types::{Env, Name, Timestamp};
use tonic::{Code, Status, transport::Endpoint};
use zeroize::Zeroizing;

use crate::{
    controller::chain,
    trust::{Vault, vault},
};

/// How long a controller may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Below the directory of trust: where a start looks for the certificate.
const OWN: &str = "controller";
/// The same until the authorities' keys are there.
const JOINING: &str = "joining";
/// In there: by which token it came, and who leads.
const LEADER: &str = "leader";

/// With what, and where.
#[derive(Debug)]
pub struct Options {
    /// Where controllers serve HTTPS, "HOST:PORT": the first that answers is asked.
    pub controllers: Vec<String>,
    /// The right to join.
    pub token: Token,
    /// The directory of trust.
    pub trust: PathBuf,
}

/// What joining gives.
#[derive(Debug)]
pub struct Joined {
    /// The controller's name in the fabric.
    pub name: Name,
    /// The fabric.
    pub fabric: Name,
    /// When the certificate ends. It is renewed in time while the controller runs.
    pub until: Timestamp,
    /// Authorities that nothing new is signed by, and whose keys the one that leads hasn't either.
    pub missing: Vec<Fingerprint>,
}

/// Why a server could not join. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers there.
    #[error(
        "{controllers} can't be reached ({reason}): check --controller (it wants a controller's \
         HTTPS port, 7780 by default), and that nothing between blocks it"
    )]
    Unreachable {
        /// Which addresses.
        controllers: String,
        /// What the system said.
        reason: String,
    },
    /// Somebody else answers there.
    #[error(
        "{controller} isn't a controller of the fabric {fabric} that the token was made in \
         ({reason}): check --controller, and make a token in that controller's fabric. If the \
         address is right, somebody stands between"
    )]
    WrongAuthority {
        /// Which address.
        controller: String,
        /// The token's fabric.
        fabric: Name,
        /// What is wrong with who answered.
        reason: String,
    },
    /// The two clocks don't agree.
    #[error(
        "the certificate of {controller} {problem}, by this server's clock ({now}): set the clock \
         (`timedatectl`), here or there, and try again"
    )]
    Clock {
        /// Which address.
        controller: String,
        /// "isn't valid yet" or "ran out".
        problem: &'static str,
        /// This server's time.
        now: Timestamp,
    },
    /// The token isn't taken.
    #[error(
        "the token isn't taken: it is unknown, is not for a controller, was used, or its time is \
         over. Make another with `kapok token create controller/NAME`"
    )]
    Token,
    /// The controllers refuse for another reason.
    #[error("the controller refuses: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// What was given can't be used.
    #[error(
        "what the controller gave can't be used ({reason}): nothing was changed; compare the \
         versions of kapok-controller here and there"
    )]
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
    /// The authorities' keys didn't come.
    #[error(
        "the certificate is here, but not the keys of the fabric's authorities: {leader} doesn't \
         give them ({reason}). Run the same command again when it can be reached (its gRPC port, \
         7700 by default), or begin anew with another token"
    )]
    Keys {
        /// Who leads.
        leader: String,
        /// Why not.
        reason: String,
    },
    /// There is another fabric.
    #[error(
        "{} holds what is another fabric's: {here}; the token is of {there}. Nothing was changed. To \
         move this server, stop its controller and move that directory and its log away first",
        dir.display()
    )]
    OtherFabric {
        /// Whose it is.
        here: Name,
        /// The token's fabric.
        there: Name,
        /// Where it lies.
        dir: PathBuf,
    },
    /// What was given can't be kept, or what is there can't be read.
    #[error("the certificate can't be kept")]
    Files(#[from] files::Error),
    /// The authorities' keys can't be kept or read.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// What is there already can't be read.
    #[error("the certificate in {} can't be read: move it away", dir.display())]
    Present {
        /// Where.
        dir: PathBuf,
        /// What is wrong with it.
        source: kapok_trust::certificate::Error,
    },
    /// The disk failed.
    #[error("could not access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What came for a token, and from whom the keys are to come.
#[derive(Debug)]
struct Pending {
    token: TokenId,
    leader: Leader,
    material: Material,
    certificate: Certificate,
}

/// Who leads, as far as was said.
#[derive(Debug, Clone)]
struct Leader {
    address: String,
    name: Name,
}

/// Makes a key, has the fabric certify it, and fetches the authorities' keys. Nobody else may use
/// the directory meanwhile. Once it has ended well, a controller can be started over the
/// directory.
///
/// # Errors
///
/// Why not, and what to do next.
pub async fn join(options: Options, env: &Arc<dyn Env>) -> Result<Joined, Error> {
    let Options {
        controllers,
        token,
        trust,
    } = options;
    let vault = Vault::open(&trust)?;
    refuse_another(&trust, &vault, token.fabric())?;
    let begun = Pending::read(&trust)?
        .filter(|begun| begun.token == token.id() && env.now() < begun.certificate.not_after);
    let pending = if let Some(begun) = begun {
        begun
    } else {
        let pending = enroll(&controllers, &token, env).await?;
        pending.write(&trust)?;
        pending
    };
    let missing = pending.fetch(&vault, env).await?;
    files::store(&trust.join(OWN), &pending.material)?;
    let joining = trust.join(JOINING);
    fs::remove_dir_all(&joining).map_err(failed(&joining))?;
    let Identity { subject, fabric } = pending.certificate.identity;
    let Subject::Controller(name) = subject else {
        // Looked at before it was kept.
        return Err(unusable(&format!("it names {subject}")));
    };
    Ok(Joined {
        name,
        fabric,
        until: pending.certificate.not_after,
        missing,
    })
}

/// Refuses a directory of another fabric.
fn refuse_another(trust: &Path, vault: &Vault, fabric: &Name) -> Result<(), Error> {
    let dir = trust.join(OWN);
    let own = match files::load(&dir) {
        Err(files::Error::Absent { .. }) => None,
        material => {
            let certificate = Certificate::parse_pem(&material?.chain_pem);
            let certificate = certificate.map_err(|source| Error::Present { dir, source })?;
            Some(certificate.identity.fabric)
        }
    };
    let held = vault.all();
    let mut there = own
        .iter()
        .chain(held.iter().map(|authority| authority.fabric()));
    match there.find(|there| *there != fabric) {
        Some(here) => Err(Error::OtherFabric {
            here: here.clone(),
            there: fabric.clone(),
            dir: trust.to_owned(),
        }),
        None => Ok(()),
    }
}

/// The certificate for a token.
async fn enroll(
    controllers: &[String],
    token: &Token,
    env: &Arc<dyn Env>,
) -> Result<Pending, Error> {
    let key = Key::generate().map_err(|error| unusable(&error))?;
    let request = JoinControllerRequest {
        token: token.reveal().to_string(),
        csr_pem: key.request().map_err(|error| unusable(&error))?,
    };
    let mut first_failure = None;
    let mut reached = None;
    for controller in controllers {
        match pinned::channel(controller, &token.pin(), Arc::clone(env), tuned).await {
            Ok((channel, _)) => {
                reached = Some((controller, channel));
                break;
            }
            Err(error) => {
                let failure = undialled(controller, controllers, token, &error, env.now());
                first_failure.get_or_insert(failure);
            }
        }
    }
    let Some((controller, channel)) = reached else {
        return Err(first_failure.unwrap_or_else(|| Error::Unreachable {
            controllers: "no controller".to_owned(),
            reason: "none is named".to_owned(),
        }));
    };
    let mut client = EnrollServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let answer = client.join_controller(request).await;
    let answer = answer.map_err(|status| match refusal::reason(&status).as_deref() {
        Some("TOKEN_REFUSED") => Error::Token,
        Some(_) => Error::Refused {
            reason: status.message().to_owned(),
        },
        None if connector::failure(&status).is_some() || status.code() == Code::Unavailable => {
            undialled(controller, controllers, token, &status, env.now())
        }
        None => Error::Refused {
            reason: said(&status),
        },
    })?;
    let JoinControllerResponse {
        credential,
        name,
        leader_address,
        leader_name,
    } = answer.into_inner();
    let Credential {
        chain_pem,
        bundle_pem,
        crl_pem,
        ..
    } = credential.unwrap_or_default();
    let material = Material {
        chain_pem,
        key_pem: key.to_pem().to_string(),
        bundle_pem,
        crl_pem,
    };
    let named = |name: String| -> Result<Name, Error> {
        let read: Result<Name, kapok_types::Violation> = name.parse();
        read.map_err(|wrong| unusable(&format!("it speaks of the controller {name:?}: {wrong}")))
    };
    let expected = Identity::new(token.fabric().clone(), Subject::Controller(named(name)?));
    let certificate =
        Certificate::parse_pem(&material.chain_pem).map_err(|error| unusable(&chain(&error)))?;
    if certificate.identity != expected {
        let reason = format!("it names {}, not {expected}", certificate.identity);
        return Err(unusable(&reason));
    }
    // What can't be dialled with must not be kept.
    Credentials::new(material.clone(), Arc::clone(env)).map_err(|why| unusable(&chain(&why)))?;
    Ok(Pending {
        token: token.id(),
        leader: Leader {
            address: leader_address,
            name: named(leader_name)?,
        },
        material,
        certificate,
    })
}

impl Pending {
    /// What an earlier run left; none if it left nothing whole.
    fn read(trust: &Path) -> Result<Option<Self>, Error> {
        let dir = trust.join(JOINING);
        let material = match files::load(&dir) {
            Err(files::Error::Absent { .. }) => return Ok(None),
            material => material?,
        };
        let path = dir.join(LEADER);
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        let mut lines = text.lines();
        let mut line = || lines.next().unwrap_or_default();
        let (token, address, name) = (line().parse(), line().to_owned(), line().parse());
        let certificate = Certificate::parse_pem(&material.chain_pem);
        Ok(match (token, name, certificate) {
            (Ok(token), Ok(name), Ok(certificate)) => Some(Self {
                token,
                leader: Leader { address, name },
                material,
                certificate,
            }),
            _ => None,
        })
    }

    /// Keeps it. It is durable when this returns.
    fn write(&self, trust: &Path) -> Result<(), Error> {
        let dir = trust.join(JOINING);
        // Another token's: with this one's leader it would be neither.
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(failed(&dir))?;
        }
        // The directory is made, and only its owner's, by whoever keeps what is secret.
        let writer = files::Writer::open(&dir)?;
        let Leader { address, name } = &self.leader;
        let path = dir.join(LEADER);
        fs::write(&path, format!("{}\n{address}\n{name}\n", self.token))
            .and_then(|()| fs::File::open(&path)?.sync_all())
            .map_err(failed(&path))?;
        // Last: what has a material is whole.
        writer.store(&self.material)?;
        Ok(())
    }

    /// Fetches the keys of all authorities that are trusted and not here yet. Which the one that
    /// leads doesn't have.
    async fn fetch(&self, vault: &Vault, env: &Arc<dyn Env>) -> Result<Vec<Fingerprint>, Error> {
        let Leader { address, name } = &self.leader;
        let refused = |reason: String| Error::Keys {
            leader: format!("{name} at {address}"),
            reason,
        };
        let credentials = Credentials::new(self.material.clone(), Arc::clone(env));
        let credentials = credentials.map_err(|why| unusable(&chain(&why)))?;
        let bundle = credentials.bundle();
        let wanted = bundle.roots().iter().map(|root| root.fingerprint);
        let wanted: Vec<_> = wanted.filter(|one| vault.get(*one).is_none()).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let dns = dns::one_controller(&self.certificate.identity.fabric, name);
        let channel = connector::connect(&credentials, address, &dns, tuned).await;
        let channel = channel.map_err(|error| refused(chain(&error)))?;
        let mut client = FollowerServiceClient::new(channel);
        let mut missing = Vec::new();
        for fingerprint in wanted {
            let request = GetAuthorityKeyRequest {
                fingerprint: fingerprint.to_string(),
            };
            let GetAuthorityKeyResponse {
                certificate_pem,
                key_pem,
            } = match client.get_authority_key(request).await {
                Ok(answer) => answer.into_inner(),
                // Nothing new is signed by it, or the one that leads couldn't lead.
                Err(status)
                    if status.code() == Code::NotFound
                        && fingerprint != self.certificate.authority =>
                {
                    missing.push(fingerprint);
                    continue;
                }
                Err(status) => return Err(refused(said(&status))),
            };
            let key_pem = Zeroizing::new(key_pem);
            let authority = Authority::from_pem(&certificate_pem, &key_pem);
            let authority = authority.map_err(|why| refused(chain(&why)))?;
            if authority.fingerprint() != fingerprint {
                let found = authority.fingerprint();
                return Err(refused(format!("it gave {found} for {fingerprint}")));
            }
            vault.put(authority).await?;
        }
        Ok(missing)
    }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint.connect_timeout(CONNECT).timeout(ANSWER)
}

/// Why a controller could not be dialled.
fn undialled(
    controller: &str,
    all: &[String],
    token: &Token,
    error: &(dyn std::error::Error + 'static),
    now: Timestamp,
) -> Error {
    let reason = chain(error);
    let controller = controller.to_owned();
    match connector::failure(error) {
        None | Some(TlsFailure::NotTls) => Error::Unreachable {
            controllers: all.join(", "),
            reason,
        },
        Some(TlsFailure::NotYetValid) => Error::Clock {
            controller,
            problem: "isn't valid yet",
            now,
        },
        Some(TlsFailure::Expired) => Error::Clock {
            controller,
            problem: "ran out",
            now,
        },
        Some(_) => Error::WrongAuthority {
            controller,
            fabric: token.fabric().clone(),
            reason,
        },
    }
}

/// What a status says in words.
fn said(status: &Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}

fn unusable(why: &impl ToString) -> Error {
    Error::Unusable {
        reason: why.to_string(),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
