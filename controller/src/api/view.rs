//! What people see: intent from the published fabric, beside what agents reported of it.

use std::collections::BTreeMap;

use kapok_proto::{agent::v1::Lane, common::v1 as common, convert::timestamp, fabric::v1 as wire};
use kapok_scheduler::{NodeView, Overcommit};
use kapok_trust::TlsFailure;
use kapok_types::{
    Name,
    phase::{Phase, Status},
};

use crate::{
    fabric::{self, Fabric, Operation, OperationKind, OperationOutcome, Role},
    observed::{self, NodeObserved, Reported},
};

mod equipment;
mod flavor;
mod group;
mod health;
mod people;
mod system;
mod tenant;

pub(super) use equipment::assignment;
pub(super) use flavor::flavor;
pub(super) use group::{group, member};
pub(super) use people::{grant, token, user};
pub(super) use system::system;
pub(super) use tenant::{dimension, tenant};

/// A lane on which no call ends for longer is in trouble, in milliseconds.
const STUCK_MS: u64 = 10_000;
/// Quarantined domains that a node's troubles name.
const MAX_NAMED: usize = 4;

/// The fabric and the reports that one answer is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) fabric: &'a Fabric,
    pub(super) observed: &'a observed::Table,
}

/// Where an instance stands, put together from intent and report.
struct Standing {
    phase: Phase,
    detail: String,
    status: Option<Status>,
}

impl View<'_> {
    /// An instance as people see it.
    pub(super) fn instance(self, instance: &fabric::Instance) -> wire::Instance {
        let Standing {
            phase,
            detail,
            status,
        } = self.standing(instance);
        let incarnations = instance
            .incarnations
            .iter()
            .map(|one| self.incarnation(one))
            .collect();
        wire::Instance {
            id: instance.id.to_string(),
            name: instance.name.to_string(),
            spec: Some((&instance.spec).into()),
            power: common::Power::from(instance.power).into(),
            generation: instance.generation.get(),
            etag: instance.etag(),
            image_name: instance.image_name.to_string(),
            phase: common::Phase::from(phase).into(),
            incarnations,
            guest_agent: phase != Phase::Unknown && status.as_ref().is_some_and(|s| s.guest_agent),
            detail,
            create_time: Some(timestamp(instance.created_at)),
            deleting: instance.deleting,
            created_by: instance.created_by.to_string(),
            ended: status
                .as_ref()
                .and_then(|status| status.ended)
                .map_or(common::Ended::Unspecified, Into::into)
                .into(),
            counters: Some(instance.counters.into()),
            counters_done: status.map(|status| status.done.into()),
            tenant: instance.tenant.to_string(),
            flavor: named(instance.flavor.as_ref()),
            system: instance.system.to_string(),
            groups: instance.groups.iter().map(ToString::to_string).collect(),
        }
    }

    fn incarnation(self, one: &fabric::Incarnation) -> wire::Incarnation {
        let role = match one.role {
            Role::Active => wire::IncarnationRole::Active,
            Role::Incoming => wire::IncarnationRole::Incoming,
            Role::Leaving => wire::IncarnationRole::Leaving,
            Role::Suspect => wire::IncarnationRole::Suspect,
        };
        wire::Incarnation {
            id: one.id.to_string(),
            node_id: one.node.to_string(),
            node_name: self.node_name(one.node),
            role: role.into(),
            claim_vcpus: one.claim.vcpus.get(),
            claim_memory_mib: one.claim.memory.total().get(),
            status: self.observed.status(one.id).as_ref().map(Into::into),
            assignment: assignment(one),
            surplus: one.claim.surplus.as_deref().map(Into::into),
        }
    }

    /// A node's name, or its id if the fabric has none for it.
    pub(super) fn node_name(self, id: kapok_types::NodeId) -> String {
        self.fabric
            .node_names
            .get(&id)
            .map_or_else(|| id.to_string(), ToString::to_string)
    }

    /// *Unreachable* is never *dead*, and what isn't known is never called off.
    fn standing(self, instance: &fabric::Instance) -> Standing {
        let standing = |phase, detail: String, status| Standing {
            phase,
            detail,
            status,
        };
        let Some(one) = instance.active().or_else(|| instance.incarnations.first()) else {
            let phase = if instance.deleting {
                Phase::Deleting
            } else {
                Phase::Pending
            };
            return standing(phase, String::new(), None);
        };
        let status = self.observed.status(one.id);
        let node = self.fabric.node_by_id(one.node);
        if !node.is_some_and(|node| node.reachable && node.found.is_none()) {
            let last = status.as_ref().map_or_else(String::new, |status| {
                format!("; it was last seen {}", phase_word(status.phase))
            });
            let why = node.map_or_else(
                || "isn't known".to_owned(),
                |node| unreachable(node, self.observed.node(&node.name).as_ref()),
            );
            let detail = format!("{} {why}{last}", self.node_name(one.node));
            return standing(Phase::Unknown, detail, status);
        }
        match status {
            Some(status) => standing(status.phase, status.detail.clone(), Some(status)),
            None if instance.deleting => standing(Phase::Deleting, String::new(), None),
            None if self.is_fresh(instance) => standing(Phase::Pending, String::new(), None),
            None => {
                let detail = format!("{} has not reported it yet", self.node_name(one.node));
                standing(Phase::Unknown, detail, None)
            }
        }
    }

    /// Whether its first placement is still being carried out.
    fn is_fresh(self, instance: &fabric::Instance) -> bool {
        let operation = self.fabric.running_operation(instance);
        operation
            .and_then(|id| self.fabric.operations.get(&id))
            .is_some_and(|operation| operation.kind == OperationKind::Create)
    }

    /// An operation as people see it.
    pub(super) fn operation(self, operation: &Operation) -> wire::Operation {
        let instance = self.fabric.instances.get(&operation.instance);
        let standing = instance
            .filter(|_| operation.is_running())
            .map(|one| self.standing(one));
        let (state, detail) = match &operation.ended {
            Some(end) => (operation_state(end.outcome), end.detail.clone()),
            None => (
                wire::OperationState::Running,
                running_detail(standing.as_ref()),
            ),
        };
        let progress_permille = match state {
            wire::OperationState::Succeeded => Some(1000),
            _ => standing.and_then(|standing| standing.status?.progress_permille),
        };
        wire::Operation {
            id: operation.id.to_string(),
            kind: operation_kind(operation.kind).into(),
            state: state.into(),
            instance_id: operation.instance.to_string(),
            instance_name: operation.instance_name.to_string(),
            requested_by: operation.by.to_string(),
            create_time: Some(timestamp(operation.created_at)),
            end_time: operation.ended.as_ref().map(|end| timestamp(end.at)),
            deadline: Some(timestamp(operation.deadline)),
            progress_permille,
            detail,
            generation: operation.generation.get(),
            trace_id: operation
                .trace
                .map(|context| context.trace.to_string())
                .unwrap_or_default(),
        }
    }

    /// A node as people see it.
    pub(super) fn node(self, node: &fabric::Node) -> wire::Node {
        let observed = self.observed.node(&node.name);
        let fleet = self.fabric.fleet.node(node.id);
        let troubles = self.troubles(node, observed.as_ref());
        let heartbeat_age_ms = observed.as_ref().and_then(|seen| {
            seen.heartbeat_age
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        });
        let reported = observed
            .map(|observed| observed.reported)
            .unwrap_or_default();
        let condition =
            health::condition(node, reported.health.as_deref(), heartbeat_age_ms.is_some());
        let state = node_state(
            node,
            &reported,
            heartbeat_age_ms.is_some(),
            troubles.is_empty(),
        );
        let facts = reported.facts.unwrap_or_default();
        wire::Node {
            id: node.id.to_string(),
            name: node.name.to_string(),
            address: node.address.clone(),
            state: state.into(),
            cordoned: node.cordoned.is_some(),
            cordon_reason: node
                .cordoned
                .as_ref()
                .map(|one| one.reason.clone())
                .unwrap_or_default(),
            arch: node
                .capacity
                .map_or(common::Arch::Unspecified, |capacity| capacity.arch.into())
                .into(),
            vcpus: fleet.map(|view| wire::Usage {
                capacity: view.vcpu_limit().get().into(),
                claimed: view.claimed_vcpus().get().into(),
                free: view.free_vcpus().get().into(),
            }),
            memory_mib: fleet.map(|view| wire::Usage {
                capacity: view.memory_limit().get(),
                claimed: view.claimed_memory().get(),
                free: view.free_memory().get(),
            }),
            vcpu_overcommit_permille: node.vcpu_overcommit_permille,
            instances: fleet.map_or(0, |view| count(view.claims().len())),
            foreign_domains: count(reported.foreign.len()),
            virt_type: facts.virt_type,
            virt_reason: facts.virt_reason,
            versions: facts.versions,
            heartbeat_age_ms,
            detail: troubles.join("; "),
            enroll_time: Some(timestamp(node.joined_at)),
            stray_incarnation_ids: reported.strays.iter().map(ToString::to_string).collect(),
            quarantined: reported.quarantined,
            fingerprint: node.host.0.clone(),
            fingerprint_changes: fingerprint_changes(node),
            certificate_serial: reported
                .certificate
                .map(|seen| seen.serial.to_string())
                .unwrap_or_default(),
            certificate_expire_time: reported.certificate.map(|seen| timestamp(seen.not_after)),
            revoke_time: node.revoked.as_ref().map(|revoked| timestamp(revoked.at)),
            condition: condition.into(),
            verdicts: node
                .health
                .iter()
                .flat_map(|health| &health.verdicts)
                .map(ToString::to_string)
                .collect(),
            quarantine: node.quarantine.as_ref().map(health::quarantine),
            release: node.release.as_ref().map(health::release),
            drain_request_time: node.drain_requested.map(timestamp),
            adopting: self.fabric.is_adopting(&node.name),
            overcommitted: fleet.map(overcommitted).unwrap_or_default(),
            equipment: None,
            equipment_use: None,
            rack: named(node.site.rack.as_ref()),
            room: named(node.site.room.as_ref()),
            labels: (node.site.labels.iter())
                .map(|(label, value)| (label.to_string(), value.clone()))
                .collect(),
            isolation: named(node.site.isolation.as_ref()),
        }
    }

    /// What is wrong with a node, in words.
    fn troubles(self, node: &fabric::Node, observed: Option<&NodeObserved>) -> Vec<String> {
        let mut troubles = Vec::new();
        if let Some(revoked) = &node.revoked {
            let why = match revoked.reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            };
            troubles.push(format!(
                "{} revoked it{why}; join it again with a new token",
                revoked.by
            ));
        }
        if node.found.is_some() {
            troubles.push(format!(
                "its server has changed ({}); rebind it if that is meant",
                fingerprint_changes(node)
                    .iter()
                    .map(|(component, change)| format!("{component} was {change}"))
                    .collect::<Vec<_>>()
                    .join("; ")
            ));
        }
        troubles.extend(health::trouble(node));
        if node.resyncing {
            troubles.push("its agent waits for the full intent".to_owned());
        }
        if self.fabric.is_adopting(&node.name) {
            troubles.push("it is still to be adopted: kapok node differences".to_owned());
        }
        let view = self.fabric.fleet.node(node.id);
        for over in view.map(NodeView::overcommitted).unwrap_or_default() {
            troubles.push(format!("overcommitted by {over}"));
        }
        let Some(NodeObserved { reported, .. }) = observed else {
            return troubles;
        };
        if !reported.trouble.is_empty() {
            troubles.push(reported.trouble.clone());
        }
        if node.reachable && reported.heard_at.is_some() && !reported.hypervisor_up {
            troubles.push("its hypervisor doesn't answer".to_owned());
        }
        // What an unreachable node said of its lanes is old.
        if node.reachable {
            let stuck = reported.lanes.iter().filter(|lane| is_stuck(lane));
            troubles.extend(stuck.map(|lane| {
                format!(
                    "its lane \"{}\" is stuck: no call has ended for {} s, {} wait or run",
                    lane.name,
                    lane.stuck_ms / 1000,
                    lane.depth
                )
            }));
        }
        if !reported.quarantined.is_empty() {
            troubles.push(quarantined(&reported.quarantined));
        }
        if !reported.strays.is_empty() {
            troubles.push(format!(
                "incarnations there that the fabric doesn't know: {}",
                reported.strays.len()
            ));
        }
        troubles
    }
}

/// Where a node's claims exceed what it has.
pub(super) fn overcommitted(view: NodeView<'_>) -> Vec<wire::NodeOvercommitted> {
    let each = view.overcommitted().into_iter().map(|over| {
        let (dimension, amount) = match over {
            Overcommit::Vcpus(by) => ("vcpus", by.get().into()),
            Overcommit::Memory(by) => ("memory_mib", by.get()),
            Overcommit::DedicatedCpus(by) => ("dedicated_cpus", by.get().into()),
            Overcommit::HugePages(by) => ("huge_pages_mib", by.get()),
            Overcommit::Devices(by) => ("devices", by.into()),
        };
        wire::NodeOvercommitted {
            dimension: dimension.to_owned(),
            amount,
        }
    });
    each.collect()
}

/// A name, or the empty text for none.
fn named(name: Option<&Name>) -> String {
    name.map(ToString::to_string).unwrap_or_default()
}

/// An image as people see it.
pub(super) fn image(image: &fabric::Image) -> wire::Image {
    wire::Image {
        id: image.id.to_string(),
        name: image.name.to_string(),
        digest: image.digest.to_string(),
        format: common::DiskFormat::from(image.format).into(),
        size_bytes: image.size.get(),
        virtual_size_bytes: image.virtual_size.get(),
        arch: common::Arch::from(image.arch).into(),
        create_time: Some(timestamp(image.created_at)),
        created_by: image.created_by.to_string(),
        tenant: image.tenant.to_string(),
    }
}

/// Why nothing is heard of a node: a certificate problem is said as such.
fn unreachable(node: &fabric::Node, observed: Option<&NodeObserved>) -> String {
    let refused = observed.and_then(|observed| observed.reported.refused);
    match refused {
        _ if node.revoked.is_some() => "is revoked".to_owned(),
        _ if node.found.is_some() => "is on another server and not believed".to_owned(),
        Some(refused) => format!("can't be talked to: {refused}"),
        None => "doesn't answer".to_owned(),
    }
}

/// A node whose certificate has ended is never taken for one that is down.
fn node_state(
    node: &fabric::Node,
    reported: &Reported,
    heard: bool,
    sound: bool,
) -> wire::NodeState {
    if node.revoked.is_some() {
        wire::NodeState::Revoked
    } else if reported.refused == Some(TlsFailure::Expired) {
        wire::NodeState::CertificateExpired
    } else if node.capacity.is_none() {
        wire::NodeState::Pending
    } else if !node.reachable {
        wire::NodeState::Unreachable
    } else if !heard {
        // What the log says of it is from before this controller's start.
        wire::NodeState::Pending
    } else if sound {
        wire::NodeState::Ready
    } else {
        wire::NodeState::Degraded
    }
}

/// What is other than it was in a node's server: component to "BEFORE, now AFTER".
fn fingerprint_changes(node: &fabric::Node) -> BTreeMap<String, String> {
    let found = node.found.iter();
    found
        .flat_map(|found| node.host.differences(found))
        .map(|change| {
            let told = format!("{}, now {}", change.before, change.after);
            (change.component.to_owned(), told)
        })
        .collect()
}

fn is_stuck(lane: &Lane) -> bool {
    lane.depth > 0 && lane.stuck_ms > STUCK_MS
}

fn quarantined(domains: &[String]) -> String {
    let named = domains.get(..MAX_NAMED).unwrap_or(domains).join(", ");
    let more = match domains.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("domains that don't answer and are quarantined: {named}{more}")
}

fn running_detail(standing: Option<&Standing>) -> String {
    match standing {
        None => String::new(),
        Some(Standing { detail, phase, .. }) if detail.is_empty() => phase_word(*phase).to_owned(),
        Some(Standing { detail, .. }) => detail.clone(),
    }
}

fn operation_kind(kind: OperationKind) -> wire::OperationKind {
    match kind {
        OperationKind::Create => wire::OperationKind::Create,
        OperationKind::Start => wire::OperationKind::Start,
        OperationKind::Stop => wire::OperationKind::Stop,
        OperationKind::Restart => wire::OperationKind::Restart,
        OperationKind::Delete => wire::OperationKind::Delete,
        OperationKind::Resize => wire::OperationKind::Resize,
    }
}

fn operation_state(outcome: OperationOutcome) -> wire::OperationState {
    match outcome {
        OperationOutcome::Succeeded => wire::OperationState::Succeeded,
        OperationOutcome::Failed => wire::OperationState::Failed,
        OperationOutcome::Cancelled => wire::OperationState::Cancelled,
        OperationOutcome::Superseded => wire::OperationState::Superseded,
        OperationOutcome::Detached => wire::OperationState::Detached,
    }
}

/// A phase as people say it.
fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Pulling => "pulling its image",
        Phase::Creating => "being created",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Failing => "failing",
        Phase::Waiting => "waiting for its node's leave to start",
        Phase::Unknown => "in an unknown state",
        Phase::Deleting => "being deleted",
        Phase::Gone => "gone",
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
