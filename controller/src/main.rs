//! `kapok-controller`: tracing, configuration, build, serve, drain.

use std::{
    io::{IsTerminal as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::Parser;
use kapok_controller::{
    config::{self, Config},
    controller::{Controller, Options},
    images::Files,
    link::Tcp,
};
use kapok_store::Redb;
use kapok_types::{Epoch, env};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tonic::transport::server::TcpIncoming;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

/// What a process that was started wrongly ends with.
const BAD_CONFIG: u8 = 64;

/// The controller of a Kapok fabric.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Checks the configuration file and ends.
    #[arg(long)]
    check_config: bool,
    /// After the store was restored from a backup: leads above this epoch, the highest that a
    /// node says it has seen.
    #[arg(long, value_name = "EPOCH", default_value_t = 0)]
    epoch_floor: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(BAD_CONFIG)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let filter = EnvFilter::try_from_env("KAPOK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_ansi(ansi)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            error!("{:#}", anyhow::Error::from(error));
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if arguments.check_config {
        let _ = writeln!(std::io::stdout(), "{}: sound", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    match run(config, Epoch(arguments.epoch_floor)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, epoch_floor: Epoch) -> anyhow::Result<()> {
    if config.insecure_listen {
        warn!(listen = %config.listen, "insecure_listen is set: everybody who reaches this address rules the fabric");
    }
    let state = config.state_dir.clone();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .with_context(|| format!("making {}; state_dir must be writable", state.display()))?;
    // The store's lock comes first: it makes this process the blobs' only owner.
    let store = Redb::open(state.join("log.redb"))
        .await
        .context("opening the log")?;
    let blobs = Files::open(state.join("blobs"))
        .await
        .context("opening the blobs")?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "listening on {}; is another controller running?",
            config.listen
        )
    })?;
    let listen = listener.local_addr().context("asking for the address")?;
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;

    let mut controller = Controller::start(Options {
        config,
        store: Arc::new(store),
        env: env::System::new(),
        blobs: Arc::new(blobs),
        dialer: Arc::new(Tcp),
        epoch_floor,
    })
    .await
    .context("starting")?;
    info!(%listen, version = env!("CARGO_PKG_VERSION"), "serving");
    notify(NotifyState::Ready);

    let stop = controller.stop_token();
    let stopped = stop.clone();
    let signals = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = stopped.cancelled() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify(NotifyState::Stopping);
        stopped.cancel();
    });
    let served = controller
        .serve(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await;
    stop.cancel();
    controller.shutdown().await;
    let _ = signals.await;
    served.context("serving")
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager can't be told");
    }
}
