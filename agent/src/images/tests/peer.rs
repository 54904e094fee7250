//! Blobs from a real `PeerService`, over mTLS.

use kapok_proto::agent::v1::{
    ReadBlobRequest, ReadBlobResponse,
    peer_service_server::{PeerService, PeerServiceServer},
};
use kapok_trust::{Acceptor, ClientAuth, Credentials, Limits, Peer, Subject};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use super::{fabric::Fabric, *};

/// A peer that breaks off after some bytes, and takes one ticket of one node.
struct Blobs {
    blob: Vec<u8>,
    most: usize,
    ticket: &'static [u8],
    caller: Subject,
}

#[async_trait]
impl PeerService for Blobs {
    type ReadBlobStream =
        std::pin::Pin<Box<dyn futures::Stream<Item = Result<ReadBlobResponse, Status>> + Send>>;

    async fn read_blob(
        &self,
        request: Request<ReadBlobRequest>,
    ) -> Result<Response<Self::ReadBlobStream>, Status> {
        let caller = request.extensions().get::<Peer>().and_then(Peer::subject);
        let may = caller == Some(&self.caller) && request.get_ref().ticket == self.ticket;
        if !may {
            return Err(Status::permission_denied("this ticket isn't yours"));
        }
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

const TICKET: &[u8] = b"a ticket";

/// A node that pulls, and peers that serve it.
struct Ring {
    fabric: Fabric,
    bench: Bench,
    blob: Vec<u8>,
}

impl Ring {
    fn new() -> Self {
        Self {
            fabric: Fabric::new("kapok"),
            bench: bench(&[]),
            blob: (0..300_000_u32).flat_map(u32::to_le_bytes).collect(),
        }
    }

    fn trust(&self) -> Trust {
        Trust::in_memory(self.fabric.node(self.bench.local.node_id()))
    }

    fn image(&self) -> Image {
        Image {
            digest: Digest::of(&self.blob),
            format: DiskFormat::Raw,
            bytes: u64::try_from(self.blob.len()).unwrap(),
        }
    }

    /// A peer with these credentials; a source that names it as a controller.
    async fn peer(&self, who: Credentials) -> (Source, AbortOnDropHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Source {
            address: listener.local_addr().unwrap().to_string(),
            node: None,
            ticket: Bytes::from_static(TICKET),
        };
        let service = Blobs {
            blob: self.blob.clone(),
            most: 700_000,
            ticket: TICKET,
            caller: Subject::Node(self.bench.local.node_id()),
        };
        let acceptor = Acceptor::new(who, ClientAuth::Required, Limits::default());
        let server = tonic::transport::Server::builder()
            .add_service(PeerServiceServer::new(service))
            .serve_with_incoming(acceptor.incoming(listener));
        let server = tokio::spawn(async move {
            let _ended = server.await;
        });
        (source, AbortOnDropHandle::new(server))
    }
}

#[tokio::test]
async fn blobs_come_over_mtls() {
    let ring = Ring::new();
    let (source, _server) = ring.peer(ring.fabric.controller()).await;
    let cache = ImageCache::new(Options {
        storage: ring.bench.pool.clone(),
        local: ring.bench.local.clone(),
        trust: ring.trust(),
        spool: ring.bench.folder.path().join("spool"),
        boot: Uuid::from_u128(1),
        env: Seeded::new(2),
    });
    let gone = Source {
        address: "127.0.0.1:1".into(),
        ..source.clone()
    };
    let image = ring.image();
    cache
        .ensure_image(image, &[gone, source.clone()])
        .await
        .unwrap();
    assert_eq!(
        lock(&ring.bench.pool.images)[&(image.digest, "raw")],
        ring.blob
    );
    let peers = Peers::new(ring.trust());
    let absent = peers.read(&source, Digest::of(b"other"), 0).await.err();
    assert_eq!(absent, Some(FetchError::Absent));
    let far = u64::from(u32::MAX);
    let behind = peers.read(&source, image.digest, far).await.err();
    assert_eq!(behind, Some(FetchError::OutOfRange));
}

/// Another node's blob is read from it, by its name; a peer of another name, without a server's
/// certificate, or of another fabric gets nothing said, and a ticket alone opens nothing.
#[tokio::test]
async fn a_peer_is_who_it_should_be() {
    let ring = Ring::new();
    let digest = ring.image().digest;
    let other = kapok_types::NodeId(Uuid::from_u128(0xB0));
    let (source, _node) = ring.peer(ring.fabric.node(other)).await;
    let named = |node| Source {
        node,
        ..source.clone()
    };
    let peers = Peers::new(ring.trust());
    let refused = |outcome: Result<Pieces, FetchError>| match outcome {
        Err(FetchError::Broken { reason }) => reason,
        other => panic!("{:?}", other.err()),
    };
    assert!(peers.read(&named(Some(other)), digest, 0).await.is_ok());
    let myself = Some(ring.bench.local.node_id());
    for wrong in [None, myself] {
        let reason = refused(peers.read(&named(wrong), digest, 0).await);
        assert!(reason.contains("TLS with"), "{reason}");
    }

    let person = ring.fabric.somebody(fabric::user("alice"));
    let (source, _person) = ring.peer(person).await;
    let reason = refused(peers.read(&source, digest, 0).await);
    assert!(reason.contains("TLS with"), "{reason}");

    let foreign = Fabric::new("kapok");
    let (source, _foreign) = ring.peer(foreign.controller()).await;
    let reason = refused(peers.read(&source, digest, 0).await);
    assert!(reason.contains("TLS with"), "{reason}");

    // Another node's client with this node's ticket.
    let (source, _right) = ring.peer(ring.fabric.controller()).await;
    let thief = Peers::new(Trust::in_memory(ring.fabric.node(other)));
    let reason = refused(thief.read(&source, digest, 0).await);
    assert!(reason.contains("PermissionDenied"), "{reason}");
    let simulated = Peers::new(trust(&ring.bench.local));
    let reason = refused(simulated.read(&source, digest, 0).await);
    assert!(reason.contains("no certificate"), "{reason}");
}
