//! Puts the parts together and takes them apart: store, ledger, links, reconcilers, API.
//!
//! ```text
//!   start ─▶ lead, fold the log ─▶ configured nodes, garbage ─▶ links, reconcilers ─▶ serve
//!   stop  ─▶ streams and links end ─▶ reconcilers end ─▶ the ledger ends with its last handle
//! ```
//!
//! Owns every task of the process. One that ends by itself ends the controller: systemd starts a
//! new one, and guests don't notice.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use futures::Stream;
use kapok_store::Store;
use kapok_types::{Env, Epoch, Name};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::server::Connected;
use tracing::{Instrument as _, error, info, info_span, warn};

use crate::{
    api::{self, Api},
    config::{Config, NodeConfig},
    fabric::{Actor, Command, Fabric},
    images::{BlobStore, Library, blob},
    ledger::{self, Fatal, Ledger},
    link::{self, Dialer, Links},
    observed, reconcile,
};

/// How long tasks may take to end before they are aborted.
const DRAIN: Duration = Duration::from_secs(10);

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
    /// How agents are reached.
    pub dialer: Arc<dyn Dialer>,
    /// The epoch to lead above, beside the store's own: the highest that agents have seen, after
    /// the store was restored from a backup. Zero otherwise.
    pub epoch_floor: Epoch,
}

/// A controller that leads.
pub struct Controller {
    api: Api,
    ledger: JoinHandle<Result<(), Fatal>>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// Why a controller can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log can't be led or written.
    #[error("the ledger failed")]
    Ledger(#[from] Fatal),
    /// The configured nodes can't be recorded.
    #[error("the configured nodes can't be recorded")]
    Configure(#[source] ledger::Error),
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
    /// Wins the leadership, folds the log, and starts every task. Serves nobody yet.
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
            dialer,
            epoch_floor,
        } = options;
        let timing = config.timing;
        let deadline_ms = u64::try_from(timing.operation_deadline.as_millis()).unwrap_or(u64::MAX);
        let (handle, ledger) = Ledger::start(
            Arc::clone(&store),
            env.clone(),
            "controller",
            epoch_floor,
            deadline_ms,
        )
        .await?;
        let ledger = tokio::spawn(ledger.run().instrument(info_span!("ledger")));
        configure(&handle, &config).await?;
        let library = Arc::new(Library::new(blobs, config.max_image));
        tidy(&library, &handle.snapshot().fabric).await?;

        let observed = observed::Table::new(env.clone());
        let links = Links::new(link::Shared {
            ledger: handle.clone(),
            observed: observed.clone(),
            env: env.clone(),
            dialer,
            heartbeat: timing.heartbeat,
            lost_after: timing.lost_after,
            image_source: config.advertise,
        });
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(
            links
                .clone()
                .run(stop.clone())
                .instrument(info_span!("links")),
        );
        tasks.spawn(
            reconcile::instance::run(handle.clone(), observed.clone(), stop.clone())
                .instrument(info_span!("reconcile", what = "instance")),
        );
        tasks.spawn(
            reconcile::deadline::run(handle.clone(), env.clone(), stop.clone())
                .instrument(info_span!("reconcile", what = "deadline")),
        );
        tasks.spawn(
            reconcile::housekeeping::run(handle.clone(), env.clone(), stop.clone())
                .instrument(info_span!("reconcile", what = "housekeeping")),
        );
        let api = Api {
            ledger: handle,
            observed,
            links,
            library,
            env,
            follow: Arc::new(move |from| store.follow(from)),
            tasks: TaskTracker::new(),
            stop: stop.clone(),
        };
        Ok(Self {
            api,
            ledger,
            tasks,
            stop,
        })
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
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let served = self.api.clone().serve(incoming);
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            ended = &mut self.ledger => match ended {
                Ok(Ok(())) | Err(_) => Err(Error::Task),
                Ok(Err(fatal)) => Err(fatal.into()),
            },
            served = served => Ok(served?),
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
            ledger,
            mut tasks,
            stop,
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
        let abort = ledger.abort_handle();
        if !ledger_ended(ledger).await {
            abort.abort();
        }
        info!("stopped");
    }
}

/// A reader that doesn't read can't keep a controller that stops.
async fn overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

async fn ledger_ended(ledger: JoinHandle<Result<(), Fatal>>) -> bool {
    if ledger.is_finished() {
        return true;
    }
    match timeout(DRAIN, ledger).await {
        Ok(Ok(Err(fatal))) => {
            error!(error = %fatal, "the ledger ended");
            true
        }
        Ok(_) => true,
        // What was acknowledged is durable: nothing is lost with it.
        Err(_) => {
            warn!("the ledger did not end in time and is aborted");
            false
        }
    }
}

/// Nodes in one command: an entry of the log has a bound.
const NODES_AT_ONCE: usize = 500;

async fn configure(ledger: &ledger::Handle, config: &Config) -> Result<(), Error> {
    let named: BTreeSet<&Name> = config.nodes.iter().map(|node| &node.name).collect();
    let fabric = &ledger.snapshot().fabric;
    let dropped: Vec<Name> = fabric
        .nodes
        .values()
        .filter(|node| node.configured && !named.contains(&node.name))
        .map(|node| node.name.clone())
        .collect();
    let nodes: Vec<_> = config
        .nodes
        .iter()
        .map(|node| {
            let NodeConfig {
                name,
                address,
                vcpu_overcommit_permille,
            } = node.clone();
            (name, address, vcpu_overcommit_permille)
        })
        .collect();
    let added = nodes
        .chunks(NODES_AT_ONCE)
        .map(|nodes| Command::ConfigureNodes {
            nodes: nodes.to_vec(),
        });
    let removed = dropped
        .chunks(NODES_AT_ONCE)
        .map(|nodes| Command::UnconfigureNodes {
            nodes: nodes.to_vec(),
        });
    for command in added.chain(removed) {
        let by = Actor::controller();
        let done = ledger.submit(by, String::new(), None, command).await;
        done.map_err(Error::Configure)?;
    }
    Ok(())
}

/// Removes garbage, and says which images have lost their blob.
async fn tidy(library: &Library, fabric: &Fabric) -> Result<(), Error> {
    let named = api::digests(fabric);
    library.collect(|| named.clone()).await?;
    let present = library.blobs().list().await?;
    for image in fabric.images.values() {
        if present.binary_search(&image.digest).is_err() {
            error!(image = %image.name, digest = %image.digest, "its blob is missing: import the same content again under the same name");
        }
    }
    Ok(())
}
