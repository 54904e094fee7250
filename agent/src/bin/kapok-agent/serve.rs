//! From the configuration to a running agent: its order is the order of what each part needs.

use std::{convert::Infallible, fs, future::pending, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use kapok_agent::{
    agent::{Agent, Options},
    config::Config,
    driver::libvirt,
    local::Local,
    setup,
    sockets::Sockets,
    trust::{self, Trust},
    watchdog,
};
use kapok_types::Env;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// How long the parts may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves until a signal. Waits for a join first, if this server was never joined.
///
/// The service manager hears READY when both ports are bound and the local store is open. On a
/// server that was never joined it hears it when that is waited for: installing must not hang.
pub(super) async fn serve(
    config: Config,
    file: &Path,
    env: Arc<dyn Env>,
    reset_local_store: bool,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let guarded = watchdog::interval_asked();
    let folder = &config.state_dir;
    fs::create_dir_all(folder).with_context(|| format!("the folder {}", folder.display()))?;
    if reset_local_store {
        let aside = Local::reset(folder, env.as_ref())?;
        tracing::warn!("the local store was moved to {}", aside.display());
    }
    let local = Local::open(folder, Arc::clone(&env))?;
    let folder = folder.join(trust::FOLDER);
    let trust = tokio::select! {
        biased;
        _ = terminate.recv() => return stopping(),
        _ = interrupt.recv() => return stopping(),
        trust = Trust::when_joined(&folder, local.node_id(), Arc::clone(&env), setup::ask_to_join) => trust?,
        never = watchdog::prove(guarded, || async { true }, watchdog::ping) => match never {},
        never = compare(&mut hang_up, file, &config) => match never {},
    };
    let credentials = trust
        .credentials()
        .context("joined without a certificate")?;
    let host = setup::host().context("what /proc says of this host")?;
    let sockets = Sockets::bind(config.listen, config.http.clone())
        .await?
        .with_metrics(config.metrics.clone());
    let agent = Agent::start(Options {
        driver: libvirt::open(setup::driver(&config, &env, &local, &host, trust.fabric()))?,
        env,
        local,
        trust: trust.clone(),
        images: setup::images(&config),
        host,
        settings: setup::settings(&config),
        health: Some(setup::health(&config)?),
    });
    let mut serving = sockets.serve(&agent, &trust, credentials);
    let pulse = agent.pulse();
    tracing::info!(
        listen = %config.listen,
        http = %config.http.listen,
        fabric = %trust.fabric(),
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("serving")])?;
    let ended = tokio::select! {
        biased;
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut serving.grpc => Some(ended),
        never = watchdog::prove(guarded, || async { pulse.next().await.is_some() }, watchdog::ping)
            => match never {},
        never = compare(&mut hang_up, file, &config) => match never {},
    };
    stopping()?;
    let drained = async { tokio::join!(agent.shutdown(), serving.end()) };
    if timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("not everything ended in time; guests run on, the next start finds them");
    }
    match ended {
        Some(ended) => ended?.context("the gRPC server"),
        None => Ok(()),
    }
}

fn stopping() -> anyhow::Result<()> {
    Ok(sd_notify::notify(&[NotifyState::Stopping])?)
}

/// At each SIGHUP, says what of the configuration waits for the next start. Nothing of it changes
/// in a running agent; certificates, joins and the token of the metrics are taken as they come.
async fn compare(hang_up: &mut Signal, file: &Path, runs_with: &Config) -> Infallible {
    while hang_up.recv().await.is_some() {
        let loaded = Config::load(file);
        let file = file.display();
        match loaded {
            Ok(now) if now == *runs_with => {
                tracing::info!("{file} is what this agent runs with; nothing is to be read again");
            }
            Ok(_) => tracing::warn!(
                "{file} has changed, and is taken at the next start: `systemctl restart \
                 kapok-agent`; guests run on"
            ),
            Err(error) => tracing::error!(
                "this agent runs on with what it was started with, and could not be started \
                 again: {:#}",
                anyhow::Error::from(error)
            ),
        }
    }
    pending().await
}
