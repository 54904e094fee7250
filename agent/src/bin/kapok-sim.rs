//! Simulated nodes: many agents in one process, each on its own port, without a hypervisor.
//!
//! They join a fabric as servers do, each with a token, and serve controllers over mTLS.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use kapok_agent::{
    agent::{Agent, ImageSource, Options, Settings},
    driver::sim::{Host, Shape},
    health::{self, sim::FileSource},
    local::{Local, Memory},
    trust::{self, Trust, join},
    watch::facts,
};
use kapok_telemetry::{Export, Logs};
use kapok_trust::{Acceptor, ClientAuth, Credentials, Limits, Token, files};
use kapok_types::{
    Env, Equipment, MemoryMib, Name, NodeId, ThreadSet, Violation, env,
    equipment::{Cell, Device, Feature, PageSize, PciAddress},
};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// Runs simulated nodes.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// Where the controller serves HTTPS.
    #[arg(long, value_name = "HOST:PORT")]
    controller: String,
    /// A file with a token a line, as `kapok node token create` prints them: the first is the first
    /// node's. A node whose credentials are in the state directory needs none.
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Keeps each node's credentials below this folder; they are in memory only without it.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Where the first one listens; the others take the ports after it. Port 0 takes free ones.
    #[arg(long, default_value = "127.0.0.1:7801")]
    listen_base: SocketAddr,
    /// Processor threads of each.
    #[arg(long, default_value_t = 16)]
    cpus: u32,
    /// Memory of each, in MiB.
    #[arg(long, default_value_t = 65_536)]
    memory_mib: u64,
    /// NUMA cells of each; threads are spread over them evenly, in order.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    cells: u16,
    /// Threads of each that are set aside for dedicated vCPUs, for example 4-15.
    #[arg(long, default_value = "", value_name = "LIST")]
    dedicated_cpus: ThreadSet,
    /// Huge pages of 2 MiB in each cell of each node.
    #[arg(long, default_value_t = 0)]
    huge_pages: u64,
    /// Devices of each, spread over its cells; may be given several times.
    #[arg(long = "device", value_name = "CLASS=COUNT")]
    devices: Vec<Devices>,
    /// Processor features that guests can have.
    #[arg(long = "cpu-feature", value_name = "NAME")]
    cpu_features: Vec<Feature>,
    /// From which ids follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long each simulated call takes, in milliseconds.
    #[arg(long, default_value_t = 5)]
    latency_ms: u64,
    /// Where spans are sent over OTLP (gRPC), if anywhere.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// A folder with readings: those of the first node in 0.json, of the next in 1.json. A list as
    /// JSON; a node without a file has none.
    #[arg(long, value_name = "FOLDER")]
    health_dir: Option<PathBuf>,
    /// A file that appears, as JSON, once every node listens.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

/// Some devices of a class.
#[derive(Debug, Clone)]
struct Devices {
    class: Name,
    count: u8,
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (class, count) = text.split_once('=').ok_or("must be CLASS=COUNT")?;
        Ok(Self {
            class: class
                .parse()
                .map_err(|wrong: Violation| wrong.to_string())?,
            count: count
                .parse()
                .map_err(|_| "a node can have 255 devices of a class")?,
        })
    }
}

/// One line of the ready file.
#[derive(Debug, Serialize)]
struct Ready {
    node_id: NodeId,
    address: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let source: Arc<dyn Env> = env::System::new();
    let export = args.otlp_endpoint.clone().and_then(Export::to);
    let logs = Logs {
        variable: "RUST_LOG",
        usual: "info",
    };
    let _telemetry = kapok_telemetry::init("kapok-sim", Some(logs), export.as_ref(), &source);
    ensure!(
        args.listen_base.ip().is_loopback(),
        "--listen-base is {}; simulated nodes serve loopback only",
        args.listen_base
    );
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let tokens = fs::read_to_string(&args.tokens)
        .with_context(|| format!("{} can't be read", args.tokens.display()))?;
    let mut tokens = tokens
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let mut servers = JoinSet::new();
    let mut agents = Vec::new();
    let mut ready = Vec::new();
    for number in 0..args.nodes {
        let node = node(&args, number, tokens.next()).await;
        let (agent, acceptor, listener) = node.with_context(|| format!("node {number}"))?;
        ready.push(Ready {
            node_id: agent.node_id(),
            address: listener.local_addr()?,
        });
        servers.spawn(agent.serve(acceptor.incoming(listener)));
        agents.push(agent);
    }
    if let Some(path) = &args.ready_file {
        announce(path, &ready)?;
    }
    tracing::info!(nodes = args.nodes, "all simulated nodes listen");
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        Some(ended) = servers.join_next() => ended?.context("a server ended")?,
    }
    for agent in agents {
        agent.shutdown().await;
    }
    while servers.join_next().await.is_some() {}
    Ok(())
}

async fn node(
    args: &Args,
    number: u16,
    token: Option<&str>,
) -> anyhow::Result<(Agent, Acceptor, TcpListener)> {
    let port = match args.listen_base.port() {
        0 => 0,
        base => base.checked_add(number).context("no port is left")?,
    };
    let address = SocketAddr::new(args.listen_base.ip(), port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}"))?;
    // The id follows from the seed, so that the same nodes come back.
    let id = env::Seeded::new(args.seed.wrapping_add(number.into())).node_id();
    let env: Arc<dyn Env> = env::System::new();
    let trust = join_or_load(args, id, token, listener.local_addr()?, &env).await?;
    let credentials = trust.credentials().context("it has no certificate")?;
    let acceptor = Acceptor::new(credentials.clone(), ClientAuth::Required, Limits::default());
    let host = Host::new(Shape {
        cpus: args.cpus,
        memory: MemoryMib(args.memory_mib),
        equipment: Arc::new(equipment(args)),
        latency: Duration::from_millis(args.latency_ms),
        ..Shape::default()
    });
    let agent = Agent::start(Options {
        driver: host.driver(),
        local: Local::in_memory(&Memory::new(id), Arc::clone(&env)),
        trust,
        env,
        images: ImageSource::OnPool,
        host: facts::Host {
            name: format!("sim-{number}"),
            boot: host.boot(),
            kernel: "simulated".into(),
            fingerprint: fingerprint(id),
        },
        settings: Settings::default(),
        health: Some(health(args, number)?),
    });
    Ok((agent, acceptor, listener))
}

/// What each node has beyond amounts.
fn equipment(args: &Args) -> Equipment {
    let cell_of = |thread: u16| {
        let cell = u32::from(thread) * u32::from(args.cells) / args.cpus.max(1);
        u16::try_from(cell).unwrap_or(args.cells)
    };
    let cells = (0..args.cells).map(|id| Cell {
        id,
        dedicated: (args.dedicated_cpus.iter())
            .filter(|thread| u32::from(*thread) < args.cpus && cell_of(*thread) == id)
            .collect(),
        pages: (args.huge_pages > 0)
            .then_some((PageSize::Mib2, args.huge_pages))
            .into_iter()
            .collect(),
    });
    let devices = (1..).zip(&args.devices).flat_map(|(bus, devices)| {
        (0..devices.count).map(move |number| Device {
            address: PciAddress {
                domain: 0,
                bus,
                slot: number / 8,
                function: number % 8,
            },
            class: devices.class.clone(),
            cell: Some(u16::from(number) % args.cells),
        })
    });
    let own = "kapok".parse::<Name>().ok();
    Equipment {
        cells: (cells.filter(|cell| !cell.dedicated.is_empty() || !cell.pages.is_empty()))
            .collect(),
        cpu_features: args.cpu_features.iter().cloned().collect(),
        devices: devices.collect(),
        pools: own.iter().cloned().collect(),
        networks: own.into_iter().collect(),
    }
}

/// The node's trust: what is kept, or what its token gives.
async fn join_or_load(
    args: &Args,
    node: NodeId,
    token: Option<&str>,
    address: SocketAddr,
    env: &Arc<dyn Env>,
) -> anyhow::Result<Trust> {
    let folder = args
        .state_dir
        .as_ref()
        .map(|dir| dir.join(node.to_string()));
    if let Some(folder) = &folder {
        match Trust::load(folder, node, Arc::clone(env)) {
            Err(trust::Error::NotJoined) => {}
            kept => return Ok(kept?),
        }
    }
    let token: Token = token.context("no token is left for it")?.parse()?;
    let options = join::Options {
        controller: args.controller.clone(),
        token,
        node,
        address: address.to_string(),
        fingerprint: fingerprint(node),
    };
    let joined = join::join(options, env).await?;
    let Some(folder) = &folder else {
        let credentials = Credentials::new(joined.material, Arc::clone(env))?;
        return Ok(Trust::in_memory(credentials));
    };
    files::store(folder, &joined.material)?;
    Ok(Trust::load(folder, node, Arc::clone(env))?)
}

/// How a simulated server is watched: by what its file says.
fn health(args: &Args, number: u16) -> anyhow::Result<health::Options> {
    let mut options = health::Options::simulated();
    if let Some(folder) = &args.health_dir {
        let file = std::path::absolute(folder.join(format!("{number}.json")))?;
        options.sources.push(Arc::new(FileSource::new(file)));
    }
    Ok(options)
}

/// What a simulated server is made of: nothing that another one is.
fn fingerprint(node: NodeId) -> BTreeMap<String, String> {
    BTreeMap::from([("product_uuid".into(), node.to_string())])
}

/// Writes the file whole, or not at all: whoever waits for it must not read half of it.
fn announce(path: &Path, ready: &[Ready]) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec_pretty(ready)?)
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| format!("{} can't be written", path.display()))
}
