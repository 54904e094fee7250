//! Puts the parts together and takes them apart: store, ledger, links, reconcilers, API.
//!
//! ```text
//!   start ─▶ fold the log ─┬─▶ follow: fold what comes, report, mirror ─▶ elected ─┐
//!                          └───────────────── lead (leading.rs) ◀──────────────────┘
//!   serve ─▶ requests, whether it leads or follows (controllers/)
//!   stop  ─▶ streams and links end ─▶ reconcilers end ─▶ the ledger ends with its last handle
//! ```
//!
//! Owns every task of the process. One that ends by itself ends the controller: systemd starts a
//! new one, and guests don't notice. One that leads no longer ends, too, and begins anew as a
//! follower: nothing of a leadership outlives it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use futures::Stream;
use kapok_metrics::Open;
use kapok_store::{Archive, Segments, Store};
use kapok_trust::{Peer, Refusals, Subject};
use kapok_types::{Env, Epoch, Seq};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tonic::transport::server::Connected;
use tracing::{Instrument as _, error, info, info_span, warn};

use crate::{
    api::{self, Api, Tickets},
    audit::Audit,
    authz::{self, Access},
    config::Config,
    controllers::{Candidate, Controllers, Mirror, Role, look},
    fabric::decide::Rules,
    https::{self, Attempts, Https, Metrics},
    images::{BlobStore, Library, blob},
    ledger::{Fatal, Follower},
    limits::Gate,
    link::{self, Dialer, Links},
    observed, oidc,
    trust::{self, Opened, Trust},
};

use self::leading::Leading;

mod leading;

/// How long tasks may take to end before they are aborted.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a start waits for somebody to lead; then it serves as one that follows nobody yet.
const SETTLING: Duration = Duration::from_secs(10);

/// What a controller is made of.
pub struct Options<S> {
    /// The checked configuration.
    pub config: Config,
    /// The log's home.
    pub store: Arc<S>,
    /// Clock, randomness and ids.
    pub env: Arc<dyn Env>,
    /// Where images' blobs lie.
    pub blobs: Arc<dyn BlobStore>,
    /// Where old parts of the log go.
    pub segments: Arc<dyn Segments>,
    /// How agents are reached.
    pub dialer: Arc<dyn Dialer>,
    /// The controller's certificate and the authorities' keys.
    pub trust: Opened,
    /// The epoch to lead above, beside the store's own: the highest that agents have seen, after
    /// the store was restored from a backup. Zero otherwise.
    pub epoch_floor: Epoch,
}

/// A controller that leads or follows.
pub struct Controller {
    api: Api,
    config: Config,
    /// Follows, then leads, until it leads no longer.
    leading: AbortOnDropHandle<Result<(), Error>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// What can be read again while a controller runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reload {
    access: Access,
    policies: Option<PathBuf>,
    https: Option<Https>,
}

/// Why a controller can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log can't be led or written.
    #[error("the ledger failed")]
    Ledger(#[from] Fatal),
    /// Somebody asked for another leader.
    #[error("another controller leads from now on: somebody asked for it")]
    SteppedDown,
    /// Whom its certificate names is no controller, or its address is none.
    #[error("this controller can't be a candidate")]
    Candidate,
    /// The keys and certificates don't fit the log, or can't be used.
    #[error("the fabric's trust can't be taken up")]
    Trust(#[from] trust::Error),
    /// The site's policies can't be used.
    #[error("the policies can't be used")]
    Policies(#[from] authz::Error),
    /// The identity provider's settings can't be used.
    #[error(transparent)]
    Oidc(#[from] oidc::Error),
    /// The HTTPS port can't be served.
    #[error("the HTTPS port can't be served")]
    Https(#[from] https::Error),
    /// The blobs can't be listed or tidied up.
    #[error("the blobs can't be read")]
    Blobs(#[from] blob::Error),
    /// People can't be served.
    #[error("the API failed")]
    Api(#[from] api::Error),
    /// A task ended that should not have.
    #[error("a task of the controller ended unexpectedly")]
    Task,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").finish_non_exhaustive()
    }
}

impl Controller {
    /// Folds the log and starts every task; it is back when this one leads, knows who does, or has
    /// waited a while for that. Serves nobody yet.
    ///
    /// # Errors
    ///
    /// [`Error`]: the store, its content, or the blobs are in the way.
    pub async fn start<S: Store>(options: Options<S>) -> Result<Self, Error> {
        let Options {
            config,
            store,
            env,
            blobs,
            segments,
            dialer,
            trust,
            epoch_floor,
        } = options;
        let access = Access::load(config.policies.as_deref())?;
        let provider = config
            .oidc
            .clone()
            .map(|oidc| oidc::Provider::new(oidc, env.clone()));
        let provider = provider.transpose()?.map(Arc::new);
        let timing = config.timing;
        let deadline = timing.operation_deadline.as_millis();
        let rules = Rules {
            operation_deadline_ms: u64::try_from(deadline).unwrap_or(u64::MAX),
            placement: config.placement,
        };
        // Before anything is written: a store in which nobody made a fabric stays blank.
        if store.head().await.map_err(Fatal::from)?.seq == Seq(0) {
            return Err(trust.no_log().into());
        }
        let trust = Trust::new(trust, config.trust, env.clone())?;
        let Subject::Controller(name) = trust.credentials().certificate().subject().clone() else {
            return Err(Error::Candidate);
        };
        // A copy of this controller's state on another machine is another candidate.
        let own = Candidate {
            name,
            address: config.advertise.clone(),
        };
        let stop = CancellationToken::new();
        let controllers = Controllers::new(own, dialer.clone(), env.clone(), stop.clone());
        let (handle, follower) = Follower::open(Arc::clone(&store), env.clone(), rules).await?;
        let library = Arc::new(Library::new(blobs, config.max_image));
        let observed = observed::Table::new(env.clone());
        let leads_with = Arc::clone(&dialer);
        let links = Links::new(link::Shared {
            ledger: handle.clone(),
            observed: observed.clone(),
            env: env.clone(),
            dialer,
            heartbeat: timing.heartbeat,
            lost_after: timing.lost_after,
            advertise: config.advertise.clone(),
            trust: trust.clone(),
        });
        let archive = Archive::new(Arc::clone(&store), Arc::clone(&segments));
        let audit = Audit::new(archive.clone(), env.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(until(
            stop.clone(),
            controllers.clone().follow(store.leaders()),
        ));
        let (looked, store_health) = watch::channel(None);
        tasks.spawn(until(stop.clone(), look(store.clone(), looked)));
        let mirror = Mirror {
            controllers: controllers.clone(),
            ledger: handle.clone(),
            library: library.clone(),
            archive: archive.clone(),
            env: env.clone(),
        };
        tasks.spawn(mirror.run(stop.clone()).instrument(info_span!("mirror")));
        let leading = Leading {
            config: config.clone(),
            epoch_floor,
            dialer: leads_with,
            ledger: handle.clone(),
            controllers: controllers.clone(),
            observed: observed.clone(),
            links: links.clone(),
            library: library.clone(),
            trust: trust.clone(),
            archive: archive.clone(),
            audit: audit.clone(),
            env: env.clone(),
            stop: stop.clone(),
        };
        let mut leading = AbortOnDropHandle::new(tokio::spawn(leading.run(follower)));
        let api = Api {
            ledger: handle,
            controllers: controllers.clone(),
            store,
            store_health,
            segments,
            observed,
            links,
            library,
            access,
            tickets: Tickets::new(env.clone()),
            gate: Gate::new(&config.limits, env.clone(), audit.refusals.clone()),
            attempts: Attempts::new(env.clone()),
            trust,
            audit,
            oidc: provider,
            advertise: config.advertise.clone(),
            health: config.health,
            default_vcpu_overcommit_permille: config.default_vcpu_overcommit_permille,
            env,
            follow: Arc::new(move |from| archive.follow(from)),
            event_streams: Open::default(),
            heavy: api::Heavy::default(),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        };
        let mut role = controllers.role();
        tokio::select! {
            biased;
            ended = &mut leading => return Err(ended_by_itself(ended)),
            _ = timeout(SETTLING, role.wait_for(|role| *role != Role::Waits)) => {}
        }
        Ok(Self {
            api,
            config,
            leading,
            tasks,
            stop,
        })
    }

    /// What the HTTPS port serves; `ports` are the refusals that its metrics show, by port.
    ///
    /// # Errors
    ///
    /// The token of the metrics can't be read.
    pub fn https(&self, ports: Vec<(&'static str, Refusals)>) -> Result<Https, Error> {
        let credentials = self.api.trust.credentials().clone();
        let metrics = Metrics::new(credentials, ports, self.config.https.metrics_max_series);
        Ok(Https::new(self.api.clone(), &self.config.https, metrics)?)
    }

    /// Serves the HTTPS port beside the other one, until the controller is told to stop.
    pub fn serve_https<IO, E>(
        &mut self,
        https: Https,
        incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    ) where
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let serving = async move {
            if let Err(error) = https.serve(incoming).await {
                error!(%error, "the HTTPS port failed");
            }
        };
        self.tasks.spawn(serving.instrument(info_span!("https")));
    }

    /// What can be read again while this controller runs.
    pub fn reload(&self, https: Option<Https>) -> Reload {
        Reload {
            access: self.api.access.clone(),
            policies: self.config.policies.clone(),
            https,
        }
    }

    /// What the API's handlers lean on, for whoever runs a controller in its own process.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Cancelling it stops the controller.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves connections until the controller is told to stop.
    ///
    /// # Errors
    ///
    /// The listener failed, or a task ended by itself, such as the ledger of a controller that
    /// leads no longer.
    pub async fn serve<IO, E>(
        &mut self,
        incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    ) -> Result<(), Error>
    where
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let served = self.api.clone().serve(incoming);
        let mut served = std::pin::pin!(served);
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            ended = &mut self.leading => {
                // Whoever is still answered hears that this one stops, or that it leads no longer.
                let told = stop.is_cancelled();
                stop.cancel();
                let _answered_or_cut = timeout(DRAIN, served).await;
                match ended {
                    Ok(Ok(())) if told => Ok(()),
                    ended => Err(ended_by_itself(ended)),
                }
            }
            served = &mut served => Ok(served?),
            () = overdue(&stop) => {
                warn!("connections are cut that did not end in time");
                Ok(())
            }
            Some(_) = self.tasks.join_next(), if !stop.is_cancelled() => {
                if stop.is_cancelled() { Ok(()) } else { Err(Error::Task) }
            }
        }
    }

    /// Ends every task, in order and within a bound.
    pub async fn shutdown(self) {
        let Self {
            api,
            leading,
            mut tasks,
            stop,
            config: _,
        } = self;
        stop.cancel();
        let drained = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            warn!("tasks did not end in time and are aborted");
            tasks.shutdown().await;
        }
        api.tasks.close();
        if timeout(DRAIN, api.tasks.wait()).await.is_err() {
            warn!("changes under way did not end in time");
        }
        // The last handle but those of connections that are still answered.
        drop(api);
        if !leading.is_finished() {
            // Its own tasks, then the ledger.
            if timeout(DRAIN * 2, leading).await.is_err() {
                // What was acknowledged is durable: nothing is lost with it.
                warn!("the ledger did not end in time and is aborted");
            }
        }
        info!("stopped");
    }
}

/// Why a controller that wasn't told to stop leads or follows no longer.
fn ended_by_itself(ended: Result<Result<(), Error>, JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => Error::Task,
    }
}

/// Runs something until the controller stops.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

/// A reader that doesn't read can't keep a controller that stops.
async fn overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

impl Reload {
    /// Reads the policies and the token of the metrics again. What can't be used is said, and what
    /// was in use stays. The controller's certificate is its own to renew.
    pub async fn read(&self) {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            match this.access.reload(this.policies.as_deref()) {
                Ok(site) => info!(site, "policies read again"),
                Err(error) => error!(error = %chain(&error), "the policies stay as they were"),
            }
            if let Some(https) = &this.https
                && let Err(error) = https.reload()
            {
                error!(error = %chain(&error), "the token of the metrics stays as it was");
            }
        });
        if let Err(error) = read.await {
            error!(%error, "reading again failed");
        }
    }
}

/// An error with everything behind it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
