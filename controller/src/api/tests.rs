//! The API over real gRPC, with a log in memory and no agents.

use kapok_proto::{
    agent::v1::peer_service_client::PeerServiceClient,
    fabric::v1::{
        event_service_client::EventServiceClient, image_service_client::ImageServiceClient,
        instance_service_client::InstanceServiceClient, node_service_client::NodeServiceClient,
        operation_service_client::OperationServiceClient,
    },
    refusal,
};
use kapok_store::Redb;
use kapok_types::{MemoryMib, NodeId, Vcpus, env::System, instance::Arch};
use tokio::net::TcpListener;
use tonic::{
    Code,
    transport::{Channel, Endpoint, server::TcpIncoming},
};

use super::*;
use crate::{
    config::Config,
    controller::{Controller, Options},
    fabric::{Actor, Capacity, Command},
    images::{BlobStore, Memory},
    link::Dialer,
};

mod console;
mod events;
mod images;
mod instances;
mod limits;
mod nodes;

/// A controller on a loopback port, stopped when dropped.
struct Lab {
    channel: Channel,
    api: Api,
    blobs: Memory,
    stop: CancellationToken,
}

/// Reaches nobody.
struct Nobody;

#[tonic::async_trait]
impl Dialer for Nobody {
    async fn dial(&self, _: &str) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_static("http://127.0.0.1:1").connect().await
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
        let text = "max_image_bytes = \"8MiB\"\n[timing]\nlost_after = \"1h\"\n";
        let config = Config::parse(&format!("{text}{more}"), "test".as_ref()).unwrap();
        let mut controller = Controller::start(Options {
            config,
            store: Arc::new(store),
            env: System::new(),
            blobs: way,
            dialer,
            epoch_floor: kapok_types::Epoch::ZERO,
        })
        .await
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (api, stop) = (controller.api().clone(), controller.stop_token());
        tokio::spawn(async move {
            controller.serve(TcpIncoming::from(listener)).await.unwrap();
            controller.shutdown().await;
        });
        let channel = Endpoint::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            channel,
            api,
            blobs,
            stop,
        }
    }

    fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel.clone())
    }

    fn instances(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel.clone())
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    fn operations(&self) -> OperationServiceClient<Channel> {
        OperationServiceClient::new(self.channel.clone())
    }

    fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    fn peer(&self) -> PeerServiceClient<Channel> {
        PeerServiceClient::new(self.channel.clone())
    }

    /// The controller's own word, as a link or a reconciler would give it.
    async fn own(&self, command: Command) {
        let ledger = &self.api.ledger;
        ledger
            .submit(Actor::controller(), String::new(), None, command)
            .await
            .unwrap();
    }

    /// Nodes of 4 threads and 8 GiB each, that were reached.
    async fn with_nodes(self, names: &[&str]) -> Self {
        let nodes = names
            .iter()
            .map(|name| (name.parse().unwrap(), "127.0.0.1:1".to_owned(), 1000));
        self.own(Command::ConfigureNodes {
            nodes: nodes.collect(),
        })
        .await;
        for (name, number) in names.iter().zip(1..) {
            self.own(Command::ReportNode {
                node: name.parse().unwrap(),
                id: NodeId(uuid::Uuid::from_u128(number)),
                capacity: Capacity {
                    arch: Arch::X86_64,
                    cpus: 4,
                    memory: MemoryMib(8192),
                    foreign_vcpus: Vcpus(0),
                    foreign_memory: MemoryMib(0),
                },
                resyncing: false,
            })
            .await;
        }
        self
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
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
