//! The API over real gRPC, with a log in memory and no agents. Connections are pipes that vouch for
//! who is at their other end; certificates on sockets are the harness's.

use std::{
    io,
    ops::Deref,
    task::{Context, Poll},
};

use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use kapok_proto::{
    agent::v1::peer_service_client::PeerServiceClient,
    fabric::v1::{
        audit_service_client::AuditServiceClient, auth_service_client::AuthServiceClient,
        capacity_service_client::CapacityServiceClient, event_service_client::EventServiceClient,
        flavor_service_client::FlavorServiceClient, group_service_client::GroupServiceClient,
        image_service_client::ImageServiceClient, instance_service_client::InstanceServiceClient,
        node_service_client::NodeServiceClient, operation_service_client::OperationServiceClient,
        plan_service_client::PlanServiceClient, report_service_client::ReportServiceClient,
        system_service_client::SystemServiceClient, tenant_service_client::TenantServiceClient,
        usage_service_client::UsageServiceClient, user_service_client::UserServiceClient,
    },
};
use kapok_store::{Redb, segments::MemorySegments};
use kapok_trust::{Credentials, Identity, Subject, connector};
use kapok_types::{Equipment, MemoryMib, Name, NodeId, Vcpus, env::System, instance::Arch};
use tokio::{
    io::{DuplexStream, ReadBuf},
    sync::mpsc::{UnboundedSender, unbounded_channel},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::*;
use crate::{
    config::{Config, Lives},
    controller::{Controller, Options},
    fabric::{Capacity, Command, HostFingerprint, Origin, fixture},
    images::{BlobStore, Memory},
    link::Dialer,
    trust::{
        Opened, Vault,
        init::{Founding, found_in_memory},
    },
};

mod access;
mod audit;
mod capacity;
mod console;
mod enroll;
mod events;
mod flavors;
mod forward;
mod health;
mod images;
mod instances;
mod limits;
mod methods;
mod needs;
mod nodes;
mod placement;
mod plans;
mod quotas;
mod systems;
mod tenants;
mod usage;

/// A controller that is stopped when dropped. Its own calls are those of user/li-wei, a system
/// administrator.
struct Lab {
    li_wei: Clients,
    api: Api,
    blobs: Memory,
    stop: CancellationToken,
    dial: UnboundedSender<Pipe>,
}

/// Somebody's connection.
#[derive(Clone)]
struct Clients {
    channel: Channel,
}

/// The server's end of a pipe, and who is at the other one.
struct Pipe {
    io: DuplexStream,
    peer: Peer,
}

/// Reaches nobody.
struct Nobody;

#[tonic::async_trait]
impl Dialer for Nobody {
    async fn dial(&self, _: &str, _: NodeId) -> Result<Channel, connector::Error> {
        std::future::pending().await
    }

    async fn dial_controller(&self, _: &str, _: &Name) -> Result<Channel, connector::Error> {
        std::future::pending().await
    }
}

impl Lab {
    async fn new() -> Self {
        Self::start(Arc::new(Nobody), "").await
    }

    /// With agents that are reached, and more configuration.
    async fn start(dialer: Arc<dyn Dialer>, more: &str) -> Self {
        let (store, blobs) = (Redb::in_memory().unwrap(), Memory::default());
        Self::over(dialer, more, store, Arc::new(blobs.clone()), blobs).await
    }

    /// With a log that fails, or another way to the blobs.
    async fn over(
        dialer: Arc<dyn Dialer>,
        more: &str,
        store: Redb,
        way: Arc<dyn BlobStore>,
        blobs: Memory,
    ) -> Self {
        let text = "max_image_bytes = \"8MiB\"\n";
        let more = format!("{text}{more}\n[timing]\nlost_after = \"1h\"\n");
        let config = Config::parse(&more, "test".as_ref()).unwrap();
        let (env, store, vault) = (System::new(), Arc::new(store), Vault::memory());
        let founding = founding();
        let made = found_in_memory(store.clone(), env.clone(), &founding, vault.clone());
        let own = Credentials::new(made.await.unwrap().controller, env.clone()).unwrap();
        let mut controller = Controller::start(Options {
            config,
            store,
            env,
            blobs: way,
            segments: Arc::new(MemorySegments::default()),
            dialer,
            trust: Opened::memory(own, vault),
            epoch_floor: kapok_types::Epoch::ZERO,
        })
        .await
        .unwrap();
        let (dial, dialled) = unbounded_channel::<Pipe>();
        let (api, stop) = (controller.api().clone(), controller.stop_token());
        tokio::spawn(async move {
            let incoming = UnboundedReceiverStream::new(dialled).map(Ok::<_, io::Error>);
            controller.serve(incoming).await.unwrap();
            controller.shutdown().await;
        });
        let lab = Self {
            li_wei: connect(&dial, vouched("user/li-wei")),
            api,
            blobs,
            stop,
            dial,
        };
        lab.user("user/li-wei", &["system_administrator"]).await;
        lab
    }

    /// A connection of somebody's, whether the fabric knows them or not.
    fn of(&self, subject: &str) -> Clients {
        connect(&self.dial, vouched(subject))
    }

    /// Somebody with these roles, and their connection.
    async fn user(&self, subject: &str, roles: &[&str]) -> Clients {
        self.own(fixture::user(subject, roles)).await;
        self.of(subject)
    }

    fn peer(&self, node: u8) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(self.of(&format!("node/{}", fixture::node_id(node))).channel)
    }

    /// The controller's own word, as a link or a reconciler would give it.
    async fn own(&self, command: Command) {
        let ledger = &self.api.ledger;
        ledger
            .submit(Origin::controller(), None, command)
            .await
            .unwrap();
    }

    /// Nodes of 4 threads and 8 GiB each, that were reached.
    async fn with_nodes(self, names: &[&str]) -> Self {
        for (name, number) in names.iter().zip(1..) {
            self.join(number, name, "127.0.0.1:1").await;
            self.report(number, name, false).await;
        }
        self
    }

    /// A numbered node joins.
    async fn join(&self, number: u8, name: &str, address: &str) {
        let [token, join] = fixture::new_node(number, name, address);
        self.own(token).await;
        let Command::JoinNode(mut join) = join else {
            panic!("{join:?}");
        };
        let snapshot = self.api.ledger.snapshot();
        join.certificate.authority = snapshot.fabric.active_authority().unwrap().fingerprint;
        self.own(Command::JoinNode(join)).await;
    }

    /// A numbered node's agent was reached.
    async fn report(&self, number: u8, name: &str, resyncing: bool) {
        self.told(number, name, Equipment::default(), resyncing)
            .await;
    }

    /// A numbered node's agent says what it has beyond amounts.
    async fn equip(&self, number: u8, name: &str, equipment: Equipment) {
        self.told(number, name, equipment, false).await;
    }

    async fn told(&self, number: u8, name: &str, equipment: Equipment, resyncing: bool) {
        self.own(Command::ReportNode {
            node: name.parse().unwrap(),
            id: fixture::node_id(number),
            capacity: Capacity {
                arch: Arch::X86_64,
                cpus: 4,
                memory: MemoryMib(8192),
                foreign_vcpus: Vcpus(0),
                foreign_memory: MemoryMib(0),
            },
            equipment: Arc::new(equipment),
            host: HostFingerprint::default(),
            resyncing,
        })
        .await;
    }
}

fn founding() -> Founding {
    Founding {
        fabric: "city".parse().unwrap(),
        controller: "a".parse().unwrap(),
        lives: Lives::default(),
        controllers: vec!["127.0.0.1:1".into()],
        enroll: vec!["127.0.0.1:1".into()],
    }
}

/// Whom a certificate of this fabric would name.
fn vouched(subject: &str) -> Peer {
    let subject: Subject = subject.parse().unwrap();
    Peer::vouched(Identity::new("city".parse().unwrap(), subject), None)
}

fn connect(dial: &UnboundedSender<Pipe>, peer: Peer) -> Clients {
    let dial = dial.clone();
    let pipe = tower::service_fn(move |_: tonic::transport::Uri| {
        let (near, io) = tokio::io::duplex(256 * 1024);
        let dialled = dial.send(Pipe {
            io,
            peer: peer.clone(),
        });
        let answer = dialled.map(|()| TokioIo::new(near));
        std::future::ready(answer.map_err(|_| io::Error::other("the controller stopped")))
    });
    Clients {
        channel: Endpoint::from_static("http://controller").connect_with_connector_lazy(pipe),
    }
}

macro_rules! clients {
    ($($name:ident: $client:ident),*) => {
        impl Clients {$(
            fn $name(&self) -> $client<Channel> {
                $client::new(self.channel.clone())
            }
        )*}
    };
}

clients! {
    nodes: NodeServiceClient,
    instances: InstanceServiceClient,
    images: ImageServiceClient,
    operations: OperationServiceClient,
    events: EventServiceClient,
    flavors: FlavorServiceClient,
    groups: GroupServiceClient,
    systems: SystemServiceClient,
    tenants: TenantServiceClient,
    users: UserServiceClient,
    auth: AuthServiceClient,
    usage: UsageServiceClient,
    reports: ReportServiceClient,
    audit: AuditServiceClient,
    capacity: CapacityServiceClient,
    plans: PlanServiceClient
}

impl Deref for Lab {
    type Target = Clients;

    fn deref(&self) -> &Clients {
        &self.li_wei
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Connected for Pipe {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// An answer that must come within a bound.
async fn soon<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), answer)
        .await
        .expect("it comes in time")
}

/// A refusal's code and reason.
fn refused<T: fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    let reason = refusal::reason(&status).unwrap_or_default();
    (status.code(), reason)
}

/// The first field that a refusal names.
fn field<T: fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.unwrap_err();
    let violations = refusal::violations(&status);
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    violations
        .first()
        .unwrap_or_else(|| panic!("{status:?}"))
        .field
        .clone()
}
