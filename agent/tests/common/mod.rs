//! A simulated node under test: its host and its state directory outlive its agents.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

pub(crate) mod enroll;
pub(crate) mod fabric;
pub(crate) mod server;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use kapok_agent::{
    agent::{Agent, ImageSource, Options, Settings},
    driver::sim::{Host, Shape, VirtualEnv},
    health::{self, Health},
    local::{Local, Memory},
    trust::Trust,
    watch::facts,
};
use kapok_proto::{
    agent::v1::{self as wire, node_service_client::NodeServiceClient},
    common::v1::{self as common, Phase},
};
use kapok_trust::{Identity, Peer};
use kapok_types::{Digest, IncarnationId, Name, NodeId};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint, server::Connected},
};
use uuid::Uuid;

pub(crate) type Client = NodeServiceClient<Channel>;

/// The fabric that simulated nodes belong to.
pub(crate) fn fabric_name() -> Name {
    "kapok".parse().unwrap()
}

/// A pipe within this process, which knows who is at its other end.
pub(crate) struct Pipe {
    io: DuplexStream,
    from: Identity,
}

impl Connected for Pipe {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer::vouched(self.from.clone(), None)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// How long anything may take, in paused time.
pub(crate) const BOUND: Duration = Duration::from_mins(5);

pub(crate) struct Node {
    pub(crate) host: Arc<Host>,
    pub(crate) memory: Memory,
    pub(crate) env: Arc<VirtualEnv>,
    pub(crate) settings: Settings,
    pub(crate) health: Option<health::Options>,
    pub(crate) id: NodeId,
    /// The running agent's own store.
    pub(crate) local: Option<Local>,
    agent: Option<Agent>,
    connections: Option<mpsc::Sender<io::Result<Pipe>>>,
}

impl Node {
    /// A node whose agent runs and has taken the controller's (empty) intent.
    pub(crate) async fn ready(shape: Shape) -> (Self, Client) {
        let mut node = Self::new(shape);
        node.start();
        let mut client = node.client().await;
        resync(&mut client, 1, &[]).await.unwrap();
        (node, client)
    }

    pub(crate) fn new(shape: Shape) -> Self {
        let id = NodeId(Uuid::from_u128(0xA0));
        Self {
            host: Host::new(shape),
            memory: Memory::new(id),
            env: VirtualEnv::new(7),
            settings: Settings::default(),
            health: None,
            id,
            local: None,
            agent: None,
            connections: None,
        }
    }

    pub(crate) fn start(&mut self) {
        let local = Local::in_memory(&self.memory, self.env.clone());
        self.local = Some(local.clone());
        let agent = Agent::start(Options {
            driver: self.host.driver(),
            env: self.env.clone(),
            local,
            trust: Trust::vouched(fabric_name(), self.id, self.env.clone()),
            images: ImageSource::OnPool,
            host: facts::Host {
                name: "sim".into(),
                boot: self.host.boot(),
                kernel: "simulated".into(),
                ..facts::Host::default()
            },
            settings: self.settings.clone(),
            health: self.health.clone(),
        });
        let (connections, incoming) = mpsc::channel(8);
        tokio::spawn(agent.serve(ReceiverStream::new(incoming)));
        self.agent = Some(agent);
        self.connections = Some(connections);
    }

    /// How the running agent's server does; it is watched.
    pub(crate) fn health(&self) -> Health {
        let agent = self.agent.as_ref().unwrap();
        agent.health().unwrap().clone()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.connections = None;
        self.agent = None;
    }

    pub(crate) async fn shutdown(&mut self) {
        self.connections = None;
        self.agent.take().unwrap().shutdown().await;
    }

    /// A controller's client.
    pub(crate) async fn client(&self) -> Client {
        let connections = self.connections.clone().unwrap();
        let controller = Identity::new(fabric_name(), fabric::controller());
        let connector = tower::service_fn(move |_| {
            let (connections, from) = (connections.clone(), controller.clone());
            async move {
                let (ours, io) = duplex(64 * 1024);
                let sent = connections.send(Ok(Pipe { io, from })).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        });
        let endpoint = Endpoint::from_static("http://node");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        NodeServiceClient::new(channel)
    }

    /// Restarts the agent after a crash and repeats the intent, as a controller does.
    pub(crate) async fn revive(&mut self) -> Client {
        self.kill();
        self.start();
        self.client().await
    }

    pub(crate) fn apply(&self, n: u128) -> wire::ApplyInstanceRequest {
        wire::ApplyInstanceRequest {
            incarnation_id: id(n).to_string(),
            instance_id: Uuid::from_u128(0xE000 + n).to_string(),
            node_id: self.id.to_string(),
            name: format!("web-{n}"),
            spec: Some(common::InstanceSpec {
                arch: common::Arch::X8664.into(),
                vcpus: 1,
                memory_mib: 256,
                root: Some(common::RootDisk {
                    image_digest: Digest::of(b"image").to_string(),
                    image_format: common::DiskFormat::Qcow2.into(),
                    image_bytes: 1000,
                    size_bytes: 1 << 30,
                }),
                run_policy: common::RunPolicy::Unspecified.into(),
                needs: None,
            }),
            power: common::Power::Running.into(),
            counters: Some(common::Counters {
                starts: 1,
                ..Default::default()
            }),
            generation: 1,
            epoch: 1,
            operation_id: String::new(),
            image_sources: Vec::new(),
            assignment: None,
        }
    }

    pub(crate) fn delete(&self, n: u128) -> wire::DeleteInstanceRequest {
        wire::DeleteInstanceRequest {
            incarnation_id: id(n).to_string(),
            instance_id: Uuid::from_u128(0xE000 + n).to_string(),
            node_id: self.id.to_string(),
            generation: 1,
            epoch: 1,
        }
    }

    /// Creates an instance and waits until it runs.
    pub(crate) async fn running(&self, client: &mut Client, n: u128) {
        apply_when_listed(client, self.apply(n)).await;
        until(client, n, Phase::Running).await;
    }
}

pub(crate) fn id(n: u128) -> IncarnationId {
    IncarnationId(Uuid::from_u128(0xF000 + n))
}

pub(crate) async fn status(client: &mut Client, n: u128) -> Option<common::InstanceStatus> {
    let list = match client.list_instances(wire::ListInstancesRequest {}).await {
        Ok(list) => list,
        Err(unseen) => {
            assert_eq!(reason(&unseen), "HYPERVISOR_UNSEEN");
            return None;
        }
    };
    let wanted = id(n).to_string();
    let mut all = list.into_inner().instances.into_iter();
    all.find(|status| status.incarnation_id == wanted)
}

/// Waits, within the bound, for a status.
pub(crate) async fn until_status(
    client: &mut Client,
    n: u128,
    what: &str,
    wanted: impl Fn(&common::InstanceStatus) -> bool,
) -> common::InstanceStatus {
    let end = Instant::now() + BOUND;
    loop {
        let found = status(client, n).await;
        if let Some(found) = found.as_ref().filter(|found| wanted(found)) {
            return found.clone();
        }
        assert!(Instant::now() < end, "not {what} in time: {found:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn until(client: &mut Client, n: u128, phase: Phase) -> common::InstanceStatus {
    until_status(client, n, phase.as_str_name(), |status| {
        status.phase() == phase
    })
    .await
}

/// Waits, within the bound, until a condition holds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waits = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(BOUND, waits).await.is_ok(), "not in time: {what}");
}

/// Repeats a call while the agent isn't ready for it.
pub(crate) async fn resync(
    client: &mut Client,
    epoch: u64,
    instances: &[wire::ApplyInstanceRequest],
) -> Result<Vec<String>, Status> {
    let end = Instant::now() + BOUND;
    loop {
        let message = wire::ResyncRequest {
            epoch,
            instances: instances.to_vec(),
            complete: true,
        };
        let answer = client
            .resync(Request::new(tokio_stream::once(message)))
            .await;
        match answer {
            Err(status) if status.code() == tonic::Code::Unavailable && Instant::now() < end => {
                sleep(Duration::from_millis(50)).await;
            }
            answer => return answer.map(|answer| answer.into_inner().stray_incarnation_ids),
        }
    }
}

/// Applies, again and again while the hypervisor wasn't listed yet.
pub(crate) async fn apply_when_listed(client: &mut Client, intent: wire::ApplyInstanceRequest) {
    let end = Instant::now() + BOUND;
    while let Err(status) = client.apply_instance(intent.clone()).await {
        assert_eq!(reason(&status), "HYPERVISOR_UNSEEN");
        assert!(Instant::now() < end);
        sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn reason(status: &Status) -> String {
    kapok_proto::refusal::reason(status).unwrap_or_else(|| format!("{status:?}"))
}
