//! The fabric's trust as the controller keeps it: the authorities' keys, its own certificate, and
//! every certificate that is given out.
//!
//! ```text
//!   Vault (authorities' keys) ─▶ issue ─▶ Issued ──record──▶ the log ──release──▶ out
//!   the log ─▶ keeper ─▶ bundle, revocation lists, own certificate ─▶ Credentials (hot)
//! ```
//!
//! What is public — authorities, certificates, revocations — is in the log, and the fabric is its
//! fold. What is secret lies beside it: [`vault`] owns the authorities' keys, [`Credentials`] the
//! controller's own. [`keeper`] is the one task that changes the credentials.
//!
//! Invariants:
//! - No certificate leaves this module before the log holds it: [`Issued`] gives it out against a
//!   snapshot that does.
//! - A new authority's key is on disk before the log knows the authority; one whose record did
//!   not come about is finished by the keeper, so a crash in between loses nothing.
//! - Nothing here decides who may have a certificate: that is `decide`'s.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kapok_proto::fabric::v1::{
    RenewControllerRequest, follower_service_client::FollowerServiceClient,
};
use kapok_trust::{
    Bundle, Credentials, Csr, Fingerprint, Key, Material, Root, Serial, Subject, Token, authority,
    bundle, certificate, credential, credentials, files, key,
};
use kapok_types::{Digest, Env, Name, Timestamp};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    config::Lives,
    controllers::Controllers,
    fabric::{AuthorityRecord, CertificateRecord, Command, Fabric, Origin, command::Grounds},
    ledger,
};

pub mod init;
mod issue;
pub mod keeper;
mod rotate;
mod store;
mod ticket;
pub mod vault;

pub use issue::{Given, Issued};
pub use store::Opened;
pub use ticket::{SealedTicket, Ticket, TicketRefused};
pub use vault::Vault;

/// How long the controller that leads may take to sign.
const RENEWAL: Duration = Duration::from_secs(10);

/// Who signs a new certificate of this controller's.
#[derive(Debug, Clone, Copy)]
enum Renewal<'a> {
    /// It does so itself: it leads.
    Own,
    /// The one that leads.
    At(&'a Controllers),
}

/// The controller's trust. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    opened: Opened,
    fabric: Name,
    own: Subject,
    lives: Lives,
    env: Arc<dyn Env>,
    /// Held while an authority is made and recorded: one at a time, and the keeper finishes
    /// nothing that is under way.
    rotating: Mutex<()>,
    /// Whether the credentials in use are not on disk yet: the keeper tries until they are.
    unsaved: AtomicBool,
    /// The digest of a material, reckoned once.
    digest: std::sync::Mutex<Option<(Arc<Material>, Arc<str>)>>,
}

/// Why trust can't be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of a fabric lies here.
    #[error(
        "{home} holds nothing of a fabric: make one with kapok-controller init, or, if there was \
         one, bring that directory back from a backup"
    )]
    NoFabric {
        /// Where it was looked for.
        home: String,
    },
    /// The authorities' keys are here, the controller's own certificate isn't.
    #[error(
        "{home} holds the authority of fabric {fabric}, but not this controller's certificate: \
         make that anew with kapok-controller init --fabric {fabric}; nothing else is touched"
    )]
    NoOwn {
        /// Whose authority it is.
        fabric: Name,
        /// Where it was looked for.
        home: String,
    },
    /// The log holds no authority, though keys lie here.
    #[error(
        "{home} holds the keys of fabric {fabric}, but the log knows no authority: look whether \
         store.backend names the store that it is in (kapok-controller store migrate moves it), bring \
         the log back from a backup, or move that directory away and make a new fabric with \
         kapok-controller init"
    )]
    EmptyLog {
        /// Whose keys they are.
        fabric: Name,
        /// Where they are.
        home: String,
    },
    /// The log's authority has no key here.
    #[error(
        "the key of the fabric's authority {fingerprint} is not in {home}; bring it back from a \
         backup: nobody else can sign"
    )]
    NoKey {
        /// Which.
        fingerprint: Fingerprint,
        /// Where it was looked for.
        home: String,
    },
    /// The controller's own certificate isn't one.
    #[error("the certificate in {home} names {subject}, which is no controller")]
    NotController {
        /// Whom it names.
        subject: Subject,
        /// Where it is.
        home: String,
    },
    /// The certificate is not in the log, so it isn't given out.
    #[error("the certificate {serial} was not recorded")]
    NotRecorded {
        /// Which.
        serial: Serial,
    },
    /// An authority can't sign, or can't be made.
    #[error("the authority failed")]
    Authority(#[from] authority::Error),
    /// A key can't be made or read.
    #[error("a key failed")]
    Key(#[from] key::Error),
    /// A certificate can't be read.
    #[error("a certificate can't be read")]
    Certificate(#[from] certificate::Error),
    /// An authority's certificate in the log can't be read.
    #[error("the fabric's authorities can't be read")]
    Bundle(#[from] bundle::Error),
    /// What was put together can't be used.
    #[error("the controller's credentials can't be used")]
    Credentials(#[from] credentials::Error),
    /// A credential for a person can't be put together.
    #[error("a credential can't be put together")]
    Credential(#[from] credential::Error),
    /// The credentials can't be stored or read.
    #[error("the controller's credentials can't be kept")]
    Files(#[from] files::Error),
    /// The authorities' keys can't be stored or read.
    #[error(transparent)]
    Vault(#[from] vault::Error),
    /// A seal can't be made.
    #[error("sealing failed")]
    Seal(#[from] kapok_trust::seal::Error),
    /// The ledger refused.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The controller that leads refused.
    #[error("the controller that leads gives no certificate")]
    Leader(#[from] tonic::Status),
    /// It didn't answer.
    #[error("the controller that leads takes too long")]
    Late(#[from] tokio::time::error::Elapsed),
    /// A controller that follows doesn't hold the key of a new authority.
    #[error(
        "controller {0} follows, and doesn't take the new authority's key: it couldn't lead then; look at \
         its log, or stop it, and ask again"
    )]
    NotHeld(Name),
}

impl Trust {
    /// The trust of a controller, whether it leads or follows.
    ///
    /// # Errors
    ///
    /// [`Error::NotController`].
    pub fn new(opened: Opened, lives: Lives, env: Arc<dyn Env>) -> Result<Self, Error> {
        let own = opened.credentials().certificate();
        let Subject::Controller(_) = own.subject() else {
            return Err(Error::NotController {
                subject: own.subject().clone(),
                home: opened.place(),
            });
        };
        Ok(Self(Arc::new(Inner {
            fabric: own.identity.fabric.clone(),
            own: own.subject().clone(),
            opened,
            lives,
            env,
            rotating: Mutex::default(),
            unsaved: AtomicBool::new(false),
            digest: std::sync::Mutex::default(),
        })))
    }

    /// Of a controller that has begun to lead: checks that what lies here fits the log, finishes what a
    /// crash left half done, and renews the controller's own certificate if it is due: it may have
    /// ended while nobody ran.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is missing.
    pub async fn lead(&self, ledger: &ledger::Handle) -> Result<(), Error> {
        self.finish_rotation(ledger).await?;
        self.active(&ledger.snapshot().fabric)?;
        self.follow(ledger, None, Renewal::Own).await?;
        Ok(())
    }

    /// The authorities whose keys are here.
    pub fn held(&self) -> Vec<Fingerprint> {
        let held = self.vault().all();
        held.iter()
            .map(|authority| authority.fingerprint())
            .collect()
    }

    /// An authority with its key, for another controller.
    pub(crate) fn key_of(&self, authority: Fingerprint) -> Option<Arc<kapok_trust::Authority>> {
        self.vault().get(authority)
    }

    /// The fabric's name.
    pub fn fabric(&self) -> &Name {
        &self.0.fabric
    }

    /// The controller's own credentials, always the current ones.
    pub fn credentials(&self) -> &Credentials {
        self.0.opened.credentials()
    }

    /// How long certificates live.
    pub fn lives(&self) -> &Lives {
        &self.0.lives
    }

    /// The authority that signs.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyLog`], [`Error::NoKey`].
    pub fn active(&self, fabric: &Fabric) -> Result<Fingerprint, Error> {
        let active = fabric.active_authority();
        let active = active.ok_or_else(|| self.0.opened.no_log())?;
        if self.vault().get(active.fingerprint).is_some() {
            return Ok(active.fingerprint);
        }
        Err(Error::NoKey {
            fingerprint: active.fingerprint,
            home: self.0.opened.place(),
        })
    }

    /// A new token, whose holder will trust the authority that signs now.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyLog`], [`Error::NoKey`].
    pub fn new_token(&self, fabric: &Fabric) -> Result<Token, Error> {
        let authority = self.active(fabric)?;
        Ok(Token::new(self.0.fabric.clone(), authority, &*self.0.env))
    }

    /// Signs a certificate. It is given out once it is recorded.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyLog`], [`Error::NoKey`], [`Error::Authority`].
    pub fn issue(
        &self,
        fabric: &Fabric,
        csr: &Csr,
        subject: Subject,
        life: Duration,
    ) -> Result<Issued, Error> {
        let fingerprint = self.active(fabric)?;
        let key = self.vault().get(fingerprint);
        let authority = key.ok_or_else(|| Error::NoKey {
            fingerprint,
            home: self.0.opened.place(),
        })?;
        Issued::sign(&authority, csr, subject, life, &*self.0.env)
    }

    /// Gives a certificate out that is recorded.
    ///
    /// # Errors
    ///
    /// [`Error::NotRecorded`]: the snapshot doesn't hold it.
    pub fn release(&self, issued: Issued, recorded: &ledger::Snapshot) -> Result<Given, Error> {
        issued.release(recorded, &self.shared().crl_pem)
    }

    /// Whether a certificate should be replaced: two thirds of its life are over, its authority
    /// signs no more, or it was revoked.
    pub fn is_due(&self, fabric: &Fabric, record: &CertificateRecord) -> bool {
        let active = fabric.active_authority().map(|active| active.fingerprint);
        self.0.env.now() >= renew_at(record)
            || active.is_some_and(|it| it != record.authority)
            || record.revoked.is_some()
    }

    /// What everybody holds beside their certificate: authorities and revocations.
    pub fn shared(&self) -> Arc<Material> {
        self.credentials().material()
    }

    /// Names what everybody is to believe at present, as nodes name what they believe: SHA-256
    /// over the authorities' text, then the revocations'; 64 hex digits.
    pub fn digest(&self) -> Arc<str> {
        let shared = self.shared();
        let mut known = self.0.digest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, digest)) if Arc::ptr_eq(of, &shared) => digest.clone(),
            _ => {
                let text = format!("{}{}", shared.bundle_pem, shared.crl_pem);
                let digest: Arc<str> = Digest::of(text.as_bytes()).hex().into();
                *known = Some((shared, digest.clone()));
                digest
            }
        }
    }

    pub(crate) fn vault(&self) -> &Vault {
        self.0.opened.vault()
    }

    /// A new certificate for this controller, recorded, and in use at the end.
    async fn renew_own(&self, ledger: &ledger::Handle) -> Result<(), Error> {
        let key = Key::generate()?;
        let csr = Csr::parse(&key.request()?)?;
        let snapshot = ledger.snapshot();
        let own = self.0.own.clone();
        let issued = self.issue(&snapshot.fabric, &csr, own, self.0.lives.controller)?;
        let command = Command::RecordCertificate {
            certificate: issued.record().clone(),
            grounds: Grounds::Own,
        };
        let done = ledger.submit(Origin::controller(), None, command).await?;
        let given = self.release(issued, &done.snapshot)?;
        self.install(Material {
            chain_pem: given.chain_pem,
            key_pem: key.to_pem().as_str().to_owned(),
            bundle_pem: given.bundle_pem,
            crl_pem: given.crl_pem,
        })
        .await
    }

    /// The same of a controller that follows: the one that leads signs.
    async fn renew_at(&self, controllers: &Controllers) -> Result<(), Error> {
        let key = Key::generate()?;
        let csr_pem = key.request()?;
        let channel = controllers.leader().await?;
        let mut client = FollowerServiceClient::new(channel);
        let request = RenewControllerRequest { csr_pem };
        let answer = timeout(RENEWAL, client.renew_controller(request)).await??;
        let given = answer.into_inner().credential.unwrap_or_default();
        self.install(Material {
            chain_pem: given.chain_pem,
            key_pem: key.to_pem().as_str().to_owned(),
            bundle_pem: given.bundle_pem,
            crl_pem: given.crl_pem,
        })
        .await
    }

    /// Uses credentials from now on, and keeps them for the next start. Used first: whatever
    /// doesn't fit together is refused there, and the files stay as they are.
    async fn install(&self, material: Material) -> Result<(), Error> {
        self.credentials().replace(material)?;
        self.0.unsaved.store(true, Ordering::SeqCst);
        self.save_again().await
    }

    /// Keeps the credentials in use, unless they are kept.
    async fn save_again(&self) -> Result<(), Error> {
        if self.0.unsaved.load(Ordering::SeqCst) {
            self.0.opened.store((*self.shared()).clone()).await?;
            self.0.unsaved.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// When a certificate should be replaced: at two thirds of the life that it was given.
pub fn renew_at(record: &CertificateRecord) -> Timestamp {
    let life = record.not_after.millis_since(record.issued_at);
    Timestamp(record.issued_at.get() + life / 3 * 2)
}

/// The authorities that a fabric trusts.
fn bundle(fabric: &Fabric) -> Result<Bundle, bundle::Error> {
    let roots = fabric
        .trusted_authorities()
        .map(|authority| Root::parse_pem(&authority.certificate_pem));
    Bundle::new(roots.collect::<Result<Vec<_>, _>>()?)
}

/// The certificates that lead from an authority to those that are still trusted beside it.
fn bridges(authority: &AuthorityRecord) -> String {
    authority.cross_pem.concat()
}

#[cfg(test)]
mod tests;
