//! The agent put together: what the real binary, the simulator and in-process tests share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::Stream;
use kapok_metrics::Open;
use kapok_trust::Peer;
use kapok_types::{Env, MemoryMib, NodeId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::server::Connected;
use uuid::Uuid;

use crate::{
    dispatch::Dispatch,
    driver::Driver,
    health::{self, Health},
    heartbeat::Pulse,
    images::{self, ImageCache},
    instance::{actor::Context, changes::Changes, registry::Registry, state::Policy},
    local::Local,
    metrics::{self, Actions, Roll},
    server::{self, Services},
    trust::Trust,
    watch::{Hub, facts::Host},
};

/// Where instances' images come from.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// Pulled from peers on demand; unfinished pulls lie in this directory.
    Cached {
        /// The directory.
        spool: PathBuf,
    },
    /// The pool is known to hold every image (simulated nodes).
    OnPool,
}

/// Deadlines, intervals and an administrator's decisions.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Memory kept for the host.
    pub reserved_memory: MemoryMib,
    /// How long a call to the hypervisor may take before its outcome counts as unknown.
    pub call_deadline: Duration,
    /// How long a guest may take to shut down before it is turned off hard.
    pub shutdown_grace: Duration,
    /// How often each domain is looked at without a hint, at most.
    pub observe_every: Duration,
    /// Start instances on shared pools after a boot without the controller's word.
    pub site_power_loss_start: bool,
    /// Where metrics are served, for whoever looks for them; 0 if they aren't.
    pub http_port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reserved_memory: MemoryMib(1024),
            call_deadline: Duration::from_secs(10),
            shutdown_grace: Duration::from_mins(1),
            observe_every: Duration::from_secs(5),
            site_power_loss_start: false,
            http_port: 0,
        }
    }
}

/// Everything that an agent is made of.
pub struct Options {
    /// The hypervisor.
    pub driver: Driver,
    /// Clock, randomness and ids.
    pub env: Arc<dyn Env>,
    /// The opened local store, which knows the node's id.
    pub local: Local,
    /// The node's certificate, and whom it believes.
    pub trust: Trust,
    /// Where images come from.
    pub images: ImageSource,
    /// The host, with its present boot.
    pub host: Host,
    /// Deadlines and decisions.
    pub settings: Settings,
    /// How the server is watched; it isn't without this.
    pub health: Option<health::Options>,
}

/// A running agent. Dropping it is like killing it: nothing is finished, guests run on.
pub struct Agent {
    services: Services,
    registry: Arc<Registry>,
    roll: Roll,
    actions: Actions,
    stop: CancellationToken,
    dispatch: Option<AbortOnDropHandle<()>>,
    _health: Option<health::Running>,
    node: NodeId,
    run: Uuid,
}

impl Agent {
    /// Starts an agent. Returns at once, also when the hypervisor is away: then it is waited for
    /// while the services already answer. Needs a tokio runtime around it.
    pub fn start(options: Options) -> Self {
        let Options {
            driver,
            env,
            local,
            trust,
            images,
            host,
            settings,
            health,
        } = options;
        let run = env.uuid();
        let node = local.node_id();
        if settings.site_power_loss_start {
            tracing::warn!(
                %node,
                "site_power_loss_start is set: instances on shared pools start after a boot \
                 without the controller's word"
            );
        }
        let cache = match images {
            ImageSource::Cached { spool } => Some(Arc::new(ImageCache::new(images::Options {
                storage: Arc::clone(&driver.storage),
                local: local.clone(),
                trust: trust.clone(),
                spool,
                boot: host.boot,
                env: Arc::clone(&env),
            }))),
            ImageSource::OnPool => None,
        };
        let hub = Arc::new(Hub::default());
        let actions = Actions::default();
        let policy = Policy {
            boot: host.boot,
            call_deadline: settings.call_deadline,
            shutdown_grace: settings.shutdown_grace,
            ask_again: Duration::from_secs(10),
            observe_every: settings.observe_every,
            pool_shared: driver.storage.shared(),
            power_loss_start: settings.site_power_loss_start,
        };
        let registry = Arc::new(Registry::new(Arc::new(Context {
            driver: driver.clone(),
            images: cache.clone(),
            env: Arc::clone(&env),
            hub: Arc::clone(&hub),
            actions: actions.clone(),
            policy,
        })));
        let (listed, is_listed) = tokio::sync::watch::channel(false);
        let (pulse, questions) = Pulse::new();
        let stop = CancellationToken::new();
        let roll = Roll::default();
        let dispatch = Dispatch {
            registry: Arc::clone(&registry),
            roll: roll.clone(),
            local: local.clone(),
            host,
            trust: trust.clone(),
            reserved: settings.reserved_memory,
            http_port: settings.http_port,
            questions,
            listed,
            every: settings.observe_every,
        };
        let changes = Changes::new(local.clone(), Arc::clone(&registry), is_listed.clone());
        let dispatch = AbortOnDropHandle::new(tokio::spawn(dispatch.run(stop.clone())));
        let health = health.map(|options| {
            let ground = health::Ground {
                driver: driver.clone(),
                local: local.clone(),
                trust: trust.clone(),
                hub: Arc::clone(&hub),
                env: Arc::clone(&env),
            };
            health::start(options, ground, &stop)
        });
        let (health, running) = health.unzip();
        tracing::info!(%node, %run, "the agent runs");
        Self {
            services: Services {
                run,
                changes: Arc::new(changes),
                hub,
                listed: is_listed,
                pulse,
                driver,
                health,
                images: cache,
                local,
                trust,
                env,
                roll: roll.clone(),
                samples: metrics::Samples::default(),
                streams: Open::default(),
                stop: stop.clone(),
            },
            registry,
            roll,
            actions,
            stop,
            dispatch: Some(dispatch),
            _health: running,
            node,
            run,
        }
    }

    /// This node's identity.
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// This run's id; another one after each start.
    pub fn run_id(&self) -> Uuid {
        self.run
    }

    /// How its server does; none if that isn't watched.
    pub fn health(&self) -> Option<&Health> {
        self.services.health.as_ref()
    }

    /// How to ask whether it is alive.
    pub fn pulse(&self) -> Pulse {
        self.services.pulse.clone()
    }

    /// What its metrics are made of.
    pub fn metrics(&self) -> metrics::Parts {
        let services = &self.services;
        metrics::Parts {
            env: Arc::clone(&services.env),
            driver: services.driver.clone(),
            local: services.local.clone(),
            hub: Arc::clone(&services.hub),
            roll: self.roll.clone(),
            samples: services.samples.clone(),
            actions: self.actions.clone(),
            streams: services.streams.clone(),
            trust: services.trust.clone(),
            health: services.health.as_ref().map(Health::assessment),
        }
    }

    /// Serves gRPC on these connections until the agent stops: to controllers of its fabric, as
    /// each connection's [`Peer`] names its other side. May be called more than once, for more
    /// than one listener.
    ///
    /// # Errors
    ///
    /// What the transport said.
    pub fn serve<S, IO, E>(
        &self,
        incoming: S,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static
    where
        S: Stream<Item = Result<IO, E>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Unpin + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        server::serve(self.services.clone(), incoming)
    }

    /// Stops: services end, then the loop, then the actors. Guests run on, and what was begun in
    /// the hypervisor is found by the next agent.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(dispatch) = self.dispatch.take()
            && let Err(error) = dispatch.await
        {
            tracing::error!(%error, "the dispatch loop panicked");
        }
        self.registry.close();
        tracing::info!(node = %self.node, "the agent has stopped");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
        self.registry.close();
    }
}
