//! What monitoring reads of the agent. All names are in [`names`].
//!
//! ```text
//!   driver ──▶ sampler (every few seconds) ──▶ samples ─┐
//!   /proc  ──▶        "                    ──▶ kernel  ─┼─▶ page
//!   survey ──▶ roll    health ──▶ assessment ───────────┤
//!   actors ──▶ actions                                 ─┘
//! ```
//!
//! **Invariant:** a page is made of what is in memory, with its age. It calls no hypervisor, reads
//! no file and waits for nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use axum::http::{HeaderMap, Response};
use kapok_health::Assessment;
use kapok_metrics::{Cap, Open, Writer, label};
use kapok_trust::Refusals;
use kapok_types::Env;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{kernel::Kernel, sampler::Sampler};
use crate::{
    config::{self, Compat},
    driver::Driver,
    local::Local,
    trust::Trust,
    watch::Hub,
};

mod actions;
mod compat;
mod domains;
mod health;
mod kernel;
pub mod names;
mod node;
mod roll;
mod sample;
mod sampler;

pub use actions::Actions;
pub use roll::Roll;
pub(crate) use sample::Samples;

/// What pages are made of.
#[derive(Clone)]
pub struct Parts {
    /// Clock.
    pub env: Arc<dyn Env>,
    /// The hypervisor, whose calls are counted and whose domains are sampled.
    pub driver: Driver,
    /// The local store.
    pub local: Local,
    /// The node's facts and its incarnations.
    pub hub: Arc<Hub>,
    /// Which domain is which instance.
    pub roll: Roll,
    /// What was heard of each domain.
    pub(crate) samples: Samples,
    /// What was done, by outcome.
    pub actions: Actions,
    /// Open streams.
    pub(crate) streams: Open,
    /// The node's certificate.
    pub trust: Trust,
    /// The node's health, once somebody judges it.
    pub health: Option<watch::Receiver<Option<Arc<Assessment>>>>,
}

/// All metrics of one agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

/// The one collector.
struct Page {
    parts: Parts,
    refusals: Vec<Refusals>,
    kernel: Kernel,
    cap: Cap,
    compat: BTreeSet<Compat>,
}

impl Metrics {
    /// Metrics of these parts and these listeners' refusals, and the task that keeps them fresh
    /// until `stop`.
    pub fn new(
        parts: Parts,
        refusals: Vec<Refusals>,
        config: &config::Metrics,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let kernel = Kernel::new("/", config.compat.contains(&Compat::Node));
        let sampler = Sampler {
            driver: parts.driver.clone(),
            env: Arc::clone(&parts.env),
            every: config.sample_every,
            samples: parts.samples.clone(),
            kernel: kernel.clone(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page {
            parts,
            refusals,
            kernel,
            cap: Cap::new(config.max_series),
            compat: config.compat.clone(),
        }));
        (Self { registry }, sampler.run(stop))
    }

    /// The present values, in the form that the request asks for.
    ///
    /// # Errors
    ///
    /// Only if memory is short.
    pub fn respond(&self, request: &HeaderMap) -> Result<Response<Vec<u8>>, kapok_metrics::Error> {
        kapok_metrics::respond(&self.registry, request)
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer::new(encoder);
        let now = self.parts.env.monotonic();
        let health = self.parts.driver.compute.health();
        let mut budget = self.cap.budget();
        self.process(&mut writer)?;
        node::hypervisor(&mut writer, &self.parts, &health)?;
        node::write(&mut writer, &self.parts, &self.kernel, now)?;
        let assessment = self.parts.health.as_ref();
        if let Some(assessment) = assessment.and_then(|held| held.borrow().clone()) {
            health::write(&mut writer, &assessment, &mut budget, self.parts.env.now())?;
            if self.compat.contains(&Compat::Smartctl) {
                compat::smartctl(&mut writer, &assessment)?;
            }
            if self.compat.contains(&Compat::Ipmi) {
                compat::ipmi(&mut writer, &assessment)?;
            }
        }
        let all = self.parts.samples.lock();
        let shown = domains::shown(&all, &self.parts.roll, &health, &mut budget, now);
        domains::write(&mut writer, &all, &shown, now)?;
        if self.compat.contains(&Compat::Libvirt) {
            compat::libvirt(&mut writer, health.up, &shown)?;
        }
        if let Some((numbers, _)) = self.kernel.get()
            && let Some(tree) = &numbers.tree
        {
            tree.write(&mut writer)?;
        }
        writer.single(&names::DROPPED, self.cap.dropped())
    }
}

impl Page {
    fn process(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.family(&names::BUILD, |series| {
            series.put(&[("version", env!("CARGO_PKG_VERSION"))], true)
        })?;
        writer.family(&names::CERTIFICATE_EXPIRY, |series| {
            let Some(certificate) = self.parts.trust.certificate() else {
                return Ok(());
            };
            let subject = certificate.subject().to_string();
            let end = Duration::from_millis(certificate.not_after.get()).as_secs();
            series.put(&[("subject", label(&subject))], end)
        })?;
        let mut sums = BTreeMap::new();
        for listener in &self.refusals {
            for (reason, count) in listener.snapshot() {
                *sums.entry(reason).or_insert(0_u64) += count;
            }
        }
        writer.family(&names::TLS_REFUSALS, |series| {
            sums.iter()
                .try_for_each(|(reason, count)| series.put(&[("reason", reason.as_str())], *count))
        })?;
        let local = &self.parts.local;
        writer.single(&names::EPOCH, local.epoch().get())?;
        writer.single(&names::NEEDS_RESYNC, local.needs_resync())?;
        self.parts.actions.write(writer)?;
        writer.single(&names::STREAMS, self.parts.streams.count())?;
        writer.family(&names::STORE_WRITES, |series| {
            let none: [(&str, &str); 0] = [];
            series.histogram(&none, &local.write_times())
        })
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}
