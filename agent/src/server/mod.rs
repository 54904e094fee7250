//! The gRPC side: services that verify, convert and route, and nothing else.
//!
//! Every mapping of an error to a status is in [`status`].

mod console;
mod images;
mod node;
pub mod status;
mod wire;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use kapok_proto::agent::v1::node_service_server::NodeServiceServer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::server::Connected};
use uuid::Uuid;

use crate::{
    driver::Driver, heartbeat::Pulse, images::ImageCache, instance::changes::Changes, watch::Hub,
};

/// How long open calls may take to end when the agent stops.
const DRAIN: Duration = Duration::from_secs(2);

/// What the services work on; cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) run: Uuid,
    pub(crate) changes: Arc<Changes>,
    pub(crate) hub: Arc<Hub>,
    /// Whether the hub shows all that is here: not before the hypervisor's first listing.
    pub(crate) listed: watch::Receiver<bool>,
    pub(crate) pulse: Pulse,
    pub(crate) driver: Driver,
    pub(crate) images: Option<Arc<ImageCache>>,
    pub(crate) stop: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Services {
    /// The stream, until the agent stops.
    fn until_stop<T: 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answers<T> {
        Box::pin(stream.take_until(self.stop.clone().cancelled_owned()))
    }
}

pub(crate) async fn serve<S, IO, E>(
    services: Services,
    incoming: S,
) -> Result<(), tonic::transport::Error>
where
    S: Stream<Item = Result<IO, E>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let stop = services.stop.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<NodeServiceServer<Services>>().await;
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(1024)
        .concurrency_limit_per_connection(256)
        .add_service(health_service)
        .add_service(
            NodeServiceServer::new(services)
                .max_decoding_message_size(kapok_proto::MAX_MESSAGE_BYTES)
                .max_encoding_message_size(kapok_proto::MAX_MESSAGE_BYTES),
        );
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kapok_proto::DESCRIPTORS)
        .build_v1();
    let router = match reflection {
        Ok(service) => router.add_service(service),
        Err(error) => {
            tracing::error!(%error, "no reflection: the descriptors can't be read");
            router
        }
    };
    let signal = stop.clone();
    let serving =
        router.serve_with_incoming_shutdown(incoming, async move { signal.cancelled().await });
    tokio::select! {
        biased;
        ended = serving => ended,
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}
