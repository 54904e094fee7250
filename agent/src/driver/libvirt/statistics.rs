//! Domains' numbers: the [`Statistics`] seam.
//!
//! libvirt's bulk call waits for each QEMU that it asks, so one that is stopped would hold up all
//! (FAULTS 41). So all domains at once are asked only for what needs no QEMU, and the rest is asked
//! of each domain by itself, where a stuck one is quarantined like any other.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use async_trait::async_trait;
use kapok_libvirt::{
    Connection, Kind,
    domain::{Copy, State as Raw},
    stats::{BalloonStats, BlockStats, DomainStats, Groups, NetStats},
};
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use super::{
    Inner, Libvirt, error,
    lanes::{Call, LaneName},
    lock,
};
use crate::driver::{
    Error,
    statistics::{Answer, Disk, Glance, Intake, Memory, Nic, Requests, State, Statistics, Traffic},
};

/// Bridges of network cards: by domain, by the card's tap. A domain is asked once for each set of
/// taps that it has: one card that is moved to another bridge shows the old one until its domain
/// is off.
pub(super) type Plugs = BTreeMap<Uuid, BTreeMap<Box<str>, Box<str>>>;

/// Domains that are asked for their bridges in one look at all domains, at most.
const ASKED_AT_ONCE: usize = 32;

#[async_trait]
impl Statistics for Libvirt {
    async fn glance(&self) -> Result<Vec<Glance>, Error> {
        let inner = Arc::clone(&self.inner);
        self.lanes
            .run(Call::on(LaneName::Query), move |connection| {
                let all = connection.all_stats(Groups::OUTSIDE, true);
                let all = all.map_err(error::from)?;
                let plugs = inner.plugs(connection, &all);
                let glances = all.into_iter().map(|stats| {
                    let of_domain = plugs.get(&stats.uuid);
                    glance(stats, of_domain)
                });
                Ok(glances.collect())
            })
            .await
    }

    async fn ask(&self, domain: Uuid) -> Result<Option<Answer>, Error> {
        self.lanes
            .run(Call::of(LaneName::Stats, domain), move |connection| {
                let asked = connection.domain(domain).and_then(|found| {
                    connection.stats_of(std::slice::from_ref(&found), Groups::INSIDE, true)
                });
                match asked {
                    Ok(stats) => Ok(stats.into_iter().next().and_then(answer)),
                    Err(failure) if failure.is(Kind::NotFound) => Ok(None),
                    Err(failure) => Err(error::from(failure)),
                }
            })
            .await
    }

    fn latencies(&self) -> Vec<(&'static str, Histogram)> {
        self.lanes.latencies()
    }

    fn intake(&self) -> Intake {
        Intake {
            console_bytes: self.meter.received_bytes(),
            dropped_console_bytes: self.meter.dropped_bytes(),
            ..self.inner.link.intake()
        }
    }
}

impl Inner {
    /// Where these domains' cards are plugged in, as far as it is known. Asks no QEMU.
    fn plugs(&self, connection: &Connection, all: &[DomainStats]) -> MutexGuard<'_, Plugs> {
        let mut known = std::mem::take(&mut *lock(&self.plugs));
        let mut plugs = Plugs::new();
        let mut asked = 0;
        for stats in all.iter().filter(|stats| !stats.net.is_empty()) {
            let held = known.remove(&stats.uuid).filter(|held| {
                let mut taps = stats.net.iter().map(|nic| nic.name.as_str());
                held.len() == stats.net.len() && taps.all(|tap| held.contains_key(tap))
            });
            if let Some(held) = held {
                plugs.insert(stats.uuid, held);
            } else if asked < ASKED_AT_ONCE {
                asked += 1;
                if let Some(bridges) = bridges(connection, stats) {
                    plugs.insert(stats.uuid, bridges);
                }
            }
        }
        let mut held = lock(&self.plugs);
        *held = plugs;
        held
    }
}

/// The bridge of each card of a domain; empty for one that has none. None if it must be asked again.
fn bridges(connection: &Connection, stats: &DomainStats) -> Option<BTreeMap<Box<str>, Box<str>>> {
    let view = connection
        .domain(stats.uuid)
        .and_then(|domain| domain.view(Copy::Live));
    let nics = match view {
        Ok(view) => view.nics,
        // A document that this version can't read.
        Err(failure) if failure.is(Kind::Invalid) => Vec::new(),
        Err(_) => return None,
    };
    let bridge_of = |tap: &str| {
        let nic = nics.iter().find(|nic| nic.tap.as_deref() == Some(tap));
        nic.and_then(|nic| nic.bridge.clone()).unwrap_or_default()
    };
    let of = |tap: &String| (tap.as_str().into(), bridge_of(tap).into());
    Some(stats.net.iter().map(|nic| of(&nic.name)).collect())
}

fn glance(stats: DomainStats, plugs: Option<&BTreeMap<Box<str>, Box<str>>>) -> Glance {
    let plugged = |stats: NetStats| {
        let bridge = plugs.and_then(|plugs| plugs.get(stats.name.as_str()));
        nic(bridge.cloned().unwrap_or_default(), stats)
    };
    Glance {
        domain: stats.uuid,
        name: stats.name.into(),
        state: stats.state.map_or(State::Unknown, state),
        nics: stats.net.into_iter().map(plugged).collect(),
    }
}

fn answer(stats: DomainStats) -> Option<Answer> {
    stats
        .state
        .is_some_and(|raw| !raw.is_off())
        .then(|| Answer {
            run: stats.id.map(u64::from),
            cpu_time_ns: stats.cpu_time_ns,
            vcpus: stats.vcpus,
            memory: memory(&stats.balloon),
            disks: stats.block.into_iter().map(disk).collect(),
        })
}

fn state(raw: Raw) -> State {
    match raw {
        Raw::Running => State::Running,
        Raw::Paused(_) => State::Paused,
        Raw::ShuttingDown => State::ShuttingDown,
        Raw::Shutoff(_) => State::Off,
        Raw::Crashed => State::Crashed,
        Raw::Suspended => State::Suspended,
        Raw::Other { .. } => State::Unknown,
    }
}

fn nic(bridge: Box<str>, stats: NetStats) -> Nic {
    Nic {
        name: stats.name.into(),
        bridge,
        receive: Traffic {
            bytes: stats.receive_bytes,
            packets: stats.receive_packets,
            errors: stats.receive_errors,
            drops: stats.receive_drops,
        },
        transmit: Traffic {
            bytes: stats.transmit_bytes,
            packets: stats.transmit_packets,
            errors: stats.transmit_errors,
            drops: stats.transmit_drops,
        },
    }
}

fn memory(stats: &BalloonStats) -> Memory {
    Memory {
        maximum_kib: stats.maximum_kib,
        current_kib: stats.current_kib,
        resident_kib: stats.rss_kib,
        available_kib: stats.available_kib,
        unused_kib: stats.unused_kib,
        usable_kib: stats.usable_kib,
    }
}

fn disk(stats: BlockStats) -> Disk {
    Disk {
        name: stats.name.into(),
        path: stats.path.map(Into::into),
        read: Requests {
            requests: stats.read_requests,
            bytes: stats.read_bytes,
            time_ns: stats.read_time_ns,
        },
        write: Requests {
            requests: stats.write_requests,
            bytes: stats.write_bytes,
            time_ns: stats.write_time_ns,
        },
        flushes: stats.flush_requests,
        capacity_bytes: stats.capacity_bytes,
        physical_bytes: stats.physical_bytes,
    }
}
