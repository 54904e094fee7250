//! Plans: which instances would move where. Computed from a snapshot, never from the ledger.
//!
//! Everything that decides is the scheduler's; here the fabric's instances and groups become its
//! guests, and what would be freed becomes watts.

use std::time::Duration;

use futures::future::join_all;
use kapok_proto::{
    agent::v1::GetHealthRequest,
    common::v1::reading::Read,
    convert::timestamp,
    fabric::v1::{self as wire, ComputePlanRequest, plan_service_server::PlanService},
};
use kapok_scheduler::plan::{
    Effort, Figures, Group, Guest, Guests, Kind, Limits, Method, Why, plan,
};
use kapok_types::{IncarnationId, MemoryMib, NodeId, Timestamp};
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{key, optional_key},
    node::present,
    status,
};
use crate::{
    authz::{Action, Object},
    fabric::{Fabric, Incarnation, Instance, Role, decide, group},
};

/// Moves of a plan, if nothing is said, and at most.
const MOVES: u32 = 20;
const MOST_MOVES: u32 = 1000;
/// How long whatever moved stays, if nothing is said, and at most; in seconds.
const COOL_DOWN_S: u64 = 60 * 60;
const MOST_COOL_DOWN_S: u64 = 30 * 24 * 60 * 60;
/// Watts of an idle node, if nothing is said, and at most.
const IDLE_WATTS: u32 = 150;
const MOST_WATTS: u32 = 10_000;
/// How long agents may take to say their power.
const POWER_DEADLINE: Duration = Duration::from_secs(3);
/// Nodes that are asked for it; the others are assumed.
const MOST_ASKED: usize = 64;
/// Hours of a year.
const HOURS: u64 = 8760;

#[tonic::async_trait]
impl PlanService for Api {
    async fn compute_plan(
        &self,
        request: Request<ComputePlanRequest>,
    ) -> Result<Response<wire::Plan>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::PlanCompute, &Object::Fabric, "")?;
        let request = request.into_inner();
        let snapshot = self.ledger.snapshot();
        let kind = kind(&snapshot.fabric, &request)?;
        let limits = limits(&request)?;
        let idle = number("idle_watts", request.idle_watts, IDLE_WATTS, MOST_WATTS)?;
        let (policy, now) = (self.ledger.rules().placement, self.env.now());
        let work = snapshot.clone();
        let plan = self
            .ponder(move || {
                let fabric = &work.fabric;
                let guests = guests(fabric);
                plan(&fabric.fleet, &guests, kind, &limits, &policy, now)
            })
            .await?;
        let freed_nodes = self.watts(&snapshot.fabric, &plan.freed, idle).await;
        let watts: u64 = freed_nodes.iter().map(|one| u64::from(one.watts)).sum();
        let told = Told(&snapshot.fabric);
        Ok(Response::new(wire::Plan {
            kind: request.kind,
            moves: plan.moves.iter().map(|one| told.moved(one)).collect(),
            stays: plan.stays.iter().map(|one| told.stay(one)).collect(),
            method: match plan.method {
                Method::Greedy => wire::PlanMethod::Greedy,
                Method::Solver => wire::PlanMethod::Solver,
            }
            .into(),
            before: Some(figures(&plan.before)),
            after: Some(figures(&plan.after)),
            freed_nodes,
            freed_kwh_per_year: watts.saturating_mul(HOURS) / 1000,
            moved_memory_mib: plan.memory().get(),
            compute_time: Some(timestamp(now)),
            sequence: snapshot.head.seq.get(),
        }))
    }
}

fn kind(fabric: &Fabric, request: &ComputePlanRequest) -> Result<Kind, Status> {
    let node = optional_key("node", request.node.clone())?;
    let kind = match request.kind() {
        wire::PlanKind::Drain => {
            let node = key("node", node)?;
            return Ok(Kind::Drain(present(fabric, &node)?.id));
        }
        wire::PlanKind::Consolidate => Kind::Consolidate,
        wire::PlanKind::Rebalance => Kind::Rebalance,
        wire::PlanKind::Unspecified => {
            let reason = "must be stated: drain, consolidate or rebalance";
            return Err(status::bad_field("kind", reason));
        }
    };
    if node.is_empty() {
        Ok(kind)
    } else {
        Err(status::bad_field("node", "is for a drain alone"))
    }
}

fn limits(request: &ComputePlanRequest) -> Result<Limits, Status> {
    let moves = number("max_moves", request.max_moves, MOVES, MOST_MOVES)?;
    let seconds = match &request.cool_down {
        None => COOL_DOWN_S,
        Some(stated) => (u64::try_from(stated.seconds).ok())
            .filter(|seconds| *seconds <= MOST_COOL_DOWN_S)
            .ok_or_else(|| status::bad_field("cool_down", "must be 0 to 30 days"))?,
    };
    Ok(Limits {
        moves: usize::try_from(moves).unwrap_or(usize::MAX),
        memory: (request.max_memory_mib != 0).then_some(MemoryMib(request.max_memory_mib)),
        cool_down_ms: seconds * 1000,
        effort: Effort::default(),
    })
}

/// A number that is 0 where nothing is said.
fn number(field: &str, stated: u32, usual: u32, most: u32) -> Result<u32, Status> {
    match stated {
        0 => Ok(usual),
        stated if stated <= most => Ok(stated),
        stated => {
            let reason = format!("is {stated}; must be at most {most}");
            Err(status::bad_field(field, reason))
        }
    }
}

/// All incarnations, and what they are to each other.
fn guests(fabric: &Fabric) -> Guests {
    let guests = fabric.instances.values().flat_map(|instance| {
        let request = decide::placement_request(fabric, &instance.tenant, &instance.spec);
        instance.incarnations.iter().map(move |one| Guest {
            incarnation: one.id,
            node: one.node,
            request: request.clone(),
            since: since(instance, one.id),
            busy: busy(fabric, instance, one),
        })
    });
    let groups = fabric.groups.values().map(|group| Group {
        called: Some(format!("{}/{}", group.tenant, group.name)),
        domain: group.domain,
        strict: group.strict,
        apart: group.kind == group::Kind::Apart,
        members: (fabric.members_of(group))
            .flat_map(|member| &member.incarnations)
            .map(|one| (one.id, one.node))
            .collect(),
    });
    Guests {
        guests: guests.collect(),
        groups: groups.collect(),
    }
}

/// When an incarnation was placed: its id was made then, and says so.
fn since(instance: &Instance, incarnation: IncarnationId) -> Timestamp {
    let made = incarnation.0.get_timestamp().map(|made| made.to_unix());
    made.map_or(instance.created_at, |(seconds, nanos)| {
        let ms = seconds.saturating_mul(1000);
        Timestamp(ms.saturating_add(u64::from(nanos) / 1_000_000))
    })
}

/// What keeps an incarnation from moving that the fleet doesn't show.
fn busy(fabric: &Fabric, instance: &Instance, incarnation: &Incarnation) -> Option<String> {
    if instance.deleting {
        return Some("it is being deleted".into());
    }
    if incarnation.role != Role::Active || instance.incarnations.len() > 1 {
        return Some("it is between nodes already".into());
    }
    let operation = fabric.running_operation(instance)?;
    Some(format!("operation {operation} goes on"))
}

/// What a move is for. Tiers are the scheduler's word; people know how a node stands.
fn why(why: Why) -> String {
    let stands = |tier: u8| {
        let condition = match tier % 4 {
            0 => "healthy",
            1 => "unknown",
            2 => "degraded",
            _ => "failing",
        };
        let asked = if tier < 4 {
            ""
        } else {
            " and asked to be drained"
        };
        format!("{condition}{asked}")
    };
    match why {
        Why::Pressed { tier, better } => format!(
            "its node is {}, the other one {}",
            stands(tier),
            stands(better)
        ),
        Why::Drained | Why::Emptied { .. } | Why::Full { .. } => why.to_string(),
    }
}

fn figures(figures: &Figures) -> wire::PlanFigures {
    wire::PlanFigures {
        nodes_in_use: u32::try_from(figures.nodes_in_use).unwrap_or(u32::MAX),
        largest_free_vcpus: figures.largest_vcpus.get(),
        largest_free_memory_mib: figures.largest_memory.get(),
        highest_permille: figures.highest_permille,
    }
}

/// Ids as people know them.
struct Told<'f>(&'f Fabric);

impl Told<'_> {
    fn node(&self, id: NodeId) -> String {
        let name = self.0.node_names.get(&id);
        name.map_or_else(|| id.to_string(), ToString::to_string)
    }

    /// An instance's id, tenant and name.
    fn instance(&self, id: IncarnationId) -> [String; 3] {
        let known = self.0.incarnation(id);
        known.map_or_else(Default::default, |(instance, _)| {
            let Instance {
                id, tenant, name, ..
            } = instance;
            [id.to_string(), tenant.to_string(), name.to_string()]
        })
    }

    fn moved(&self, one: &kapok_scheduler::plan::Move) -> wire::PlannedMove {
        let [instance_id, tenant, instance_name] = self.instance(one.incarnation);
        wire::PlannedMove {
            instance_id,
            tenant,
            instance_name,
            incarnation_id: one.incarnation.to_string(),
            from_node: self.node(one.from),
            to_node: self.node(one.to),
            vcpus: one.claim.vcpus.get(),
            memory_mib: one.claim.memory.total().get(),
            reason: why(one.why),
        }
    }

    fn stay(&self, one: &kapok_scheduler::plan::Stay) -> wire::PlannedStay {
        let [instance_id, tenant, instance_name] = self.instance(one.incarnation);
        wire::PlannedStay {
            instance_id,
            tenant,
            instance_name,
            incarnation_id: one.incarnation.to_string(),
            node: self.node(one.node),
            reason: one.to_string(),
        }
    }
}

impl Api {
    /// What nodes need: by their agents' word of now, or `idle` watts.
    async fn watts(&self, fabric: &Fabric, nodes: &[NodeId], idle: u32) -> Vec<wire::FreedNode> {
        let each = nodes.iter().enumerate().map(|(number, id)| async move {
            let asked = (number < MOST_ASKED).then(|| self.power(*id));
            let measured = match asked {
                Some(asked) => asked.await,
                None => None,
            };
            wire::FreedNode {
                node: Told(fabric).node(*id),
                watts: measured.unwrap_or(idle),
                measured: measured.is_some(),
            }
        });
        join_all(each).await
    }

    /// The largest power reading of a node: of the whole server where it has one, and never more
    /// than that, while adding parts up would count some twice.
    async fn power(&self, node: NodeId) -> Option<u32> {
        let mut agent = self.links.client(node)?;
        let answer = agent.get_health(GetHealthRequest { readings: true });
        let late = || status::unavailable("NODE_UNREACHABLE", "it is late");
        let answer = self.within(POWER_DEADLINE, late, answer).await.ok()?.ok()?;
        let readings = answer.into_inner().health?.readings.into_iter();
        let power = readings.filter(|one| one.quantity == "power" && one.unit == "watts");
        let watts = power.filter_map(|one| match one.read? {
            Read::Value(watts) => whole(watts),
            Read::Unreadable(_) | Read::Absent(_) => None,
        });
        watts.max().filter(|watts| *watts > 0)
    }
}

/// A reading as a whole number, if it is one of a server's.
fn whole(watts: f64) -> Option<u32> {
    // Written out and read back: there is no conversion that checks.
    let text = format!("{watts:.0}");
    text.parse().ok().filter(|watts| *watts <= MOST_WATTS * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_told_as_nodes_stand() {
        let told = |tier, better| why(Why::Pressed { tier, better });
        assert_eq!(told(2, 0), "its node is degraded, the other one healthy");
        assert_eq!(
            told(7, 1),
            "its node is failing and asked to be drained, the other one unknown"
        );
        assert_eq!(why(Why::Drained), "its node is drained");
    }

    #[test]
    fn a_reading_is_a_servers_or_none() {
        let cases = [
            (0.4, Some(0)),
            (212.5, Some(212)),
            (-3.0, None),
            (1e9, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ];
        for (watts, expected) in cases {
            assert_eq!(whole(watts), expected, "{watts}");
        }
    }
}
