//! What controllers ask of each other. A service of its own: a controller's certificate opens it, and
//! nothing of people's.

use futures::{StreamExt as _, stream};
use kapok_proto::{
    BLOB_PIECE_BYTES,
    convert::timestamp_from,
    fabric::v1::{
        GetAuthorityKeyRequest, GetAuthorityKeyResponse, ReadFileRequest, ReadFileResponse,
        RenewControllerRequest, RenewControllerResponse, ReportRequest, ReportResponse,
        follower_service_server::FollowerService, read_file_request::File, report_request,
        report_response,
    },
};
use kapok_store::Span;
use kapok_trust::{Csr, Fingerprint, Peer, Subject};
use kapok_types::{Name, Seq};
use tokio_util::io::ReaderStream;
use tonic::{Code, Request, Response, Status};

use super::{Answers, Api, answers, caller::absent, caller::parsed, status};
use crate::{
    audit::Refusal,
    controllers::{Candidate, Report, is_controller, no_leader},
    fabric::{Actor, Command, Origin, command::Grounds},
    images::blob,
};

/// Refusals that one report may hold.
const MAX_REFUSALS: usize = 1000;

#[tonic::async_trait]
impl FollowerService for Api {
    type ReadFileStream = Answers<ReadFileResponse>;

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        let name = self.controller_caller(&request)?;
        if !self.controllers.leads() {
            return Err(no_leader("this controller doesn't lead"));
        }
        let ReportRequest {
            address,
            version,
            seq,
            authorities,
            refusals,
        } = request.into_inner();
        if refusals.len() > MAX_REFUSALS {
            return Err(status::bad_field("refusals", "are too many for one report"));
        }
        let authorities = authorities.iter().map(|one| parsed("authorities", one));
        let report = Report {
            follower: Candidate { name, address },
            version,
            seq: Seq(seq),
            authorities: authorities.collect::<Result<_, _>>()?,
        };
        let own = report.follower.name.clone();
        let snapshot = self.ledger.snapshot();
        self.controllers.hear(report, snapshot.head.seq);
        let refusals = refusals.into_iter().map(refusal);
        self.audit.refusals.put_back(refusals.collect());
        let peers = self.controllers.known().into_iter();
        let peers = peers.map(|known| known.report.follower);
        Ok(Response::new(ReportResponse {
            seq: snapshot.head.seq.get(),
            epoch: snapshot.epoch.get(),
            authorities: self.trust.held().iter().map(ToString::to_string).collect(),
            peers: peers
                .filter(|peer| peer.name != own)
                .map(|peer| report_response::Peer {
                    name: peer.name.to_string(),
                    address: peer.address,
                })
                .collect(),
        }))
    }

    async fn get_authority_key(
        &self,
        request: Request<GetAuthorityKeyRequest>,
    ) -> Result<Response<GetAuthorityKeyResponse>, Status> {
        let name = self.controller_caller(&request)?;
        let fingerprint = request.into_inner().fingerprint;
        let fingerprint: Fingerprint = parsed("fingerprint", &fingerprint)?;
        let authority = self.trust.key_of(fingerprint);
        let authority = authority.ok_or_else(|| absent("authority", &fingerprint.to_string()))?;
        tracing::info!(controller = %name, authority = %fingerprint, "gave its key to a controller");
        Ok(Response::new(GetAuthorityKeyResponse {
            certificate_pem: authority.certificate_pem().to_owned(),
            key_pem: authority.key_pem().to_string(),
        }))
    }

    async fn renew_controller(
        &self,
        request: Request<RenewControllerRequest>,
    ) -> Result<Response<RenewControllerResponse>, Status> {
        let name = self.controller_caller(&request)?;
        if !self.controllers.leads() {
            return Err(no_leader("this controller doesn't lead"));
        }
        let csr = Csr::parse(&request.into_inner().csr_pem);
        let csr = csr.map_err(|error| status::bad_field("csr_pem", error.to_string()))?;
        let snapshot = self.ledger.snapshot();
        let life = self.trust.lives().controller;
        let subject = Subject::Controller(name);
        let issued = self.trust.issue(&snapshot.fabric, &csr, subject, life);
        let issued = issued.map_err(|error| status::trust(&error))?;
        let command = Command::RecordCertificate {
            certificate: issued.record().clone(),
            grounds: Grounds::Own,
        };
        let done = self
            .ledger
            .submit(Origin::controller(), None, command)
            .await;
        let done = done.map_err(|error| status::ledger(&error))?;
        let given = self.trust.release(issued, &done.snapshot);
        let given = given.map_err(|error| status::trust(&error))?;
        Ok(Response::new(RenewControllerResponse {
            credential: Some(given.into()),
        }))
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Answers<ReadFileResponse>>, Status> {
        self.controller_caller(&request)?;
        let stop = self.stop.clone().cancelled_owned();
        match request.into_inner().file {
            Some(File::Blob(digest)) => {
                let digest = parsed("blob", &digest)?;
                let blob = self.library.blobs().open(digest, 0).await;
                let blob = blob.map_err(|error| status::blob(&error))?;
                let pieces = ReaderStream::with_capacity(blob, BLOB_PIECE_BYTES);
                let pieces = pieces.map(|piece| match piece {
                    Ok(data) => Ok(ReadFileResponse { data }),
                    Err(source) => Err(status::blob(&blob::Error::Io {
                        doing: "reading a blob",
                        source,
                    })),
                });
                Ok(Response::new(answers(pieces.take_until(stop))))
            }
            Some(File::Segment(span)) => {
                let span = Span {
                    first: Seq(span.first),
                    last: Seq(span.last),
                };
                let content = self.segments.get(span).await;
                let content = content.map_err(|error| status::store(&error.into()))?;
                let content = content.ok_or_else(|| absent("segment", &span.to_string()))?;
                let at = (0..content.len()).step_by(BLOB_PIECE_BYTES);
                let pieces: Vec<_> = at
                    .map(|from| content.slice(from..content.len().min(from + BLOB_PIECE_BYTES)))
                    .map(|data| Ok(ReadFileResponse { data }))
                    .collect();
                Ok(Response::new(answers(
                    stream::iter(pieces).take_until(stop),
                )))
            }
            None => Err(status::bad_field("file", "must be stated")),
        }
    }
}

impl Api {
    /// The controller that asks. Whoever isn't one is refused, and so is one that was revoked.
    fn controller_caller<T>(&self, request: &Request<T>) -> Result<Name, Status> {
        let peer = request.extensions().get::<Peer>();
        let identity = peer.and_then(Peer::identity);
        let snapshot = self.ledger.snapshot();
        if let (Some(peer), Some(identity)) = (peer, identity)
            && identity.fabric == *self.trust.fabric()
            && is_controller(&snapshot.fabric, peer)
            && let Subject::Controller(name) = &identity.subject
        {
            return Ok(name.clone());
        }
        let by = identity.map_or_else(
            || Actor("anonymous".into()),
            |one| Actor::from(&one.subject),
        );
        let from = peer.and_then(Peer::address);
        let from = from.map(|at| at.ip().to_string()).unwrap_or_default();
        let refusals = &self.audit.refusals;
        refusals.note(&by, &from, "call", "", "NOT_A_CONTROLLER");
        Err(status::status(
            Code::PermissionDenied,
            "NOT_A_CONTROLLER",
            "this service is for controllers; the certificate isn't one's that the fabric trusts",
            &[],
        ))
    }
}

fn refusal(told: report_request::Refusal) -> Refusal {
    let report_request::Refusal {
        by,
        from,
        action,
        object,
        reason,
        count,
        first_time,
        last_time,
    } = told;
    let time = |time: Option<prost_types::Timestamp>| {
        time.as_ref().map(timestamp_from).unwrap_or_default()
    };
    Refusal {
        by: Actor(by.into()),
        from,
        action,
        object,
        reason,
        count,
        first: time(first_time),
        last: time(last_time),
    }
}
