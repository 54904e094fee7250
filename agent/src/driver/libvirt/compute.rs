//! Domains: the [`Compute`] seam.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use kapok_libvirt::{
    Connection, Domain, Kind,
    domain::{Copy, Shutdown, Start},
    stats::Groups,
    xml::topology::HostCell,
};
use kapok_types::{IncarnationId, Intent, Vcpus};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{
    Inner, Libvirt, document, error, foreign,
    lanes::{Call, LaneName, Session},
    lock,
    observe::Look,
    placement,
    record::{self, Hardware, Ours},
};
use crate::driver::{Compute, Error, Facts, Health, Hint, Listing, Record, Seen, equipment};

/// Domains that are looked at at once for a listing.
const AT_ONCE: usize = 4;
/// How long a guest's agent may take to answer.
const AGENT: Duration = Duration::from_secs(2);
/// How long a guest may take to notice new vCPUs and use them.
const USE_VCPUS: Duration = Duration::from_secs(5);
/// What asking the agent to shut down may take, by libvirt's own bound.
const AGENT_SHUTDOWN: Duration = Duration::from_secs(10);
/// What ending a QEMU that doesn't react takes libvirt at most: it kills it after ten seconds.
const DESTROY: Duration = Duration::from_secs(40);

/// How a guest's agent is asked: through the lane of polls, because it is asked again and again.
pub(super) fn guest_agent_call(domain: Uuid) -> Call {
    Call::of(LaneName::Poll, domain)
}

impl Session for Connection {
    fn alive(&self) -> bool {
        self.is_alive().unwrap_or(false)
    }
}

impl Libvirt {
    /// Makes a call on a domain of ours, on a worker.
    async fn on<T: Send + 'static>(
        &self,
        call: Call,
        incarnation: IncarnationId,
        name: &'static str,
        job: impl FnOnce(&Connection, &Domain) -> Result<T, kapok_libvirt::Error> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let inner = Arc::clone(&self.inner);
        self.lanes
            .run(call.named(name), move |connection| {
                match inner.claim(connection, incarnation.0)? {
                    None => Ok(None),
                    Some((_, None)) => Err(foreign(incarnation, name)),
                    Some((domain, Some(_))) => match job(connection, &domain) {
                        Ok(done) => Ok(Some(done)),
                        Err(failure) => Err(error::from(failure)),
                    },
                }
            })
            .await
    }

    /// As [`Libvirt::on`], for calls that need the domain.
    async fn on_existing<T: Send + 'static>(
        &self,
        call: Call,
        incarnation: IncarnationId,
        name: &'static str,
        job: impl FnOnce(&Connection, &Domain) -> Result<T, kapok_libvirt::Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.on(call, incarnation, name, job)
            .await?
            .ok_or_else(|| Error::Absent {
                what: format!("the domain {incarnation}"),
            })
    }

    async fn look(&self, domain: Uuid) -> Result<Look, Error> {
        let inner = Arc::clone(&self.inner);
        let look = self
            .lanes
            .run(Call::of(LaneName::Query, domain), move |connection| {
                inner.look(connection, domain)
            })
            .await?;
        if let Look::Ours {
            autostart,
            live_lags,
            ..
        } = look
        {
            if autostart {
                self.turn_autostart_off(domain);
            }
            if live_lags {
                self.renew_live_record(domain);
            }
        }
        Ok(look)
    }

    /// Kapok starts its domains itself, always.
    fn turn_autostart_off(&self, domain: Uuid) {
        let inner = Arc::clone(&self.inner);
        let posted = self
            .lanes
            .post(Call::of(LaneName::Change, domain), move |connection| {
                let Some((domain, Some(_))) = inner.claim(connection, domain)? else {
                    return Ok(());
                };
                tracing::warn!(domain = %domain.uuid(), "somebody turned autostart on; it is off again");
                domain.set_autostart(false).map_err(error::from)
            });
        if let Err(error) = posted {
            // The next look tries again.
            tracing::debug!(%domain, %error, "autostart is still on");
        }
    }

    /// An agent that ended between defining a domain and writing its live record left the two
    /// apart. The definition is what counts.
    fn renew_live_record(&self, domain: Uuid) {
        let inner = Arc::clone(&self.inner);
        let posted = self
            .lanes
            .post(Call::of(LaneName::Change, domain), move |connection| {
                let Some((domain, Some(_))) = inner.claim(connection, domain)? else {
                    return Ok(());
                };
                match domain.view(Copy::Config).map_err(error::from)?.metadata {
                    Some(metadata) => domain.set_metadata(&metadata).map_err(error::from),
                    None => Ok(()),
                }
            });
        if let Err(error) = posted {
            // The next look tries again.
            tracing::debug!(%domain, %error, "the live record still lags");
        }
    }
}

#[async_trait]
impl Compute for Libvirt {
    async fn facts(&self) -> Result<Facts, Error> {
        self.find_facts().await
    }

    async fn list(&self) -> Result<Listing, Error> {
        self.learn_pool_path();
        let (domains, names): (Vec<Uuid>, BTreeMap<Uuid, String>) = self
            .lanes
            .run(Call::on(LaneName::Query), move |connection| {
                let domains = connection.domains().map_err(error::from)?;
                let named = domains
                    .iter()
                    .map(|domain| (domain.uuid(), domain.name().to_owned()));
                Ok((domains.iter().map(Domain::uuid).collect(), named.collect()))
            })
            .await?;
        let probing = *lock(&self.inner.probing);
        let deadline = self.inner.options.call_deadline;
        let mut looks = stream::iter(domains)
            .filter(|domain| futures::future::ready(Some(*domain) != probing))
            .map(|domain| async move {
                let look = tokio::time::timeout(deadline, self.look(domain)).await;
                (domain, look)
            })
            .buffered(AT_ONCE);
        let mut listing = Listing::default();
        while let Some((domain, look)) = looks.next().await {
            match look {
                Ok(Ok(Look::Ours { seen, .. })) => listing.ours.push(*seen),
                Ok(Ok(Look::Foreign(foreign))) => {
                    lock(&self.inner.foreign).insert(domain, foreign.clone());
                    listing.foreign.push(foreign);
                }
                Ok(Ok(Look::Nothing)) => {}
                Ok(Err(down @ Error::Unavailable { .. })) => return Err(down),
                Ok(Err(error)) => {
                    tracing::debug!(%domain, %error, "a domain can't be looked at");
                    self.silent(domain, &names, &mut listing);
                }
                Err(_) => self.silent(domain, &names, &mut listing),
            }
        }
        lock(&self.inner.foreign).retain(|domain, _| {
            listing
                .foreign
                .iter()
                .any(|foreign| foreign.uuid == *domain)
        });
        listing
            .ours
            .sort_by_key(|seen| seen.record.intent.incarnation);
        listing.foreign.sort_by_key(|foreign| foreign.uuid);
        listing.silent.sort();
        Ok(listing)
    }

    async fn observe(&self, incarnation: IncarnationId) -> Result<Option<Seen>, Error> {
        match self.look(incarnation.0).await? {
            Look::Ours { seen, .. } => Ok(Some(*seen)),
            // It may be a guest of ours, on its disk, whose record somebody removed or replaced.
            Look::Foreign(_) => Err(foreign(incarnation, "observe")),
            Look::Nothing => Ok(None),
        }
    }

    async fn define(&self, record: &Record) -> Result<(), Error> {
        const CALL: &str = "define";
        let path = self.pool_path().await?;
        let host = self.host_for(&record.intent).await?;
        if record.starting {
            self.offers_to(&record.intent).await?;
        }
        let (inner, record) = (Arc::clone(&self.inner), record.clone());
        let incarnation = record.intent.incarnation;
        self.lanes
            .run(
                Call::of(LaneName::Change, incarnation.0).named(CALL),
                move |connection| {
                    let started = match inner.claim(connection, incarnation.0)? {
                        Some((_, None)) => return Err(foreign(incarnation, CALL)),
                        Some((domain, Some(ours))) => runs(&domain, &ours).map_err(error::from)?,
                        None => None,
                    };
                    let fabric = &inner.options.fabric;
                    let is_on = started.is_some();
                    let metadata = record::write(fabric, &record, started)?;
                    let document =
                        document::of(&inner.options, &record, &path, &host, metadata.clone())?;
                    let write = || {
                        let domain = connection.define(&document)?;
                        // One that somebody turned on meanwhile is found by the next look.
                        if is_on {
                            domain.set_metadata(&metadata)?;
                        }
                        if domain.autostart()? {
                            domain.set_autostart(false)?;
                        }
                        Ok(())
                    };
                    // Before its first event comes.
                    inner.link.note(incarnation.0, true);
                    write().map_err(error::from)
                },
            )
            .await
    }

    async fn start(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let call = Call::of(LaneName::Change, incarnation.0);
        self.on_existing(call, incarnation, "start", move |_, domain| {
            inner.forget_hardware(domain)?;
            domain.start(Start::default())
        })
        .await
    }

    async fn shutdown(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let patience = self.inner.options.call_deadline + AGENT + AGENT_SHUTDOWN;
        let call = Call::of(LaneName::Monitor, incarnation.0).patient(patience);
        self.on_existing(call, incarnation, "shutdown", |connection, domain| {
            if connection.is_test() {
                return domain.shutdown(Shutdown::Default);
            }
            // The agent is asked first whether it is there at all: it may be deaf for ever.
            if domain.guest_ping(AGENT).is_ok() && domain.shutdown(Shutdown::Agent).is_ok() {
                return Ok(());
            }
            domain.shutdown(Shutdown::Acpi)
        })
        .await
    }

    async fn set_vcpus(&self, incarnation: IncarnationId, vcpus: Vcpus) -> Result<(), Error> {
        let patience = self.inner.options.call_deadline + AGENT + AGENT_SHUTDOWN;
        let call = Call::of(LaneName::Monitor, incarnation.0).patient(patience);
        self.on_existing(call, incarnation, "set_vcpus", move |connection, domain| {
            domain.set_vcpus(vcpus.get())?;
            if connection.is_test() || domain.guest_ping(AGENT).is_err() {
                return Ok(());
            }
            // They are there; a guest that makes no use of them yet may do so by itself.
            if let Err(failure) = domain.use_vcpus(vcpus.get(), USE_VCPUS) {
                tracing::debug!(%incarnation, %failure, "the guest doesn't use its new vCPUs");
            }
            Ok(())
        })
        .await
    }

    async fn reset(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let call = Call::of(LaneName::Monitor, incarnation.0);
        self.on_existing(call, incarnation, "reset", |_, domain| domain.reset())
            .await
    }

    async fn destroy(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let call = Call::of(LaneName::Destroy, incarnation.0).patient(DESTROY);
        self.on(call, incarnation, "destroy", |_, domain| {
            match domain.destroy(false) {
                Err(failure) if failure.is(Kind::NotFound) => Ok(()),
                // Off already, or it went off meanwhile.
                Err(failure) => match domain.is_active() {
                    Ok(true) => Err(failure),
                    _ => Ok(()),
                },
                Ok(()) => Ok(()),
            }
        })
        .await
        .map(drop)
    }

    async fn undefine(&self, incarnation: IncarnationId) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let call = Call::of(LaneName::Change, incarnation.0).named("undefine");
        self.lanes
            .run(call, move |connection| {
                let domain = match inner.claim(connection, incarnation.0)? {
                    None => return Ok(()),
                    Some((_, None)) => return Err(foreign(incarnation, "undefine")),
                    Some((domain, Some(_))) => domain,
                };
                // libvirt would let it run on without a definition.
                if domain.is_active().map_err(error::from)? {
                    return Err(Error::Failed {
                        call: "undefine",
                        reason: "the domain is on".into(),
                    });
                }
                // The look that follows notes that it is gone: its last event is about it, too.
                error::absent_is_fine(domain.undefine())
            })
            .await
    }

    async fn guest_agent(&self, incarnation: IncarnationId) -> Result<bool, Error> {
        let call = guest_agent_call(incarnation.0);
        self.on_existing(call, incarnation, "guest_agent", |connection, domain| {
            // First QEMU itself: a stuck one must be noticed, and its agent's silence says nothing.
            let balloon = Groups {
                balloon: true,
                ..Groups::default()
            };
            connection.stats_of(std::slice::from_ref(domain), balloon, false)?;
            match domain.guest_ping(AGENT) {
                Ok(()) => Ok(true),
                Err(failure) if failure.is(Kind::AgentUnresponsive) => Ok(false),
                // The domain went off, or its agent's channel isn't open yet.
                Err(failure) if failure.is(Kind::InvalidState) => Ok(false),
                Err(failure) => Err(failure),
            }
        })
        .await
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.inner.link.hints()
    }

    fn health(&self) -> Health {
        Health {
            up: self.inner.link.is_up(),
            lanes: self.lanes.lanes(),
            quarantined: self
                .lanes
                .quarantined()
                .into_iter()
                .map(IncarnationId)
                .collect(),
        }
    }
}

impl Inner {
    /// What ran before says nothing of the guest that starts next.
    fn forget_hardware(&self, domain: &Domain) -> Result<(), kapok_libvirt::Error> {
        if domain.is_active()? {
            return Ok(());
        }
        let fabric = &self.options.fabric;
        let metadata = domain.metadata(Copy::Config)?;
        let Ok(ours) = self.record_of(metadata.as_ref(), domain.uuid()) else {
            return Ok(());
        };
        match record::write(fabric, &ours.record, None) {
            Ok(metadata) if ours.started.is_some() => domain.set_metadata(&metadata),
            _ => Ok(()),
        }
    }
}

/// The hardware of the guest that runs, if one does.
fn runs(domain: &Domain, ours: &Ours) -> Result<Option<Hardware>, kapok_libvirt::Error> {
    if !domain.is_active()? {
        return Ok(None);
    }
    Ok(Some(ours.hardware(Vcpus(domain.size()?.vcpus))))
}

impl Libvirt {
    /// The host's cells, if where a domain is follows from them; else none of them.
    async fn host_for(&self, intent: &Intent) -> Result<Arc<[HostCell]>, Error> {
        if !placement::needs_cells(&self.inner.options.offering.dedicated, intent) {
            return Ok(Arc::default());
        }
        if let Some(known) = &*lock(&self.inner.cells) {
            return Ok(Arc::clone(known));
        }
        let ask =
            |connection: &Connection| Ok(connection.capabilities().map_err(error::from)?.cells);
        let cells: Arc<[_]> = self.lanes.run(Call::on(LaneName::Query), ask).await?.into();
        *lock(&self.inner.cells) = Some(Arc::clone(&cells));
        Ok(cells)
    }

    /// Whether the node offers what a domain that is about to be started is to have: it may have been
    /// taken out of the configuration since.
    async fn offers_to(&self, intent: &Intent) -> Result<(), Error> {
        if intent.spec.needs.is_none() && intent.assignment.is_none() {
            return Ok(());
        }
        let facts = self.find_facts().await?;
        equipment::check(&facts.equipment, intent).map_err(|violation| Error::Failed {
            call: "starting",
            reason: format!("this node doesn't offer that: {violation}"),
        })
    }

    /// Lists a domain that didn't answer: as silent if it can only be one of ours, else as it was
    /// when it last did.
    fn silent(&self, domain: Uuid, names: &BTreeMap<Uuid, String>, listing: &mut Listing) {
        let incarnation = IncarnationId(domain);
        let named = names
            .get(&domain)
            .is_some_and(|name| *name == format!("kapok-{incarnation}"));
        if self.inner.link.knows(domain) || named {
            listing.silent.push(incarnation);
        } else if let Some(foreign) = lock(&self.inner.foreign).get(&domain) {
            listing.foreign.push(foreign.clone());
        }
    }
}
