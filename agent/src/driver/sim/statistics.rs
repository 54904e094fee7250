//! `Statistics` over a simulated host: numbers that only grow with the time that a guest is on.
//!
//! Looks aren't in the host's log and meet no injected fault but a frozen or stuck domain: they
//! come by a timer, and nothing follows from them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kapok_types::IncarnationId;
use prometheus_client::metrics::histogram::Histogram;
use uuid::Uuid;

use super::{Host, guest::Domain};
use crate::driver::{
    self, Error, Run,
    statistics::{
        Answer, Disk, Glance, Intake, Memory, Nic, Requests, State, Traffic, call_histogram,
    },
};

pub(super) struct Statistics(pub(super) Arc<Host>);

/// How often a frozen domain is looked at again.
const FROZEN: Duration = Duration::from_millis(100);

#[async_trait]
impl driver::Statistics for Statistics {
    async fn glance(&self) -> Result<Vec<Glance>, Error> {
        let inner = self.0.lock();
        if !inner.up {
            return Err(down());
        }
        let ours = inner.domains.iter().map(|(id, domain)| glance(*id, domain));
        let foreign = inner.foreign.values().map(|foreign| Glance {
            domain: foreign.uuid,
            name: foreign.name.as_str().into(),
            state: if foreign.active {
                State::Running
            } else {
                State::Off
            },
            nics: Box::default(),
        });
        Ok(ours.chain(foreign).collect())
    }

    async fn ask(&self, domain: Uuid) -> Result<Option<Answer>, Error> {
        let id = IncarnationId(domain);
        while self.0.lock().is_frozen(id) {
            tokio::time::sleep(FROZEN).await;
        }
        let inner = self.0.lock();
        if !inner.up {
            return Err(down());
        }
        if inner.is_stuck(Some(id)) {
            return Err(Error::Quarantined);
        }
        if inner.foreign.get(&domain).is_some_and(|it| it.active) {
            return Ok(Some(Answer::default()));
        }
        let found = inner.domains.get(&id).filter(|domain| domain.is_on());
        Ok(found.map(answer))
    }

    fn latencies(&self) -> Vec<(&'static str, Histogram)> {
        vec![("sim", call_histogram())]
    }

    fn intake(&self) -> Intake {
        let host = &self.0;
        Intake {
            events: host.hinted.get(),
            hints: host.hinted.get(),
            console_bytes: host.console_bytes.get(),
            ..Intake::default()
        }
    }
}

fn down() -> Error {
    Error::Unavailable {
        reason: "the simulated hypervisor is down".into(),
    }
}

fn glance(id: IncarnationId, domain: &Domain) -> Glance {
    let traffic = |bytes| Traffic {
        bytes,
        packets: bytes / 1000,
        ..Traffic::default()
    };
    let nics = on_for_ns(domain).map(|nanos| Nic {
        name: "sim0".into(),
        bridge: "simulated".into(),
        receive: traffic(nanos / 1_000_000),
        transmit: traffic(nanos / 2_000_000),
    });
    Glance {
        domain: id.0,
        name: id.to_string().into(),
        state: match domain.run {
            Run::On => State::Running,
            Run::GoingDown => State::ShuttingDown,
            Run::Paused => State::Paused,
            Run::Off => State::Off,
        },
        nics: nics.into_iter().collect(),
    }
}

fn on_for_ns(domain: &Domain) -> Option<u64> {
    let on = domain.since?.elapsed();
    Some(u64::try_from(on.as_nanos()).unwrap_or(u64::MAX))
}

fn answer(domain: &Domain) -> Answer {
    let spec = &domain.record.intent.spec;
    let memory = Some(spec.memory.get() * 1024);
    let requests = Requests {
        requests: domain.runs,
        bytes: domain.runs * 512,
        time_ns: domain.runs * 1000,
    };
    Answer {
        run: Some(domain.runs),
        cpu_time_ns: on_for_ns(domain),
        vcpus: Some(spec.vcpus.get()),
        memory: Memory {
            maximum_kib: memory,
            current_kib: memory,
            resident_kib: memory,
            ..Memory::default()
        },
        disks: Box::new([Disk {
            name: "vda".into(),
            path: None,
            read: requests,
            write: requests,
            flushes: domain.runs,
            capacity_bytes: Some(spec.root.size.get()),
            physical_bytes: None,
        }]),
    }
}
