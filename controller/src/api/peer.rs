//! Blobs for agents. A service of its own: a peer can reach nothing else through it.
//!
//! A blob needs two proofs: the caller's certificate is a node's, and a controller's ticket names
//! that node and that blob, now. Which of them is missing is for the audit; the caller is told one
//! thing.

use futures::StreamExt as _;
use kapok_proto::{
    BLOB_PIECE_BYTES,
    agent::v1::{ReadBlobRequest, ReadBlobResponse, peer_service_server::PeerService},
};
use kapok_trust::Subject;
use tokio_util::io::ReaderStream;
use tonic::{Request, Response, Status};

use super::{
    Answers, Api, answers,
    caller::parsed,
    enroll::{address, text},
    status,
};
use crate::{fabric::Actor, images::blob};

#[tonic::async_trait]
impl PeerService for Api {
    type ReadBlobStream = Answers<ReadBlobResponse>;

    async fn read_blob(
        &self,
        request: Request<ReadBlobRequest>,
    ) -> Result<Response<Answers<ReadBlobResponse>>, Status> {
        let node = self.node_caller(&request)?;
        let from = text(address(&request));
        let ReadBlobRequest {
            digest,
            offset,
            ticket,
        } = request.into_inner();
        let digest = parsed("digest", &digest)?;
        if let Err(refused) = self.trust.check_ticket(&ticket, node, digest) {
            let by = Actor::from(&Subject::Node(node));
            let object = format!("blob/{digest}");
            self.audit
                .refusals
                .note(&by, &from, "blob.read", &object, refused.code());
            return Err(status::ticket_refused());
        }
        let blob = self.library.blobs().open(digest, offset).await;
        let blob = blob.map_err(|error| status::blob(&error))?;
        let pieces = ReaderStream::with_capacity(blob, BLOB_PIECE_BYTES).map(|piece| match piece {
            Ok(data) => Ok(ReadBlobResponse { data }),
            Err(source) => Err(status::blob(&blob::Error::Io {
                doing: "reading a blob",
                source,
            })),
        });
        Ok(Response::new(answers(
            pieces.take_until(self.stop.clone().cancelled_owned()),
        )))
    }
}
