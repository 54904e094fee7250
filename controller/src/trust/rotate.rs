//! A new authority takes over.
//!
//! ```text
//!   make, cross-sign ─▶ key on disk ─▶ on every controller's disk ─▶ record (added and active at once)
//!   ─▶ the keeper uses it
//! ```
//!
//! Everybody who trusts the authority before it goes on without noticing: whoever knows only the
//! old one follows the cross certificate, whoever has the new bundle doesn't need it. So there is
//! no moment at which somebody could be locked out.

use std::sync::Arc;

use kapok_trust::{Authority, Fingerprint, Serial, authority};
use tracing::{info, warn};

use super::{Error, Trust};
use crate::{
    controllers::Controllers,
    fabric::{Command, Denied, Fabric, Origin, Outcome, command::NewAuthority},
    ledger,
};

impl Trust {
    /// Makes a new authority that signs from now on; which one that is, and a snapshot that holds
    /// it. The same request again gets the same answer.
    ///
    /// # Errors
    ///
    /// [`Error`]. After [`ledger::Error::Unavailable`] it may have happened all the same; what
    /// was made is used by the next attempt, or by the next start.
    pub async fn rotate(
        &self,
        ledger: &ledger::Handle,
        controllers: &Controllers,
        origin: Origin,
        request_id: Option<String>,
    ) -> Result<(Fingerprint, Arc<ledger::Snapshot>), Error> {
        let _one_at_a_time = self.0.rotating.lock().await;
        let snapshot = ledger.snapshot();
        let fabric = &snapshot.fabric;
        let answered = request_id.as_ref().and_then(|id| {
            let key = (origin.by.clone(), id.clone());
            fabric.requests.get(&key)
        });
        if let Some(answered) = answered {
            return match answered.outcome {
                Outcome::Authority(fingerprint) => Ok((fingerprint, snapshot)),
                _ => Err(reused(request_id)),
            };
        }
        let left = self.unrecorded(fabric).into_iter().next();
        let new = if let Some(left) = left {
            left
        } else {
            let new = Authority::create(&self.0.fabric, &*self.0.env, authority::LIFE)?;
            self.vault().put(new).await?
        };
        let ours = new.fingerprint();
        // Before the log knows it: whoever leads after this one has to sign with it.
        controllers.all_hold(ours).await.map_err(Error::NotHeld)?;
        let answer = self.record(ledger, origin, request_id, &new, fabric).await;
        match answer {
            Ok(done) => {
                let fingerprint = match done.outcome {
                    Outcome::Authority(fingerprint) => fingerprint,
                    _ => ours,
                };
                if fingerprint != ours {
                    self.vault().remove(ours).await?;
                }
                info!(authority = %fingerprint, "a new authority signs");
                Ok((fingerprint, done.snapshot))
            }
            Err(Error::Ledger(error)) => {
                if matches!(error, ledger::Error::Denied(_) | ledger::Error::Busy) {
                    self.vault().remove(ours).await?;
                }
                Err(error.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Records what a crash left between the disk and the log.
    pub(super) async fn finish_rotation(&self, ledger: &ledger::Handle) -> Result<(), Error> {
        let _one_at_a_time = self.0.rotating.lock().await;
        let fabric = &ledger.snapshot().fabric;
        if fabric.authorities.is_empty() {
            return Ok(());
        }
        for left in self.unrecorded(fabric) {
            warn!(authority = %left.fingerprint(), "a rotation was not finished; finishing it");
            let fabric = &ledger.snapshot().fabric;
            let done = self.record(ledger, Origin::controller(), None, &left, fabric);
            match done.await {
                // Nobody has seen it: it may as well never have been made.
                Err(Error::Ledger(ledger::Error::Denied(denied))) => {
                    warn!(%denied, "it is given up");
                    self.vault().remove(left.fingerprint()).await?;
                }
                done => drop(done?),
            }
        }
        Ok(())
    }

    /// Keys of authorities that the log doesn't know.
    fn unrecorded(&self, fabric: &Fabric) -> Vec<Arc<Authority>> {
        let mut held = self.vault().all();
        held.retain(|one| !fabric.authorities.contains_key(&one.fingerprint()));
        held
    }

    async fn record(
        &self,
        ledger: &ledger::Handle,
        origin: Origin,
        request_id: Option<String>,
        new: &Authority,
        fabric: &Fabric,
    ) -> Result<ledger::Done, Error> {
        let now = self.0.env.now();
        let trusted = fabric.trusted_authorities();
        let held = trusted.filter_map(|one| self.vault().get(one.fingerprint));
        let cross_pem = held
            .map(|old| old.cross_sign(new.certificate_pem(), Serial::new(&*self.0.env), now))
            .collect::<Result<_, _>>()?;
        let command = Command::RotateAuthority {
            new: NewAuthority {
                fingerprint: new.fingerprint(),
                certificate_pem: new.certificate_pem().to_owned(),
                cross_pem,
            },
        };
        Ok(ledger.submit(origin, request_id, command).await?)
    }
}

/// A request id that stands for something else.
fn reused(request_id: Option<String>) -> Error {
    let request_id = request_id.unwrap_or_default();
    ledger::Error::Denied(Denied::RequestIdReused { request_id }).into()
}
