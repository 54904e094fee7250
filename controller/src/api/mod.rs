//! What the controller serves: people's services, and blobs for agents.
//!
//! Handlers verify, authorize, convert and submit; the decision is the ledger's. Reads come from
//! the published snapshot and from what agents reported, and never queue.
//!
//! Invariants:
//! - Every handler asks [`Api::caller`] who it is — the connection's certificate says so — and
//!   [`Api::authorize`]s before it answers; a test walks over all methods. What a caller may not
//!   see is answered byte for byte like what isn't there.
//! - One file a service. `status.rs` alone says which refusal an error is.
//! - Nothing of the outside reaches the fabric that wasn't checked against a limit here or in
//!   `decide`; a message has no field for a host's path, XML or an emulator's argument.
//! - Every stream ends when the controller stops.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, stream::BoxStream};
use kapok_metrics::Open;
use kapok_proto::{
    DESCRIPTORS, MAX_MESSAGE_BYTES,
    agent::v1::peer_service_server::PeerServiceServer,
    fabric::v1::{
        audit_service_server::AuditServiceServer, auth_service_server::AuthServiceServer,
        capacity_service_server::CapacityServiceServer,
        certificate_service_server::CertificateServiceServer,
        controller_service_server::ControllerServiceServer,
        event_service_server::EventServiceServer, flavor_service_server::FlavorServiceServer,
        follower_service_server::FollowerServiceServer, group_service_server::GroupServiceServer,
        image_service_server::ImageServiceServer, instance_service_server::InstanceServiceServer,
        node_service_server::NodeServiceServer, operation_service_server::OperationServiceServer,
        plan_service_server::PlanServiceServer, report_service_server::ReportServiceServer,
        system_service_server::SystemServiceServer, tenant_service_server::TenantServiceServer,
        token_service_server::TokenServiceServer, usage_service_server::UsageServiceServer,
        user_service_server::UserServiceServer,
    },
    refusal,
};
use kapok_store::{Follow, Segments, health::Health};
use kapok_telemetry::grpc;
use kapok_trust::Peer;
use kapok_types::{Env, Seq};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, server::NamedService as _, transport::server::Connected};
use tower::util::MapResponseLayer;

use self::caller::Caller;
pub(crate) use self::explain::filter_word;
pub(crate) use self::image::digests;
pub use self::{console::Tickets, heavy::Heavy};
use crate::{
    audit::Audit,
    authz::{Access, refused},
    controllers::{Controllers, Forward, Port, Servers},
    fabric::{self, Command},
    https::{self, Attempts},
    images::Library,
    ledger,
    limits::Gate,
    link::Links,
    observed,
    oidc::Provider,
    trust::Trust,
};

// One file a service.
mod adoption;
mod audit;
mod auth;
mod batch;
mod capacity;
mod certificate;
mod console;
mod controller;
mod enroll;
mod event;
mod explain;
mod flavor;
mod follower;
mod group;
mod health;
mod image;
mod instance;
mod node;
mod operation;
mod peer;
mod plan;
mod report;
mod resize;
mod system;
mod tenant;
mod token;
mod usage;
mod user;

// What they share.
mod caller;
mod heavy;
mod mask;
mod pace;
mod page;
mod sentence;
mod status;
mod view;
mod visible;

#[cfg(test)]
mod tests;

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
    /// Who leads, who follows, and the way to them.
    pub controllers: Controllers,
    /// How the store is.
    pub store: Arc<dyn Servers>,
    /// How its servers were when they were last looked at; nothing if it has none.
    pub store_health: watch::Receiver<Option<Health>>,
    /// Sealed segments of the log, for other controllers.
    pub segments: Arc<dyn Segments>,
    /// What agents reported.
    pub observed: observed::Table,
    /// The agents, for consoles, and for what only they know.
    pub links: Links,
    /// The blobs behind images.
    pub library: Arc<Library>,
    /// The authorities, and the controller's own certificate.
    pub trust: Trust,
    /// Who may do what.
    pub access: Access,
    /// What is on record, and what will be: refusals.
    pub audit: Audit,
    /// What one connection and one identity may take.
    pub gate: Gate,
    /// Consoles that somebody may open.
    pub tickets: Tickets,
    /// Where people log in, if that is configured.
    pub oidc: Option<Arc<Provider>>,
    /// How often somebody without a certificate may try to get one.
    pub attempts: Attempts,
    /// Where others reach this controller: "HOST:PORT".
    pub advertise: String,
    /// What is done about nodes' health.
    pub health: fabric::health::Policy,
    /// vCPUs that one thread of a node may carry when it joins, in permille.
    pub default_vcpu_overcommit_permille: u32,
    /// Clock, randomness and ids.
    pub env: Arc<dyn Env>,
    /// The log, for events.
    pub follow: Follower,
    /// Streams of events that people have open.
    pub event_streams: Open,
    /// Questions that take long.
    pub heavy: Heavy,
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

/// The services of the main port, as health and reflection call them.
const SERVED: &[&str] = &[
    NodeServiceServer::<Api>::NAME,
    InstanceServiceServer::<Api>::NAME,
    ImageServiceServer::<Api>::NAME,
    OperationServiceServer::<Api>::NAME,
    EventServiceServer::<Api>::NAME,
    SystemServiceServer::<Api>::NAME,
    GroupServiceServer::<Api>::NAME,
    FlavorServiceServer::<Api>::NAME,
    TenantServiceServer::<Api>::NAME,
    UserServiceServer::<Api>::NAME,
    TokenServiceServer::<Api>::NAME,
    CertificateServiceServer::<Api>::NAME,
    AuthServiceServer::<Api>::NAME,
    AuditServiceServer::<Api>::NAME,
    CapacityServiceServer::<Api>::NAME,
    PlanServiceServer::<Api>::NAME,
    UsageServiceServer::<Api>::NAME,
    ReportServiceServer::<Api>::NAME,
    ControllerServiceServer::<Api>::NAME,
    FollowerServiceServer::<Api>::NAME,
    PeerServiceServer::<Api>::NAME,
];

impl Api {
    /// Serves connections until the controller stops, then lets those that are answered end.
    /// Who is at the other end of each is the transport's to say.
    ///
    /// # Errors
    ///
    /// The listener failed.
    pub async fn serve<IO, E>(
        self,
        incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    ) -> Result<(), Error>
    where
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let (health, health_service) = tonic_health::server::health_reporter();
        for name in SERVED {
            let serving = tonic_health::ServingStatus::Serving;
            health.set_service_status(*name, serving).await;
        }
        let reflection = || {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("grpc.health.v1.Health");
            // The descriptors hold services of other ports and programs, too.
            SERVED.iter().copied().fold(
                builder,
                tonic_reflection::server::Builder::with_service_name,
            )
        };
        let stop = self.stop.clone();
        self.gate
            .server(self.forward(Port::Main))
            .layer(grpc::Server::new(self.env.clone()))
            .layer(MapResponseLayer::new(status::oversize))
            .add_service(limited!(NodeServiceServer, self.clone()))
            .add_service(limited!(InstanceServiceServer, self.clone()))
            .add_service(limited!(ImageServiceServer, self.clone()))
            .add_service(limited!(OperationServiceServer, self.clone()))
            .add_service(limited!(EventServiceServer, self.clone()))
            .add_service(limited!(SystemServiceServer, self.clone()))
            .add_service(limited!(GroupServiceServer, self.clone()))
            .add_service(limited!(FlavorServiceServer, self.clone()))
            .add_service(limited!(TenantServiceServer, self.clone()))
            .add_service(limited!(UserServiceServer, self.clone()))
            .add_service(limited!(TokenServiceServer, self.clone()))
            .add_service(limited!(CertificateServiceServer, self.clone()))
            .add_service(limited!(AuthServiceServer, self.clone()))
            .add_service(limited!(AuditServiceServer, self.clone()))
            .add_service(limited!(CapacityServiceServer, self.clone()))
            .add_service(limited!(PlanServiceServer, self.clone()))
            .add_service(limited!(UsageServiceServer, self.clone()))
            .add_service(limited!(ReportServiceServer, self.clone()))
            .add_service(limited!(ControllerServiceServer, self.clone()))
            .add_service(limited!(FollowerServiceServer, self.clone()))
            .add_service(https::enroll(self.clone()))
            .add_service(limited!(PeerServiceServer, self))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await?;
        Ok(())
    }

    /// The choice of who answers, in front of a server.
    pub(crate) fn forward(&self, port: Port) -> Forward {
        Forward {
            port,
            controllers: self.controllers.clone(),
            ledger: self.ledger.clone(),
            refusals: self.audit.refusals.clone(),
        }
    }

    /// All nodes as people see them, for monitoring.
    pub(crate) fn nodes(&self, fabric: &fabric::Fabric) -> Vec<kapok_proto::fabric::v1::Node> {
        let observed = &self.observed;
        let view = view::View { fabric, observed };
        fabric.nodes.values().map(|node| view.node(node)).collect()
    }

    /// Decides a command and makes it durable, in a caller's name.
    async fn submit(
        &self,
        caller: Caller,
        request_id: Option<String>,
        command: Command,
    ) -> Result<ledger::Done, Status> {
        let origin = caller.origin();
        let done = self
            .ledger
            .submit(origin, request_id, command.clone())
            .await;
        done.map_err(|error| self.not_done(&caller, &command, &error))
    }

    /// What a caller is told when a command is not taken; a refusal is noted for the audit.
    fn not_done(&self, caller: &Caller, command: &Command, error: &ledger::Error) -> Status {
        let told = status::ledger(error);
        if matches!(error, ledger::Error::Denied(_)) {
            let (action, object) = refused::asked(command);
            let reason = refusal::reason(&told);
            let reason = reason.as_deref().unwrap_or("INVALID_ARGUMENT");
            let Caller { by, from, .. } = caller;
            self.audit.refusals.note(by, from, action, &object, reason);
        }
        told
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
