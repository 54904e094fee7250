//! What the controller tells a monitoring system, in `OpenMetrics` text. All names are in this file.
//!
//! Each page is written from what is there at the moment: a snapshot of the intent, what nodes
//! showed, and counters. Nothing is asked of anybody for it.
//!
//! People's certificates are absent on purpose: there is no end to their number, and everybody
//! renews their own.

use std::fmt;

use kapok_trust::{Credentials, Refusals};
use kapok_types::Timestamp;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

use crate::api::Api;

/// How the page is marked.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The program: `kapok_build_info{version}`.
const BUILD: (&str, &str) = ("kapok_build", "What this program was built from");
/// When certificates end, by subject: the controller's own, the nodes' and the authorities'.
const EXPIRY: (&str, &str) = (
    "kapok_certificate_expiry_timestamp_seconds",
    "When a certificate ends: this controller's, each node's as last shown, each trusted authority's",
);
/// Handshakes that were refused: `kapok_tls_refusals_total{port, reason}`.
const TLS_REFUSALS: (&str, &str) = (
    "kapok_tls_refusals",
    "Connections that were refused at the handshake or before",
);
/// Requests that were refused: `kapok_requests_refused_total`.
const REFUSED: (&str, &str) = (
    "kapok_requests_refused",
    "Requests that were refused: not allowed, not proven, or too many",
);
/// The last entry of the log.
const HEAD: (&str, &str) = (
    "kapok_audit_head_sequence",
    "Number of the log's last entry",
);
/// Open connections with a certificate.
const CONNECTIONS: (&str, &str) = (
    "kapok_connections",
    "Open connections whose other end showed a certificate, accepted and dialled",
);

type Labels = Vec<(&'static str, String)>;

/// Where the numbers come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    credentials: Credentials,
    ports: Vec<(&'static str, Refusals)>,
}

impl Metrics {
    /// Numbers of these ports: "grpc" and "https", with the refusals of each.
    pub fn new(credentials: Credentials, ports: Vec<(&'static str, Refusals)>) -> Self {
        Self { credentials, ports }
    }

    /// The page.
    pub(super) fn render(&self, api: &Api) -> Result<String, fmt::Error> {
        let snapshot = api.ledger.snapshot();
        let mut registry = Registry::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        registry.register(BUILD.0, BUILD.1, Info::new(version));

        let expiry = Family::<Labels, Gauge>::default();
        let ends = |subject: String, at: Timestamp| {
            let labels = vec![("subject", subject)];
            expiry.get_or_create(&labels).set(seconds(at));
        };
        let own = self.credentials.certificate();
        ends(own.subject().to_string(), own.not_after);
        for root in self.credentials.bundle().roots() {
            ends(format!("authority/{}", root.fingerprint), root.not_after);
        }
        for node in snapshot.fabric.nodes.values() {
            let observed = api.observed.node(&node.name);
            if let Some(shown) = observed.and_then(|seen| seen.reported.certificate) {
                ends(format!("node/{}", node.id), shown.not_after);
            }
        }
        registry.register(EXPIRY.0, EXPIRY.1, expiry);

        let refusals = Family::<Labels, Counter>::default();
        for (port, counted) in &self.ports {
            for (reason, count) in counted.snapshot() {
                let labels = vec![
                    ("port", (*port).to_owned()),
                    ("reason", reason.as_str().to_owned()),
                ];
                refusals.get_or_create(&labels).inc_by(count);
            }
        }
        registry.register(TLS_REFUSALS.0, TLS_REFUSALS.1, refusals);

        let refused = Counter::<u64>::default();
        refused.inc_by(api.audit.refusals.total());
        registry.register(REFUSED.0, REFUSED.1, refused);

        let number = |value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            gauge
        };
        registry.register(HEAD.0, HEAD.1, number(snapshot.head.seq.get()));
        let open = u64::try_from(self.credentials.connections().open()).unwrap_or(u64::MAX);
        registry.register(CONNECTIONS.0, CONNECTIONS.1, number(open));

        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn seconds(at: Timestamp) -> i64 {
    i64::try_from(at.get() / 1000).unwrap_or(i64::MAX)
}
