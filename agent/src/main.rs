//! `kapok-agent`: configuration, the libvirt driver, the agent; then signals.

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use futures::StreamExt as _;
use kapok_agent::{
    agent::{Agent, Options},
    config::Config,
    driver::libvirt,
    local::{self, Local},
    setup,
};
use kapok_types::{Env, env::System};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tracing_subscriber::EnvFilter;

/// Exit code for a configuration that can't be used (`EX_USAGE`).
const BAD_CONFIG: u8 = 64;
/// Exit code for a local store that a person has to look at (`EX_CONFIG`).
const BAD_STORE: u8 = 78;
/// How long the parts may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// The node agent of Kapok: drives KVM through libvirt as a controller intends.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/kapok/agent.toml")]
    config: PathBuf,
    /// Only check the configuration.
    #[arg(long)]
    check_config: bool,
    /// Move a damaged local store aside before starting; the controller sends its intent again.
    #[arg(long)]
    reset_local_store: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    // The journal has its own time.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().init();
    } else {
        lines.init();
    }
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!("{error:#}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if arguments.check_config {
        tracing::info!("{} is fine", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    // Calls to libvirt have threads of their own; these serve gRPC, timers and the local store.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_stack_size(1024 * 1024)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(config, arguments.reset_local_store)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let store = error.downcast_ref::<local::Error>();
            if store.is_some_and(local::Error::needs_a_person) {
                ExitCode::from(BAD_STORE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

async fn run(config: Config, reset_local_store: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let env: Arc<dyn Env> = System::new();
    let folder = &config.state_dir;
    fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    if reset_local_store {
        let aside = Local::reset(folder, env.as_ref())?;
        tracing::warn!("the local store was moved to {}", aside.display());
    }
    let local = Local::open(folder, Arc::clone(&env))?;
    let host = setup::host().context("what /proc says of this host")?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}", config.listen))?;
    if !config.listen.ip().is_loopback() {
        tracing::warn!(listen = %config.listen, "insecure_listen is set: serving without TLS");
    }
    let agent = Agent::start(Options {
        driver: libvirt::open(setup::driver(&config, &env, &local, &host))?,
        env,
        local,
        images: setup::images(&config),
        host,
        settings: setup::settings(&config),
    });
    let incoming = TcpListenerStream::new(listener)
        .inspect(|stream| drop(stream.as_ref().map(|stream| stream.set_nodelay(true))));
    let mut server = tokio::spawn(agent.serve(incoming));
    tracing::info!(listen = %config.listen, version = env!("CARGO_PKG_VERSION"), "ready");
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    let ended = tokio::select! {
        biased;
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut server => Some(ended),
    };
    sd_notify::notify(&[sd_notify::NotifyState::Stopping])?;
    if timeout(DRAIN, agent.shutdown()).await.is_err() {
        tracing::warn!("not everything ended in time; guests run on, the next start finds them");
    }
    match ended {
        Some(ended) => ended?.context("the gRPC server"),
        None => Ok(()),
    }
}
