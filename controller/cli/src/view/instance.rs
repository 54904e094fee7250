//! Instances.

use kapok_proto::{
    common::v1::{Arch, Counters as WireCounters, DiskFormat, Ended, Phase, Power, RunPolicy},
    fabric::v1 as wire,
};
use kapok_types::{Bytes, MemoryMib, Timestamp};
use serde::Serialize;

use super::{
    Time, View, age,
    equipment::{Assignment, Needs},
    some, time, when, word, yes_no,
};
use crate::{
    human::{dash, or_dash, plain},
    output::{columns, pairs},
};

/// A virtual machine that Kapok manages.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Instance {
    id: String,
    name: String,
    tenant: String,
    system: String,
    groups: Vec<String>,
    power: String,
    phase: String,
    /// The active incarnation's node.
    node: Option<String>,
    node_id: Option<String>,
    image: String,
    image_digest: String,
    image_format: String,
    arch: String,
    /// Null when the numbers were stated.
    flavor: Option<String>,
    vcpus: u32,
    memory_mib: u64,
    root_disk_bytes: u64,
    needs: Needs,
    run_policy: String,
    guest_agent: bool,
    detail: String,
    ended: Option<String>,
    deleting: bool,
    generation: u64,
    etag: String,
    counters: Counters,
    counters_done: Counters,
    create_time: Option<Time>,
    created_by: String,
    incarnations: Vec<Incarnation>,
}

/// One-time acts.
#[derive(Debug, Clone, Serialize)]
struct Counters {
    starts: u64,
    restarts: u64,
    resets: u64,
}

/// One life on one node.
#[derive(Debug, Clone, Serialize)]
struct Incarnation {
    id: String,
    node: String,
    node_id: String,
    role: String,
    claim_vcpus: u32,
    claim_memory_mib: u64,
    /// Null when nothing of its node is its own.
    assignment: Option<Assignment>,
    /// What stays its own beyond that until it is seen without it. Null when nothing does.
    surplus: Option<Assignment>,
    /// Null when its agent hasn't spoken of it since the controller started.
    status: Option<Status>,
}

/// What an agent says of an incarnation.
#[derive(Debug, Clone, Serialize)]
struct Status {
    phase: String,
    generation: u64,
    epoch: u64,
    progress_permille: Option<u32>,
    guest_agent: bool,
    ended: Option<String>,
    drift: Vec<String>,
    detail: String,
    counters_done: Counters,
    /// In effect. Null when its agent doesn't know, or doesn't tell.
    vcpus: Option<u32>,
    memory_mib: Option<u64>,
    /// Whether what is in effect becomes what is meant only with the next start.
    resize_pending: bool,
}

impl From<Option<WireCounters>> for Counters {
    fn from(counters: Option<WireCounters>) -> Self {
        let WireCounters {
            starts,
            restarts,
            resets,
        } = counters.unwrap_or_default();
        Self {
            starts,
            restarts,
            resets,
        }
    }
}

fn ended(value: i32) -> Option<String> {
    (value != 0).then(|| word!(Ended, "ENDED_", value))
}

impl From<wire::Incarnation> for Incarnation {
    fn from(incarnation: wire::Incarnation) -> Self {
        Self {
            id: incarnation.id,
            node: incarnation.node_name,
            node_id: incarnation.node_id,
            role: word!(wire::IncarnationRole, "INCARNATION_ROLE_", incarnation.role),
            claim_vcpus: incarnation.claim_vcpus,
            claim_memory_mib: incarnation.claim_memory_mib,
            assignment: incarnation.assignment.map(Assignment::from),
            surplus: incarnation.surplus.map(Assignment::from),
            status: incarnation.status.map(|status| Status {
                phase: word!(Phase, "PHASE_", status.phase),
                generation: status.generation,
                epoch: status.epoch,
                progress_permille: status.progress_permille,
                guest_agent: status.guest_agent,
                ended: ended(status.ended),
                drift: status.drift,
                detail: status.detail,
                counters_done: status.done.into(),
                vcpus: (status.vcpus != 0).then_some(status.vcpus),
                memory_mib: (status.memory_mib != 0).then_some(status.memory_mib),
                resize_pending: status.resize_pending,
            }),
        }
    }
}

impl From<wire::Instance> for Instance {
    fn from(instance: wire::Instance) -> Self {
        let spec = instance.spec.unwrap_or_default();
        let root = spec.root.unwrap_or_default();
        let active = i32::from(wire::IncarnationRole::Active);
        let active = instance.incarnations.iter().find(|one| one.role == active);
        Self {
            node: active.and_then(|one| some(one.node_name.clone())),
            node_id: active.and_then(|one| some(one.node_id.clone())),
            id: instance.id,
            name: instance.name,
            tenant: instance.tenant,
            system: instance.system,
            groups: instance.groups,
            power: word!(Power, "POWER_", instance.power),
            phase: word!(Phase, "PHASE_", instance.phase),
            image: instance.image_name,
            image_digest: root.image_digest,
            image_format: word!(DiskFormat, "DISK_FORMAT_", root.image_format),
            arch: word!(Arch, "ARCH_", spec.arch),
            flavor: some(instance.flavor),
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            root_disk_bytes: root.size_bytes,
            needs: spec.needs.into(),
            run_policy: word!(RunPolicy, "RUN_POLICY_", spec.run_policy),
            guest_agent: instance.guest_agent,
            detail: instance.detail,
            ended: ended(instance.ended),
            deleting: instance.deleting,
            generation: instance.generation,
            etag: instance.etag,
            counters: instance.counters.into(),
            counters_done: instance.counters_done.into(),
            create_time: time(instance.create_time),
            created_by: instance.created_by,
            incarnations: instance.incarnations.into_iter().map(Into::into).collect(),
        }
    }
}

impl Instance {
    fn standing(&self) -> String {
        match &self.ended {
            Some(ended) if self.phase == "stopped" => format!("{} ({ended})", self.phase),
            _ => self.phase.clone(),
        }
    }

    /// A number that is meant, beside the one in effect if that is another.
    fn number<T: Copy + PartialEq>(
        &self,
        meant: T,
        in_effect: impl Fn(&Status) -> Option<T>,
        show: impl Fn(T) -> String,
    ) -> String {
        let mut lives = self.incarnations.iter();
        let active = lives.find(|one| one.role == "active");
        let status = active.and_then(|one| one.status.as_ref());
        let now = status.and_then(|status| Some((in_effect(status)?, status.resize_pending)));
        match now {
            Some((now, pending)) if now != meant => {
                let when = if pending { "after a restart" } else { "soon" };
                format!("{} ({} {when})", show(now), show(meant))
            }
            _ => show(meant),
        }
    }

    fn node(&self) -> String {
        or_dash(self.node.as_deref().unwrap_or_default())
    }
}

impl View for Instance {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec!["NAME", "PHASE", "NODE", "VCPUS", "MEMORY", "AGENT", "AGE"];
        if wide {
            columns.extend([
                "DISK", "IMAGE", "POWER", "POLICY", "TENANT", "SYSTEM", "ID", "DETAIL",
            ]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.name),
            self.standing(),
            self.node(),
            self.vcpus.to_string(),
            MemoryMib(self.memory_mib).to_string(),
            yes_no(self.guest_agent),
            age(self.create_time, now),
        ];
        if wide {
            row.extend([
                Bytes(self.root_disk_bytes).to_string(),
                plain(&self.image),
                self.power.clone(),
                self.run_policy.clone(),
                or_dash(&self.tenant),
                or_dash(&self.system),
                plain(&self.id),
                or_dash(&self.detail),
            ]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        let Counters {
            starts,
            restarts,
            resets,
        } = &self.counters;
        let head = pairs(&[
            ("Name", plain(&self.name)),
            ("ID", plain(&self.id)),
            ("Tenant", or_dash(&self.tenant)),
            ("System", or_dash(&self.system)),
            ("Groups", or_dash(&self.groups.join(", "))),
            ("Phase", self.standing()),
            ("Detail", or_dash(&self.detail)),
            (
                "Meant to be",
                self.power.clone() + if self.deleting { ", deleting" } else { "" },
            ),
            ("Node", self.node()),
            (
                "Guest agent",
                if self.guest_agent {
                    "answers"
                } else {
                    "silent"
                }
                .to_owned(),
            ),
            (
                "Image",
                format!("{} ({})", plain(&self.image), plain(&self.image_digest)),
            ),
            ("Architecture", self.arch.clone()),
            (
                "Flavor",
                or_dash(self.flavor.as_deref().unwrap_or_default()),
            ),
            (
                "vCPUs",
                self.number(self.vcpus, |status| status.vcpus, |vcpus| vcpus.to_string()),
            ),
            (
                "Memory",
                self.number(
                    self.memory_mib,
                    |status| status.memory_mib,
                    |memory| MemoryMib(memory).to_string(),
                ),
            ),
            ("Root disk", Bytes(self.root_disk_bytes).to_string()),
            ("Needs", or_dash(&self.needs.to_string())),
            ("Run policy", self.run_policy.clone()),
            (
                "Asked for",
                format!("{starts} starts, {restarts} restarts, {resets} resets"),
            ),
            ("Generation", self.generation.to_string()),
            ("Created", when(self.create_time, now)),
            ("By", or_dash(&self.created_by)),
        ]);
        if self.incarnations.is_empty() {
            return head;
        }
        let rows = self.incarnations.iter().map(|one| {
            let status = one.status.as_ref();
            let notes = status.map_or_else(String::new, |status| {
                let drift = status.drift.iter().map(|drift| format!("drift: {drift}"));
                let detail = Some(status.detail.clone()).filter(|detail| !detail.is_empty());
                detail
                    .into_iter()
                    .chain(drift)
                    .collect::<Vec<_>>()
                    .join("; ")
            });
            let own = one.assignment.as_ref();
            let surplus = one.surplus.as_ref();
            let surplus = surplus.map(|more| format!("until its next start also {more}"));
            let own = own.map(ToString::to_string).into_iter().chain(surplus);
            let own = or_dash(&own.collect::<Vec<_>>().join("; "));
            vec![
                plain(&one.id),
                or_dash(&one.node),
                one.role.clone(),
                status.map_or_else(dash, |status| status.phase.clone()),
                format!(
                    "{} vCPUs, {}",
                    one.claim_vcpus,
                    MemoryMib(one.claim_memory_mib)
                ),
                own,
                or_dash(&notes),
            ]
        });
        let headers = [
            "INCARNATION",
            "NODE",
            "ROLE",
            "PHASE",
            "CLAIM",
            "ITS OWN",
            "NOTES",
        ];
        head + "\n" + &columns(&headers, rows)
    }
}
