//! The loop that everything hangs on: hints, surveys, life signs.
//!
//! It wakes actors, finds domains that no actor stands for, publishes the node's facts and the
//! foreign domains, and answers for the agent being alive. It never waits for the hypervisor or
//! a disk itself: a survey is a future beside it.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use kapok_types::MemoryMib;
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
    watch::{
        Item, Key,
        facts::{Host, NodeFacts},
    },
};

/// How soon a survey follows a hint about something that no actor stands for.
const SOON: Duration = Duration::from_millis(50);

/// The loop's parts.
pub struct Dispatch {
    /// All actors.
    pub registry: Arc<Registry>,
    /// The local store.
    pub local: Local,
    /// The host.
    pub host: Host,
    /// Memory kept for the host.
    pub reserved: MemoryMib,
    /// Requests for life signs.
    pub questions: Questions,
    /// Becomes true with the first listing.
    pub listed: watch::Sender<bool>,
    /// How often to survey.
    pub every: Duration,
}

type Survey = Pin<Box<dyn Future<Output = (Result<Facts, Error>, Result<Listing, Error>)> + Send>>;

impl Dispatch {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let driver = self.registry.context().driver.clone();
        let mut hints = driver.compute.hints();
        let mut hinted = true;
        let mut next = Instant::now();
        let mut survey: Option<Survey> = None;
        self.exhume();
        loop {
            let due = next;
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
                            next = next.min(Instant::now() + SOON);
                        }
                    }
                    Ok(Hint::Everything) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.registry.look_everywhere();
                        next = next.min(Instant::now() + SOON);
                    }
                    Err(broadcast::error::RecvError::Closed) => {
                        // The driver ended its events; the timer still looks.
                        hinted = false;
                        tracing::error!("the driver gives no hints any more");
                    }
                },
                (facts, listing) = surveyed(&mut survey) => {
                    survey = None;
                    self.take(facts, listing);
                }
                () = tokio::time::sleep_until(due), if survey.is_none() => {
                    let env = &self.registry.context().env;
                    next = Instant::now() + env.jittered(self.every);
                    let compute = Arc::clone(&driver.compute);
                    survey = Some(Box::pin(async move {
                        (compute.facts().await, compute.list().await)
                    }));
                }
            }
        }
    }

    /// Goes on with deletes that an agent before this one has promised.
    fn exhume(&self) {
        for tombstone in self.local.tombstones() {
            let policy = self.registry.context().policy.clone();
            self.registry
                .get_or_spawn(tombstone.incarnation, || Machine::buried(policy, tombstone));
        }
    }

    fn take(&self, facts: Result<Facts, Error>, listing: Result<Listing, Error>) {
        self.registry.reap();
        self.exhume();
        let listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(%error, "the hypervisor can't be listed");
                return;
            }
        };
        let policy = &self.registry.context().policy;
        for seen in &listing.ours {
            let intent = &seen.record.intent;
            if intent.node != self.local.node_id() {
                tracing::warn!(incarnation = %intent.incarnation, "belongs to another node");
                continue;
            }
            self.registry.get_or_spawn(intent.incarnation, || {
                Machine::found(policy.clone(), &seen.record)
            });
        }
        for incarnation in &listing.silent {
            self.registry.get_or_spawn(*incarnation, || {
                Machine::unknown(policy.clone(), *incarnation)
            });
        }
        self.publish_foreign(&listing.foreign);
        match facts {
            Ok(facts) => {
                let node = NodeFacts {
                    node: self.local.node_id(),
                    host: self.host.clone(),
                    driver: facts,
                    reserved: self.reserved,
                    foreign_memory: MemoryMib::ZERO,
                    foreign_vcpus: kapok_types::Vcpus::ZERO,
                };
                let item = Item::Node(node.with_foreign(&listing.foreign));
                self.registry.context().hub.put(Key::Node, item);
            }
            Err(error) => tracing::warn!(%error, "the hypervisor doesn't say what it is"),
        }
        self.listed.send_replace(true);
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

/// The running survey's end; never without one.
async fn surveyed(survey: &mut Option<Survey>) -> (Result<Facts, Error>, Result<Listing, Error>) {
    match survey {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}
