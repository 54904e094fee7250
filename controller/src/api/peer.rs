//! Blobs for agents. A service of its own: a peer can reach nothing else through it.

use futures::StreamExt as _;
use kapok_proto::{
    BLOB_PIECE_BYTES,
    agent::v1::{ReadBlobRequest, ReadBlobResponse, peer_service_server::PeerService},
};
use tokio_util::io::ReaderStream;
use tonic::{Request, Response, Status};

use super::{Answers, Api, answers, caller::parsed, status};
use crate::images::blob;

#[tonic::async_trait]
impl PeerService for Api {
    type ReadBlobStream = Answers<ReadBlobResponse>;

    async fn read_blob(
        &self,
        request: Request<ReadBlobRequest>,
    ) -> Result<Response<Answers<ReadBlobResponse>>, Status> {
        let ReadBlobRequest { digest, offset } = request.into_inner();
        let digest = parsed("digest", &digest)?;
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
