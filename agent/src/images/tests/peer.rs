//! Blobs from a real `PeerService`.

use kapok_proto::agent::v1::{
    ReadBlobRequest, ReadBlobResponse,
    peer_service_server::{PeerService, PeerServiceServer},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;

/// A `PeerService` that breaks off after some bytes.
struct Peer {
    blob: Vec<u8>,
    most: usize,
}

#[async_trait]
impl PeerService for Peer {
    type ReadBlobStream =
        std::pin::Pin<Box<dyn futures::Stream<Item = Result<ReadBlobResponse, Status>> + Send>>;

    async fn read_blob(
        &self,
        request: Request<ReadBlobRequest>,
    ) -> Result<Response<Self::ReadBlobStream>, Status> {
        let request = request.into_inner();
        if request.digest != Digest::of(&self.blob).to_string() {
            return Err(Status::not_found("no such blob"));
        }
        let from = usize::try_from(request.offset).unwrap();
        let rest = self
            .blob
            .get(from..)
            .ok_or_else(|| Status::out_of_range("behind the end"))?;
        let cut = rest.len() > self.most;
        let mut pieces: Vec<_> = rest[..rest.len().min(self.most)]
            .chunks(kapok_proto::BLOB_PIECE_BYTES)
            .map(|piece| {
                Ok(ReadBlobResponse {
                    data: Bytes::copy_from_slice(piece),
                })
            })
            .collect();
        if cut {
            pieces.push(Err(Status::unavailable("going down")));
        }
        Ok(Response::new(Box::pin(stream::iter(pieces))))
    }
}

#[tokio::test]
async fn blobs_come_over_grpc() {
    let blob: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = format!("http://{}", listener.local_addr().unwrap());
    let peer = Peer {
        blob: blob.clone(),
        most: 700_000,
    };
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(PeerServiceServer::new(peer))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let bench = bench(&[]);
    let image = Image {
        digest: Digest::of(&blob),
        format: DiskFormat::Raw,
        bytes: u64::try_from(blob.len()).unwrap(),
    };
    let cache = ImageCache::new(Options {
        storage: bench.pool.clone(),
        local: bench.local.clone(),
        spool: bench.folder.path().join("spool"),
        boot: Uuid::from_u128(1),
        env: Seeded::new(2),
    });
    let gone = "http://127.0.0.1:1".to_owned();
    cache
        .ensure_image(image, &[gone, source.clone()])
        .await
        .unwrap();
    assert_eq!(lock(&bench.pool.images)[&(image.digest, "raw")], blob);
    let absent = Peers.read(&source, Digest::of(b"other"), 0).await.err();
    assert_eq!(absent, Some(FetchError::Absent));
    let behind = Peers
        .read(&source, image.digest, u64::from(u32::MAX))
        .await
        .err();
    assert_eq!(behind, Some(FetchError::OutOfRange));
    server.abort();
}
