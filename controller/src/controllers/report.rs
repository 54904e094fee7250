//! A follower tells the controller that leads how far it is and whom it refused, and takes what it
//! needs to lead one day: the authorities' keys, and where the others are.

use std::{collections::BTreeSet, time::Duration};

use kapok_proto::convert::timestamp;
use kapok_proto::fabric::v1::{
    GetAuthorityKeyRequest, ReportRequest, ReportResponse,
    follower_service_client::FollowerServiceClient, report_request, report_response::Peer,
};
use kapok_trust::{Authority, Fingerprint, authority};
use kapok_types::Violation;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tracing::{debug, info, warn};

use super::{Candidate, Controllers, Role};
use crate::{
    audit::Refusals,
    ledger,
    trust::{Trust, vault},
};

/// How often it reports.
const EVERY: Duration = Duration::from_secs(1);
/// How long the other one may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a follower reports of, and what it keeps of the answer.
pub(crate) struct Reporter {
    pub(crate) controllers: Controllers,
    pub(crate) ledger: ledger::Handle,
    pub(crate) trust: Trust,
    pub(crate) refusals: Refusals,
}

/// Why a report came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the controller that leads refused it")]
    Refused(#[from] Status),
    #[error("it took too long")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("it named an authority that is none")]
    Malformed(#[from] Violation),
    #[error("it gave a key that is none")]
    Key(#[from] authority::Error),
    #[error("it gave another authority's key")]
    OtherKey,
    #[error("the key can't be kept")]
    Vault(#[from] vault::Error),
}

impl Reporter {
    /// Reports until stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut round = interval(EVERY);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = round.tick() => {}
            }
            if !matches!(*self.controllers.role().borrow(), Role::Follows(_)) {
                continue;
            }
            match self.round().await {
                Ok(()) => failing = false,
                // Said once; the one that leads is missed by everybody else, too.
                Err(error) if failing => debug!(%error, "not reported"),
                Err(error) => {
                    failing = true;
                    warn!(error = %crate::controller::chain(&error), "could not report to the controller that leads");
                }
            }
        }
    }

    async fn round(&self) -> Result<(), Failed> {
        let channel = timeout(DEADLINE, self.controllers.leader()).await??;
        let mut client = FollowerServiceClient::new(channel);
        let refusals = self.refusals.take(false);
        let request = ReportRequest {
            address: self.controllers.own().address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seq: self.ledger.snapshot().head.seq.get(),
            authorities: self.held().iter().map(ToString::to_string).collect(),
            refusals: refusals.iter().map(told).collect(),
        };
        let answer = match timeout(DEADLINE, client.report(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                self.refusals.put_back(refusals);
                return Err(status.into());
            }
            Err(late) => {
                self.refusals.put_back(refusals);
                return Err(late.into());
            }
        };
        let ReportResponse {
            seq: _,
            epoch: _,
            authorities,
            peers,
        } = answer;
        let peer = |Peer { name, address }| {
            let name = name.parse().ok()?;
            Some(Candidate { name, address })
        };
        self.controllers
            .set_peers(peers.into_iter().filter_map(peer).collect());
        let held = self.held();
        for named in authorities {
            let fingerprint: Fingerprint = named.parse()?;
            if !held.contains(&fingerprint) && !self.is_retired(fingerprint) {
                self.fetch_key(&mut client, fingerprint).await?;
            }
        }
        Ok(())
    }

    fn held(&self) -> BTreeSet<Fingerprint> {
        let held = self.trust.vault().all();
        held.iter().map(|one| one.fingerprint()).collect()
    }

    fn is_retired(&self, fingerprint: Fingerprint) -> bool {
        let snapshot = self.ledger.snapshot();
        let record = snapshot.fabric.authorities.get(&fingerprint);
        record.is_some_and(|record| record.state == crate::fabric::AuthorityState::Retired)
    }

    async fn fetch_key(
        &self,
        client: &mut FollowerServiceClient<Channel>,
        fingerprint: Fingerprint,
    ) -> Result<(), Failed> {
        let request = GetAuthorityKeyRequest {
            fingerprint: fingerprint.to_string(),
        };
        let answer = timeout(DEADLINE, client.get_authority_key(request)).await??;
        let answer = answer.into_inner();
        let key_pem = zeroize::Zeroizing::new(answer.key_pem);
        let authority = Authority::from_pem(&answer.certificate_pem, &key_pem)?;
        if authority.fingerprint() != fingerprint {
            return Err(Failed::OtherKey);
        }
        self.trust.vault().put(authority).await?;
        info!(authority = %fingerprint, "its key is here now, too");
        Ok(())
    }
}

fn told(refusal: &crate::audit::Refusal) -> report_request::Refusal {
    report_request::Refusal {
        by: refusal.by.to_string(),
        from: refusal.from.clone(),
        action: refusal.action.clone(),
        object: refusal.object.clone(),
        reason: refusal.reason.clone(),
        count: refusal.count,
        first_time: Some(timestamp(refusal.first)),
        last_time: Some(timestamp(refusal.last)),
    }
}
