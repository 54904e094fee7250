//! Renewal and rollover: what a controller changes of the node's trust.

use std::sync::Arc;

use kapok_trust::{Bundle, Certificate, Credentials, Key, Material, credentials, files};
use kapok_types::Digest;
use tokio::task::spawn_blocking;

use super::{Believed, Error, Keep, Trust, Turn, unusable, with_causes};

/// What a controller installs.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The certificate, then cross-signed authorities, PEM; empty leaves the node's own.
    pub chain_pem: String,
    /// The authorities to trust, PEM.
    pub bundle_pem: String,
    /// What they have revoked, PEM; may be empty.
    pub crl_pem: String,
}

impl Trust {
    /// A request for a certificate, PEM, with a key that waits for it. The same again until one is
    /// installed.
    ///
    /// # Errors
    ///
    /// No key could be made.
    pub async fn request(&self) -> Result<String, Error> {
        let mut turn = self.inner.turn.lock().await;
        let key = match turn.waiting.take() {
            Some(key) => key,
            None => Key::generate().map_err(Error::Key)?,
        };
        let request = key.request().map_err(Error::Key);
        turn.waiting = Some(key);
        request
    }

    /// Takes what a controller sends. `caller` is the certificate it called with, if it has one.
    /// Gives the digest of what the node holds then. Once begun it comes to its end, also when
    /// nobody waits for it any more: nobody else has the turn before.
    ///
    /// # Errors
    ///
    /// It can't be right, or couldn't be made durable; then nothing has changed. Or what was
    /// joined beside this agent can't be used, and must not be undone.
    pub async fn install(
        &self,
        change: Change,
        caller: Option<&Certificate>,
    ) -> Result<Digest, Error> {
        let mut turn = Arc::clone(&self.inner.turn).lock_owned().await;
        let Keep::Folder(folder) = &self.inner.keep else {
            return self.install_in(&mut turn, None, change, caller);
        };
        let (this, to, caller) = (self.clone(), folder.clone(), caller.cloned());
        let install = move || {
            let writer = files::Writer::open(&to).map_err(|error| unusable(&to, &error))?;
            // Nobody joins until this is done; what was joined before is not undone.
            this.look_in(&mut turn, &to)?;
            this.install_in(&mut turn, Some(&writer), change, caller.as_ref())
        };
        let installed = spawn_blocking(install).await;
        installed.map_err(|error| unusable(folder, &error))?
    }

    fn install_in(
        &self,
        turn: &mut Turn,
        writer: Option<&files::Writer>,
        change: Change,
        caller: Option<&Certificate>,
    ) -> Result<Digest, Error> {
        let bundle = Bundle::parse_pem(&change.bundle_pem)
            .map_err(|error| illegal("bundle_pem", error.to_string()))?;
        if bundle.fabric() != self.fabric() {
            let reason = format!(
                "is the fabric {}'s, this is {}",
                bundle.fabric(),
                self.fabric()
            );
            return Err(illegal("bundle_pem", reason));
        }
        // Who installs this must be able to come back.
        if let Some(caller) = caller
            && !bundle.contains(&caller.authority)
        {
            let reason = "lacks the authority of the certificate that it was sent with";
            return Err(illegal("bundle_pem", reason.into()));
        }
        let (material, new_key) = if change.chain_pem.is_empty() {
            (self.with_present_chain(change)?, false)
        } else {
            self.with_chain(change, turn.waiting.as_ref())?
        };
        if let Some(material) = material {
            if let Some(writer) = writer {
                let stored = writer.store(&material);
                turn.version = Some(stored.map_err(|error| unusable(writer.dir(), &error))?);
            }
            self.take(material)?;
        }
        if new_key {
            turn.waiting = None;
        }
        Ok(self.digest())
    }

    /// The node's own chain with new authorities, who must vouch for it; none when there is no
    /// chain, and the authorities are only noted.
    fn with_present_chain(&self, change: Change) -> Result<Option<Material>, Error> {
        let Change {
            bundle_pem,
            crl_pem,
            ..
        } = change;
        let Some(credentials) = self.credentials() else {
            *self.lock() = Believed {
                bundle_pem,
                crl_pem,
            };
            self.tell();
            return Ok(None);
        };
        let mut material = credentials.material().as_ref().clone();
        (material.bundle_pem, material.crl_pem) = (bundle_pem, crl_pem);
        self.check(&material).map_err(|error| unfit(&error))?;
        Ok(Some(material))
    }

    /// A new chain, with the key that it fits: the one that waits, or the present one. Says
    /// whether it was the one that waits.
    fn with_chain(
        &self,
        change: Change,
        waiting: Option<&Key>,
    ) -> Result<(Option<Material>, bool), Error> {
        let Change {
            chain_pem,
            bundle_pem,
            crl_pem,
        } = change;
        let certificate = Certificate::parse_pem(&chain_pem)
            .map_err(|error| illegal("chain_pem", error.to_string()))?;
        if certificate.identity != self.inner.identity {
            let reason = format!(
                "names {}, this is {}",
                certificate.identity,
                self.identity()
            );
            return Err(illegal("chain_pem", reason));
        }
        let waiting = waiting.map(|key| (key.to_pem().to_string(), true));
        let present = self
            .credentials()
            .map(|held| (held.material().key_pem.clone(), false));
        for (key_pem, new_key) in waiting.into_iter().chain(present) {
            let material = Material {
                chain_pem: chain_pem.clone(),
                key_pem,
                bundle_pem: bundle_pem.clone(),
                crl_pem: crl_pem.clone(),
            };
            match self.check(&material) {
                Ok(()) => return Ok((Some(material), new_key)),
                Err(credentials::Error::Key(_)) => {}
                Err(error) => return Err(unfit(&error)),
            }
        }
        let reason = "fits no key that was requested here";
        Err(illegal("chain_pem", reason.into()))
    }

    /// Whether one could serve and dial with it.
    pub(super) fn check(&self, material: &Material) -> Result<(), credentials::Error> {
        Credentials::new(material.clone(), Arc::clone(&self.inner.env)).map(drop)
    }

    /// Uses it from now on.
    pub(super) fn take(&self, material: Material) -> Result<(), Error> {
        let failed = |error| unfit(&error);
        let believed = Believed {
            bundle_pem: material.bundle_pem.clone(),
            crl_pem: material.crl_pem.clone(),
        };
        if let Some(credentials) = self.credentials() {
            credentials.replace(material).map_err(failed)?;
        } else {
            let env = Arc::clone(&self.inner.env);
            let credentials = Credentials::new(material, env).map_err(failed)?;
            let _first = self.inner.credentials.set(credentials);
        }
        *self.lock() = believed;
        self.tell();
        Ok(())
    }
}

/// Which field is at fault when the parts don't fit together.
fn unfit(error: &credentials::Error) -> Error {
    let field = match error {
        credentials::Error::Crl => "crl_pem",
        credentials::Error::Bundle(_)
        | credentials::Error::Untrusted(_)
        | credentials::Error::Verifier(_) => "bundle_pem",
        _ => "chain_pem",
    };
    illegal(field, with_causes(error))
}

fn illegal(field: &'static str, reason: String) -> Error {
    Error::Illegal { field, reason }
}
