//! Prometheus' HTTP service discovery: where agents' metrics are.
//!
//! A target is where a node's agent serves its pages, by the node's own word; one that never said so
//! is left out. Agents' certificates carry a DNS name instead of an address, and Prometheus has one
//! server name a job: so `?target=name` gives these names, for sites that resolve them, and both
//! forms carry them as a label.
//!
//! Source: Prometheus' documentation, "HTTP SD".

use std::collections::BTreeMap;

use kapok_trust::dns;
use kapok_types::instance::Arch;
use serde::Serialize;

use crate::api::Api;

/// One target with its labels.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// The form of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The host by which the controller dials the node.
    Address,
    /// The name in the node's certificate.
    Name,
}

impl Target {
    /// As a request's query asks for; none for a query that asks for anything else.
    pub(super) fn asked(query: Option<&str>) -> Option<Self> {
        match query {
            None | Some("" | "target=address") => Some(Self::Address),
            Some("target=name") => Some(Self::Name),
            Some(_) => None,
        }
    }
}

/// All agents.
pub(super) fn targets(api: &Api, target: Target) -> Vec<Group> {
    let snapshot = api.ledger.snapshot();
    let fabric = api.trust.fabric();
    let mut groups = Vec::new();
    for node in snapshot.fabric.nodes.values() {
        let facts = api
            .observed
            .node(&node.name)
            .and_then(|it| it.reported.facts);
        // An agent's own word: none that is no port.
        let port = facts.and_then(|facts| u16::try_from(facts.http_port).ok());
        let port = port.unwrap_or_default();
        let Some((host, _)) = node.address.rsplit_once(':') else {
            continue;
        };
        if port == 0 || node.revoked.is_some() {
            continue;
        }
        let name = dns::node(fabric, node.id);
        let host = match target {
            Target::Address => host,
            Target::Name => name.as_str(),
        };
        let arch = node.capacity.map(|capacity| capacity.arch);
        let labels = BTreeMap::from([
            ("node", node.name.to_string()),
            ("node_id", node.id.to_string()),
            ("fabric", fabric.to_string()),
            (
                "arch",
                arch.map(Arch::as_str).unwrap_or_default().to_owned(),
            ),
            ("__meta_kapok_server_name", name.clone()),
            ("__meta_kapok_address", node.address.clone()),
        ]);
        let targets = [format!("{host}:{port}")];
        groups.push(Group { targets, labels });
    }
    groups
}
