//! What the controller serves: people's services, and blobs for agents.
//!
//! Handlers verify, convert and submit; the decision is the ledger's. Reads come from the
//! published snapshot and from what agents reported, and never queue.
//!
//! Invariants:
//! - One file a service. `status.rs` alone says which refusal an error is.
//! - Nothing of the outside reaches the fabric that wasn't checked against a limit here or in
//!   `decide`; a message has no field for a host's path, XML or an emulator's argument.
//! - Every stream ends when the controller stops.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream::BoxStream};
use kapok_proto::{
    DESCRIPTORS, MAX_MESSAGE_BYTES,
    agent::v1::peer_service_server::PeerServiceServer,
    fabric::v1::{
        event_service_server::EventServiceServer, image_service_server::ImageServiceServer,
        instance_service_server::InstanceServiceServer, node_service_server::NodeServiceServer,
        operation_service_server::OperationServiceServer,
    },
};
use kapok_store::Follow;
use kapok_types::{Env, Seq};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Status,
    transport::{Server, server::Connected},
};
use tower::util::MapResponseLayer;

use self::caller::Caller;
pub(crate) use self::image::digests;
use crate::{fabric::Command, images::Library, ledger, link::Links, observed};

// One file a service.
mod console;
mod event;
mod explain;
mod image;
mod instance;
mod node;
mod operation;
mod peer;

// What they share.
mod caller;
mod pace;
mod page;
mod sentence;
mod status;
mod view;

#[cfg(test)]
mod tests;

/// Requests of one connection that are answered at a time; streams count until they began.
const REQUESTS_PER_CONNECTION: usize = 256;
/// Streams of one connection.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// Largest head of a request, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Follows the log from a position on.
pub type Follower =
    Arc<dyn Fn(Seq) -> BoxStream<'static, Result<Follow, kapok_store::Error>> + Send + Sync>;

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What handlers lean on. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The one task that writes, and the published intent.
    pub ledger: ledger::Handle,
    /// What agents reported.
    pub observed: observed::Table,
    /// The agents, for consoles.
    pub links: Links,
    /// The blobs behind images.
    pub library: Arc<Library>,
    /// The clock, for the pace of imports.
    pub env: Arc<dyn Env>,
    /// The log, for events.
    pub follow: Follower,
    /// Changes that go on when their caller leaves.
    pub tasks: TaskTracker,
    /// Cancelled when the controller stops: ends every stream.
    pub stop: CancellationToken,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Connections can't be accepted or served any more.
    #[error("serving failed")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors that were compiled in can't be read.
    #[error("the reflection service can't be built")]
    Reflection(#[from] tonic_reflection::server::Error),
}

macro_rules! limited {
    ($server:ident, $api:expr) => {
        $server::new($api)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    };
}

impl Api {
    /// Serves connections until the controller stops, then lets those that are answered end.
    ///
    /// # Errors
    ///
    /// The listener failed.
    pub async fn serve<IO, E>(
        self,
        incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    ) -> Result<(), Error>
    where
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<NodeServiceServer<Self>>().await;
        health.set_serving::<InstanceServiceServer<Self>>().await;
        health.set_serving::<ImageServiceServer<Self>>().await;
        health.set_serving::<OperationServiceServer<Self>>().await;
        health.set_serving::<EventServiceServer<Self>>().await;
        health.set_serving::<PeerServiceServer<Self>>().await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let stop = self.stop.clone();
        Server::builder()
            .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(MapResponseLayer::new(status::oversize))
            .add_service(limited!(NodeServiceServer, self.clone()))
            .add_service(limited!(InstanceServiceServer, self.clone()))
            .add_service(limited!(ImageServiceServer, self.clone()))
            .add_service(limited!(OperationServiceServer, self.clone()))
            .add_service(limited!(EventServiceServer, self.clone()))
            .add_service(limited!(PeerServiceServer, self))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await?;
        Ok(())
    }

    /// Decides a command and makes it durable, in a caller's name.
    async fn submit(
        &self,
        caller: Caller,
        request_id: Option<String>,
        command: Command,
    ) -> Result<ledger::Done, Status> {
        let Caller { by, from } = caller;
        let done = self.ledger.submit(by, from, request_id, command).await;
        done.map_err(|error| status::ledger(&error))
    }

    /// What comes within a bound, and before the controller stops.
    async fn within<T>(
        &self,
        bound: Duration,
        late: impl FnOnce() -> Status,
        work: impl Future<Output = T>,
    ) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Self::stopping()),
            done = tokio::time::timeout(bound, work) => done.map_err(|_| late()),
        }
    }

    /// What a stream's reader is told when the controller stops.
    fn stopping() -> Status {
        status::unavailable("STOPPING", "this controller is stopping")
    }
}

/// Turns a stream of answers into the form that the services want.
fn answers<T>(stream: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Answers<T> {
    Box::pin(stream)
}
