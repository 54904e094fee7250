//! Plans of moves.

use kapok_proto::fabric::v1 as wire;
use kapok_types::{MemoryMib, Timestamp};
use serde::Serialize;

use super::{Time, some, time, when, word};
use crate::{
    human::{dash, or_dash, plain},
    output::{columns, pairs},
};

/// An ordered list of moves, and what they come to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    kind: String,
    moves: Vec<Move>,
    stays: Vec<Stay>,
    method: String,
    before: Figures,
    after: Figures,
    freed_nodes: Vec<Freed>,
    freed_kwh_per_year: u64,
    moved_memory_mib: u64,
    compute_time: Option<Time>,
    sequence: u64,
}

/// One move.
#[derive(Debug, Clone, Serialize)]
struct Move {
    instance_id: String,
    tenant: String,
    instance: String,
    incarnation_id: String,
    from: String,
    to: String,
    vcpus: u32,
    memory_mib: u64,
    reason: String,
}

/// What stays.
#[derive(Debug, Clone, Serialize)]
struct Stay {
    /// Null if the fabric doesn't know whose claim it is.
    instance_id: Option<String>,
    tenant: Option<String>,
    instance: Option<String>,
    incarnation_id: String,
    node: String,
    reason: String,
}

/// How things stand.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    nodes_in_use: u32,
    largest_free_vcpus: u32,
    largest_free_memory_mib: u64,
    highest_permille: u64,
}

/// A node that will carry nothing.
#[derive(Debug, Clone, Serialize)]
struct Freed {
    node: String,
    watts: u32,
    /// Else it is an assumption.
    measured: bool,
}

impl From<wire::Plan> for Plan {
    fn from(plan: wire::Plan) -> Self {
        let figures = |figures: Option<wire::PlanFigures>| {
            let figures = figures.unwrap_or_default();
            Figures {
                nodes_in_use: figures.nodes_in_use,
                largest_free_vcpus: figures.largest_free_vcpus,
                largest_free_memory_mib: figures.largest_free_memory_mib,
                highest_permille: figures.highest_permille,
            }
        };
        let moves = plan.moves.into_iter().map(|one| Move {
            instance_id: one.instance_id,
            tenant: one.tenant,
            instance: one.instance_name,
            incarnation_id: one.incarnation_id,
            from: one.from_node,
            to: one.to_node,
            vcpus: one.vcpus,
            memory_mib: one.memory_mib,
            reason: one.reason,
        });
        let stays = plan.stays.into_iter().map(|one| Stay {
            instance_id: some(one.instance_id),
            tenant: some(one.tenant),
            instance: some(one.instance_name),
            incarnation_id: one.incarnation_id,
            node: one.node,
            reason: one.reason,
        });
        let freed = plan.freed_nodes.into_iter().map(|one| Freed {
            node: one.node,
            watts: one.watts,
            measured: one.measured,
        });
        Self {
            kind: word!(wire::PlanKind, "PLAN_KIND_", plan.kind),
            moves: moves.collect(),
            stays: stays.collect(),
            method: word!(wire::PlanMethod, "PLAN_METHOD_", plan.method),
            before: figures(plan.before),
            after: figures(plan.after),
            freed_nodes: freed.collect(),
            freed_kwh_per_year: plan.freed_kwh_per_year,
            moved_memory_mib: plan.moved_memory_mib,
            compute_time: time(plan.compute_time),
            sequence: plan.sequence,
        }
    }
}

impl Plan {
    /// The plan for people.
    pub(crate) fn text(&self, now: Timestamp) -> String {
        let rows = self.moves.iter().enumerate().map(|(number, one)| {
            vec![
                (number + 1).to_string(),
                format!("{}/{}", plain(&one.tenant), plain(&one.instance)),
                plain(&one.from),
                plain(&one.to),
                one.vcpus.to_string(),
                MemoryMib(one.memory_mib).to_string(),
                plain(&one.reason),
            ]
        });
        let headers = ["#", "INSTANCE", "FROM", "TO", "VCPUS", "MEMORY", "WHY"];
        let moves = if self.moves.is_empty() {
            "no moves\n".to_owned()
        } else {
            columns(&headers, rows)
        };
        let rows = self.stays.iter().map(|one| {
            let called = match (&one.tenant, &one.instance) {
                (Some(tenant), Some(instance)) => format!("{tenant}/{instance}"),
                _ => one.incarnation_id.clone(),
            };
            vec![plain(&called), plain(&one.node), or_dash(&one.reason)]
        });
        let stays = if self.stays.is_empty() {
            String::new()
        } else {
            format!("\n{}", columns(&["STAYS", "ON", "BECAUSE"], rows))
        };
        format!("{moves}{stays}\n{}", self.summary(now))
    }

    fn summary(&self, now: Timestamp) -> String {
        let (before, after) = (&self.before, &self.after);
        let turn = |before: String, after: String| {
            if before == after {
                before
            } else {
                format!("{before}, then {after}")
            }
        };
        let piece = |figures: &Figures| {
            format!(
                "{} vCPUs, {} of memory",
                figures.largest_free_vcpus,
                MemoryMib(figures.largest_free_memory_mib)
            )
        };
        let fullest = |figures: &Figures| format!("{}%", figures.highest_permille / 10);
        let freed: Vec<_> = self
            .freed_nodes
            .iter()
            .map(|one| plain(&one.node))
            .collect();
        let moved = MemoryMib(self.moved_memory_mib);
        pairs(&[
            ("Moves", format!("{}, {moved} of memory", self.moves.len())),
            ("Found by", self.method.clone()),
            (
                "Nodes in use",
                turn(
                    before.nodes_in_use.to_string(),
                    after.nodes_in_use.to_string(),
                ),
            ),
            ("Free on one node", turn(piece(before), piece(after))),
            ("Fullest node", turn(fullest(before), fullest(after))),
            ("Freed nodes", or_dash(&freed.join(", "))),
            ("Energy", self.energy()),
            ("Computed", when(self.compute_time, now)),
        ])
    }

    /// What the freed nodes need in a year, and how that is known.
    fn energy(&self) -> String {
        if self.freed_nodes.is_empty() {
            return dash();
        }
        let measured = self.freed_nodes.iter().filter(|one| one.measured).count();
        let assumed = self.freed_nodes.iter().find(|one| !one.measured);
        let assumed = assumed.map(|one| {
            let count = self.freed_nodes.len() - measured;
            format!("assumed {} W each for {count}", one.watts)
        });
        let measured = (measured > 0).then(|| format!("measured for {measured}, as loaded now"));
        let how: Vec<_> = measured.into_iter().chain(assumed).collect();
        format!(
            "{} kWh a year if they are turned off ({})",
            self.freed_kwh_per_year,
            how.join("; ")
        )
    }
}
