//! A node's trust, brought in over its link: a new certificate in time, and what the fabric
//! believes.
//!
//! ```text
//!   due ─▶ RequestCertificate ─▶ record in the log ─▶ InstallTrust
//!   other authorities or revocations ────────────────▶ InstallTrust
//! ```
//!
//! Which certificate a node has is what it showed when it was dialled, not what was last recorded
//! for it. One that was recorded and did not arrive waits in the link's [`Care`], across sessions,
//! and is sent again, ever more rarely: no second one is recorded while it is good, unless the node
//! says that it has no key for it. Open connections go on; the node uses the new certificate for
//! those to come.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kapok_proto::{
    agent::v1::{InstallTrustRequest, RequestCertificateRequest},
    refusal,
};
use kapok_trust::{Csr, Serial, Subject};
use kapok_types::{Name, NodeId};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::{Client, session::CALL_DEADLINE};
use crate::{
    fabric::{CertificateRecord, Command, Fabric, Origin, command::Grounds},
    ledger,
    observed::Seen,
    trust::{self, Trust},
};

/// Pause before what failed is tried again, before it doubles, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// When something that fails is tried again: ever more rarely.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    pause: Duration,
    at: Option<Instant>,
}

/// A certificate that is in the log and not in the node's hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issued {
    chain_pem: String,
    seen: Seen,
}

/// What outlives a session of a link. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Care(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    issued: Option<Issued>,
    backoff: Backoff,
}

/// What the node holds now.
#[derive(Debug)]
pub(super) struct Tended {
    /// Its digest of authorities and revocations.
    pub(super) digest: String,
    /// Its new certificate, if it got one.
    pub(super) certificate: Option<Seen>,
}

/// Why it couldn't be brought in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{}", .0.message())]
    Call(#[from] Status),
    #[error("the agent's request for a certificate can't be read: {0}")]
    Request(#[from] kapok_trust::key::Error),
    #[error(transparent)]
    Trust(#[from] trust::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// What is due to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Due {
    /// A new certificate in the place of this one, with everything else.
    Certificate(Serial),
    /// One that was made for it before, with everything else.
    Installation(Issued),
    /// What the fabric believes.
    Belief,
}

/// The certificate that a node showed when it was dialled: the newest of its own among those of
/// open connections. Where connections show none, as between simulated processes, the newest that
/// was recorded.
pub(super) fn shown(trust: &Trust, fabric: &Fabric, node: NodeId) -> Option<Seen> {
    let open = trust.credentials().connections().serials();
    let subject = Subject::Node(node);
    let newest = |shown: bool| {
        fabric
            .certificates_of(&subject)
            .filter(|record| !shown || open.contains_key(&record.serial))
            .max_by_key(|record| record.issued_at)
    };
    newest(true).or_else(|| newest(false)).map(seen)
}

impl Backoff {
    /// Whether it isn't to be tried yet.
    pub(super) fn holds(&self) -> bool {
        self.at.is_some_and(|at| Instant::now() < at)
    }

    /// It succeeded.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// It failed; it is tried again within a bound.
    pub(super) fn failed(&mut self, within: Duration) {
        let longest = LONGEST_PAUSE.min(within).max(FIRST_PAUSE);
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, longest);
        self.at = Some(Instant::now() + self.pause);
    }
}

impl Due {
    /// Whether it is about the node's certificate, not only about what it believes.
    pub(super) fn is_certificate(&self) -> bool {
        *self != Self::Belief
    }
}

impl Care {
    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The node's certificate could not be brought in. That is tried again a few times before the
    /// one that it has ends.
    pub(super) fn failed(&self, left: Duration) {
        self.change(|waiting| waiting.backoff.failed(left / 4));
    }
}

/// What is due, from the certificate that the node has and the digest of what it believes.
pub(super) fn due(
    trust: &Trust,
    fabric: &Fabric,
    has: Option<Seen>,
    believes: Option<&str>,
    care: &Care,
) -> Option<Due> {
    let record = has.and_then(|seen| fabric.certificates.get(&seen.serial));
    // The keeper is a moment behind the log: a certificate is of use once its authority is
    // believed here.
    let signs = fabric
        .active_authority()
        .is_some_and(|active| trust.credentials().bundle().contains(&active.fingerprint));
    let (held, issued) = care.change(|waiting| (waiting.backoff.holds(), waiting.issued.clone()));
    let record = record.filter(|record| signs && !held && trust.is_due(fabric, record));
    if let Some(record) = record {
        let good = issued.filter(|issued| {
            let made = fabric.certificates.get(&issued.seen.serial);
            made.is_some_and(|made| !trust.is_due(fabric, made))
        });
        return Some(good.map_or(Due::Certificate(record.serial), Due::Installation));
    }
    believes
        .is_some_and(|believes| believes != &*trust.digest())
        .then_some(Due::Belief)
}

/// Brings it in.
pub(super) async fn bring(
    mut client: Client,
    trust: Trust,
    ledger: ledger::Handle,
    node: NodeId,
    name: Name,
    care: Care,
    due: Due,
) -> Result<Tended, Error> {
    let (chain_pem, certificate) = match due {
        Due::Belief => (String::new(), None),
        Due::Installation(Issued { chain_pem, seen }) => (chain_pem, Some(seen)),
        Due::Certificate(old) => {
            let asked = within(client.request_certificate(RequestCertificateRequest {})).await?;
            let csr = Csr::parse(&asked.csr_pem)?;
            let snapshot = ledger.snapshot();
            let life = trust.lives().node;
            let issued = trust.issue(&snapshot.fabric, &csr, Subject::Node(node), life)?;
            let seen = seen(issued.record());
            let command = Command::RecordCertificate {
                certificate: issued.record().clone(),
                grounds: Grounds::Renewal(old),
            };
            let done = ledger.submit(Origin::node(&name), None, command).await?;
            let given = trust.release(issued, &done.snapshot)?;
            let chain_pem = given.chain_pem;
            let issued = Issued {
                chain_pem: chain_pem.clone(),
                seen,
            };
            care.change(|waiting| waiting.issued = Some(issued));
            (chain_pem, Some(seen))
        }
    };
    let shared = trust.shared();
    let request = InstallTrustRequest {
        epoch: ledger.snapshot().epoch.get(),
        chain_pem,
        bundle_pem: shared.bundle_pem.clone(),
        crl_pem: shared.crl_pem.clone(),
    };
    let installed = within(client.install_trust(request)).await;
    if certificate.is_some() {
        match &installed {
            Ok(_) => care.change(|waiting| *waiting = Waiting::default()),
            // It has no key for it any more.
            Err(refused) if is_about(refused, "chain_pem") => {
                care.change(|waiting| waiting.issued = None);
            }
            Err(_) => {}
        }
    }
    let installed = installed?;
    Ok(Tended {
        digest: installed.trust_digest,
        certificate,
    })
}

/// Whether a refusal names a field.
fn is_about(status: &Status, field: &str) -> bool {
    let violations = refusal::violations(status);
    violations.iter().any(|one| one.field == field)
}

fn seen(record: &CertificateRecord) -> Seen {
    Seen {
        serial: record.serial,
        not_after: record.not_after,
    }
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded(format!("no answer within {CALL_DEADLINE:?}"));
    let answer = timeout(CALL_DEADLINE, call).await.map_err(late)?;
    answer.map(tonic::Response::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_ever_more_rarely() {
        let mut backoff = Backoff::default();
        assert!(!backoff.holds());
        let mut waited = Vec::new();
        for _ in 0..12 {
            backoff.failed(Duration::from_hours(24));
            assert!(backoff.holds());
            waited.push(backoff.pause.as_secs());
            tokio::time::advance(backoff.pause).await;
            assert!(!backoff.holds());
        }
        assert_eq!(waited[..5], [2, 4, 8, 16, 32]);
        assert_eq!(waited[9..], [600, 600, 600]);
        // In time before a certificate ends.
        backoff.failed(Duration::from_mins(1));
        assert_eq!(backoff.pause, Duration::from_mins(1));
        backoff.failed(Duration::ZERO);
        assert_eq!(backoff.pause, FIRST_PAUSE);
        backoff.reset();
        assert!(!backoff.holds());
    }
}
