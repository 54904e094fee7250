//! Threads for calls that block, and may block for ever.
//!
//! ```text
//!  run(lane, domain, call) ─▶ queue of the lane ─▶ a worker, with a connection of its own ─▶ libvirt
//!                                  ▲                       │ older than its patience
//!                       refused when full                  ▼
//!                                            stuck: its domain is quarantined, and another worker
//!                                            (another connection) takes its place, up to a cap
//! ```
//!
//! Lanes exist so that one kind of trouble can't take the threads of another: a QEMU that doesn't
//! answer holds workers of [`LaneName::Monitor`], a dead pool those of [`LaneName::Storage`]. What
//! is asked again and again has [`LaneName::Poll`] and [`LaneName::Stats`] to itself: a guest that
//! must be asked to shut down never waits behind polls of others (it would be turned off hard when its grace is over). All
//! caps together stay below what libvirtd has of workers (20, and 5 for calls that never ask a QEMU,
//! which are those of [`LaneName::Query`] and [`LaneName::Destroy`]), so that stuck calls can't use
//! those up either.
//!
//! **Invariants.**
//! - A future of [`Lanes::run`] resolves when its call has ended, or when it is certain that the
//!   call will never be made. There is no cancelling.
//! - At most one call outside [`LaneName::Query`] runs on a domain, besides its destruction.
//! - A quarantined domain gets no call but its destruction until all stuck calls on it have ended.
//! - Each worker owns its connection: the five requests that libvirtd serves a client at a time
//!   can't be used up by others' stuck calls (FAULTS 42).
//!
//! One mutex guards the whole table ([`table`]); it is never held during a call.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use kapok_telemetry::part;
use kapok_types::Env;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::oneshot;
use tracing::{Span, field::display};
use uuid::Uuid;

use self::table::{Job, Table};
use crate::driver::{Error, Lane};

mod table;
#[cfg(test)]
mod tests;

/// How many lanes there are.
const LANES: usize = 8;

/// Stack of a worker: libvirt's client needs little.
const STACK_BYTES: usize = 384 * 1024;

/// A connection as lanes need it.
pub(crate) trait Session: Send + 'static {
    /// Whether it is still usable. Must not block.
    fn alive(&self) -> bool;
}

/// Which lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LaneName {
    /// Looks that need no QEMU.
    Query,
    /// Asks a running QEMU or the agent in its guest to do something.
    Monitor,
    /// Asks them how they are, over and over.
    Poll,
    /// Asks them for their numbers, over and over.
    Stats,
    /// Makes, starts and removes domains.
    Change,
    /// Volumes.
    Storage,
    /// The bytes of images: calls that last.
    Transfer,
    /// Hard stops; nothing else may keep those waiting.
    Destroy,
}

impl LaneName {
    /// All lanes, in their order.
    pub(crate) const ALL: [Self; LANES] = [
        Self::Query,
        Self::Monitor,
        Self::Poll,
        Self::Stats,
        Self::Change,
        Self::Storage,
        Self::Transfer,
        Self::Destroy,
    ];

    /// Its name for people.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Monitor => "monitor",
            Self::Poll => "poll",
            Self::Stats => "stats",
            Self::Change => "change",
            Self::Storage => "storage",
            Self::Transfer => "transfer",
            Self::Destroy => "destroy",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Query => 0,
            Self::Monitor => 1,
            Self::Poll => 2,
            Self::Stats => 3,
            Self::Change => 4,
            Self::Storage => 5,
            Self::Transfer => 6,
            Self::Destroy => 7,
        }
    }
}

/// Bounds of one lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Workers that aren't stuck, at most.
    pub(crate) workers: usize,
    /// Workers in all, stuck ones included, at most.
    pub(crate) cap: usize,
    /// Calls that may wait.
    pub(crate) queue: usize,
}

/// Bounds of all lanes, by [`LaneName::ALL`]'s order, and how long a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Each lane's bounds.
    pub(crate) lanes: [Bounds; LANES],
    /// A call older than this is stuck, unless it was given more time.
    pub(crate) patience: Duration,
}

impl Limits {
    /// The bounds that fit libvirtd's defaults, 20 workers and 5 for what never asks a QEMU: at
    /// worst 4 + 3 + 3 + 5 + 3 + 7 are stuck. A transfer holds none while its bytes flow.
    pub(crate) const fn new(patience: Duration) -> Self {
        const fn bounds(workers: usize, cap: usize, queue: usize) -> Bounds {
            Bounds {
                workers,
                cap,
                queue,
            }
        }
        Self {
            lanes: [
                bounds(2, 4, 1024),
                bounds(3, 4, 256),
                bounds(2, 3, 256),
                bounds(2, 3, 256),
                bounds(3, 5, 512),
                bounds(2, 3, 256),
                bounds(2, 2, 16),
                // Killing a QEMU that doesn't react takes libvirt ten seconds.
                bounds(6, 7, 256),
            ],
            patience,
        }
    }
}

/// What a call is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Which lane it goes through.
    pub(crate) lane: LaneName,
    /// The domain that it may get stuck on.
    pub(crate) domain: Option<Uuid>,
    /// How long it may take before it counts as stuck, if not as long as all others.
    pub(crate) patience: Option<Duration>,
    /// What it is called in traces.
    pub(crate) name: &'static str,
}

impl Call {
    /// A call on no domain in particular.
    pub(crate) const fn on(lane: LaneName) -> Self {
        Self {
            lane,
            domain: None,
            patience: None,
            name: "look",
        }
    }

    /// A call on one domain.
    pub(crate) const fn of(lane: LaneName, domain: Uuid) -> Self {
        Self {
            lane,
            domain: Some(domain),
            patience: None,
            name: "look",
        }
    }

    /// With another patience than the lanes' own.
    pub(crate) const fn patient(self, patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            ..self
        }
    }

    /// Called so in traces.
    pub(crate) const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// The span of making it: a part of what asked for it, if that belongs to a trace.
    fn span(&self) -> Span {
        let domain = self.domain.map(display);
        part!(
            "libvirt",
            call = self.name,
            lane = self.lane.as_str(),
            domain
        )
    }
}

type Connect<C> = dyn Fn() -> Result<C, Error> + Send + Sync;

struct Shared<C> {
    table: Mutex<Table<C>>,
    /// One for each lane's workers.
    work: [Condvar; LANES],
    /// For the watch.
    ended: Condvar,
    limits: Limits,
    env: Arc<dyn Env>,
    connect: Box<Connect<C>>,
}

impl<C> Shared<C> {
    fn table(&self) -> MutexGuard<'_, Table<C>> {
        // Nothing panics while it holds the lock; if it did, going on beats hanging every caller.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes. Dropping them refuses what waits and lets each worker end with its present call.
pub(crate) struct Lanes<C: Session> {
    shared: Arc<Shared<C>>,
}

impl<C: Session> fmt::Debug for Lanes<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lanes")
    }
}

impl<C: Session> Lanes<C> {
    /// Lanes whose workers call `connect` for a connection when they need one. It may block; it
    /// should fail at once while it is known that nobody answers.
    pub(crate) fn new(
        limits: Limits,
        env: Arc<dyn Env>,
        connect: impl Fn() -> Result<C, Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                table: Mutex::new(Table::new()),
                work: Default::default(),
                ended: Condvar::new(),
                limits,
                env,
                connect: Box::new(connect),
            }),
        }
    }

    /// Starts the thread that looks for stuck calls, until the lanes are dropped.
    ///
    /// # Errors
    ///
    /// If the system gives no thread.
    pub(crate) fn watch(&self) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let pause =
            (shared.limits.patience / 20).clamp(Duration::from_millis(10), Duration::from_secs(1));
        thread::Builder::new()
            .name("lanes-watch".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let mut table = shared.table();
                while !table.closing {
                    table = shared
                        .ended
                        .wait_timeout(table, pause)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                    drop(table);
                    check(&shared);
                    table = shared.table();
                }
            })
            .map(drop)
    }

    /// Makes a call on a worker, and waits until it has ended.
    ///
    /// # Errors
    ///
    /// The call's own; [`Error::Busy`] when the queue is full or the call waited for twice its
    /// patience without being made; [`Error::Quarantined`] for a domain with a stuck call.
    ///
    /// # Cancel safety
    ///
    /// A call that hasn't begun when its future is dropped is never made; one that has goes on.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        call: Call,
        job: impl FnOnce(&C) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, outcome) = oneshot::channel();
        let asked = Span::current();
        let job = move |connection: &C| {
            let span = asked.in_scope(|| call.span());
            span.in_scope(|| {
                tracing::debug!(lane = call.lane.as_str(), call = call.name, "is made");
                job(connection)
            })
        };
        let job = Job::new(
            call,
            &self.shared.limits,
            self.shared.env.monotonic(),
            job,
            reply,
        );
        self.submit(job)?;
        outcome.await.unwrap_or_else(|_| {
            Err(Error::Failed {
                call: "the call's thread",
                reason: "ended without an answer".into(),
            })
        })
    }

    /// Makes a call that nobody waits for.
    ///
    /// # Errors
    ///
    /// If it can't even wait: as [`Lanes::run`].
    pub(crate) fn post(
        &self,
        call: Call,
        job: impl FnOnce(&C) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.submit(Job::unheard(
            call,
            &self.shared.limits,
            self.shared.env.monotonic(),
            job,
        ))
    }

    /// The lanes' state for the heartbeat.
    pub(crate) fn lanes(&self) -> Vec<Lane> {
        let now = self.shared.env.monotonic();
        self.shared.table().report(&self.shared.limits, now)
    }

    /// How long calls took, by lane.
    pub(crate) fn latencies(&self) -> Vec<(&'static str, Histogram)> {
        self.shared.table().latencies()
    }

    /// Domains with a stuck call.
    pub(crate) fn quarantined(&self) -> BTreeSet<Uuid> {
        self.shared.table().quarantined()
    }

    /// Whether a call on the domain is stuck.
    #[cfg(test)]
    pub(crate) fn is_quarantined(&self, domain: Uuid) -> bool {
        self.shared.table().is_quarantined(domain)
    }

    /// Looks for stuck calls now; the watch does it by itself.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        check(&self.shared);
    }

    fn submit(&self, job: Job<C>) -> Result<(), Error> {
        let lane = job.call.lane;
        let now = self.shared.env.monotonic();
        let mut table = self.shared.table();
        table.admit(job, &self.shared.limits, now)?;
        table.hire(lane, &self.shared.limits);
        let hired = table.take_hired();
        drop(table);
        self.shared.work[lane.index()].notify_one();
        spawn(&self.shared, hired);
        Ok(())
    }
}

impl<C: Session> Drop for Lanes<C> {
    fn drop(&mut self) {
        let waiting = self.shared.table().close();
        for job in waiting {
            job.refuse(Error::Unavailable {
                reason: "the agent is stopping".into(),
            });
        }
        self.shared.work.iter().for_each(Condvar::notify_all);
        self.shared.ended.notify_all();
    }
}

/// Marks calls past their patience, replaces their workers, refuses what waited too long.
fn check<C: Session>(shared: &Arc<Shared<C>>) {
    let now = shared.env.monotonic();
    let mut table = shared.table();
    let refused = table.check(now);
    for lane in LaneName::ALL {
        table.hire(lane, &shared.limits);
    }
    let hired = table.take_hired();
    drop(table);
    for (job, error) in refused {
        job.refuse(error);
    }
    spawn(shared, hired);
}

/// Starts workers that the table has already counted.
fn spawn<C: Session>(shared: &Arc<Shared<C>>, hired: Vec<LaneName>) {
    for lane in hired {
        let theirs = Arc::clone(shared);
        let started = thread::Builder::new()
            .name(format!("lane-{}", lane.as_str()))
            .stack_size(STACK_BYTES)
            .spawn(move || work(&theirs, lane));
        if let Err(error) = started {
            // What waits is served by the workers there are, or refused when its time is over.
            tracing::error!(lane = lane.as_str(), %error, "no thread for a call");
            shared.table().left(lane);
        }
    }
}

/// A worker's life.
fn work<C: Session>(shared: &Arc<Shared<C>>, lane: LaneName) {
    let mut connection: Option<C> = None;
    loop {
        let mut table = shared.table();
        let (id, job) = loop {
            if table.closing || table.is_spare(lane, &shared.limits) {
                table.left(lane);
                return;
            }
            if let Some(next) = table.next(lane, shared.env.monotonic()) {
                break next;
            }
            table.idle(lane, 1);
            table = shared.work[lane.index()]
                .wait(table)
                .unwrap_or_else(PoisonError::into_inner);
            table.idle(lane, -1);
        };
        drop(table);
        let ending = Ending { shared, lane, id };
        if connection.as_ref().is_some_and(|old| !old.alive()) {
            connection = None;
        }
        let outcome = match &connection {
            Some(_) => Ok(()),
            None => (shared.connect)().map(|new| connection = Some(new)),
        };
        let answer = match (outcome, &connection) {
            (Ok(()), Some(connection)) => job.make(connection),
            (Err(error), _) => job.fail(error),
            (Ok(()), None) => job.fail(Error::Unavailable {
                reason: "there is no connection".into(),
            }),
        };
        // First the table, then the answer: whoever reads it finds the domain free again.
        drop(ending);
        answer.send();
    }
}

/// Takes a call off the table, also if it panicked.
struct Ending<'a, C: Session> {
    shared: &'a Arc<Shared<C>>,
    lane: LaneName,
    id: u64,
}

impl<C: Session> Drop for Ending<'_, C> {
    fn drop(&mut self) {
        let now = self.shared.env.monotonic();
        let mut table = self.shared.table();
        table.end(self.lane, self.id, now);
        if thread::panicking() {
            table.left(self.lane);
        }
        drop(table);
        // A call on the same domain may wait in any lane.
        self.shared.work.iter().for_each(Condvar::notify_one);
        self.shared.ended.notify_all();
    }
}
