//! The task that fills what pages show: domains' numbers and the kernel's, round by round.
//!
//! **Invariants.**
//! - A domain is asked by one call at a time; the next comes when that has ended.
//! - Calls that take long don't count against those that may be under way, so a stuck QEMU keeps no
//!   other domain's numbers from being renewed (FAULTS 41). That ends where the driver's lane for
//!   such calls does: libvirt's has three workers. Once as many QEMUs are stuck in it, what only a
//!   QEMU can tell gets old for all domains and shows its age, until one of the calls ends. Looks
//!   at all domains at once have another lane and go on, as do states and network cards' numbers.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kapok_types::Env;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    kernel::{self, Kernel},
    sample::{Heard, Samples},
};
use crate::driver::{Driver, Error, statistics::Glance};

/// Domains that are asked at once, beside those whose call takes long.
const AT_ONCE: usize = 4;
/// From when a call takes long.
const LONG: Duration = Duration::from_secs(1);

type Glancing = Pin<Box<dyn Future<Output = Result<Vec<Glance>, Error>> + Send>>;

/// The task.
pub(crate) struct Sampler {
    pub(crate) driver: Driver,
    pub(crate) env: Arc<dyn Env>,
    /// The time from round to round.
    pub(crate) every: Duration,
    pub(crate) samples: Samples,
    pub(crate) kernel: Kernel,
}

impl Sampler {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut rounds = interval(self.every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut glancing: Option<Glancing> = None;
        let mut reading: Option<JoinHandle<Option<kernel::Numbers>>> = None;
        let mut asking = FuturesUnordered::new();
        let mut since: BTreeMap<Uuid, Duration> = BTreeMap::new();
        let mut due = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                (domain, heard) = next(&mut asking), if !asking.is_empty() => {
                    since.remove(&domain);
                    self.samples.answered(domain, heard, self.env.monotonic());
                }
                glances = pending(&mut glancing) => {
                    glancing = None;
                    match glances {
                        Ok(glances) => {
                            let now = self.env.monotonic();
                            due = self.samples.glanced(glances, now).into();
                        }
                        Err(error) => tracing::debug!(%error, "the domains can't be looked at"),
                    }
                }
                numbers = ended(&mut reading) => {
                    reading = None;
                    if let Some(numbers) = numbers {
                        self.kernel.set(numbers, self.env.monotonic());
                    }
                }
                _ = rounds.tick() => {
                    let statistics = Arc::clone(&self.driver.statistics);
                    glancing.get_or_insert_with(|| Box::pin(async move { statistics.glance().await }));
                    let kernel = self.kernel.clone();
                    reading.get_or_insert_with(|| tokio::task::spawn_blocking(move || kernel.read()));
                }
            }
            let now = self.env.monotonic();
            let quick = since.values().filter(|at| now.saturating_sub(**at) < LONG);
            let mut room = AT_ONCE.saturating_sub(quick.count());
            while room > 0
                && let Some(domain) = due.pop_front()
            {
                room -= 1;
                since.insert(domain, now);
                self.samples.asked(domain, now);
                let statistics = Arc::clone(&self.driver.statistics);
                asking.push(async move {
                    let heard = match statistics.ask(domain).await {
                        Ok(Some(answer)) => Heard::Answer(answer),
                        Ok(None) => Heard::Off,
                        Err(Error::Quarantined) => Heard::Quarantined,
                        Err(error) => {
                            tracing::debug!(%domain, %error, "a domain gives no numbers");
                            Heard::Nothing
                        }
                    };
                    (domain, heard)
                });
            }
        }
    }
}

async fn next<F: Future<Output = (Uuid, Heard)>>(asking: &mut FuturesUnordered<F>) -> F::Output {
    match asking.next().await {
        Some(heard) => heard,
        None => std::future::pending().await,
    }
}

async fn pending(glancing: &mut Option<Glancing>) -> Result<Vec<Glance>, Error> {
    match glancing {
        Some(glancing) => glancing.await,
        None => std::future::pending().await,
    }
}

async fn ended<T>(reading: &mut Option<JoinHandle<Option<T>>>) -> Option<T> {
    match reading {
        Some(reading) => reading.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
