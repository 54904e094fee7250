//! Nodes.

use std::collections::BTreeMap;

use kapok_proto::{common::v1::Arch, fabric::v1 as wire};
use kapok_types::{MemoryMib, Timestamp};
use serde::Serialize;

use super::{
    Time, Usage, View, age,
    equipment::Equipment,
    health::{self, Quarantine, Release},
    left, some, time, when, word,
};
use crate::{
    human::{dash, or_dash, plain, span},
    output::pairs,
};

/// A physical server that runs an agent.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Node {
    /// Null until its agent was first reached.
    id: Option<String>,
    name: String,
    address: String,
    state: String,
    cordoned: bool,
    cordon_reason: String,
    arch: String,
    vcpus: Usage,
    memory_mib: Usage,
    vcpu_overcommit_permille: u32,
    instances: u32,
    foreign_domains: u32,
    virt_type: String,
    virt_reason: String,
    versions: BTreeMap<String, String>,
    heartbeat_age_ms: Option<u64>,
    detail: String,
    enroll_time: Option<Time>,
    stray_incarnation_ids: Vec<String>,
    quarantined: Vec<String>,
    fingerprint: BTreeMap<String, String>,
    /// What differs from the fingerprint now, as "BEFORE, now AFTER".
    fingerprint_changes: BTreeMap<String, String>,
    certificate_serial: Option<String>,
    certificate_expire_time: Option<Time>,
    revoke_time: Option<Time>,
    condition: String,
    /// What is wrong with its server, as "CODE COMPONENT".
    verdicts: Vec<String>,
    quarantine: Option<Quarantine>,
    release: Option<Release>,
    drain_request_time: Option<Time>,
    /// Where its claims exceed what it has.
    overcommitted: Vec<Overcommitted>,
    /// Null in lists.
    equipment: Option<Equipment>,
    /// Null, as the next one, when it isn't named.
    rack: Option<String>,
    room: Option<String>,
    labels: BTreeMap<String, String>,
    /// Null when it takes instances of tenants without a class.
    isolation: Option<String>,
}

/// How much too much is claimed of a node.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Overcommitted {
    /// As the API calls it, with its unit.
    dimension: String,
    amount: u64,
}

impl From<wire::NodeOvercommitted> for Overcommitted {
    fn from(over: wire::NodeOvercommitted) -> Self {
        Self {
            dimension: over.dimension,
            amount: over.amount,
        }
    }
}

impl std::fmt::Display for Overcommitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let amount = self.amount;
        match self.dimension.as_str() {
            "vcpus" => write!(f, "{amount} vCPUs"),
            "memory_mib" => write!(f, "{} of memory", memory(amount)),
            "dedicated_cpus" => write!(f, "{amount} dedicated CPUs"),
            "huge_pages_mib" => write!(f, "{} of huge pages", memory(amount)),
            other => write!(f, "{amount} {}", plain(other)),
        }
    }
}

impl From<wire::Node> for Node {
    fn from(node: wire::Node) -> Self {
        let usage = |usage: Option<wire::Usage>| {
            let wire::Usage {
                capacity,
                claimed,
                free,
            } = usage.unwrap_or_default();
            Usage {
                capacity,
                claimed,
                free,
            }
        };
        Self {
            id: some(node.id),
            name: node.name,
            address: node.address,
            state: word!(wire::NodeState, "NODE_STATE_", node.state),
            cordoned: node.cordoned,
            cordon_reason: node.cordon_reason,
            arch: word!(Arch, "ARCH_", node.arch),
            vcpus: usage(node.vcpus),
            memory_mib: usage(node.memory_mib),
            vcpu_overcommit_permille: node.vcpu_overcommit_permille,
            instances: node.instances,
            foreign_domains: node.foreign_domains,
            virt_type: node.virt_type,
            virt_reason: node.virt_reason,
            versions: node.versions,
            heartbeat_age_ms: node.heartbeat_age_ms,
            detail: node.detail,
            enroll_time: time(node.enroll_time),
            stray_incarnation_ids: node.stray_incarnation_ids,
            quarantined: node.quarantined,
            fingerprint: node.fingerprint,
            fingerprint_changes: node.fingerprint_changes,
            certificate_serial: some(node.certificate_serial),
            certificate_expire_time: time(node.certificate_expire_time),
            revoke_time: time(node.revoke_time),
            condition: health::condition(node.condition),
            verdicts: node.verdicts,
            quarantine: node.quarantine.map(Quarantine::from),
            release: node.release.map(Release::from),
            drain_request_time: time(node.drain_request_time),
            overcommitted: (node.overcommitted.into_iter())
                .map(Overcommitted::from)
                .collect(),
            equipment: (node.equipment)
                .map(|has| Equipment::of(has, node.equipment_use.unwrap_or_default())),
            rack: some(node.rack),
            room: some(node.room),
            labels: node.labels,
            isolation: some(node.isolation),
        }
    }
}

impl Node {
    fn standing(&self) -> String {
        let mut standing = self.state.clone();
        if self.cordoned {
            standing += ",cordoned";
        }
        if !self.overcommitted.is_empty() {
            standing += ",overcommitted";
        }
        standing
    }

    fn health(&self) -> String {
        let (quarantine, release) = (self.quarantine.as_ref(), self.release.as_ref());
        health::cell(&self.condition, quarantine, release)
    }

    fn overcommitted(&self) -> String {
        let each = self.overcommitted.iter().map(ToString::to_string);
        or_dash(&each.collect::<Vec<_>>().join(" and "))
    }

    fn labels(&self) -> String {
        let labels = self.labels.iter();
        let labels: Vec<_> = labels
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        or_dash(&labels.join(" "))
    }

    fn ratio(&self) -> String {
        let permille = self.vcpu_overcommit_permille;
        format!(
            "{}.{} vCPUs a thread",
            permille / 1000,
            permille % 1000 / 100
        )
    }
}

fn text(name: Option<&String>) -> String {
    name.map_or_else(dash, |name| plain(name))
}

fn memory(mib: u64) -> String {
    let bytes = MemoryMib(mib).to_bytes();
    bytes.map_or_else(|| MemoryMib(mib).to_string(), |bytes| bytes.to_string())
}

impl View for Node {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec![
            "NAME",
            "STATE",
            "HEALTH",
            "VCPUS",
            "MEMORY FREE",
            "INSTANCES",
            "VIRT",
            "HEARTBEAT",
        ];
        if wide {
            columns.extend([
                "ADDRESS",
                "RACK",
                "ROOM",
                "LABELS",
                "CLASS",
                "ARCH",
                "FOREIGN",
                "CERTIFICATE",
                "AGE",
                "ID",
                "DETAIL",
            ]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.name),
            self.standing(),
            self.health(),
            format!("{}/{}", self.vcpus.claimed, self.vcpus.capacity),
            memory(self.memory_mib.free),
            self.instances.to_string(),
            or_dash(&self.virt_type),
            self.heartbeat_age_ms.map_or_else(dash, span),
        ];
        if wide {
            row.extend([
                plain(&self.address),
                text(self.rack.as_ref()),
                text(self.room.as_ref()),
                self.labels(),
                text(self.isolation.as_ref()),
                self.arch.clone(),
                self.foreign_domains.to_string(),
                left(self.certificate_expire_time, now),
                age(self.enroll_time, now),
                or_dash(self.id.as_deref().unwrap_or_default()),
                or_dash(&self.detail),
            ]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        let usage = |usage: &Usage, show: fn(u64) -> String| {
            let [claimed, capacity, free] = [usage.claimed, usage.capacity, usage.free].map(show);
            format!("{claimed} of {capacity} claimed, {free} free")
        };
        let versions = self
            .versions
            .iter()
            .map(|(part, version)| format!("{part} {version}"));
        let versions: Vec<_> = versions.collect();
        let joined = |parts: &BTreeMap<String, String>, separator: &str| {
            let each = parts.iter().map(|(part, value)| format!("{part} {value}"));
            or_dash(&each.collect::<Vec<_>>().join(separator))
        };
        let serial = self.certificate_serial.as_deref().unwrap_or_default();
        let equipment = self.equipment.as_ref().map(Equipment::lines);
        let equipment = equipment.into_iter().flatten();
        let mut lines = vec![
            ("Name", plain(&self.name)),
            ("ID", or_dash(self.id.as_deref().unwrap_or_default())),
            ("State", self.standing()),
            ("Detail", or_dash(&self.detail)),
            ("Cordon reason", or_dash(&self.cordon_reason)),
            ("Health", self.condition.clone()),
            ("Verdicts", or_dash(&self.verdicts.join(", "))),
            (
                "Quarantine",
                self.quarantine
                    .as_ref()
                    .map_or_else(dash, |one| one.line(now)),
            ),
            (
                "Released",
                self.release.as_ref().map_or_else(dash, |one| one.line(now)),
            ),
            ("Drain asked", when(self.drain_request_time, now)),
            ("Address", plain(&self.address)),
            ("Rack", text(self.rack.as_ref())),
            ("Room", text(self.room.as_ref())),
            ("Labels", self.labels()),
            ("Class", text(self.isolation.as_ref())),
            (
                "Heartbeat",
                self.heartbeat_age_ms
                    .map_or_else(dash, |ms| span(ms) + " ago"),
            ),
            ("Architecture", self.arch.clone()),
            ("vCPUs", usage(&self.vcpus, |vcpus| vcpus.to_string())),
            ("Overcommit", self.ratio()),
            ("Memory", usage(&self.memory_mib, memory)),
            ("Overcommitted", self.overcommitted()),
            ("Instances", self.instances.to_string()),
            ("Foreign domains", self.foreign_domains.to_string()),
            ("Virtualization", or_dash(&self.virt_type)),
            ("Chosen because", or_dash(&self.virt_reason)),
            ("Versions", or_dash(&versions.join(", "))),
            ("Strays", or_dash(&self.stray_incarnation_ids.join(", "))),
            ("Stuck domains", or_dash(&self.quarantined.join(", "))),
            ("Fingerprint", joined(&self.fingerprint, ", ")),
            ("Changed", joined(&self.fingerprint_changes, "; ")),
            ("Certificate", or_dash(serial)),
            ("Ends in", left(self.certificate_expire_time, now)),
            ("Revoked", when(self.revoke_time, now)),
            ("Joined", when(self.enroll_time, now)),
        ];
        lines.extend(equipment.map(|(what, text)| (what, or_dash(&text))));
        pairs(&lines)
    }
}
