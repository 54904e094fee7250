//! A simulated node that serves on real sockets with real certificates.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use kapok_agent::{
    agent::{Agent, ImageSource, Options, Settings},
    config,
    driver::sim::{Host, Shape},
    local::{Local, Memory},
    sockets::{Serving, Sockets},
    trust::Trust,
    watch::facts,
};
use kapok_proto::agent::v1::{HeartbeatRequest, node_service_client::NodeServiceClient};
use kapok_trust::{Credentials, Material, connector, dns, files};
use kapok_types::NodeId;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::{Client, fabric::Fabric};

/// How long anything may take.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// An agent with both its listeners, on loopback.
pub(crate) struct Server {
    pub(crate) node: NodeId,
    pub(crate) host: Arc<Host>,
    pub(crate) memory: Memory,
    pub(crate) trust: Trust,
    pub(crate) grpc: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) serving: Serving,
    agent: Agent,
}

pub(crate) fn node_id() -> NodeId {
    NodeId(Uuid::from_u128(0xA0))
}

pub(crate) fn pages() -> config::Http {
    config::Http {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..config::Http::default()
    }
}

impl Server {
    /// A node of this fabric.
    pub(crate) async fn start(fabric: &Fabric) -> Self {
        Self::with(fabric, Trust::in_memory(fabric.node(node_id())), pages()).await
    }

    /// A node whose trust lies in this folder.
    pub(crate) async fn load(fabric: &Fabric, folder: &Path) -> Self {
        let trust = Trust::load(folder, node_id(), Arc::clone(&fabric.env)).unwrap();
        Self::with(fabric, trust, pages()).await
    }

    pub(crate) async fn with(fabric: &Fabric, trust: Trust, pages: config::Http) -> Self {
        let host = Host::new(Shape::default());
        let memory = Memory::new(node_id());
        Self::over(fabric, trust, pages, host, memory).await
    }

    /// An agent over a host and a state that were there before.
    pub(crate) async fn over(
        fabric: &Fabric,
        trust: Trust,
        pages: config::Http,
        host: Arc<Host>,
        memory: Memory,
    ) -> Self {
        let env = Arc::clone(&fabric.env);
        let agent = Agent::start(Options {
            driver: host.driver(),
            local: Local::in_memory(&memory, Arc::clone(&env)),
            env,
            trust: trust.clone(),
            images: ImageSource::OnPool,
            host: facts::Host {
                name: "sim".into(),
                boot: host.boot(),
                kernel: "simulated".into(),
                ..facts::Host::default()
            },
            settings: Settings::default(),
            health: None,
        });
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = Sockets::bind(any, pages).await.unwrap();
        let (grpc, https) = sockets.addresses().unwrap();
        let serving = sockets.serve(&agent, &trust, trust.credentials().unwrap());
        Self {
            node: node_id(),
            host,
            memory,
            trust,
            grpc,
            https,
            serving,
            agent,
        }
    }

    pub(crate) async fn stop(self) -> (Arc<Host>, Memory) {
        self.serving.end().await;
        self.agent.shutdown().await;
        (self.host, self.memory)
    }

    /// The name that its certificate carries.
    pub(crate) fn dns(&self) -> String {
        dns::node(self.trust.fabric(), self.node)
    }

    /// A channel of somebody's, or why there is none.
    pub(crate) async fn dial(&self, who: &Credentials) -> Result<Channel, connector::Error> {
        let tune = |endpoint: Endpoint| endpoint.connect_timeout(WAIT);
        let (address, dns) = (self.grpc.to_string(), self.dns());
        let dial = connector::connect(who, &address, &dns, tune);
        timeout(WAIT, dial).await.unwrap()
    }

    pub(crate) async fn client(&self, who: &Credentials) -> Client {
        NodeServiceClient::new(self.dial(who).await.unwrap())
    }
}

/// Settings of a client that trusts the fabric and shows nothing, as a browser would.
pub(crate) fn nameless(fabric: &Fabric) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(fabric.bundle().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Waits for one life sign over a stream of its own.
pub(crate) async fn beats(client: &mut Client) -> bool {
    let beat = async {
        let beats = client.heartbeat(HeartbeatRequest { interval_ms: 100 });
        beats.await?.into_inner().message().await
    };
    matches!(timeout(WAIT, beat).await, Ok(Ok(Some(_))))
}

/// Waits, within the bound, until a condition holds.
pub(crate) async fn comes(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Puts trust where an agent finds it.
pub(crate) fn keep(folder: &Path, material: &Material) {
    files::store(folder, material).unwrap();
}
