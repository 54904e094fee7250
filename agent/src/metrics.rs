//! What monitoring reads of the agent. All names are here.
//!
//! A scrape reads what is in memory: nothing here calls the hypervisor or a disk. Each group of
//! facts is a collector of its own, so that a new one is added beside the others.

use std::{collections::BTreeMap, fmt};

use kapok_trust::{Reason, Refusals};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

use crate::trust::Trust;

/// What runs here; a constant 1 with the version as its label.
pub const BUILD: &str = "kapok_build";
/// When a certificate in use ends, in seconds since 1970.
pub const CERTIFICATE_EXPIRY: &str = "kapok_certificate_expiry_timestamp_seconds";
/// Connections that were refused before they were served, by reason.
pub const TLS_REFUSALS: &str = "kapok_tls_refusals";

/// What [`Metrics::render`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Metrics of an agent with this trust, and these listeners' refusals.
    pub fn new(trust: Trust, refusals: Vec<Refusals>) -> Self {
        let mut registry = Registry::default();
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register(BUILD, "What runs here", version);
        registry.register_collector(Box::new(Certificates(trust)));
        registry.register_collector(Box::new(Refused(refusals)));
        Self { registry }
    }

    /// The present values, as [`CONTENT_TYPE`] says.
    ///
    /// # Errors
    ///
    /// Only if memory is short.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The end of the node's certificate.
#[derive(Debug)]
struct Certificates(Trust);

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(certificate) = self.0.certificate() else {
            return Ok(());
        };
        let mut family = encoder.encode_descriptor(
            CERTIFICATE_EXPIRY,
            "When the certificate ends",
            None,
            MetricType::Gauge,
        )?;
        let seconds = i64::try_from(certificate.not_after.get() / 1000).unwrap_or(i64::MAX);
        let subject = certificate.subject().to_string();
        ConstGauge::new(seconds).encode(family.encode_family(&[("subject", subject)])?)
    }
}

/// Refused connections of all listeners.
#[derive(Debug)]
struct Refused(Vec<Refusals>);

impl Collector for Refused {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            TLS_REFUSALS,
            "Connections that were refused before they were served",
            None,
            MetricType::Counter,
        )?;
        let mut sums: BTreeMap<Reason, u64> = BTreeMap::new();
        for listener in &self.0 {
            for (reason, count) in listener.snapshot() {
                *sums.entry(reason).or_default() += count;
            }
        }
        for (reason, count) in sums {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
