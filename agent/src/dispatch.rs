//! The loop that everything hangs on: hints, surveys, life signs.
//!
//! It wakes actors, finds domains that no actor stands for, publishes the node's facts and the
//! foreign domains, and answers for the agent being alive. It never waits for the hypervisor or
//! a disk itself: a survey is a future beside it, and so is the question what the node is, which
//! may take its own time.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use kapok_types::{Epoch, MemoryMib};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    driver::{Error, Facts, Foreign, Hint, Listing},
    heartbeat::{LifeSign, Questions},
    instance::{registry::Registry, state::Machine},
    local::Local,
    metrics::Roll,
    trust::Trust,
    watch::{
        Item, Key,
        facts::{Host, NodeFacts},
    },
};

/// How soon a survey follows a hint about something that no actor stands for.
const SOON: Duration = Duration::from_millis(50);

/// The least time between two surveys, or two looks at everything: hints may come in floods.
const PAUSE: Duration = Duration::from_secs(1);

/// The loop's parts.
pub struct Dispatch {
    /// All actors.
    pub registry: Arc<Registry>,
    /// Which domain is which instance, for monitoring.
    pub roll: Roll,
    /// The local store.
    pub local: Local,
    /// The host.
    pub host: Host,
    /// The node's trust.
    pub trust: Trust,
    /// Memory kept for the host.
    pub reserved: MemoryMib,
    /// Where metrics are served; 0 if they aren't.
    pub http_port: u16,
    /// Requests for life signs.
    pub questions: Questions,
    /// Becomes true with the first listing.
    pub listed: watch::Sender<bool>,
    /// How often to survey.
    pub every: Duration,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// What is known of the node so far.
#[derive(Default)]
struct Known {
    facts: Option<Facts>,
    foreign: Option<Vec<Foreign>>,
}

/// When what is to be done.
struct Times {
    /// The next survey.
    survey: Instant,
    /// Before this, no hint leads to a survey.
    survey_floor: Instant,
    /// Every actor is to look, if so.
    look: Option<Instant>,
    /// Before this, not again.
    look_floor: Instant,
    /// Tombstones are told again.
    exhume: Instant,
}

impl Times {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            survey: now,
            survey_floor: now,
            look: None,
            look_floor: now,
            exhume: now,
        }
    }

    fn survey_soon(&mut self) {
        let soon = (Instant::now() + SOON).max(self.survey_floor);
        self.survey = self.survey.min(soon);
    }

    fn look_soon(&mut self) {
        let soon = Instant::now().max(self.look_floor);
        self.look.get_or_insert(soon);
    }
}

impl Dispatch {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let driver = self.registry.context().driver.clone();
        let mut hints = driver.compute.hints();
        let mut hinted = true;
        let mut trusted = self.trust.changed();
        let mut times = Times::new();
        let mut known = Known::default();
        let mut survey: Option<Answer<Listing>> = None;
        let mut facts: Option<Answer<Facts>> = None;
        loop {
            let (survey_at, exhume_at, look_at) = (times.survey, times.exhume, times.look);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                question = self.questions.recv() => {
                    if let Some(question) = question {
                        // Whoever asked may have gone; that is no concern of the loop.
                        let _ = question.send(LifeSign::of(driver.compute.health(), &self.local));
                    }
                }
                hint = hints.recv(), if hinted => match hint {
                    Ok(Hint::Incarnation(incarnation)) => {
                        if !self.registry.look(incarnation) {
                            times.survey_soon();
                        }
                    }
                    Ok(Hint::Listing) => times.survey_soon(),
                    Ok(Hint::Everything) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        times.look_soon();
                        times.survey_soon();
                    }
                    Err(broadcast::error::RecvError::Closed) => {
                        // The driver ended its events; the timer still looks.
                        hinted = false;
                        tracing::error!("the driver gives no hints any more");
                    }
                },
                Ok(()) = trusted.changed() => self.publish_node(&known),
                () = until(look_at) => {
                    times.look = None;
                    times.look_floor = Instant::now() + PAUSE;
                    self.registry.look_everywhere();
                }
                () = tokio::time::sleep_until(exhume_at) => {
                    times.exhume = Instant::now() + self.every;
                    self.exhume();
                }
                answer = answered(&mut facts) => {
                    facts = None;
                    match answer {
                        Ok(facts) => known.facts = Some(facts),
                        Err(error) => {
                            tracing::warn!(%error, "the hypervisor doesn't say what it is");
                        }
                    }
                    self.publish_node(&known);
                }
                listing = answered(&mut survey) => {
                    survey = None;
                    match listing {
                        Ok(listing) => {
                            known.foreign = Some(listing.foreign.clone());
                            self.publish_node(&known);
                            self.take(&listing);
                        }
                        Err(error) => tracing::warn!(%error, "the hypervisor can't be listed"),
                    }
                }
                () = tokio::time::sleep_until(survey_at), if survey.is_none() => {
                    let env = &self.registry.context().env;
                    times.survey = Instant::now() + env.jittered(self.every);
                    times.survey_floor = Instant::now() + PAUSE;
                    survey = Some(self.survey());
                    let compute = Arc::clone(&driver.compute);
                    // One question at a time: the last may still be waited for.
                    facts.get_or_insert_with(|| Box::pin(async move { compute.facts().await }));
                }
            }
        }
    }

    /// Lists the domains. A node that lost its local store learns its epoch back from what it
    /// was told in better times, before it acts on any of it.
    fn survey(&self) -> Answer<Listing> {
        let compute = Arc::clone(&self.registry.context().driver.compute);
        let local = self.local.clone();
        Box::pin(async move {
            let listing = compute.list().await?;
            if local.needs_resync()
                && let Err(error) = local.raise_epoch(highest(&listing, &local)).await
            {
                tracing::warn!(%error, "the epoch can't be stored");
            }
            Ok(listing)
        })
    }

    /// Tells actors of their deletes: those that an agent before this one has promised, and those
    /// whose request ended before its actor was told. One that knows it already hears nothing new.
    fn exhume(&self) {
        self.registry.reap();
        for tombstone in self.local.tombstones() {
            let policy = self.registry.context().policy.clone();
            self.registry
                .get_or_spawn(tombstone.incarnation, || Machine::buried(policy, tombstone))
                .delete(tombstone, None);
        }
    }

    fn take(&self, listing: &Listing) {
        self.exhume();
        self.roll.take(listing);
        let policy = &self.registry.context().policy;
        let unsure = self.local.needs_resync();
        let doubted = |machine: Machine| if unsure { machine.unsure() } else { machine };
        for seen in &listing.ours {
            let intent = &seen.record.intent;
            if intent.node != self.local.node_id() {
                tracing::warn!(incarnation = %intent.incarnation, "belongs to another node");
                continue;
            }
            self.registry.get_or_spawn(intent.incarnation, || {
                doubted(Machine::found(policy.clone(), &seen.record))
            });
        }
        for incarnation in &listing.silent {
            self.registry.get_or_spawn(*incarnation, || {
                doubted(Machine::silent(policy.clone(), *incarnation))
            });
        }
        self.publish_foreign(&listing.foreign);
        if !unsure || self.local.epoch() >= highest(listing, &self.local) {
            self.listed.send_replace(true);
        }
    }

    fn publish_node(&self, known: &Known) {
        let (Some(facts), Some(foreign)) = (&known.facts, &known.foreign) else {
            return;
        };
        let node = NodeFacts {
            node: self.local.node_id(),
            host: self.host.clone(),
            driver: facts.clone(),
            reserved: self.reserved,
            foreign_memory: MemoryMib::ZERO,
            foreign_vcpus: kapok_types::Vcpus::ZERO,
            trust: self.trust.digest(),
            http_port: self.http_port,
        };
        let item = Item::Node(node.with_foreign(foreign));
        self.registry.context().hub.put(Key::Node, item);
    }

    fn publish_foreign(&self, foreign: &[Foreign]) {
        let hub = &self.registry.context().hub;
        let present: BTreeSet<_> = foreign.iter().map(|domain| domain.uuid).collect();
        for item in hub.all() {
            if let Item::Foreign(known) = item.as_ref()
                && !present.contains(&known.uuid)
            {
                hub.remove(Key::Foreign(known.uuid));
            }
        }
        for domain in foreign {
            hub.put(Key::Foreign(domain.uuid), Item::Foreign(domain.clone()));
        }
    }
}

/// The highest epoch that a listed domain of this node was told in.
fn highest(listing: &Listing, local: &Local) -> Epoch {
    let here = local.node_id();
    let intents = listing.ours.iter().map(|seen| &seen.record.intent);
    let epochs = intents
        .filter(|intent| intent.node == here)
        .map(|intent| intent.epoch);
    epochs.max().unwrap_or_default()
}

/// The answer that is waited for; never without a question.
async fn answered<T>(waited: &mut Option<Answer<T>>) -> Result<T, Error> {
    match waited {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

/// That moment; never without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
