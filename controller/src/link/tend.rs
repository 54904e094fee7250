//! A node's trust, brought in over its link: a new certificate in time, and what the fabric
//! believes.
//!
//! ```text
//!   due ─▶ RequestCertificate ─▶ record in the log ─▶ InstallTrust
//!   other authorities or revocations ────────────────▶ InstallTrust
//! ```
//!
//! Which certificate a node has is what it showed when it was dialled, not what was last recorded
//! for it: one that never arrived is made up for at the next session. Open connections go on;
//! the node uses the new certificate for those to come.

use kapok_proto::agent::v1::{InstallTrustRequest, RequestCertificateRequest};
use kapok_trust::{Csr, Serial, Subject};
use kapok_types::{Name, NodeId};
use tokio::time::timeout;
use tonic::Status;

use super::{Client, session::CALL_DEADLINE};
use crate::{
    fabric::{CertificateRecord, Command, Fabric, Origin, command::Grounds},
    ledger,
    observed::Seen,
    trust::{self, Trust},
};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A new certificate in the place of this one, with everything else.
    Certificate(Serial),
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

/// What is due, from the certificate that the node has and the digest of what it believes.
pub(super) fn due(
    trust: &Trust,
    fabric: &Fabric,
    has: Option<Seen>,
    believes: Option<&str>,
) -> Option<Due> {
    let record = has.and_then(|seen| fabric.certificates.get(&seen.serial));
    // The keeper is a moment behind the log: a certificate is of use once its authority is
    // believed here.
    let signs = fabric
        .active_authority()
        .is_some_and(|active| trust.credentials().bundle().contains(&active.fingerprint));
    if let Some(record) = record.filter(|record| signs && trust.is_due(fabric, record)) {
        return Some(Due::Certificate(record.serial));
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
    due: Due,
) -> Result<Tended, Error> {
    let (chain_pem, certificate) = match due {
        Due::Belief => (String::new(), None),
        Due::Certificate(old) => {
            let asked = within(client.request_certificate(RequestCertificateRequest {})).await?;
            let csr = Csr::parse(&asked.csr_pem)?;
            let snapshot = ledger.snapshot();
            let life = trust.lives().node;
            let issued = trust.issue(&snapshot.fabric, &csr, Subject::Node(node), life)?;
            let certificate = seen(issued.record());
            let command = Command::RecordCertificate {
                certificate: issued.record().clone(),
                grounds: Grounds::Renewal(old),
            };
            let done = ledger.submit(Origin::node(&name), None, command).await?;
            let given = trust.release(issued, &done.snapshot)?;
            (given.chain_pem, Some(certificate))
        }
    };
    let shared = trust.shared();
    let request = InstallTrustRequest {
        epoch: ledger.snapshot().epoch.get(),
        chain_pem,
        bundle_pem: shared.bundle_pem.clone(),
        crl_pem: shared.crl_pem.clone(),
    };
    let installed = within(client.install_trust(request)).await?;
    Ok(Tended {
        digest: installed.trust_digest,
        certificate,
    })
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
