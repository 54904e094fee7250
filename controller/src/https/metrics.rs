//! What the controller tells a monitoring system. All names are in [`names`].
//!
//! Each page is written from what is there at the moment: a snapshot of the intent, what nodes
//! showed, and counters. Nothing is asked of anybody for it.
//!
//! People's certificates are absent on purpose: there is no end to their number, and everybody
//! renews their own. So are instances: their agents show them.

use std::{collections::BTreeMap, fmt, time::Duration};

use axum::http::{HeaderMap, Response};
use kapok_metrics::{Budget, Cap, Name, Value, Writer, label};
use kapok_proto::fabric::v1::Node;
use kapok_trust::{Credentials, Refusals};
use kapok_types::Timestamp;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Registry};

use crate::{
    api::{Api, filter_word},
    fabric::{Condition, Dimension},
    ledger::{Snapshot, stats},
};

pub mod names;
mod store;

/// Series of one node, at most.
const OF_NODE: usize = 20;
/// A node's conditions.
const CONDITIONS: [Condition; 4] = [
    Condition::Healthy,
    Condition::Degraded,
    Condition::Unknown,
    Condition::Failing,
];

/// Where the numbers come from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    credentials: Credentials,
    ports: Vec<(&'static str, Refusals)>,
    cap: Cap,
}

impl Metrics {
    /// Numbers of these ports: "grpc" and "https", with the refusals of each. At most so many
    /// series of nodes are on a page.
    pub fn new(
        credentials: Credentials,
        ports: Vec<(&'static str, Refusals)>,
        most_series: usize,
    ) -> Self {
        Self {
            credentials,
            ports,
            cap: Cap::new(most_series),
        }
    }

    /// The page, in the form that the request asks for.
    pub(super) fn respond(
        &self,
        api: &Api,
        request: &HeaderMap,
    ) -> Result<Response<Vec<u8>>, kapok_metrics::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Page {
            metrics: self.clone(),
            api: api.clone(),
        }));
        kapok_metrics::respond(&registry, request)
    }
}

/// One page.
#[derive(Debug)]
struct Page {
    metrics: Metrics,
    api: Api,
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer::new(encoder);
        let snapshot = self.api.ledger.snapshot();
        let mut budget = self.metrics.cap.budget();
        self.process(&mut writer)?;
        self.certificates(&mut writer, &snapshot, &mut budget)?;
        store::controllers(&mut writer, &self.api, &snapshot)?;
        self.ledger(&mut writer, &snapshot)?;
        store::servers(&mut writer, &self.api)?;
        fabric(&mut writer, &snapshot)?;
        // Nodes are seen by the one that leads: others would take each of them for lost.
        if !self.api.controllers.leads() {
            return writer.single(&names::DROPPED, self.metrics.cap.dropped());
        }
        let nodes = self.api.nodes(&snapshot.fabric);
        sums(&mut writer, &nodes)?;
        let mut shown = Vec::new();
        for node in &nodes {
            if budget.take(OF_NODE) {
                shown.push((node, label(&node.name).into_owned()));
            }
        }
        each(&mut writer, &shown)?;
        health(&mut writer, &snapshot, &mut budget)?;
        writer.single(&names::DROPPED, self.metrics.cap.dropped())
    }
}

impl Page {
    fn process(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        writer.family(&names::BUILD, |series| {
            series.put(&[("version", version)], true)
        })?;
        writer.family(&names::TLS_REFUSALS, |series| {
            self.metrics.ports.iter().try_for_each(|(port, counted)| {
                counted
                    .snapshot()
                    .into_iter()
                    .try_for_each(|(reason, count)| {
                        series.put(&[("port", *port), ("reason", reason.as_str())], count)
                    })
            })
        })?;
        writer.single(&names::REFUSED, self.api.audit.refusals.total())?;
        writer.single(
            &names::CONNECTIONS,
            self.metrics.credentials.connections().open(),
        )?;
        writer.single(&names::LINKS, self.api.links.clients().len())?;
        writer.single(&names::EVENT_STREAMS, self.api.event_streams.count())
    }

    fn certificates(
        &self,
        writer: &mut Writer<'_>,
        snapshot: &Snapshot,
        budget: &mut Budget,
    ) -> fmt::Result {
        let credentials = &self.metrics.credentials;
        let mut ends = BTreeMap::new();
        let own = credentials.certificate();
        ends.insert(own.subject().to_string(), own.not_after);
        for root in credentials.bundle().roots() {
            ends.insert(format!("authority/{}", root.fingerprint), root.not_after);
        }
        for node in snapshot.fabric.nodes.values() {
            let observed = self.api.observed.node(&node.name);
            let shown = observed.and_then(|seen| seen.reported.certificate);
            if let Some(shown) = shown
                && budget.take(1)
            {
                ends.insert(format!("node/{}", node.id), shown.not_after);
            }
        }
        writer.family(&names::CERTIFICATE_EXPIRY, |series| {
            ends.iter().try_for_each(|(subject, at)| {
                series.put(&[("subject", label(subject))], seconds(*at))
            })
        })
    }

    fn ledger(&self, writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
        let (ledger, none) = (&self.api.ledger, NO_LABELS);
        let stats = ledger.stats();
        writer.single(&names::HEAD, snapshot.head.seq.get())?;
        writer.single(&names::QUEUE, ledger.waiting())?;
        writer.family(&names::BATCHES, |it| it.histogram(&none, &stats.batches))?;
        writer.family(&names::DECISIONS, |it| {
            it.histogram(&none, &stats.decisions)
        })?;
        writer.family(&names::APPENDS, |it| it.histogram(&none, &stats.appends))?;
        let counts = stats.counts();
        writer.family(&names::COMMANDS, |series| {
            series.put(&[("outcome", "taken")], counts.taken)?;
            series.put(&[("outcome", "refused")], counts.refused)
        })?;
        writer.single(&names::FAILED_APPENDS, counts.failed_appends)?;
        writer.family(&names::PLACEMENTS, |series| {
            series.put(&[("outcome", "placed")], counts.placed)?;
            series.put(&[("outcome", "no_capacity")], counts.unplaced)
        })?;
        writer.family(&names::PASSED_OVER, |series| {
            counts.passed_over.iter().try_for_each(|(filter, nodes)| {
                series.put(&[("filter", filter_word(*filter))], *nodes)
            })
        })?;
        writer.family(&names::QUOTA_REFUSALS, |series| {
            Dimension::ALL.into_iter().try_for_each(|dimension| {
                let count = counts.over_quota.get(&dimension).copied();
                let labels = [("dimension", dimension.as_str())];
                series.put(&labels, count.unwrap_or_default())
            })
        })?;
        writer.family(&names::OPERATIONS_ENDED, |series| {
            OUTCOMES.iter().try_for_each(|outcome| {
                let count = counts.operations.get(outcome).copied().unwrap_or_default();
                series.put(&[("outcome", *outcome)], count)
            })
        })
    }
}

const NO_LABELS: [(&str, &str); 0] = [];
const OUTCOMES: [&str; 5] = ["succeeded", "failed", "cancelled", "superseded", "detached"];

fn fabric(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let fabric = &snapshot.fabric;
    let mut running: BTreeMap<_, u64> = BTreeMap::new();
    for id in fabric.running.keys() {
        if let Some(operation) = fabric.operations.get(id) {
            *running.entry(stats::kind(operation.kind)).or_default() += 1;
        }
    }
    writer.family(&names::OPERATIONS_RUNNING, |series| {
        running
            .iter()
            .try_for_each(|(kind, count)| series.put(&[("kind", *kind)], *count))
    })?;
    writer.single(&names::INSTANCES, fabric.instances.len())?;
    writer.single(&names::TENANTS, fabric.tenants.len())?;
    writer.single(&names::IMAGES, fabric.images.len())
}

/// Sums over all nodes: their cost doesn't grow with the fabric.
fn sums(writer: &mut Writer<'_>, nodes: &[Node]) -> fmt::Result {
    let mut states: BTreeMap<String, u64> = STATES
        .iter()
        .map(|state| ((*state).to_owned(), 0))
        .collect();
    for node in nodes {
        *states.entry(state(node)).or_default() += 1;
    }
    writer.family(&names::NODES, |series| {
        states
            .iter()
            .try_for_each(|(state, count)| series.put(&[("state", state.as_str())], *count))
    })
}

const STATES: [&str; 3] = ["ready", "degraded", "unreachable"];

fn state(node: &Node) -> String {
    let name = node.state().as_str_name();
    name.trim_start_matches("NODE_STATE_").to_lowercase()
}

/// A node, with its name as a label.
type Shown<'a> = (&'a Node, String);

/// What a metric shows of a node.
type OfNode = fn(&Node) -> Option<Value>;

fn each(writer: &mut Writer<'_>, shown: &[Shown<'_>]) -> fmt::Result {
    writer.family(&names::NODE_STATE, |series| {
        shown.iter().try_for_each(|(node, name)| {
            let labels = [("node", name.clone()), ("state", state(node))];
            series.put(&labels, true)
        })
    })?;
    let of: [(&Name, OfNode); 8] = [
        (&names::HEARTBEAT_AGE, |it| {
            it.heartbeat_age_ms
                .map(|age| Duration::from_millis(age).into())
        }),
        (&names::CORDONED, |it| Some(it.cordoned.into())),
        (&names::NODE_INSTANCES, |it| Some(it.instances.into())),
        (&names::NODE_FOREIGN, |it| Some(it.foreign_domains.into())),
        (&names::VCPUS_CAPACITY, |it| {
            Some(it.vcpus.as_ref()?.capacity.into())
        }),
        (&names::VCPUS_CLAIMED, |it| {
            Some(it.vcpus.as_ref()?.claimed.into())
        }),
        (&names::MEMORY_CAPACITY, |it| {
            Some(
                it.memory_mib
                    .as_ref()?
                    .capacity
                    .saturating_mul(1 << 20)
                    .into(),
            )
        }),
        (&names::MEMORY_CLAIMED, |it| {
            Some(
                it.memory_mib
                    .as_ref()?
                    .claimed
                    .saturating_mul(1 << 20)
                    .into(),
            )
        }),
    ];
    for (name, value) in of {
        writer.family(name, |series| {
            shown
                .iter()
                .try_for_each(|(node, called)| match value(node) {
                    Some(value) => series.put(&[("node", called)], value),
                    None => Ok(()),
                })
        })?;
    }
    Ok(())
}

/// What the fabric makes of its nodes' health.
fn health(writer: &mut Writer<'_>, snapshot: &Snapshot, budget: &mut Budget) -> fmt::Result {
    let fabric = &snapshot.fabric;
    let (mut conditions, mut held, mut released, mut draining) = ([0_u64; 4], 0_u64, 0_u64, 0_u64);
    let mut verdicts = Vec::new();
    let mut quarantines = Vec::new();
    for node in fabric.nodes.values() {
        let condition = node.health.as_ref().map(|health| health.condition);
        for (count, of) in conditions.iter_mut().zip(CONDITIONS) {
            *count += u64::from(condition == Some(of));
        }
        held += u64::from(node.quarantine.as_ref().is_some_and(|one| one.held));
        released += u64::from(node.release.is_some());
        draining += u64::from(node.drain_requested.is_some());
        let all = node.health.iter().flat_map(|health| &health.verdicts);
        verdicts.extend(
            all.filter(|_| budget.take(1))
                .map(|verdict| (node, verdict)),
        );
        if let Some(quarantine) = &node.quarantine
            && budget.take(1)
        {
            quarantines.push((node, quarantine));
        }
    }
    writer.family(&names::CONDITIONS, |series| {
        let counts = CONDITIONS.iter().zip(conditions);
        counts.into_iter().try_for_each(|(condition, count)| {
            series.put(&[("condition", condition.to_string())], count)
        })
    })?;
    writer.single(&names::QUARANTINED, fabric.quarantined.len())?;
    writer.single(&names::HELD, held)?;
    writer.single(&names::RELEASED, released)?;
    writer.single(&names::DRAINS, draining)?;
    writer.family(&names::QUARANTINE, |series| {
        quarantines.iter().try_for_each(|(node, quarantine)| {
            let state = match quarantine.held {
                true => "held",
                false if node.release.is_some() => "released",
                false => "quarantined",
            };
            series.put(&[("node", node.name.as_str()), ("state", state)], true)
        })
    })?;
    let mut once = std::collections::BTreeSet::new();
    writer.family(&names::VERDICT, |series| {
        verdicts.iter().try_for_each(|(node, verdict)| {
            if !once.insert((&node.name, &verdict.code, &verdict.component)) {
                return Ok(());
            }
            let labels = [
                ("node", node.name.to_string()),
                ("code", label(&verdict.code).into_owned()),
                ("component", label(&verdict.component).into_owned()),
                ("condition", verdict.condition.to_string()),
            ];
            series.put(&labels, true)
        })
    })
}

fn seconds(at: Timestamp) -> u64 {
    at.get() / 1000
}
