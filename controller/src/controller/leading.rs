//! What a controller does beside serving: it follows until it is elected, and leads until it isn't the
//! leader any more.

use std::{sync::Arc, time::Duration};

use kapok_store::{Archive, Store};
use kapok_types::{Env, Epoch};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument as _, error, info, info_span, warn};

use super::{DRAIN, Error};
use crate::{
    api,
    audit::{self, Audit},
    config::Config,
    controllers::{Controllers, Reporter},
    fabric::Fabric,
    images::Library,
    ledger::{Follower, Handle},
    link::{self, Dialer, Links},
    observed, reconcile,
    trust::{self, Trust},
};

/// How long changes that are under way may take when a controller stops.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How often a follower looks whether it may lead.
const LOOK: Duration = Duration::from_secs(1);

/// What leading needs.
pub(super) struct Leading<S> {
    pub(super) config: Config,
    pub(super) epoch_floor: Epoch,
    pub(super) dialer: Arc<dyn Dialer>,
    pub(super) ledger: Handle,
    pub(super) controllers: Controllers,
    pub(super) observed: observed::Table,
    pub(super) links: Links,
    pub(super) library: Arc<Library>,
    pub(super) trust: Trust,
    pub(super) archive: Archive<S>,
    pub(super) audit: Audit,
    pub(super) env: Arc<dyn Env>,
    pub(super) stop: CancellationToken,
}

impl<S: Store> Leading<S> {
    /// Follows, then leads, until stopped or until it leads no longer.
    ///
    /// # Errors
    ///
    /// [`Error`]: what ended it.
    pub(super) async fn run(self, follower: Follower<S>) -> Result<(), Error> {
        let candidate = self.controllers.own().to_string();
        let mut following = self.follow();
        let floor = self.epoch_floor.max(self.seen_by_nodes().await);
        let elected = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            elected = follower.lead(&candidate, floor, self.may_lead()) => Some(elected?),
            Some(_) = following.join_next() => {
                if !self.stop.is_cancelled() {
                    return Err(Error::Task);
                }
                None
            }
        };
        drop(following);
        let Some(ledger) = elected else {
            return Ok(());
        };
        let token = ledger.token();
        let running = ledger.run().instrument(info_span!("ledger"));
        let mut running = AbortOnDropHandle::new(tokio::spawn(running));
        self.trust.lead(&self.ledger).await?;
        tidy(&self.library, &self.ledger.snapshot().fabric).await?;
        let mut tasks = self.reconcilers();
        let parts = audit::Parts {
            archive: self.archive.clone(),
            token,
            policy: self.config.audit,
            ledger: self.ledger.clone(),
            links: self.links.clone(),
            credentials: self.trust.credentials().clone(),
            env: self.env.clone(),
        };
        let audit = self.audit.clone().run(parts, self.stop.clone());
        tasks.spawn(audit.instrument(info_span!("audit")));
        self.controllers.set_leads(true);

        let ended = tokio::select! {
            biased;
            ended = &mut running => Err(match ended {
                Ok(Err(fatal)) => fatal.into(),
                Ok(Ok(())) | Err(_) => Error::Task,
            }),
            () = self.stop.cancelled() => Ok(()),
            () = self.controllers.resign().cancelled() => Err(Error::SteppedDown),
            Some(_) = tasks.join_next() => if self.stop.is_cancelled() {
                Ok(())
            } else {
                Err(Error::Task)
            },
        };
        self.controllers.set_leads(false);
        if let Err(error) = ended {
            // The leadership goes with the ledger: whoever waits for it leads at once.
            running.abort();
            if !running.is_finished() {
                let _gone = (&mut running).await;
            }
            tasks.shutdown().await;
            return Err(error);
        }
        let drained = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            warn!("tasks did not end in time and are aborted");
            tasks.shutdown().await;
        }
        // The ledger ends with its last handle, and the leadership with it: somebody's connection that
        // doesn't end keeps no other controller from leading.
        drop(self);
        match timeout(LAST_WORDS, running).await {
            Ok(Ok(Err(fatal))) => error!(error = %fatal, "the ledger ended"),
            Ok(_) => {}
            Err(_) => info!("the leadership is given up before everybody has hung up"),
        }
        Ok(())
    }

    /// Waits until this controller may be a candidate: it can sign, and the fabric trusts it. Alone over
    /// its store it is the only one there is.
    async fn may_lead(&self) {
        while self.archive.store().is_shared() {
            let snapshot = self.ledger.snapshot();
            let own = self.trust.credentials().certificate().serial;
            let revoked = snapshot.fabric.revoked.contains(&own);
            match self.trust.active(&snapshot.fabric) {
                Ok(_) if !revoked => return,
                Ok(_) => warn!("its certificate is revoked: this controller won't lead"),
                Err(error) => warn!(%error, "this controller can't lead yet"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The highest epoch that nodes have seen which are still to be adopted: a restored record doesn't
    /// know it.
    async fn seen_by_nodes(&self) -> Epoch {
        let snapshot = self.ledger.snapshot();
        if snapshot.fabric.adoption.is_none() {
            return Epoch::ZERO;
        }
        let asked = link::highest_epoch(&*self.dialer, &snapshot.fabric);
        let seen = self.stop.run_until_cancelled(asked).await;
        let seen = seen.unwrap_or(Epoch::ZERO);
        if seen > Epoch::ZERO {
            info!(%seen, "nodes that are to be adopted have seen an epoch; leading above it");
        }
        seen
    }

    /// What only a follower does; ends when it is dropped.
    fn follow(&self) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let reporter = Reporter {
            controllers: self.controllers.clone(),
            ledger: self.ledger.clone(),
            trust: self.trust.clone(),
            refusals: self.audit.refusals.clone(),
        };
        tasks.spawn(
            reporter
                .run(self.stop.clone())
                .instrument(info_span!("report")),
        );
        tasks.spawn(self.keeper());
        tasks
    }

    fn keeper(&self) -> impl Future<Output = ()> + Send + 'static {
        let (trust, ledger) = (self.trust.clone(), self.ledger.clone());
        let (controllers, stop) = (self.controllers.clone(), self.stop.clone());
        trust::keeper::run(trust, ledger, controllers, stop).instrument(info_span!("trust"))
    }

    /// What only the one that leads does.
    fn reconcilers(&self) -> JoinSet<()> {
        let Self {
            config,
            ledger,
            observed,
            links,
            env,
            stop,
            ..
        } = self;
        let mut tasks = JoinSet::new();
        let mut spawn = |what: &'static str, task: futures::future::BoxFuture<'static, ()>| {
            tasks.spawn(task.instrument(info_span!("reconcile", what)));
        };
        let health = reconcile::health::Parts {
            ledger: ledger.clone(),
            observed: observed.clone(),
            links: links.clone(),
            env: env.clone(),
            policy: config.health,
        };
        let (handle, token) = (|| ledger.clone(), || stop.clone());
        spawn(
            "instance",
            Box::pin(reconcile::instance::run(
                handle(),
                observed.clone(),
                token(),
            )),
        );
        spawn("health", Box::pin(reconcile::health::run(health, token())));
        spawn(
            "deadline",
            Box::pin(reconcile::deadline::run(handle(), env.clone(), token())),
        );
        spawn(
            "housekeeping",
            Box::pin(reconcile::housekeeping::run(handle(), env.clone(), token())),
        );
        spawn(
            "system",
            Box::pin(reconcile::system::run(handle(), env.clone(), token())),
        );
        let availability =
            reconcile::availability::run(handle(), observed.clone(), env.clone(), token());
        spawn("availability", Box::pin(availability));
        let every = config.timing.metering;
        let metering =
            reconcile::metering::run(handle(), links.clone(), env.clone(), every, token());
        spawn("metering", Box::pin(metering));
        tasks.spawn(
            links
                .clone()
                .run(stop.clone())
                .instrument(info_span!("links")),
        );
        tasks.spawn(self.keeper());
        info!("every node is linked from here");
        tasks
    }
}

/// Removes garbage, and says which images have lost their blob.
async fn tidy(library: &Library, fabric: &Fabric) -> Result<(), Error> {
    // What a restored record doesn't name may be what its nodes still start from.
    if fabric.adoption.is_none() {
        let named = api::digests(fabric);
        library.collect(|| named.clone()).await?;
    }
    let present = library.blobs().list().await?;
    for image in fabric.images.values() {
        if present.binary_search(&image.digest).is_err() {
            error!(image = %image.name, digest = %image.digest, "its blob is missing: import the same content again under the same name");
        }
    }
    Ok(())
}
