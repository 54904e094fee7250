//! How a fabric begins: its authority, the controller's certificate, and the first three people.
//!
//! ```text
//!   authority's key ─▶ its record ─▶ three people, each: record, certificate, file
//!                                                              ─▶ the controller's own certificate
//! ```
//!
//! The order makes every crash harmless. What is on disk before the log knows it is found again;
//! what the log knows and nobody holds is issued anew. The controller's own certificate comes
//! last: once the log holds it the fabric is made, and without its file no controller starts. Of
//! a fabric that was made, only that certificate is made anew: people are never touched again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kapok_store::Store;
use kapok_trust::{
    Authority, Credential, Csr, Fingerprint, Key, Material, Subject, authority, files,
};
use kapok_types::{Env, Epoch, Name, Timestamp};
use tracing::warn;
use zeroize::Zeroizing;

use super::{
    Given, Issued, Vault,
    store::own,
    vault::{self, blocking},
};
use crate::{
    config::Lives,
    fabric::{
        Command, Denied, Fabric, Grant, Origin,
        command::{Grounds, NewAuthority},
        decide::Rules,
        people::Role,
    },
    ledger::{self, Ledger},
};

/// How long the first credentials live: time enough to make people of one's own.
pub const FIRST_LIFE: Duration = Duration::from_hours(90 * 24);

/// Who is there from the start, each with one of the roles that are kept apart.
pub const FIRST: [(&str, Role); 3] = [
    ("system-administrator", Role::SystemAdministrator),
    ("security-administrator", Role::SecurityAdministrator),
    ("auditor", Role::Auditor),
];

/// What a fabric is made with.
#[derive(Debug, Clone)]
pub struct Founding {
    /// The fabric's name.
    pub fabric: Name,
    /// The controller's name.
    pub controller: Name,
    /// How long certificates live.
    pub lives: Lives,
    /// Where people reach controllers: "HOST:PORT".
    pub controllers: Vec<String>,
    /// Where they log in: "HOST:PORT".
    pub enroll: Vec<String>,
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Places {
    /// The directory of trust.
    pub trust: PathBuf,
    /// The directory of the first credentials.
    pub credentials: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Founded {
    /// The authority.
    pub authority: Fingerprint,
    /// The first people, and where their credentials are; none if the fabric was made before.
    pub people: Vec<(Subject, PathBuf)>,
    /// When those that were made now end.
    pub not_after: Timestamp,
}

/// A fabric that was made in memory.
#[derive(Debug, Clone)]
pub struct InMemory {
    /// The controller's own credentials.
    pub controller: Material,
    /// The first people's.
    pub people: Vec<(Subject, Material)>,
}

/// Why a fabric can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is one.
    #[error(
        "there is a fabric already: {dir} holds the certificate of {subject} in fabric {fabric}; \
         nothing was changed"
    )]
    Present {
        /// Where.
        dir: String,
        /// Whom the certificate names.
        subject: Subject,
        /// The fabric.
        fabric: Name,
    },
    /// A run for another name did not finish.
    #[error(
        "{dir} holds the authority of fabric {found}, whose making did not finish: finish it with \
         --fabric {found}, or move that directory and the log away"
    )]
    OtherName {
        /// Where.
        dir: String,
        /// Whose.
        found: Name,
    },
    /// The log has an authority whose key isn't here.
    #[error(
        "the log knows the authority {fingerprint}, but its key is not in {dir}: bring that \
         directory back from a backup, or move the log away too"
    )]
    KeyLost {
        /// Which.
        fingerprint: Fingerprint,
        /// Where it was looked for.
        dir: String,
    },
    /// A file of the first credentials is in the way.
    #[error(
        "{}: is there already and is no credential of this fabric; move it away, or choose \
         another place with --credentials",
        path.display()
    )]
    InTheWay {
        /// Which.
        path: PathBuf,
    },
    /// The log can't be written.
    #[error("the log can't be led")]
    Fatal(#[from] ledger::Fatal),
    /// Keys, certificates or files failed.
    #[error(transparent)]
    Trust(#[from] super::Error),
}

macro_rules! through_trust {
    ($($error:ty),*) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::Trust(error.into())
            }
        }
    )*};
}

through_trust!(
    vault::Error,
    authority::Error,
    kapok_trust::key::Error,
    files::Error,
    ledger::Error
);

/// Makes a fabric over an empty log, or finishes what an earlier run began.
///
/// # Errors
///
/// [`Error`] says what is there, and changes nothing of it.
pub async fn found<S: Store>(
    store: Arc<S>,
    env: Arc<dyn Env>,
    founding: &Founding,
    places: &Places,
) -> Result<Founded, Error> {
    refuse_twice(places).await?;
    let vault = {
        let dir = places.trust.clone();
        blocking(move || Vault::open(&dir)).await?
    };
    let led = Founder::lead(store, env, founding, vault).await?;
    let authority = led.authority(&places.trust.display().to_string()).await?;
    let mut people = Vec::new();
    let first: &[_] = if led.is_founded() { &[] } else { &FIRST };
    for &(name, role) in first {
        let path = places.credentials.join(format!("{name}.pem"));
        let subject = led.person(name, role).await?;
        if !is_there(&path, &subject, authority.fingerprint()).await? {
            let material = led.credential(&subject, &authority, FIRST_LIFE).await?;
            let text = file(founding, material)?;
            let path = path.clone();
            blocking(move || write(&path, &text)).await?;
        }
        people.push((subject, path));
    }
    let controller = led.own(&authority).await?;
    let (dir, material) = (own(&places.trust), controller.clone());
    blocking(move || files::store(&dir, &material)).await?;
    let not_after = led.ends_at();
    led.leave().await?;
    Ok(Founded {
        authority: authority.fingerprint(),
        people,
        not_after,
    })
}

/// Makes a fabric that lives in memory, for simulations; the vault holds its authority then.
///
/// # Errors
///
/// [`Error`].
pub async fn found_in_memory<S: Store>(
    store: Arc<S>,
    env: Arc<dyn Env>,
    founding: &Founding,
    vault: Vault,
) -> Result<InMemory, Error> {
    let led = Founder::lead(store, env, founding, vault).await?;
    let authority = led.authority("memory").await?;
    let mut people = Vec::new();
    for (name, role) in FIRST {
        let subject = led.person(name, role).await?;
        let material = led.credential(&subject, &authority, FIRST_LIFE).await?;
        people.push((subject, material));
    }
    let controller = led.own(&authority).await?;
    led.leave().await?;
    Ok(InMemory { controller, people })
}

/// Leads the log while a fabric is made.
struct Founder<'a> {
    env: Arc<dyn Env>,
    founding: &'a Founding,
    vault: Vault,
    ledger: ledger::Handle,
    task: tokio::task::JoinHandle<Result<(), ledger::Fatal>>,
}

impl<'a> Founder<'a> {
    async fn lead<S: Store>(
        store: Arc<S>,
        env: Arc<dyn Env>,
        founding: &'a Founding,
        vault: Vault,
    ) -> Result<Self, Error> {
        let (handle, ledger) =
            Ledger::start(store, env.clone(), "init", Epoch::ZERO, Rules::default()).await?;
        Ok(Self {
            env,
            founding,
            vault,
            ledger: handle,
            task: tokio::spawn(ledger.run()),
        })
    }

    /// The authority: the one that was made before, or a new one.
    async fn authority(&self, dir: &str) -> Result<Arc<Authority>, Error> {
        let fabric = self.fabric();
        if let Some(active) = fabric.active_authority() {
            let fingerprint = active.fingerprint;
            let held = self.vault.get(fingerprint);
            let held = held.ok_or_else(|| Error::KeyLost {
                fingerprint,
                dir: dir.to_owned(),
            })?;
            return self.of_this_name(held, dir);
        }
        let left = self.vault.all().into_iter().next();
        let authority = if let Some(left) = left {
            self.of_this_name(left, dir)?
        } else {
            let new = Authority::create(&self.founding.fabric, &*self.env, authority::LIFE)?;
            self.vault.put(new).await?
        };
        let command = Command::RotateAuthority {
            new: NewAuthority {
                fingerprint: authority.fingerprint(),
                certificate_pem: authority.certificate_pem().to_owned(),
                cross_pem: Vec::new(),
            },
        };
        self.submit(command).await?;
        Ok(authority)
    }

    fn of_this_name(&self, authority: Arc<Authority>, dir: &str) -> Result<Arc<Authority>, Error> {
        if *authority.fabric() == self.founding.fabric {
            return Ok(authority);
        }
        Err(Error::OtherName {
            dir: dir.to_owned(),
            found: authority.fabric().clone(),
        })
    }

    /// One of the first people, with their one role.
    async fn person(&self, name: &'static str, role: Role) -> Result<Subject, Error> {
        let name: Name = name.parse().map_err(|wrong| {
            Error::Trust(ledger::Error::Denied(Denied::Invalid(vec![wrong])).into())
        })?;
        let subject = Subject::User(name);
        let command = Command::CreateUser {
            subject: subject.clone(),
            display: String::new(),
            grants: [Grant { role, tenant: None }].into(),
            external: None,
        };
        match self.submit(command).await {
            Ok(_) | Err(ledger::Error::Denied(Denied::Exists { .. })) => Ok(subject),
            Err(error) => Err(error.into()),
        }
    }

    async fn own(&self, authority: &Authority) -> Result<Material, Error> {
        let own = Subject::Controller(self.founding.controller.clone());
        self.credential(&own, authority, self.founding.lives.controller)
            .await
    }

    /// A key with a certificate that the log holds.
    async fn credential(
        &self,
        subject: &Subject,
        authority: &Authority,
        life: Duration,
    ) -> Result<Material, Error> {
        let key = Key::generate()?;
        let csr = Csr::parse(&key.request()?)?;
        let issued = Issued::sign(authority, &csr, subject.clone(), life, &*self.env)?;
        let command = Command::RecordCertificate {
            certificate: issued.record().clone(),
            grounds: Grounds::Own,
        };
        let done = self.submit(command).await?;
        let Given {
            chain_pem,
            bundle_pem,
            ..
        } = issued.release(&done.snapshot, "")?;
        Ok(Material {
            chain_pem,
            key_pem: key.to_pem().as_str().to_owned(),
            bundle_pem,
            crl_pem: String::new(),
        })
    }

    async fn submit(&self, command: Command) -> Result<ledger::Done, ledger::Error> {
        self.ledger
            .submit(Origin::controller(), None, command)
            .await
    }

    /// Whether the fabric was made before, to the end: its controllers have had certificates.
    fn is_founded(&self) -> bool {
        let fabric = self.fabric();
        let mut subjects = fabric.certificates_by_subject.keys();
        subjects.any(|subject| matches!(subject, Subject::Controller(_)))
    }

    fn fabric(&self) -> Fabric {
        self.ledger.snapshot().fabric.clone()
    }

    /// When what is made now for people ends.
    fn ends_at(&self) -> Timestamp {
        let life = u64::try_from(FIRST_LIFE.as_millis()).unwrap_or(0);
        Timestamp(self.env.now().get() + life)
    }

    /// Lets the log go.
    async fn leave(self) -> Result<(), Error> {
        let Self { ledger, task, .. } = self;
        drop(ledger);
        match task.await {
            Ok(ended) => Ok(ended?),
            Err(error) => {
                warn!(%error, "the ledger ended early");
                Ok(())
            }
        }
    }
}

async fn refuse_twice(places: &Places) -> Result<(), Error> {
    let dir = own(&places.trust);
    let place = dir.display().to_string();
    let present = blocking(move || match files::load(&dir) {
        Err(files::Error::Absent { .. }) => Ok(None),
        loaded => loaded.map(Some),
    })
    .await?;
    let Some(material) = present else {
        return Ok(());
    };
    let certificate =
        kapok_trust::Certificate::parse_pem(&material.chain_pem).map_err(super::Error::from)?;
    Err(Error::Present {
        dir: place,
        subject: certificate.identity.subject,
        fabric: certificate.identity.fabric,
    })
}

/// A credential file as the command reads it.
fn file(founding: &Founding, material: Material) -> Result<Zeroizing<String>, Error> {
    let (controllers, enroll) = (founding.controllers.clone(), founding.enroll.clone());
    let file = Credential::new(material, controllers, enroll).map_err(super::Error::from)?;
    Ok(file.text())
}

/// Whether an earlier run has written a person's credential.
async fn is_there(path: &Path, subject: &Subject, authority: Fingerprint) -> Result<bool, Error> {
    let (file, subject) = (path.to_owned(), subject.clone());
    blocking(move || {
        let text = match fs::read_to_string(&file) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(vault::failed(&file, "read")(error).into()),
        };
        match kapok_trust::Certificate::parse_pem(&text) {
            Ok(found) if *found.subject() == subject && found.authority == authority => Ok(true),
            _ => Err(Error::InTheWay { path: file }),
        }
    })
    .await
}

/// Writes a credential so that it is there as a whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), vault::Error> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    vault::make_dir(dir)?;
    let unfinished = path.with_extension("pem.new");
    if unfinished.exists() {
        fs::remove_file(&unfinished).map_err(vault::failed(&unfinished, "removed"))?;
    }
    vault::write_secret(&unfinished, text.as_bytes())?;
    fs::rename(&unfinished, path).map_err(vault::failed(path, "made"))?;
    vault::flush(dir)
}
