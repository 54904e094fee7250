//! The gRPC side: services that verify, convert and route, and nothing else.
//!
//! Every mapping of an error to a status is in [`status`], and who may call at all in [`caller`].
//!
//! One connection can't take what others need: streams, resets and calls under way are counted for
//! each, and connections by the acceptor (FAULTS 19).

mod caller;
mod console;
mod heads;
mod health;
mod images;
mod node;
pub mod status;
mod trust;
mod usage;
mod wire;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use kapok_metrics::Open;
use kapok_proto::agent::v1::node_service_server::NodeServiceServer;
use kapok_telemetry::grpc;
use kapok_trust::Peer;
use kapok_types::Env;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, service::InterceptorLayer, transport::server::Connected};
use uuid::Uuid;

use crate::{
    driver::Driver,
    health::Health,
    heartbeat::Pulse,
    images::ImageCache,
    instance::changes::Changes,
    local::Local,
    metrics::{Roll, Samples},
    trust::Trust,
    watch::Hub,
};

/// How long open calls may take to end when the agent stops.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a call may take to be answered; streams begin within it.
const DEADLINE: Duration = Duration::from_mins(2);
/// Streams that a connection may have open.
const STREAMS: u32 = 1024;
/// Calls of a connection that may wait for their answer.
const CALLS: usize = 256;
/// Streams that a connection may have reset before they were looked at; at one more it is closed.
const PENDING_RESETS: usize = 32;
/// How often a silent connection is asked for a sign of life, and how long that may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

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
    /// None if the server isn't watched.
    pub(crate) health: Option<Health>,
    pub(crate) images: Option<Arc<ImageCache>>,
    pub(crate) local: Local,
    pub(crate) trust: Trust,
    pub(crate) env: Arc<dyn Env>,
    /// Which domain is which instance.
    pub(crate) roll: Roll,
    /// What was heard of each domain.
    pub(crate) samples: Samples,
    /// Open streams, counted.
    pub(crate) streams: Open,
    pub(crate) stop: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Services {
    /// The stream, until the agent stops.
    fn until_stop<T: 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Answers<T> {
        let counted = self.streams.hold();
        let stream = stream.map(move |item| {
            let _open = &counted;
            item
        });
        Box::pin(stream.take_until(self.stop.clone().cancelled_owned()))
    }
}

pub(crate) async fn serve<S, IO, E>(
    services: Services,
    incoming: S,
) -> Result<(), tonic::transport::Error>
where
    S: Stream<Item = Result<IO, E>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let stop = services.stop.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<NodeServiceServer<Services>>().await;
    let fabric = services.trust.fabric().clone();
    let admit = move |request: Request<()>| caller::admit(&fabric, request);
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .max_concurrent_streams(STREAMS)
        .concurrency_limit_per_connection(CALLS)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .timeout(DEADLINE)
        .layer(grpc::Server::new(Arc::clone(&services.env)))
        .layer(InterceptorLayer::new(admit))
        .add_service(health_service)
        .add_service(
            NodeServiceServer::new(services)
                .max_decoding_message_size(kapok_proto::MAX_MESSAGE_BYTES)
                .max_encoding_message_size(kapok_proto::MAX_MESSAGE_BYTES),
        );
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(kapok_proto::AGENT_DESCRIPTORS)
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
