//! The table of calls: who waits, who runs, who is stuck. Pure bookkeeping under one lock.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Call, LANES, LaneName, Limits};
use crate::driver::{Error, Lane, statistics::call_histogram};

/// A call that has ended, with whom to tell.
pub(super) struct Answer(Box<dyn FnOnce() + Send>);

impl Answer {
    /// Tells the caller.
    pub(super) fn send(self) {
        (self.0)();
    }
}

type Work<C> = dyn FnOnce(Result<&C, Error>) -> Answer + Send;

/// A call that waits.
pub(super) struct Job<C> {
    pub(super) call: Call,
    patience: Duration,
    since: Duration,
    abandoned: Box<dyn Fn() -> bool + Send>,
    work: Box<Work<C>>,
}

impl<C> Job<C> {
    pub(super) fn new<T: Send + 'static>(
        call: Call,
        limits: &Limits,
        now: Duration,
        job: impl FnOnce(&C) -> Result<T, Error> + Send + 'static,
        reply: oneshot::Sender<Result<T, Error>>,
    ) -> Self {
        let reply = std::sync::Arc::new(std::sync::Mutex::new(Some(reply)));
        let watched = std::sync::Arc::clone(&reply);
        Self {
            call,
            patience: call.patience.unwrap_or(limits.patience),
            since: now,
            abandoned: Box::new(move || {
                let reply = watched.lock();
                reply.is_ok_and(|reply| reply.as_ref().is_none_or(oneshot::Sender::is_closed))
            }),
            work: Box::new(move |connection| {
                let outcome = connection.and_then(job);
                Answer(Box::new(move || {
                    if let Some(reply) = reply.lock().ok().and_then(|mut reply| reply.take()) {
                        // Nobody listens when the caller gave up waiting.
                        let _ = reply.send(outcome);
                    }
                }))
            }),
        }
    }

    /// A call whose outcome only the log hears of.
    pub(super) fn unheard(
        call: Call,
        limits: &Limits,
        now: Duration,
        job: impl FnOnce(&C) -> Result<(), Error> + Send + 'static,
    ) -> Self {
        Self {
            call,
            patience: call.patience.unwrap_or(limits.patience),
            since: now,
            abandoned: Box::new(|| false),
            work: Box::new(move |connection| {
                let outcome = connection.and_then(job);
                Answer(Box::new(move || {
                    if let Err(error) = outcome {
                        tracing::warn!(lane = call.lane.as_str(), %error, "a call failed");
                    }
                }))
            }),
        }
    }

    /// Makes the call.
    pub(super) fn make(self, connection: &C) -> Answer {
        (self.work)(Ok(connection))
    }

    /// Gives the call up before it was made.
    pub(super) fn fail(self, error: Error) -> Answer {
        (self.work)(Err(error))
    }

    /// Gives the call up and tells its caller.
    pub(super) fn refuse(self, error: Error) {
        self.fail(error).send();
    }
}

struct Running {
    domain: Option<Uuid>,
    since: Duration,
    patience: Duration,
    stuck: bool,
}

struct LaneTable<C> {
    queue: VecDeque<Job<C>>,
    running: BTreeMap<u64, Running>,
    workers: usize,
    idle: usize,
    /// When calls began to wait in the lane, or one of its own last ended.
    moved: Duration,
    /// How long its calls took.
    took: Histogram,
}

impl<C> LaneTable<C> {
    fn stuck(&self) -> usize {
        self.running.values().filter(|call| call.stuck).count()
    }

    /// How long calls have been waiting while none ended, less what those that run were given
    /// beyond all others' patience: to wait for a long one is no trouble.
    fn waited(&self, patience: Duration, now: Duration) -> Duration {
        if self.queue.is_empty() {
            return Duration::ZERO;
        }
        let running = self.running.values().filter(|call| !call.stuck);
        let given = running.map(|call| call.patience.saturating_sub(patience));
        now.saturating_sub(self.moved)
            .saturating_sub(given.max().unwrap_or_default())
    }
}

/// Whether a stuck call speaks of its lane's ground, not of its domain alone: no domain is to
/// blame, or it waits for the pool.
fn blames_lane(name: LaneName, call: &Running) -> bool {
    call.domain.is_none() || name == LaneName::Storage
}

/// All lanes.
pub(super) struct Table<C> {
    lanes: [LaneTable<C>; LANES],
    /// Domains with a call outside the query lane and the destroy lane.
    busy: BTreeSet<Uuid>,
    /// Domains that are being destroyed.
    destroying: BTreeSet<Uuid>,
    /// Stuck calls by domain.
    stuck: BTreeMap<Uuid, usize>,
    next_id: u64,
    hired: Vec<LaneName>,
    pub(super) closing: bool,
}

impl<C> Table<C> {
    pub(super) fn new() -> Self {
        Self {
            lanes: std::array::from_fn(|_| LaneTable {
                queue: VecDeque::new(),
                running: BTreeMap::new(),
                workers: 0,
                idle: 0,
                moved: Duration::ZERO,
                took: call_histogram(),
            }),
            busy: BTreeSet::new(),
            destroying: BTreeSet::new(),
            stuck: BTreeMap::new(),
            next_id: 0,
            hired: Vec::new(),
            closing: false,
        }
    }

    /// Lets a call into its lane's queue.
    pub(super) fn admit(
        &mut self,
        job: Job<C>,
        limits: &Limits,
        now: Duration,
    ) -> Result<(), Error> {
        let name = job.call.lane;
        if self.closing {
            return Err(Error::Unavailable {
                reason: "the agent is stopping".into(),
            });
        }
        if self.kept_out(&job.call) {
            return Err(Error::Quarantined);
        }
        let lane = &mut self.lanes[name.index()];
        if lane.queue.len() >= limits.lanes[name.index()].queue {
            return Err(Error::Busy {
                lane: name.as_str(),
            });
        }
        if lane.queue.is_empty() {
            lane.moved = now;
        }
        lane.queue.push_back(job);
        Ok(())
    }

    /// Counts more workers for the lane if they are needed and allowed.
    pub(super) fn hire(&mut self, name: LaneName, limits: &Limits) {
        let bounds = limits.lanes[name.index()];
        let lane = &mut self.lanes[name.index()];
        if self.closing {
            return;
        }
        let stuck = lane.stuck();
        for _ in lane.idle..lane.queue.len() {
            if lane.workers.saturating_sub(stuck) >= bounds.workers || lane.workers >= bounds.cap {
                return;
            }
            lane.workers += 1;
            self.hired.push(name);
        }
    }

    /// Workers that were counted but not started.
    pub(super) fn take_hired(&mut self) -> Vec<LaneName> {
        std::mem::take(&mut self.hired)
    }

    /// Whether the lane has more workers than it should now that stuck ones have come back.
    pub(super) fn is_spare(&self, name: LaneName, limits: &Limits) -> bool {
        let lane = &self.lanes[name.index()];
        lane.workers.saturating_sub(lane.stuck()) > limits.lanes[name.index()].workers
    }

    /// A worker has gone.
    pub(super) fn left(&mut self, name: LaneName) {
        let lane = &mut self.lanes[name.index()];
        lane.workers = lane.workers.saturating_sub(1);
    }

    /// A worker waits for work (+1) or no longer does (-1).
    pub(super) fn idle(&mut self, name: LaneName, change: isize) {
        let lane = &mut self.lanes[name.index()];
        lane.idle = lane.idle.saturating_add_signed(change);
    }

    /// The oldest call of the lane that may be made now.
    pub(super) fn next(&mut self, name: LaneName, now: Duration) -> Option<(u64, Job<C>)> {
        self.lanes[name.index()]
            .queue
            .retain(|job| !(job.abandoned)());
        let taken = match name {
            LaneName::Query => None,
            LaneName::Destroy => Some(&self.destroying),
            _ => Some(&self.busy),
        };
        let queue = &self.lanes[name.index()].queue;
        let position = queue.iter().position(|job| {
            let taken = |domain| taken.is_some_and(|taken| taken.contains(&domain));
            !self.kept_out(&job.call) && !job.call.domain.is_some_and(taken)
        })?;
        let lane = &mut self.lanes[name.index()];
        let job = lane.queue.remove(position)?;
        self.next_id += 1;
        lane.running.insert(
            self.next_id,
            Running {
                domain: job.call.domain,
                since: now,
                patience: job.patience,
                stuck: false,
            },
        );
        if let Some(domain) = job.call.domain {
            match name {
                LaneName::Query => {}
                LaneName::Destroy => {
                    self.destroying.insert(domain);
                }
                _ => {
                    self.busy.insert(domain);
                }
            }
        }
        Some((self.next_id, job))
    }

    /// A call has ended.
    pub(super) fn end(&mut self, name: LaneName, id: u64, now: Duration) {
        let lane = &mut self.lanes[name.index()];
        let Some(call) = lane.running.remove(&id) else {
            return;
        };
        lane.moved = now;
        let took = now.saturating_sub(call.since);
        lane.took.observe(took.as_secs_f64());
        let Some(domain) = call.domain else { return };
        match name {
            LaneName::Query => {}
            LaneName::Destroy => {
                self.destroying.remove(&domain);
            }
            _ => {
                self.busy.remove(&domain);
            }
        }
        if call.stuck
            && let Some(calls) = self.stuck.get_mut(&domain)
        {
            *calls -= 1;
            if *calls == 0 {
                self.stuck.remove(&domain);
                tracing::info!(%domain, "the stuck calls have ended, the quarantine is over");
            }
        }
    }

    /// Finds calls past their patience. Gives back those that waited too long to be made.
    pub(super) fn check(&mut self, now: Duration) -> Vec<(Job<C>, Error)> {
        for name in LaneName::ALL {
            for call in self.lanes[name.index()].running.values_mut() {
                let age = now.saturating_sub(call.since);
                if call.stuck || age < call.patience {
                    continue;
                }
                call.stuck = true;
                if let Some(domain) = call.domain {
                    *self.stuck.entry(domain).or_default() += 1;
                }
                tracing::warn!(
                    lane = name.as_str(),
                    domain = call.domain.map(tracing::field::display),
                    age_ms = age.as_millis(),
                    "a call is stuck"
                );
            }
        }
        let mut refused = Vec::new();
        for name in LaneName::ALL {
            let waiting = std::mem::take(&mut self.lanes[name.index()].queue);
            for job in waiting {
                if self.kept_out(&job.call) {
                    refused.push((job, Error::Quarantined));
                } else if now.saturating_sub(job.since) >= job.patience * 2 {
                    // Twice, so that the workers who replace stuck ones get a chance at it.
                    refused.push((
                        job,
                        Error::Busy {
                            lane: name.as_str(),
                        },
                    ));
                } else {
                    self.lanes[name.index()].queue.push_back(job);
                }
            }
        }
        refused
    }

    /// Whether a call is refused because of a stuck one.
    fn kept_out(&self, call: &Call) -> bool {
        call.lane != LaneName::Destroy
            && call
                .domain
                .is_some_and(|domain| self.stuck.contains_key(&domain))
    }

    pub(super) fn quarantined(&self) -> BTreeSet<Uuid> {
        self.stuck.keys().copied().collect()
    }

    #[cfg(test)]
    pub(super) fn is_quarantined(&self, domain: Uuid) -> bool {
        self.stuck.contains_key(&domain)
    }

    #[cfg(test)]
    pub(super) fn workers(&self, name: LaneName) -> usize {
        self.lanes[name.index()].workers
    }

    pub(super) fn report(&self, limits: &Limits, now: Duration) -> Vec<Lane> {
        LaneName::ALL
            .into_iter()
            .map(|name| {
                let lane = &self.lanes[name.index()];
                let waited = lane.waited(limits.patience, now);
                // Nobody may wait, and still nobody would be served.
                let dead = lane.stuck() >= limits.lanes[name.index()].cap;
                let blamed = |call: &&Running| call.stuck && (dead || blames_lane(name, call));
                let since = lane.running.values().filter(blamed).map(|call| call.since);
                let oldest = since.min().map(|since| now.saturating_sub(since));
                let waited = waited.max(oldest.unwrap_or_default());
                let depth = lane.queue.len() + lane.running.len();
                Lane {
                    name: name.as_str(),
                    stuck_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
                    depth: u32::try_from(depth).unwrap_or(u32::MAX),
                }
            })
            .collect()
    }

    pub(super) fn latencies(&self) -> Vec<(&'static str, Histogram)> {
        let took = |name: LaneName| self.lanes[name.index()].took.clone();
        LaneName::ALL.map(|name| (name.as_str(), took(name))).into()
    }

    /// Lets nobody in any more; gives back what waits.
    pub(super) fn close(&mut self) -> Vec<Job<C>> {
        self.closing = true;
        self.lanes
            .iter_mut()
            .flat_map(|lane| lane.queue.drain(..))
            .collect()
    }
}
