//! The node's trust: its certificate and key, the authorities it believes, and how these change.
//!
//! ```text
//!   join ──▶ STATE/trust ──▶ Trust ──▶ acceptors and dials: each new connection takes the latest
//!                ▲             ▲
//!        durable │             ├── install: the controller's renewal, over NodeService
//!                └─────────────┤
//!                              └── look: a join beside the running agent
//! ```
//!
//! **Invariants.**
//! - A key is made here and never leaves. The one last requested waits until a certificate for it
//!   is installed, so a renewal that breaks off can be repeated.
//! - What is used was durable first, key and certificate together. A refused change changes nothing.
//! - Neither undoes the other: an install first takes what was joined, and no join comes between.
//! - A node never becomes another one, nor another fabric's, while it runs.
//! - Nothing here can stop a guest: a certificate that ran out is said, and the agent works on.
//!
//! Absent on purpose: when to renew. The controller watches that.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use kapok_trust::{
    Bundle, Certificate, Credentials, Identity, Key, Material, Opened, Sealed, Subject, files, seal,
};
use kapok_types::{Digest, Env, Name, NodeId, Timestamp};
use tokio::sync::watch;

mod beside;
mod change;
pub mod command;
pub mod join;

pub use change::Change;

/// The trust's folder in the state directory.
pub const FOLDER: &str = "trust";

/// How often to look for a join beside the running agent.
const LOOK: Duration = Duration::from_secs(1);

/// Why trust can't be loaded or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This server never joined a fabric.
    #[error("this server has not joined a fabric")]
    NotJoined,
    /// What was sent can't be right.
    #[error("{field}: {reason}")]
    Illegal {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder holds another node's trust.
    #[error(
        "{} holds the certificate of {found}, but this is {here}: it was copied from another \
         server. Move that folder away, and join again",
        folder.display()
    )]
    Stranger {
        /// Which folder.
        folder: PathBuf,
        /// Whom the certificate names.
        found: Identity,
        /// Who this is.
        here: Subject,
    },
    /// The folder can't be read or written.
    #[error("the trust in {} can't be used: {reason}", folder.display())]
    Files {
        /// Which folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No key could be made.
    #[error("no key could be made")]
    Key(#[source] kapok_trust::key::Error),
}

/// Where trust is kept.
#[derive(Debug)]
enum Keep {
    Folder(PathBuf),
    Memory,
}

/// What the node believes about others, as it was sent.
#[derive(Debug, Clone, Default)]
struct Believed {
    bundle_pem: String,
    crl_pem: String,
}

/// What only one change at a time may touch.
#[derive(Debug, Default)]
struct Turn {
    /// The key that waits for its certificate.
    waiting: Option<Key>,
    /// The folder's version that was last stored or taken; another one was joined beside this
    /// agent.
    version: Option<files::Version>,
}

/// A handle to the node's trust; cheap to clone.
#[derive(Clone)]
pub struct Trust {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    env: Arc<dyn Env>,
    keep: Keep,
    /// Held for the whole of a change.
    turn: Arc<tokio::sync::Mutex<Turn>>,
    /// Empty only for a simulated node whose network vouches for it, until the first install.
    credentials: OnceLock<Credentials>,
    believed: Mutex<Believed>,
    changed: watch::Sender<u64>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("identity", &self.inner.identity)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// What `join` has left in `folder` for this node. Blocks; call it at start.
    ///
    /// # Errors
    ///
    /// [`Error::NotJoined`], another node's trust, or a folder that can't be used.
    pub fn load(folder: &Path, node: NodeId, env: Arc<dyn Env>) -> Result<Self, Error> {
        // First: what is joined meanwhile is found by the first look.
        let version = files::version(folder);
        let material = read(folder)?;
        let credentials =
            Credentials::new(material, env).map_err(|error| unusable(folder, &error))?;
        let found = credentials.certificate().identity.clone();
        if found.subject != Subject::Node(node) {
            return Err(Error::Stranger {
                folder: folder.to_owned(),
                found,
                here: Subject::Node(node),
            });
        }
        let keep = Keep::Folder(folder.to_owned());
        Ok(Self::of(credentials, keep, version))
    }

    /// As [`Trust::load`], but waits until this server was joined. `waits` is called once if it has
    /// to.
    ///
    /// # Errors
    ///
    /// Another node's trust, or a folder that can't be used.
    pub async fn when_joined(
        folder: &Path,
        node: NodeId,
        env: Arc<dyn Env>,
        waits: impl FnOnce(),
    ) -> Result<Self, Error> {
        let mut waits = Some(waits);
        loop {
            match Self::load(folder, node, Arc::clone(&env)) {
                Err(Error::NotJoined) => {}
                loaded => return loaded,
            }
            if let Some(waits) = waits.take() {
                waits();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Trust that is kept in memory only, for simulated nodes.
    pub fn in_memory(credentials: Credentials) -> Self {
        Self::of(credentials, Keep::Memory, None)
    }

    /// The trust of a simulated node whose network vouches for everybody: it has no certificate
    /// until one is installed.
    pub fn vouched(fabric: Name, node: NodeId, env: Arc<dyn Env>) -> Self {
        Self::new(
            Identity::new(fabric, Subject::Node(node)),
            env,
            Keep::Memory,
            None,
        )
    }

    fn of(credentials: Credentials, keep: Keep, version: Option<files::Version>) -> Self {
        let identity = credentials.certificate().identity.clone();
        let this = Self::new(identity, Arc::clone(credentials.env()), keep, version);
        this.believe(&credentials.material());
        let _first = this.inner.credentials.set(credentials);
        this
    }

    fn new(
        identity: Identity,
        env: Arc<dyn Env>,
        keep: Keep,
        version: Option<files::Version>,
    ) -> Self {
        let turn = Turn {
            waiting: None,
            version,
        };
        Self {
            inner: Arc::new(Inner {
                identity,
                env,
                keep,
                turn: Arc::new(turn.into()),
                credentials: OnceLock::new(),
                believed: Mutex::default(),
                changed: watch::Sender::new(0),
            }),
        }
    }

    /// The fabric that the node belongs to.
    pub fn fabric(&self) -> &Name {
        &self.inner.identity.fabric
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// What connections are made and taken with; none while only a simulated network vouches.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.inner.credentials.get()
    }

    /// The node's certificate.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.credentials().map(Credentials::certificate)
    }

    /// The time by which certificates and seals are judged.
    pub fn now(&self) -> Timestamp {
        self.inner.env.now()
    }

    /// Whether the node's certificate ran out.
    pub fn has_expired(&self) -> bool {
        self.certificate()
            .is_some_and(|certificate| certificate.not_after < self.inner.env.now())
    }

    /// SHA-256 over the authorities and revocations that the node holds, as they were sent: the
    /// bundle's text, then the revocations'.
    pub fn digest(&self) -> Digest {
        let believed = self.believed();
        Digest::of(format!("{}{}", believed.bundle_pem, believed.crl_pem).as_bytes())
    }

    /// Counts changes.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Opens what a controller of this fabric has sealed for `purpose`.
    ///
    /// # Errors
    ///
    /// It wasn't.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Opened, OpenError> {
        if let Some(credentials) = self.credentials() {
            return Ok(credentials.open(purpose, sealed)?);
        }
        let bundle = Bundle::parse_pem(&self.believed().bundle_pem)?;
        Ok(sealed.open(purpose, &bundle, self.inner.env.now())?)
    }

    fn believe(&self, material: &Material) {
        *self.lock() = Believed {
            bundle_pem: material.bundle_pem.clone(),
            crl_pem: material.crl_pem.clone(),
        };
    }

    fn believed(&self) -> Believed {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Believed> {
        self.inner
            .believed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.inner.changed.send_modify(|count| *count += 1);
    }
}

/// Why a seal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It isn't a seal of a controller of this fabric.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// The node knows no authorities yet.
    #[error("this node knows no authorities yet")]
    Ignorant(#[from] kapok_trust::bundle::Error),
}

fn read(folder: &Path) -> Result<Material, Error> {
    match files::load(folder) {
        Ok(material) => Ok(material),
        Err(files::Error::Absent { .. }) => Err(Error::NotJoined),
        Err(error) => Err(unusable(folder, &error)),
    }
}

fn unusable(folder: &Path, error: &dyn std::error::Error) -> Error {
    Error::Files {
        folder: folder.to_owned(),
        reason: with_causes(error),
    }
}

/// An error with its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
