//! `Compute` over a simulated host.

use std::sync::Arc;

use async_trait::async_trait;
use kapok_types::{IncarnationId, Vcpus};
use tokio::sync::broadcast;

use super::{Call, Host, guest::Domain};
use crate::driver::{
    self, Error, Facts, Health, Hint, Lane, Listing, Off, Record, Run, Seen,
    equipment::{self, set_aside},
};

pub(super) struct Compute(pub(super) Arc<Host>);

impl Compute {
    fn absent(incarnation: IncarnationId) -> Error {
        Error::Absent {
            what: format!("the domain of {incarnation}"),
        }
    }

    /// Enters a call, takes its effect on an existing domain, leaves.
    async fn on_domain(
        &self,
        call: Call,
        incarnation: IncarnationId,
        effect: impl FnOnce(&mut Domain, bool) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let passage = self.0.enter(call, Some(incarnation)).await?;
        {
            let mut inner = self.0.lock();
            inner.claim(incarnation, "the call")?;
            let has_disk = inner.disks.contains_key(&incarnation);
            let domain = inner.domains.get_mut(&incarnation);
            effect(domain.ok_or_else(|| Self::absent(incarnation))?, has_disk)?;
            inner.drop_transient(incarnation);
        }
        self.0.hint(Hint::Incarnation(incarnation));
        passage.leave().await;
        Ok(())
    }
}

impl Host {
    /// Whether it offers what a domain that is about to be started is to have.
    fn offers_to(&self, record: &Record) -> Result<(), Error> {
        let intent = &record.intent;
        let plain = intent.spec.needs.is_none() && intent.assignment.is_none();
        if plain || !record.starting {
            return Ok(());
        }
        equipment::check(&self.shape().equipment, intent)
            .map_err(|violation| refused("starting", &violation.to_string()))
    }
}

fn refused(call: &'static str, reason: &str) -> Error {
    Error::Failed {
        call,
        reason: reason.into(),
    }
}

#[async_trait]
impl driver::Compute for Compute {
    async fn facts(&self) -> Result<Facts, Error> {
        let passage = self.0.enter(Call::Facts, None).await?;
        passage.leave().await;
        let shape = self.0.shape();
        let (threads, pages) = set_aside(&shape.equipment);
        Ok(Facts {
            driver: "simulator",
            arch: shape.arch,
            cpus: shape.cpus.saturating_sub(threads),
            memory: shape.memory.saturating_sub(pages),
            machine: "sim-1".into(),
            virt_type: "qemu".into(),
            virt_reason: "it is a simulation".into(),
            versions: vec![("simulator".into(), env!("CARGO_PKG_VERSION").into())],
            lacks: Vec::new(),
            offers: Arc::default(),
            equipment: Arc::clone(&shape.equipment),
        })
    }

    async fn list(&self) -> Result<Listing, Error> {
        let passage = self.0.enter(Call::List, None).await?;
        let mut listing = Listing::default();
        {
            let inner = self.0.lock();
            for (incarnation, domain) in &inner.domains {
                if inner.is_stuck(Some(*incarnation)) || inner.is_frozen(*incarnation) {
                    listing.silent.push(*incarnation);
                } else if !domain.is_ours() {
                    let spec = &domain.record.intent.spec;
                    listing.foreign.push(driver::Foreign {
                        uuid: incarnation.0,
                        name: incarnation.to_string(),
                        active: domain.is_on(),
                        vcpus: spec.vcpus,
                        memory: spec.memory,
                    });
                } else {
                    listing.ours.push(domain.seen());
                }
            }
            listing.foreign.extend(inner.foreign.values().cloned());
        }
        passage.leave().await;
        Ok(listing)
    }

    async fn observe(&self, incarnation: IncarnationId) -> Result<Option<Seen>, Error> {
        let passage = self.0.enter(Call::Observe, Some(incarnation)).await?;
        let seen = {
            let inner = self.0.lock();
            inner.claim(incarnation, "observe")?;
            inner.domains.get(&incarnation).map(Domain::seen)
        };
        passage.leave().await;
        Ok(seen)
    }

    async fn define(&self, record: &Record) -> Result<(), Error> {
        let incarnation = record.intent.incarnation;
        let passage = self.0.enter(Call::Define, Some(incarnation)).await?;
        {
            let mut inner = self.0.lock();
            inner.claim(incarnation, "define")?;
            self.0.offers_to(record)?;
            let domain = inner
                .domains
                .entry(incarnation)
                .or_insert_with(|| Domain::new(record.clone()));
            domain.record = record.clone();
            domain.persistent = true;
            domain.drift.clear();
        }
        self.0.hint(Hint::Incarnation(incarnation));
        passage.leave().await;
        Ok(())
    }

    async fn start(&self, incarnation: IncarnationId) -> Result<(), Error> {
        self.on_domain(Call::Start, incarnation, |domain, has_disk| {
            if domain.is_on() {
                return Err(refused("start", "it is on already"));
            }
            if !has_disk {
                return Err(Error::Absent {
                    what: "the root disk".into(),
                });
            }
            if domain.locked_elsewhere {
                return Err(Error::Locked {
                    reason: "failed to get the write lock".into(),
                });
            }
            domain.turn_on();
            Ok(())
        })
        .await
    }

    async fn shutdown(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let mut run = None;
        self.on_domain(Call::Shutdown, incarnation, |domain, _| {
            if !domain.is_on() {
                return Err(refused("shutdown", "it is off"));
            }
            run = Some(domain.runs);
            Ok(())
        })
        .await?;
        if let Some(run) = run {
            self.0.shut_down_later(incarnation, run);
        }
        Ok(())
    }

    async fn set_vcpus(&self, incarnation: IncarnationId, vcpus: Vcpus) -> Result<(), Error> {
        self.on_domain(Call::SetVcpus, incarnation, |domain, _| {
            let set = domain.set_vcpus(vcpus);
            set.map_err(|reason| refused("set_vcpus", reason))
        })
        .await
    }

    async fn reset(&self, incarnation: IncarnationId) -> Result<(), Error> {
        self.on_domain(Call::Reset, incarnation, |domain, _| {
            if domain.run != Run::On {
                return Err(refused("reset", "it doesn't run"));
            }
            domain.resets += 1;
            domain.since = Some(tokio::time::Instant::now());
            Ok(())
        })
        .await
    }

    async fn destroy(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let passage = self.0.enter(Call::Destroy, Some(incarnation)).await?;
        self.0.lock().claim(incarnation, "destroy")?;
        self.0.change(incarnation, |domain| {
            if domain.is_on() {
                domain.turn_off(Off::Destroyed);
            }
        });
        self.0.thaw(incarnation);
        passage.leave().await;
        Ok(())
    }

    async fn undefine(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let passage = self.0.enter(Call::Undefine, Some(incarnation)).await?;
        {
            let mut inner = self.0.lock();
            inner.claim(incarnation, "undefine")?;
            if inner.domains.get(&incarnation).is_some_and(Domain::is_on) {
                return Err(refused("undefine", "it is on"));
            }
            inner.domains.remove(&incarnation);
        }
        self.0.hint(Hint::Incarnation(incarnation));
        passage.leave().await;
        Ok(())
    }

    async fn guest_agent(&self, incarnation: IncarnationId) -> Result<bool, Error> {
        let passage = self.0.enter(Call::GuestAgent, Some(incarnation)).await?;
        let boot_time = self.0.shape().boot_time;
        let answers = {
            let inner = self.0.lock();
            let domain = inner.domains.get(&incarnation);
            let domain = domain.ok_or_else(|| Self::absent(incarnation))?;
            if !domain.is_on() {
                return Err(refused("asking the guest's agent", "it is off"));
            }
            domain.agent_answers(boot_time)
        };
        passage.leave().await;
        Ok(answers)
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.0.hints.subscribe()
    }

    fn health(&self) -> Health {
        let inner = self.0.lock();
        let mut quarantined: Vec<_> = inner
            .stuck
            .iter()
            .filter(|stuck| stuck.call.is_on_domain())
            .filter_map(|stuck| stuck.incarnation)
            .collect();
        quarantined.sort();
        quarantined.dedup();
        Health {
            up: inner.up,
            lanes: vec![Lane {
                name: "sim",
                stuck_ms: 0,
                depth: u32::try_from(inner.stuck.len()).unwrap_or(u32::MAX),
            }],
            quarantined,
        }
    }
}
