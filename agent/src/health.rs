//! How this server does, and what it is made of.
//!
//! ```text
//!   runner: one task a source ──┐ a thread of its own while it reads
//!   own: the agent's word ──────┼─▶ judging: one task ─▶ assessment ─▶ hub, pages, services
//!   report: a test's word ──────┘
//!   stock: the inventory ─▶ parts, against the accepted ones ─▶ hub, own
//! ```
//!
//! Who owns what: [`runner`] when sources are asked and what becomes of one that hangs, [`judging`]
//! the only [`kapok_health::Judge`], [`stock`] the inventory, [`accepted`] what the server was
//! accepted with.
//!
//! **Invariants:**
//! - Nothing here is waited for by anything that follows intent: the agent works on without it
//!   (safety rule 1). It uses none of the runtime's threads for blocking, which the local store
//!   needs.
//! - What was never judged is told as nothing, never as healthy: there is no assessment before each
//!   source has answered or was given up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kapok_health::{
    Assessment, Failure, Host, Inventory, Reading, Rules, Source, Sweep,
    inventory::{PartChange, Parts},
};
use kapok_types::{Env, Timestamp};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    driver::Driver,
    local::Local,
    trust::Trust,
    watch::{Hub, Item, Key},
};

pub mod accepted;
mod judging;
mod news;
mod own;
mod runner;
pub mod sim;
mod stock;

pub use accepted::Accepted;
pub use news::{HealthNews, PartNews};

/// Sweeps that may wait for the judge.
const SWEEPS: usize = 64;
/// What is told as changed when nobody knows what the parts were.
const ALL_PARTS: &str = "parts";
/// How long a question for the server's present parts may take.
const READ_AGAIN: Duration = Duration::from_secs(15);

/// What the health half is set up with.
#[derive(Clone)]
pub struct Options {
    /// The server.
    pub host: Host,
    /// Who reads it.
    pub sources: Vec<Arc<dyn Source>>,
    /// What is wrong when.
    pub rules: Rules,
    /// Whether to read the inventory; else it is only what [`Health::set_inventory`] says.
    pub inventory: bool,
    /// The name of the pool of guests' disks.
    pub pool: String,
    /// What the server was accepted with.
    pub accepted: Accepted,
}

impl Options {
    /// A simulated server: it has no sources but what [`Health::report`] says, and the agent's own.
    pub fn simulated() -> Self {
        Self {
            host: Host::new("/"),
            sources: Vec::new(),
            rules: Rules::default(),
            inventory: false,
            pool: "simulated".into(),
            accepted: Accepted::in_memory(),
        }
    }
}

/// What the agent has, as far as it says how it does.
pub(crate) struct Ground {
    pub(crate) driver: Driver,
    pub(crate) local: Local,
    pub(crate) trust: Trust,
    pub(crate) hub: Arc<Hub>,
    pub(crate) env: Arc<dyn Env>,
}

/// A handle to the health half; cheap to clone.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    env: Arc<dyn Env>,
    hub: Arc<Hub>,
    accepted: Accepted,
    /// How often each source is asked.
    cadences: BTreeMap<Arc<str>, Duration>,
    sweeps: mpsc::Sender<Sweep>,
    /// Asks for the inventory to be read now; each is told when it was.
    questions: mpsc::Sender<oneshot::Sender<()>>,
    assessment: watch::Sender<Option<Arc<Assessment>>>,
    stock: watch::Sender<Option<Arc<Stock>>>,
    /// What subscribers were told last of parts. Held while parts are learned or accepted, so that
    /// neither overwrites the other.
    told: Mutex<Option<Parts>>,
}

/// An inventory, and when it was read.
#[derive(Debug)]
pub struct Stock {
    /// It.
    pub inventory: Inventory,
    /// When.
    pub at: Timestamp,
}

/// Why nothing can be told, or parts can't be accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has judged the server yet.
    #[error("the server was not judged yet")]
    Unjudged,
    /// Nobody knows yet what the server is made of.
    #[error("the server's inventory was not read yet")]
    Unread,
    /// They can't be kept.
    #[error("the accepted parts can't be kept: {0}")]
    Store(String),
}

/// What runs; dropping it ends it.
pub(crate) struct Running {
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// Starts it. Returns at once; needs a tokio runtime around it.
pub(crate) fn start(
    options: Options,
    ground: Ground,
    stop: &CancellationToken,
) -> (Health, Running) {
    let Options {
        host,
        sources,
        rules,
        inventory,
        pool,
        accepted,
    } = options;
    let (sweeps, taken) = mpsc::channel(SWEEPS);
    let (questions, asked) = mpsc::channel(1);
    let named = sources.iter().map(|it| (it.name().into(), it.cadence()));
    let cadences = named.chain(own::cadences()).collect();
    let health = Health {
        inner: Arc::new(Inner {
            env: Arc::clone(&ground.env),
            hub: Arc::clone(&ground.hub),
            accepted,
            cadences,
            sweeps,
            questions,
            assessment: watch::Sender::new(None),
            stock: watch::Sender::new(None),
            told: Mutex::default(),
        }),
    };
    let mut tasks = Vec::new();
    let mut spawn = |task| tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
    for source in sources {
        spawn(boxed(runner::keep(
            source,
            host.clone(),
            health.clone(),
            stop.clone(),
        )));
    }
    let storage = Arc::clone(&ground.driver.storage);
    spawn(boxed(own::ask_pool(
        storage,
        pool,
        health.clone(),
        stop.clone(),
    )));
    spawn(boxed(own::tell(
        ground,
        inventory,
        health.clone(),
        stop.clone(),
    )));
    spawn(boxed(judging::judge(
        rules,
        taken,
        health.clone(),
        stop.clone(),
    )));
    if inventory {
        spawn(boxed(stock::keep(
            host,
            asked,
            health.clone(),
            stop.clone(),
        )));
    }
    (health, Running { _tasks: tasks })
}

fn boxed(
    task: impl Future<Output = ()> + Send + 'static,
) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(task)
}

impl Health {
    /// The latest assessment; none until each source has answered or was given up once.
    pub fn assessment(&self) -> watch::Receiver<Option<Arc<Assessment>>> {
        self.inner.assessment.subscribe()
    }

    /// The latest inventory; none until it was read.
    pub fn stock(&self) -> watch::Receiver<Option<Arc<Stock>>> {
        self.inner.stock.subscribe()
    }

    /// How often a source is asked; none for one that only [`Health::report`] speaks for.
    pub fn cadence(&self, source: &str) -> Option<Duration> {
        self.inner.cadences.get(source).copied()
    }

    /// Says something in a source's name, as a test or a simulated server does. It is judged within
    /// a second.
    pub async fn report(&self, source: &str, outcome: Result<Vec<Reading>, Failure>) {
        self.take(source.into(), outcome).await;
    }

    /// What the server is made of, as a test or a simulated server has it.
    pub async fn set_inventory(&self, inventory: Inventory) {
        self.take_inventory(inventory).await;
    }

    /// What differs from what the server was accepted with, as far as both are known. That the
    /// latter can't be read is a difference, too: else no word of a person could end it.
    pub fn changes(&self) -> Vec<PartChange> {
        let stock = self.inner.stock.borrow().clone();
        let accepted = self.inner.accepted.parts();
        match (stock, accepted) {
            (Some(stock), Ok(Some(accepted))) => accepted.changes(&stock.inventory.parts),
            (Some(_), Err(reason)) => vec![PartChange {
                part: ALL_PARTS.into(),
                before: String::new(),
                after: format!("the accepted parts can't be read: {reason}"),
            }],
            _ => Vec::new(),
        }
    }

    /// Has the inventory read now, if that is quick: whoever accepts parts has just changed some.
    pub async fn read_again(&self) {
        let (reply, read) = oneshot::channel();
        let asked = async {
            if self.inner.questions.send(reply).await.is_ok() {
                // Gone without an answer: nothing reads it here.
                let _ = read.await;
            }
        };
        // Then it is what was read before.
        let _ = tokio::time::timeout(READ_AGAIN, asked).await;
    }

    /// Accepts the present parts. Returns when that is durable.
    ///
    /// # Errors
    ///
    /// The inventory wasn't read yet, or the parts can't be kept; then nothing was accepted.
    ///
    /// # Cancel safety
    ///
    /// What has begun is carried out, whoever waits for it.
    pub async fn accept(&self) -> Result<(), Error> {
        let health = self.clone();
        let accepted = tokio::spawn(async move { health.accept_present().await }).await;
        accepted.unwrap_or_else(|error| Err(Error::Store(error.to_string())))
    }

    async fn accept_present(&self) -> Result<(), Error> {
        let mut told = self.inner.told.lock().await;
        let stock = self.inner.stock.borrow().clone().ok_or(Error::Unread)?;
        let parts = &stock.inventory.parts;
        // What can't be read now stays as it was accepted.
        let mut accepting = parts.clone();
        if let Ok(Some(before)) = self.inner.accepted.parts() {
            accepting.learn(&before);
        }
        let kept = self.inner.accepted.accept(accepting.clone()).await;
        kept.map_err(|error| Error::Store(error.to_string()))?;
        tracing::info!(
            parts = parts.lines.len(),
            "the server's present parts were accepted"
        );
        self.publish_parts(told.insert(accepting));
        Ok(())
    }

    /// Takes what a source said.
    async fn take(&self, source: Arc<str>, outcome: Result<Vec<Reading>, Failure>) {
        let sweep = Sweep {
            source,
            at: self.inner.env.now(),
            monotonic: self.inner.env.monotonic(),
            outcome,
        };
        // Without a judge the agent is stopping.
        let _ = self.inner.sweeps.send(sweep).await;
    }

    /// Takes an inventory: the first one that a server ever had is accepted as it is.
    async fn take_inventory(&self, inventory: Inventory) {
        let parts = inventory.parts.clone();
        let at = self.inner.env.now();
        let stock = Arc::new(Stock { inventory, at });
        self.inner.stock.send_replace(Some(stock));
        let mut told = self.inner.told.lock().await;
        let accepted = self.inner.accepted.parts();
        // What can't be read now isn't gone.
        let known = told.take().or_else(|| accepted.clone().ok().flatten());
        let learned = match accepted {
            Ok(Some(mut accepted)) => accepted.learn(&parts).then_some(accepted),
            Ok(None) => Some(parts.clone()),
            // Only a person's word can replace what can't be read.
            Err(_) => None,
        };
        if let Some(learned) = learned
            && let Err(error) = self.inner.accepted.accept(learned).await
        {
            tracing::warn!(%error, "the accepted parts can't be kept");
        }
        let parts = match known {
            Some(known) => parts.over(&known),
            None => parts,
        };
        self.publish_parts(told.insert(parts));
    }

    fn publish_parts(&self, told: &Parts) {
        let news = PartNews {
            parts: told.lines.clone(),
            changes: self.changes(),
        };
        if let Some(item) = self.inner.hub.get(Key::Parts)
            && let Item::Parts(before) = item.as_ref()
        {
            let known = &before.changes;
            for change in news.changes.iter().filter(|change| !known.contains(change)) {
                tell(change);
            }
        } else {
            news.changes.iter().for_each(tell);
        }
        self.inner.hub.put(Key::Parts, Item::Parts(news));
    }

    fn publish(&self, assessment: Assessment) {
        let news = HealthNews::of(&assessment);
        self.inner.hub.put(Key::Health, Item::Health(news));
        self.inner
            .assessment
            .send_replace(Some(Arc::new(assessment)));
    }
}

fn tell(change: &PartChange) {
    let PartChange {
        part,
        before,
        after,
    } = change;
    match (before.as_str(), after.as_str()) {
        // It was said when it was found.
        _ if part == ALL_PARTS => {}
        (before, "") => tracing::warn!(part, before, "a part is gone"),
        ("", after) => tracing::info!(part, after, "a part is new"),
        (before, after) => tracing::warn!(part, before, after, "a part is another one"),
    }
}
