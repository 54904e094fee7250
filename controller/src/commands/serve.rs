//! Serving: open, bind, build, serve, drain; and what the service manager hears of it.
//!
//! - READY when both ports are bound, the log is open and folded, and this controller leads or knows
//!   who does; its status says which of the two.
//! - Pings to the watchdog, as [`watchdog`] says what they prove.
//! - SIGHUP reads again what can be, SIGTERM and SIGINT stop.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use kapok_controller::{
    backup::local,
    config::{Config, Limits},
    controller::{self, Controller, Options, Reload},
    controllers::Role,
    images::Files,
    link::Tls,
    trust::Opened,
    watchdog,
};
use kapok_store::{Archive, segments::Directory};
use kapok_trust::{Acceptor, ClientAuth};
use kapok_types::{Epoch, env};
use sd_notify::NotifyState;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Serves until told to stop.
pub(crate) async fn run(config: Config, epoch_floor: Epoch) -> anyhow::Result<()> {
    let env = env::System::new();
    let state = config.state_dir.clone();
    let _state = super::own(&state)?;
    let store = Arc::new(super::open(&config, config.store.backend).await?);
    let blobs = Files::open(state.join("blobs"))
        .await
        .context("opening the blobs")?;
    let segments = Directory::open(state.join("segments")).context("opening the segments")?;
    let archive = Archive::new(Arc::clone(&store), Arc::new(segments.clone()));
    let trust = Opened::load(&config.trust_dir(), env.clone())
        .await
        .context("opening the keys and certificates")?;
    let credentials = trust.credentials().clone();
    let listener = bind(config.listen).await?;
    let https_listener = bind(config.https.listen).await?;
    let (listen, limits) = (config.listen, config.limits);
    let mut signals = Signals::new()?;

    notify(NotifyState::Status("folds the log, then leads or follows"));
    let starting = Controller::start(Options {
        config,
        store: Arc::clone(&store),
        env: env.clone(),
        blobs: Arc::new(blobs),
        segments: Arc::new(segments),
        dialer: Arc::new(Tls(credentials.clone())),
        trust,
        epoch_floor,
    });
    let mut controller = tokio::select! {
        biased;
        () = signals.stop() => {
            notify(NotifyState::Stopping);
            store.close().await;
            return Ok(());
        }
        started = starting => started.context("starting")?,
    };
    let refusals = &controller.api().audit.refusals;
    let acceptor = |auth, name| {
        Acceptor::new(credentials.clone(), auth, accepted(&limits))
            .on_refusal(refusals.handshakes(name))
    };
    let main = acceptor(ClientAuth::Required, "grpc");
    let open = acceptor(ClientAuth::Optional, "https");
    let ports = [("grpc", main.refusals()), ("https", open.refusals())];
    let ports = ports.map(|(name, refusals)| (name, refusals.clone()));
    let https = controller.https(ports.into())?;
    let stop = controller.stop_token();
    let reload = controller.reload(Some(https.clone()));
    controller.serve_https(https, open.incoming(https_listener));
    let backups = match local::bind(&state) {
        Ok(socket) => tokio::spawn(local::serve(
            socket,
            archive,
            controller.api().ledger.clone(),
            controller.api().trust.fabric().clone(),
            env.clone(),
            stop.clone(),
        )),
        Err(error) => {
            warn!(%error, "no backup can be made while this controller serves");
            tokio::spawn(async {})
        }
    };
    let signals = tokio::spawn(signals.follow(stop.clone(), reload));
    if let Some(bound) = sd_notify::watchdog_enabled() {
        let turn = controller.api().ledger.turn().clone();
        let ping = || notify(NotifyState::Watchdog);
        tokio::spawn(watchdog::prove(bound, turn, env, ping));
    }
    info!(%listen, version = env!("CARGO_PKG_VERSION"), "serving");
    let telling = tokio::spawn(tell(controller.api().controllers.role()));
    notify(NotifyState::Ready);

    let served = controller.serve(main.incoming(listener)).await;
    telling.abort();
    stop.cancel();
    let _ = backups.await;
    controller.shutdown().await;
    store.close().await;
    let _ = signals.await;
    match served {
        Err(controller::Error::SteppedDown) => {
            info!("another controller leads from now on; this one begins anew");
            Ok(())
        }
        served => served.context("serving"),
    }
}

/// Keeps the service's status at what this controller does.
async fn tell(mut role: watch::Receiver<Role>) {
    loop {
        let now = role.borrow_and_update().clone();
        let status = match &now {
            Role::Waits => "serving; nobody is known to lead".to_owned(),
            Role::Follows(leader) => format!("serving; follows {leader}"),
            Role::Leads => "serving; leads".to_owned(),
        };
        notify(NotifyState::Status(&status));
        if role.changed().await.is_err() {
            return;
        }
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}; is another controller running?"))
}

fn accepted(limits: &Limits) -> kapok_trust::Limits {
    kapok_trust::Limits {
        connections: limits.connections,
        connections_per_peer: limits.connections_per_peer,
        ..kapok_trust::Limits::default()
    }
}

/// What the service manager and people say with signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let handle = |kind| signal(kind).context("handling signals");
        Ok(Self {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hang_up: handle(SignalKind::hangup())?,
        })
    }

    /// Waits until this controller is to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Stops at SIGTERM and SIGINT, reads again at SIGHUP.
    async fn follow(mut self, stop: CancellationToken, reload: Reload) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => {
                    info!("reading the policies and the token of the metrics again");
                    reload.read().await;
                }
            }
        }
        notify(NotifyState::Stopping);
        stop.cancel();
    }
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager can't be told");
    }
}
