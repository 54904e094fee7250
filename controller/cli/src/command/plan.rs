//! `kapok plan …`

use kapok_proto::fabric::v1::{
    ComputePlanRequest, PlanKind, plan_service_client::PlanServiceClient as Plans,
};

use crate::{
    args::plan::{Command, Limits},
    client::Client,
    error::{Doing, Error},
    output::Out,
    view::plan::Plan,
};

/// Computes it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    let (kind, node, limits, what) = match command {
        Command::Rebalance(limits) => {
            let what = "plan a rebalance".to_owned();
            (PlanKind::Rebalance, String::new(), limits, what)
        }
        Command::Consolidate(limits) => {
            let what = "plan a consolidation".to_owned();
            (PlanKind::Consolidate, String::new(), limits, what)
        }
        Command::Drain { node, limits } => {
            let what = format!("plan a drain of node {node}");
            (PlanKind::Drain, node, limits, what)
        }
    };
    let doing = Doing::new(what, "kapok node ls");
    let Limits {
        max_moves,
        max_memory,
        cool_down,
        idle_watts,
    } = limits;
    let request = ComputePlanRequest {
        kind: kind.into(),
        node,
        max_moves,
        max_memory_mib: max_memory.unwrap_or_default(),
        cool_down: prost_types::Duration::try_from(cool_down).ok(),
        idle_watts,
    };
    let plan = client
        .read(&doing, async |channel| {
            Plans::new(channel).compute_plan(request.clone()).await
        })
        .await?;
    let plan = Plan::from(plan);
    if out.format().is_for_people() {
        out.raw(plan.text(client.now()).as_bytes())
    } else {
        out.data(&plan)
    }
}
