//! What systems held and used, and what pooling saves.

use kapok_proto::fabric::v1 as wire;
use kapok_types::{MemoryMib, Timestamp};
use serde::{Serialize, Serializer};

use super::{Time, View, time, when};
use crate::{
    human::{dash, or_dash, plain, plain_lines, span},
    output::{columns, pairs},
};

/// Thousandths of something, written with three decimals.
#[derive(Debug, Clone, Copy)]
struct Milli(u128);

impl Milli {
    /// Hours of so many units for seconds.
    fn hours(unit_seconds: u64, units: u64) -> Self {
        Self(u128::from(unit_seconds) * 1000 / (3600 * u128::from(units)))
    }

    fn text(self) -> String {
        format!("{}.{:03}", self.0 / 1000, self.0 % 1000)
    }

    fn tenths(self) -> String {
        format!("{}.{}", self.0 / 1000, self.0 % 1000 / 100)
    }
}

impl Serialize for Milli {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number: f64 = self.text().parse().map_err(serde::ser::Error::custom)?;
        serializer.serialize_f64(number)
    }
}

/// What a system or a tenant held and used in a month.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    tenant: String,
    /// Empty for a tenant's line.
    system: String,
    month: String,
    instance_hours: Milli,
    vcpu_hours: Milli,
    memory_gib_hours: Milli,
    disk_gib_hours: Milli,
    used_cpu_hours: Milli,
    /// Hours of instances of which the use isn't known.
    unknown_hours: Milli,
    /// Hours of instances that nobody has read yet.
    unread_hours: Milli,
    up_hours: Milli,
    down_hours: Milli,
    unseen_hours: Milli,
    unknown: Vec<Unknown>,
    unknown_forgotten: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Unknown {
    instance_id: String,
    instance: String,
    from_time: Option<Time>,
    to_time: Option<Time>,
    reason: String,
}

impl From<wire::UsageRecord> for Line {
    fn from(line: wire::UsageRecord) -> Self {
        let hours = |seconds| Milli::hours(seconds, 1);
        let unknown = line.unknown.into_iter().map(|one| Unknown {
            instance_id: one.instance_id,
            instance: one.instance,
            from_time: time(one.from_time),
            to_time: time(one.to_time),
            reason: one.reason,
        });
        Self {
            tenant: line.tenant,
            system: line.system,
            month: line.month,
            instance_hours: hours(line.instance_seconds),
            vcpu_hours: hours(line.vcpu_seconds),
            memory_gib_hours: Milli::hours(line.memory_mib_seconds, 1024),
            disk_gib_hours: Milli::hours(line.disk_mib_seconds, 1024),
            used_cpu_hours: hours(line.used_cpu_seconds),
            unknown_hours: hours(line.unknown_seconds),
            unread_hours: hours(line.unread_seconds),
            up_hours: hours(line.up_seconds),
            down_hours: hours(line.down_seconds),
            unseen_hours: hours(line.unseen_seconds),
            unknown: unknown.collect(),
            unknown_forgotten: line.unknown_forgotten,
        }
    }
}

impl View for Line {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec![
            "TENANT",
            "SYSTEM",
            "MONTH",
            "VCPU H",
            "MEMORY GIB H",
            "DISK GIB H",
            "USED CPU H",
            "UNKNOWN H",
        ];
        if wide {
            columns.extend(["INSTANCE H", "UNREAD H", "UP H", "DOWN H", "UNSEEN H"]);
        }
        columns
    }

    fn row(&self, _: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.tenant),
            or_dash(&self.system),
            plain(&self.month),
        ];
        let numbers = [
            self.vcpu_hours,
            self.memory_gib_hours,
            self.disk_gib_hours,
            self.used_cpu_hours,
            self.unknown_hours,
        ];
        row.extend(numbers.map(Milli::tenths));
        if wide {
            let numbers = [
                self.instance_hours,
                self.unread_hours,
                self.up_hours,
                self.down_hours,
                self.unseen_hours,
            ];
            row.extend(numbers.map(Milli::tenths));
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        columns(&Self::columns(true), [self.row(now, true)])
    }
}

/// An instance that is hardly used.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Idle {
    instance_id: String,
    tenant: String,
    system: String,
    instance: String,
    vcpus: u32,
    memory_mib: u64,
    used_cpu_ms: u64,
    unknown_ms: u64,
    /// Unknown time counts as all used.
    at_most_permille: u32,
    running: bool,
}

impl From<wire::IdleInstance> for Idle {
    fn from(one: wire::IdleInstance) -> Self {
        Self {
            instance_id: one.instance_id,
            tenant: one.tenant,
            system: one.system,
            instance: one.instance,
            vcpus: one.vcpus,
            memory_mib: one.memory_mib,
            used_cpu_ms: one.used_cpu_ms,
            unknown_ms: one.unknown_ms,
            at_most_permille: one.at_most_permille,
            running: one.running,
        }
    }
}

impl View for Idle {
    fn columns(_: bool) -> Vec<&'static str> {
        vec![
            "INSTANCE",
            "TENANT",
            "SYSTEM",
            "VCPUS",
            "MEMORY",
            "USED AT MOST",
            "UNKNOWN",
            "RUNS",
        ]
    }

    fn row(&self, _: Timestamp, _: bool) -> Vec<String> {
        let (percent, tenth) = (self.at_most_permille / 10, self.at_most_permille % 10);
        vec![
            plain(&self.instance),
            plain(&self.tenant),
            plain(&self.system),
            self.vcpus.to_string(),
            MemoryMib(self.memory_mib).to_string(),
            format!("{percent}.{tenth} %"),
            span(self.unknown_ms),
            if self.running { "yes" } else { "no" }.into(),
        ]
    }

    fn details(&self, now: Timestamp) -> String {
        columns(&Self::columns(true), [self.row(now, true)])
    }
}

/// The pooling report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pooling {
    from_month: String,
    to_month: String,
    known_since: Option<Time>,
    create_time: Option<Time>,
    node_vcpus: u32,
    node_memory_mib: u64,
    nodes_alone: u64,
    nodes_pooled: u64,
    saved_permille: u32,
    most_nodes_in_use: u32,
    deployed: u32,
    deployment_median_seconds: u64,
    deployment_p90_seconds: u64,
    /// The bureaus; the last line is all together, its name is "*".
    bureaus: Vec<BureauLine>,
    systems: Vec<SystemLine>,
    method: String,
}

/// What a bureau held at the most, and the nodes for it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BureauLine {
    bureau: String,
    peak_vcpus: u64,
    peak_vcpus_time: Option<Time>,
    peak_memory_mib: u64,
    peak_memory_time: Option<Time>,
    peak_instances: u64,
    nodes_packed: u32,
    nodes: u32,
    misfits: u32,
}

#[derive(Debug, Clone, Serialize)]
struct SystemLine {
    tenant: String,
    system: String,
    request_time: Option<Time>,
    live_time: Option<Time>,
    up_seconds: u64,
    down_seconds: u64,
    unseen_seconds: u64,
    /// Null if neither up nor down is known.
    availability_ppm: Option<u32>,
}

impl From<wire::GetPoolingReportResponse> for Pooling {
    fn from(made: wire::GetPoolingReportResponse) -> Self {
        let pool = made.pool.map(|pool| wire::BureauPooling {
            bureau: "*".into(),
            ..pool
        });
        Self {
            from_month: made.from_month,
            to_month: made.to_month,
            known_since: time(made.known_since),
            create_time: time(made.create_time),
            node_vcpus: made.node_vcpus,
            node_memory_mib: made.node_memory_mib,
            nodes_alone: made.nodes_alone,
            nodes_pooled: made.nodes_pooled,
            saved_permille: made.saved_permille,
            most_nodes_in_use: made.most_nodes_in_use,
            deployed: made.deployed,
            deployment_median_seconds: made.deployment_median_seconds,
            deployment_p90_seconds: made.deployment_p90_seconds,
            bureaus: made
                .bureaus
                .into_iter()
                .chain(pool)
                .map(BureauLine::from)
                .collect(),
            systems: made.systems.into_iter().map(SystemLine::from).collect(),
            method: made.method,
        }
    }
}

impl From<wire::BureauPooling> for BureauLine {
    fn from(one: wire::BureauPooling) -> Self {
        Self {
            bureau: one.bureau,
            peak_vcpus: one.peak_vcpus,
            peak_vcpus_time: time(one.peak_vcpus_time),
            peak_memory_mib: one.peak_memory_mib,
            peak_memory_time: time(one.peak_memory_time),
            peak_instances: one.peak_instances,
            nodes_packed: one.nodes_packed,
            nodes: one.nodes,
            misfits: one.misfits,
        }
    }
}

impl From<wire::SystemRecord> for SystemLine {
    fn from(one: wire::SystemRecord) -> Self {
        Self {
            tenant: one.tenant,
            system: one.system,
            request_time: time(one.request_time),
            live_time: time(one.live_time),
            up_seconds: one.up_seconds,
            down_seconds: one.down_seconds,
            unseen_seconds: one.unseen_seconds,
            availability_ppm: one.availability_ppm,
        }
    }
}

impl Pooling {
    /// The bureaus' lines.
    pub(crate) fn lines(&self) -> &[BureauLine] {
        &self.bureaus
    }
}

impl SystemLine {
    fn row(&self) -> Vec<String> {
        let times = self.request_time.zip(self.live_time);
        let took = times.map_or_else(dash, |(Time(requested), Time(live))| {
            span(live.millis_since(requested))
        });
        let availability = self.availability_ppm.map_or_else(dash, |ppm| {
            format!("{}.{:04} %", ppm / 10_000, ppm % 10_000)
        });
        vec![
            plain(&self.system),
            plain(&self.tenant),
            took,
            availability,
            span(self.down_seconds.saturating_mul(1000)),
            span(self.unseen_seconds.saturating_mul(1000)),
        ]
    }
}

impl View for Pooling {
    fn columns(_: bool) -> Vec<&'static str> {
        vec![
            "BUREAU",
            "PEAK VCPUS",
            "PEAK MEMORY",
            "INSTANCES",
            "NODES",
            "WITH N+1",
            "MISFITS",
        ]
    }

    fn row(&self, _: Timestamp, _: bool) -> Vec<String> {
        Vec::new()
    }

    fn details(&self, now: Timestamp) -> String {
        let (percent, tenth) = (self.saved_permille / 10, self.saved_permille % 10);
        let memory = MemoryMib(self.node_memory_mib);
        let seconds = |seconds: u64| span(seconds.saturating_mul(1000));
        let head = pairs(&[
            (
                "Months",
                format!(
                    "{} to {}, UTC",
                    plain(&self.from_month),
                    plain(&self.to_month)
                ),
            ),
            ("Known since", when(self.known_since, now)),
            ("Node", format!("{} vCPUs, {memory}", self.node_vcpus)),
            (
                "Nodes alone",
                format!("{}, N+1 for each bureau", self.nodes_alone),
            ),
            (
                "Nodes pooled",
                format!("{}, N+1 for all", self.nodes_pooled),
            ),
            ("Saved", format!("{percent}.{tenth} %")),
            (
                "In use",
                format!("{} nodes at the most", self.most_nodes_in_use),
            ),
            (
                "Deployed in",
                format!(
                    "{} (median of {} systems), {} (90 %)",
                    seconds(self.deployment_median_seconds),
                    self.deployed,
                    seconds(self.deployment_p90_seconds)
                ),
            ),
        ]);
        let bureaus = self.bureaus.iter().map(|one| {
            vec![
                plain(&one.bureau),
                one.peak_vcpus.to_string(),
                MemoryMib(one.peak_memory_mib).to_string(),
                one.peak_instances.to_string(),
                one.nodes_packed.to_string(),
                one.nodes.to_string(),
                one.misfits.to_string(),
            ]
        });
        let bureaus = columns(&Self::columns(true), bureaus);
        let headers = [
            "SYSTEM",
            "TENANT",
            "DEPLOYED IN",
            "AVAILABLE",
            "DOWN",
            "UNSEEN",
        ];
        let systems = columns(&headers, self.systems.iter().map(SystemLine::row));
        let method = plain_lines(&self.method);
        format!("{head}\n{bureaus}\n{systems}\nMethod: {method}\n")
    }
}
