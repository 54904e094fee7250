//! Simulated nodes: many agents in one process, each on its own port, without a hypervisor.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use kapok_agent::{
    agent::{Agent, ImageSource, Options, Settings},
    driver::sim::{Host, Shape},
    local::{Local, Memory},
    watch::facts,
};
use kapok_types::{Env as _, MemoryMib, NodeId, env};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;

/// Runs simulated nodes.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// Where the first one listens; the others take the ports after it. Port 0 takes free ones.
    #[arg(long, default_value = "127.0.0.1:7801")]
    listen_base: SocketAddr,
    /// Processor threads of each.
    #[arg(long, default_value_t = 16)]
    cpus: u32,
    /// Memory of each, in MiB.
    #[arg(long, default_value_t = 65_536)]
    memory_mib: u64,
    /// From which ids follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long each simulated call takes, in milliseconds.
    #[arg(long, default_value_t = 5)]
    latency_ms: u64,
    /// A file that appears, as JSON, once every node listens.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

/// One line of the ready file.
#[derive(Debug, Serialize)]
struct Ready {
    node_id: NodeId,
    address: SocketAddr,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let args = Args::parse();
    ensure!(
        args.listen_base.ip().is_loopback(),
        "--listen-base is {}; simulated nodes serve loopback only",
        args.listen_base
    );
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut servers = JoinSet::new();
    let mut agents = Vec::new();
    let mut ready = Vec::new();
    for number in 0..args.nodes {
        let (agent, listener) = node(&args, number).await?;
        ready.push(Ready {
            node_id: agent.node_id(),
            address: listener.local_addr()?,
        });
        servers.spawn(agent.serve(TcpListenerStream::new(listener)));
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

async fn node(args: &Args, number: u16) -> anyhow::Result<(Agent, TcpListener)> {
    let port = match args.listen_base.port() {
        0 => 0,
        base => base
            .checked_add(number)
            .with_context(|| format!("no port is left for node {number}"))?,
    };
    let address = SocketAddr::new(args.listen_base.ip(), port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("node {number} can't listen on {address}"))?;
    // The id follows from the seed, so that a controller's configuration stays right.
    let id = env::Seeded::new(args.seed.wrapping_add(number.into())).node_id();
    let env = env::System::new();
    let host = Host::new(Shape {
        cpus: args.cpus,
        memory: MemoryMib(args.memory_mib),
        latency: Duration::from_millis(args.latency_ms),
        ..Shape::default()
    });
    let agent = Agent::start(Options {
        driver: host.driver(),
        local: Local::in_memory(&Memory::new(id), env.clone()),
        env,
        images: ImageSource::OnPool,
        host: facts::Host {
            name: format!("sim-{number}"),
            boot: host.boot(),
            kernel: "simulated".into(),
        },
        settings: Settings::default(),
    });
    Ok((agent, listener))
}

/// Writes the file whole, or not at all: whoever waits for it must not read half of it.
fn announce(path: &Path, ready: &[Ready]) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, serde_json::to_vec_pretty(ready)?)
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| format!("{} can't be written", path.display()))
}
