//! The task that keeps the controller's credentials true to the log.
//!
//! Woken by every publication and by the controller's own certificate's age. A round that finds
//! the authorities and the revocations as they were costs two comparisons of pointers. What it
//! changes is in use at once: a revoked certificate's open connections end with it.

use std::{collections::BTreeMap, time::Duration};

use imbl::{OrdMap, OrdSet};
use kapok_trust::{Fingerprint, Revoked, Serial};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Error, Renewal, Trust, bundle, renew_at};
use crate::{
    controllers::Controllers,
    fabric::{AuthorityRecord, AuthorityState, Fabric},
    ledger,
};

/// Longest time between two looks at the clock: wall clocks jump.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Shortest, so that a certificate of a very short life doesn't keep the task busy.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// How long the record of a new certificate may take to come here.
const RECORDED: Duration = Duration::from_secs(30);
/// Pause after a failed round.
const RETRY: Duration = Duration::from_secs(2);

/// What the credentials were made from.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    authorities: OrdMap<Fingerprint, AuthorityRecord>,
    revoked: OrdSet<Serial>,
}

/// Keeps the credentials until stopped.
pub async fn run(
    trust: Trust,
    ledger: ledger::Handle,
    controllers: Controllers,
    stop: CancellationToken,
) {
    let mut snapshots = ledger.changes();
    let mut followed = None;
    loop {
        snapshots.borrow_and_update();
        let renewal = if controllers.leads() {
            Renewal::Own
        } else {
            Renewal::At(&controllers)
        };
        let round = trust.follow(&ledger, followed.as_ref(), renewal);
        let round = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            round = round => round,
        };
        let pause = match round {
            Ok(now) => {
                followed = Some(now);
                trust.until_due(&ledger.snapshot().fabric)
            }
            Err(error) => {
                // What is in use stays in use.
                error!(error = %crate::controller::chain(&error), "trust can't be brought up to date yet");
                RETRY
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
    }
}

impl Trust {
    /// One round: authorities and revocations as the log has them, the own certificate in time.
    pub(super) async fn follow(
        &self,
        ledger: &ledger::Handle,
        before: Option<&Followed>,
        renewal: Renewal<'_>,
    ) -> Result<Followed, Error> {
        let snapshot = ledger.snapshot();
        let fabric = &snapshot.fabric;
        let same = before.is_some_and(|before| {
            before.authorities.ptr_eq(&fabric.authorities) && before.revoked.ptr_eq(&fabric.revoked)
        });
        self.save_again().await?;
        let refreshed = if same {
            Ok(())
        } else {
            self.bring_up_to_date(fabric).await
        };
        // Also when that failed: with an own certificate that ends, nothing else could be mended.
        let own = self.credentials().certificate().serial;
        let record = fabric.certificates.get(&own);
        if record.is_none_or(|record| self.is_due(fabric, record)) {
            match renewal {
                Renewal::Own => self.renew_own(ledger).await?,
                Renewal::At(controllers) => {
                    self.renew_at(controllers).await?;
                    // Until its record is folded here, it looks as if there were none.
                    let new = self.credentials().certificate().serial;
                    let mut changes = ledger.changes();
                    let recorded = changes.wait_for(|it| it.fabric.certificates.contains_key(&new));
                    let _in_time = timeout(RECORDED, recorded).await;
                }
            }
            let certificate = self.credentials().certificate();
            info!(serial = %certificate.serial, "the controller has a new certificate");
        }
        refreshed?;
        Ok(Followed {
            authorities: fabric.authorities.clone(),
            revoked: fabric.revoked.clone(),
        })
    }

    async fn bring_up_to_date(&self, fabric: &Fabric) -> Result<(), Error> {
        self.refresh(fabric).await?;
        self.forget_retired(fabric).await
    }

    /// Trusts and calls off what the log says.
    async fn refresh(&self, fabric: &Fabric) -> Result<(), Error> {
        let bundle = bundle(fabric)?;
        let revoked = self.revoked(fabric);
        let credentials = self.credentials();
        let known = revoked
            .values()
            .flatten()
            .all(|one| credentials.is_revoked(&one.serial));
        if known && *credentials.bundle() == bundle {
            return Ok(());
        }
        let crl_pem = self.revocation_lists(&revoked)?;
        let mut material = (*self.shared()).clone();
        material.bundle_pem = bundle.to_pem();
        material.crl_pem = crl_pem;
        self.install(material).await?;
        info!(
            authorities = bundle.roots().len(),
            "trust was brought up to date"
        );
        Ok(())
    }

    /// What each trusted authority must call off.
    fn revoked(&self, fabric: &Fabric) -> BTreeMap<Fingerprint, Vec<Revoked>> {
        let now = self.0.env.now();
        let of = |authority: &AuthorityRecord| {
            let revoked = fabric.revoked_by(authority.fingerprint, now);
            let revoked = revoked.map(|(record, revocation)| Revoked {
                serial: record.serial,
                at: revocation.at,
            });
            (authority.fingerprint, revoked.collect())
        };
        fabric.trusted_authorities().map(of).collect()
    }

    /// The lists that say so; none while there is nothing to call off.
    fn revocation_lists(
        &self,
        revoked: &BTreeMap<Fingerprint, Vec<Revoked>>,
    ) -> Result<String, Error> {
        let now = self.0.env.now();
        let mut lists = String::new();
        if revoked.values().all(Vec::is_empty) {
            return Ok(lists);
        }
        for (fingerprint, revoked) in revoked {
            match self.vault().get(*fingerprint) {
                Some(authority) => lists.push_str(&authority.crl(revoked, now)?),
                None => {
                    error!(authority = %fingerprint, "its key is not here: its certificates can't be called off");
                }
            }
        }
        Ok(lists)
    }

    /// Destroys the keys of authorities that are trusted no more.
    async fn forget_retired(&self, fabric: &Fabric) -> Result<(), Error> {
        for authority in fabric.authorities.values() {
            let retired = authority.state == AuthorityState::Retired;
            if retired && self.vault().get(authority.fingerprint).is_some() {
                self.vault().remove(authority.fingerprint).await?;
                info!(authority = %authority.fingerprint, "it is retired, and its key destroyed");
            }
        }
        Ok(())
    }

    /// Until the own certificate is due, within bounds.
    fn until_due(&self, fabric: &Fabric) -> Duration {
        let own = self.credentials().certificate().serial;
        let due = fabric.certificates.get(&own).map(renew_at);
        let left = due.map(|due| due.millis_since(self.0.env.now()));
        left.map_or(RETRY, Duration::from_millis)
            .clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }
}
