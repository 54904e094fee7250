//! What the node is: asked once a connection, because libvirtd may have been upgraded meanwhile. Its
//! equipment is asked for anew now and then: huge pages come and go while libvirtd runs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kapok_libvirt::{Connection, Error as Failure, probe, xml::domain::VirtType};
use kapok_types::{MemoryMib, equipment::Feature, instance::Arch};
use uuid::Uuid;

use super::{
    Libvirt, equipment, error,
    lanes::{Call, LaneName},
    lock,
};
use crate::{
    driver::{Error, Facts, Offers, equipment::set_aside},
    probe::{Answer, Guest, Subject, TOKEN},
};

/// The machine type that libvirt's test driver is told: it has none of its own.
const TEST_MACHINE: &str = "pc-q35-7.2";
/// Memory of the probe's guest.
const PROBE_MEMORY: MemoryMib = MemoryMib(256);
/// What starting and ending the probe's guest may take beside its own time.
const PROBE_MARGIN: Duration = Duration::from_secs(30);

/// How long the node's equipment is believed to be as it was.
const FRESH: Duration = Duration::from_secs(30);

/// Facts as they were found, with what they are made from.
#[derive(Clone)]
pub(super) struct Kept {
    /// The connection's number.
    number: u64,
    /// When the equipment is asked for anew.
    stale: Duration,
    /// Threads and memory of the whole machine.
    cpus: u32,
    memory: MemoryMib,
    /// Features that guests can have.
    features: BTreeSet<Feature>,
    facts: Facts,
}

/// What a connection tells by itself.
struct Found {
    arch: Arch,
    cpus: u32,
    memory: MemoryMib,
    machine: String,
    kvm: bool,
    libvirt: String,
    hypervisor: String,
    is_test: bool,
    offered: Offered,
}

/// What to ask for processor models about, and the machine types.
#[derive(Clone)]
struct Offered {
    arch: String,
    machine: String,
    machines: Vec<String>,
}

impl Libvirt {
    /// The facts, from the cache if it is of the present connection.
    pub(super) async fn find_facts(&self) -> Result<Facts, Error> {
        let _one = self.fact_finder.lock().await;
        let number = self.inner.link.number();
        let now = self.inner.options.env.monotonic();
        let kept = lock(&self.inner.facts).clone();
        let kept = match kept.filter(|kept| kept.number == number) {
            Some(kept) if now < kept.stale => return Ok(kept.facts),
            Some(kept) => kept,
            None => self.find_lasting(number).await?,
        };
        // Also if the configuration turns out to be wrong: what stays as it is isn't asked again.
        *lock(&self.inner.facts) = Some(kept.clone());
        let offering = self.inner.options.offering.clone();
        let call = Call::on(LaneName::Query).named("equipment");
        let ask = move |connection: &Connection| equipment::ask(connection, &offering);
        let told = self.lanes.run(call, ask).await?;
        let of = equipment::of(&self.inner.options, &told, &kept.features);
        let equipment = of.map_err(|reason| Error::Failed {
            call: "setting equipment aside",
            reason,
        })?;
        *lock(&self.inner.cells) = Some(told.cells.into());
        let (threads, pages) = set_aside(&equipment);
        let facts = Facts {
            cpus: kept.cpus.saturating_sub(threads),
            memory: kept.memory.saturating_sub(pages),
            equipment: Arc::new(equipment),
            ..kept.facts
        };
        *lock(&self.inner.facts) = Some(Kept {
            stale: now + FRESH,
            facts: facts.clone(),
            ..kept
        });
        Ok(facts)
    }

    /// What stays as it is for as long as a connection does.
    async fn find_lasting(&self, number: u64) -> Result<Kept, Error> {
        let found = self.lanes.run(Call::on(LaneName::Query), ask).await?;
        let (virt_type, virt_reason) = if found.is_test {
            (VirtType::Test, "libvirt's test driver runs nothing".into())
        } else {
            let subject = Subject {
                machine: found.machine.clone(),
                hypervisor: found.hypervisor.clone(),
                kvm_offered: found.kvm,
            };
            let verdict = self
                .inner
                .options
                .probe
                .decide(&subject, |guest| self.boot(&found, guest))
                .await?;
            let virt_type = if verdict.kvm {
                VirtType::Kvm
            } else {
                VirtType::Qemu
            };
            (virt_type, verdict.reason)
        };
        let (offers, features) = self.offers(&found.offered, virt_type).await;
        let facts = Facts {
            driver: "libvirt",
            arch: found.arch,
            cpus: found.cpus,
            memory: found.memory,
            machine: found.machine,
            virt_type: virt_type.as_str().into(),
            virt_reason,
            versions: vec![
                ("libvirt".into(), found.libvirt),
                ("qemu".into(), found.hypervisor),
            ],
            offers: Arc::new(offers),
            equipment: Arc::default(),
            lacks: if found.is_test {
                vec!["console", "guest-agent", "image-bytes", "reset"]
            } else {
                Vec::new()
            },
        };
        Ok(Kept {
            number,
            stale: Duration::ZERO,
            cpus: found.cpus,
            memory: found.memory,
            features,
            facts,
        })
    }

    /// What guests can be, and which processor features they can have. What can't be asked is left
    /// out.
    async fn offers(&self, offered: &Offered, virt_type: VirtType) -> (Offers, BTreeSet<Feature>) {
        let Offered {
            arch,
            machine,
            machines,
        } = offered.clone();
        let call = Call::on(LaneName::Query).named("domain_capabilities");
        let ask = move |connection: &Connection| {
            let offers = connection.domain_capabilities(virt_type, &arch, Some(&machine));
            let models = offers.map_err(error::from)?.cpu_models;
            let features = connection.cpu_features(virt_type, &arch, &machine);
            let features = features.unwrap_or_else(|failure| {
                tracing::warn!(%failure, "the hypervisor doesn't tell its processor features");
                BTreeSet::new()
            });
            Ok((models, features))
        };
        let told = if virt_type == VirtType::Test {
            Ok((Vec::new(), BTreeSet::new()))
        } else {
            self.lanes.run(call, ask).await
        };
        let (cpu_models, features) = told.unwrap_or_else(|error| {
            tracing::warn!(%error, "the hypervisor doesn't tell its processor models");
            (Vec::new(), BTreeSet::new())
        });
        let features = features.iter().filter_map(|name| name.parse().ok());
        let offers = Offers {
            machines,
            cpu_models,
        };
        (offers, features.collect())
    }

    /// Boots the probe's guest under KVM.
    async fn boot(&self, found: &Found, guest: Guest) -> Result<Answer, Error> {
        let uuid = self.inner.options.env.uuid();
        let config = probe::ProbeConfig {
            uuid,
            kernel: guest.kernel,
            initrd: guest.initrd,
            token: TOKEN.into(),
            virt_type: VirtType::Kvm,
            arch: found.arch,
            machine: found.machine.clone(),
            memory: PROBE_MEMORY,
        };
        *lock(&self.inner.probing) = Some(uuid);
        let _end = Probing(self);
        let call = Call::of(LaneName::Change, uuid).patient(guest.timeout + PROBE_MARGIN);
        self.lanes
            .run(call, move |connection| {
                match probe::boot(connection, &config, guest.timeout) {
                    Ok(probe::Outcome::Userland { after }) => Ok(Answer::Userland { after }),
                    Ok(probe::Outcome::NoUserland { tail }) => Ok(Answer::NoUserland { tail }),
                    Err(failure) => match error::from(failure) {
                        down @ Error::Unavailable { .. } => Err(down),
                        other => Ok(Answer::NotStarted {
                            reason: other.to_string(),
                        }),
                    },
                }
            })
            .await
    }
}

/// Ends the probe's time as a domain that isn't reported.
struct Probing<'a>(&'a Libvirt);

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        *lock(&self.0.inner.probing) = None::<Uuid>;
    }
}

fn ask(connection: &Connection) -> Result<Found, Error> {
    let failed = |reason| Error::Failed {
        call: "asking what the node is",
        reason,
    };
    let ask = || -> Result<_, Failure> {
        Ok((
            connection.node_info()?,
            connection.versions()?,
            connection.capabilities()?,
        ))
    };
    let (info, versions, capabilities) = ask().map_err(error::from)?;
    let is_test = connection.is_test();
    let arch = match capabilities.arch.as_str() {
        "aarch64" => Arch::Aarch64,
        // The test driver claims to be a 32-bit host.
        "x86_64" => Arch::X86_64,
        _ if is_test => Arch::X86_64,
        other => {
            return Err(failed(format!(
                "the architecture {other:?} isn't supported"
            )));
        }
    };
    let guest = capabilities.guest(arch.as_str());
    let machine = if is_test {
        TEST_MACHINE
    } else {
        let alias = match arch {
            Arch::X86_64 => "q35",
            Arch::Aarch64 => "virt",
        };
        guest
            .and_then(|guest| guest.canonical(alias))
            .ok_or_else(|| {
                failed(format!(
                    "the hypervisor offers no {alias} machine; is QEMU installed?"
                ))
            })?
    };
    let machines = guest.map(|guest| guest.machines.keys().cloned().collect());
    let offered = Offered {
        arch: arch.as_str().to_owned(),
        machine: machine.to_owned(),
        machines: machines.unwrap_or_default(),
    };
    Ok(Found {
        offered,
        arch,
        cpus: info.cpus,
        memory: MemoryMib(info.memory_kib / 1024),
        machine: machine.to_owned(),
        kvm: guest.is_some_and(|guest| guest.offers(VirtType::Kvm)),
        libvirt: versions.libvirt.to_string(),
        hypervisor: versions.hypervisor.to_string(),
        is_test,
    })
}
