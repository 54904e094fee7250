//! What the agent itself knows: how calls to the hypervisor fare, which guests' QEMUs don't answer,
//! how long its certificate still lives, which parts are gone; and whether the pool answers.
//!
//! Nothing here blocks: it is told from memory, but for the pool, which is asked through the
//! driver's lanes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kapok_health::{Component, Failure, Kind, Reading, quantity};
use kapok_types::IncarnationId;
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Ground, Health};
use crate::{
    driver::{self, Lane, Storage},
    heartbeat::{LifeSign, STORE},
};

/// How often most of it is told.
const EVERY: Duration = Duration::from_secs(5);
/// How often the pool is asked.
const POOL_EVERY: Duration = Duration::from_secs(30);
/// How long the pool may take.
const POOL_DEADLINE: Duration = Duration::from_secs(30);
/// How long the hypervisor may take to be connected to after the agent's start.
const CONNECTS: Duration = Duration::from_secs(10);
/// From when a write to the agent's store counts as not answered.
const WRITES: Duration = Duration::from_secs(10);
/// Lanes that say nothing of the hypervisor's health: transfers last, and what only looks again and
/// again blames the guests that it looks at, which are told by name.
const UNTOLD: [&str; 3] = ["transfer", "poll", "stats"];
/// How long the first inventory may take.
const STOCKS: Duration = Duration::from_mins(1);

const HYPERVISOR: &str = "hypervisor";
const CERTIFICATE: &str = "certificate";
const PARTS: &str = "parts";
const POOL: &str = "pool";

type Outcome = Result<Vec<Reading>, Failure>;

/// The sources here, and how often each is asked.
pub(super) fn cadences() -> [(Arc<str>, Duration); 4] {
    [HYPERVISOR, CERTIFICATE, PARTS, POOL].map(|name| {
        let cadence = if name == POOL { POOL_EVERY } else { EVERY };
        (name.into(), cadence)
    })
}

/// Tells what is known from memory until `stop`.
pub(super) async fn tell(ground: Ground, stocked: bool, health: Health, stop: CancellationToken) {
    let env = Arc::clone(&ground.env);
    let began = env.monotonic();
    let mut own = Own {
        ground,
        stuck: BTreeMap::new(),
        told: BTreeSet::new(),
    };
    let mut seen_up = false;
    let tell = async {
        loop {
            let age = env.monotonic().saturating_sub(began);
            let sign = own.life_sign();
            seen_up |= sign.hypervisor_up;
            // One that isn't connected to yet isn't silent.
            if seen_up || age > CONNECTS {
                health
                    .take(HYPERVISOR.into(), Ok(own.hypervisor(&sign)))
                    .await;
            }
            health.take(CERTIFICATE.into(), own.certificate()).await;
            let stock = health.inner.stock.borrow().clone();
            if stock.is_some() || !stocked || age > STOCKS {
                health.take(PARTS.into(), own.parts(&health, stocked)).await;
            }
            sleep(env.jittered(EVERY)).await;
        }
    };
    stop.run_until_cancelled(tell).await;
}

/// Asks the pool until `stop`; one question at a time.
pub(super) async fn ask_pool(
    storage: Arc<dyn Storage>,
    pool: String,
    health: Health,
    stop: CancellationToken,
) {
    let env = Arc::clone(&health.inner.env);
    let component = Component::new(Kind::Pool, pool);
    let mut late = None;
    let ask = async {
        loop {
            let (mut question, since) = late.take().unwrap_or_else(|| {
                let storage = Arc::clone(&storage);
                let question = tokio::spawn(async move { storage.room().await });
                (AbortOnDropHandle::new(question), env.monotonic())
            });
            let outcome = match timeout(POOL_DEADLINE, &mut question).await {
                // It waited behind others that aren't answered either.
                Ok(Ok(Err(driver::Error::Busy { .. }))) => {
                    let stuck = env.monotonic().saturating_sub(since);
                    Ok(hangs(&component, stuck))
                }
                Ok(Ok(answer)) => room(&component, answer),
                Ok(Err(_)) => Err(Failure::Unreadable("asking the pool broke".into())),
                Err(_) => {
                    late = Some((question, since));
                    let stuck = env.monotonic().saturating_sub(since);
                    Ok(hangs(&component, stuck))
                }
            };
            health.take(POOL.into(), outcome).await;
            // To wait for one that is late is pause enough, and its answer is told at once.
            if late.is_none() {
                sleep(env.jittered(POOL_EVERY)).await;
            }
        }
    };
    stop.run_until_cancelled(ask).await;
}

fn room(pool: &Component, answer: Result<driver::Room, driver::Error>) -> Outcome {
    match answer {
        Ok(room) => Ok(vec![
            Reading::flag(pool, quantity::RESPONDS, true),
            Reading::new(pool, quantity::STUCK, 0.0),
            Reading::new(pool, quantity::SIZE, float(room.size_bytes)),
            Reading::new(pool, quantity::AVAILABLE, float(room.available_bytes)),
        ]),
        Err(driver::Error::Lacking { .. }) => {
            Err(Failure::Absent("the driver has no pool to be asked".into()))
        }
        Err(error) => Err(Failure::Unreadable(error.to_string())),
    }
}

fn hangs(pool: &Component, stuck: Duration) -> Vec<Reading> {
    let reason = "the pool doesn't answer";
    vec![
        Reading::flag(pool, quantity::RESPONDS, false),
        Reading::new(pool, quantity::STUCK, stuck.as_secs_f64()),
        Reading::unreadable(pool, quantity::SIZE, reason),
        Reading::unreadable(pool, quantity::AVAILABLE, reason),
    ]
}

struct Own {
    ground: Ground,
    /// Since when a call on an incarnation's domain is stuck.
    stuck: BTreeMap<IncarnationId, Duration>,
    /// Parts that were spoken of.
    told: BTreeSet<Component>,
}

impl Own {
    fn life_sign(&self) -> LifeSign {
        LifeSign::of(self.ground.driver.compute.health(), &self.ground.local)
    }

    fn hypervisor(&mut self, sign: &LifeSign) -> Vec<Reading> {
        let hypervisor = Component::only(Kind::Hypervisor);
        let up = Reading::flag(&hypervisor, quantity::RESPONDS, sign.hypervisor_up);
        let lanes = sign.lanes.iter().flat_map(lane_readings);
        let mut readings: Vec<Reading> = [up].into_iter().chain(lanes).collect();
        let now = self.ground.env.monotonic();
        self.stuck
            .retain(|incarnation, _| sign.quarantined.contains(incarnation));
        for incarnation in &sign.quarantined {
            let since = *self.stuck.entry(*incarnation).or_insert(now);
            let instance = self.instance(*incarnation);
            let stuck = now.saturating_sub(since).as_secs_f64();
            readings.push(Reading::flag(&instance, quantity::RESPONDS, false));
            readings.push(Reading::new(&instance, quantity::STUCK, stuck));
        }
        readings
    }

    /// The instance that an incarnation is of: people know no other name.
    fn instance(&self, incarnation: IncarnationId) -> Component {
        let status = self.ground.hub.status(incarnation);
        let id = status.map_or(incarnation.0, |status| status.instance.0);
        Component::new(Kind::Instance, id.to_string())
    }

    fn certificate(&self) -> Outcome {
        let trust = &self.ground.trust;
        let absent = || Failure::Absent("the network vouches for this node".into());
        let certificate = trust.certificate().ok_or_else(absent)?;
        let component = Component::only(Kind::Certificate);
        let (end, now) = (certificate.not_after.get(), trust.now().get());
        let left = Duration::from_millis(end.saturating_sub(now)).as_secs_f64();
        let over = Duration::from_millis(now.saturating_sub(end)).as_secs_f64();
        let (left, life) = (left - over, certificate.life().as_secs_f64());
        Ok(vec![
            Reading::new(&component, quantity::LIFE_LEFT, left),
            Reading::new(&component, quantity::LIFE_LEFT_SHARE, left / life.max(1.0)),
        ])
    }

    /// Which of the accepted parts are there.
    fn parts(&mut self, health: &Health, stocked: bool) -> Outcome {
        let Some(stock) = health.inner.stock.borrow().clone() else {
            return Err(if stocked {
                Failure::Unreadable("the inventory can't be read: something hangs".into())
            } else {
                Failure::Absent("it has no inventory".into())
            });
        };
        let accepted = health.inner.accepted.parts().map_err(Failure::Unreadable)?;
        let accepted = accepted.unwrap_or_default();
        let presence = accepted.presence(&stock.inventory.parts);
        // What was let go by a person's word is missed no more.
        let mut gone = std::mem::take(&mut self.told);
        let mut readings = Vec::new();
        for (part, there) in presence {
            gone.remove(&part);
            readings.push(if let Some(there) = there {
                Reading::flag(&part, quantity::PRESENT, there)
            } else {
                let reason = "its kind of parts can't be read now";
                Reading::unreadable(&part, quantity::PRESENT, reason)
            });
            self.told.insert(part);
        }
        for part in gone {
            readings.push(Reading::absent(&part, quantity::PRESENT));
            self.told.insert(part);
        }
        Ok(readings)
    }
}

/// How a lane fares. The agent's own store lies beside the hypervisor's.
fn lane_readings(lane: &Lane) -> Vec<Reading> {
    let stuck = Duration::from_millis(lane.stuck_ms);
    let told = |part: &Component| Reading::new(part, quantity::STUCK, stuck.as_secs_f64());
    match lane.name {
        STORE => {
            let state = Component::new(Kind::Filesystem, "state");
            let answers = Reading::flag(&state, quantity::RESPONDS, stuck < WRITES);
            vec![answers, told(&state)]
        }
        name if UNTOLD.contains(&name) => Vec::new(),
        name => vec![told(&Component::new(Kind::Hypervisor, name))],
    }
}

/// A whole number as near as it can be.
fn float(number: u64) -> f64 {
    Duration::from_secs(number).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &'static str, stuck_ms: u64) -> Vec<String> {
        let lane = Lane {
            name,
            stuck_ms,
            depth: 1,
        };
        let readings = lane_readings(&lane);
        let line = |it: &Reading| {
            let value = it.value().unwrap();
            format!("{} {} {value}", it.component, it.quantity.name)
        };
        readings.iter().map(line).collect()
    }

    /// FAULTS 43, of the agent's own disk: a write that hangs is told of the file system.
    #[test]
    fn a_store_that_hangs_does_not_respond() {
        let answers = |it: Vec<String>| it[0].clone();
        let state = "filesystem/state responds";
        assert_eq!(answers(told(STORE, 9_999)), format!("{state} 1"));
        assert_eq!(answers(told(STORE, 10_000)), format!("{state} 0"));
    }

    #[test]
    fn what_lasts_or_only_looks_says_nothing_of_the_hypervisor() {
        assert_eq!(told("change", 31_000), ["hypervisor/change stuck 31"]);
        for lane in ["transfer", "poll", "stats"] {
            assert!(told(lane, 600_000).is_empty(), "{lane}");
        }
    }
}
