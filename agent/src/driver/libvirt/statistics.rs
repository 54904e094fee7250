//! Domains' numbers: the [`Statistics`] seam.
//!
//! libvirt's bulk call waits for each QEMU that it asks, so one that is stopped would hold up all
//! (FAULTS 41). So all domains at once are asked only for what needs no QEMU, and the rest is asked
//! of each domain by itself, where a stuck one is quarantined like any other.

use async_trait::async_trait;
use kapok_libvirt::{
    Kind,
    domain::State as Raw,
    stats::{BalloonStats, BlockStats, DomainStats, Groups, NetStats},
};
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use super::{
    Libvirt, error,
    lanes::{Call, LaneName},
};
use crate::driver::{
    Error,
    statistics::{Answer, Disk, Glance, Memory, Nic, Requests, State, Statistics, Traffic},
};

#[async_trait]
impl Statistics for Libvirt {
    async fn glance(&self) -> Result<Vec<Glance>, Error> {
        self.lanes
            .run(Call::on(LaneName::Query), |connection| {
                let all = connection.all_stats(Groups::OUTSIDE, true);
                Ok(all.map_err(error::from)?.into_iter().map(glance).collect())
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
}

fn glance(stats: DomainStats) -> Glance {
    Glance {
        domain: stats.uuid,
        name: stats.name.into(),
        state: stats.state.map_or(State::Unknown, state),
        nics: stats.net.into_iter().map(nic).collect(),
    }
}

fn answer(stats: DomainStats) -> Option<Answer> {
    stats
        .state
        .is_some_and(|raw| !raw.is_off())
        .then(|| Answer {
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

fn nic(stats: NetStats) -> Nic {
    Nic {
        name: stats.name.into(),
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
