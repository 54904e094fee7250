//! Plans over gRPC: what they say, who may ask, and what is refused.

use kapok_proto::fabric::v1::{ComputePlanRequest, CordonNodeRequest, Plan, PlanKind};

use super::*;

async fn plan(who: &Clients, request: ComputePlanRequest) -> Result<Plan, Status> {
    Ok(who.plans().compute_plan(request).await?.into_inner())
}

fn of(kind: PlanKind, node: &str) -> ComputePlanRequest {
    ComputePlanRequest {
        kind: kind.into(),
        node: node.into(),
        cool_down: Some(prost_types::Duration::default()),
        ..ComputePlanRequest::default()
    }
}

/// Instances "web" and "db" on node-1, the second while node-2 is closed, at rest.
async fn two_on_a_node() -> Lab {
    let lab = Lab::new().await.with_nodes(&["node-1", "node-2"]).await;
    instances::import_base(&lab).await;
    let close = CordonNodeRequest {
        node: "node-2".into(),
        ..CordonNodeRequest::default()
    };
    lab.nodes().cordon_node(close).await.unwrap();
    for name in ["web", "db"] {
        let wish = instances::wish(name);
        let made = lab.instances().create_instance(wish).await.unwrap();
        // As the reconciler would, had an agent said that it runs.
        lab.own(Command::EndOperation {
            operation: made.into_inner().id.parse().unwrap(),
            outcome: fabric::OperationOutcome::Succeeded,
            detail: String::new(),
        })
        .await;
    }
    lab.own(Command::UncordonNode {
        node: "node-2".into(),
    })
    .await;
    lab
}

#[tokio::test]
async fn a_drain_is_planned_and_nothing_moves() {
    let lab = two_on_a_node().await;
    let before = lab.api.ledger.snapshot();
    let drain = plan(&lab, of(PlanKind::Drain, "node-1")).await.unwrap();
    let moves: Vec<_> = (drain.moves.iter())
        .map(|one| (&*one.instance_name, &*one.from_node, &*one.to_node))
        .collect();
    let expected = [("web", "node-1", "node-2"), ("db", "node-1", "node-2")];
    assert_eq!(moves, expected);
    assert!(drain.stays.is_empty(), "{drain:?}");
    assert_eq!(drain.moves[0].reason, "its node is drained");
    assert_eq!((&*drain.moves[0].tenant, drain.moves[0].vcpus), ("city", 2));
    // No agent is there to say what the node needs: that is an assumption.
    let [freed] = &drain.freed_nodes[..] else {
        panic!("{drain:?}")
    };
    assert_eq!(
        (&*freed.node, freed.watts, freed.measured),
        ("node-1", 150, false)
    );
    assert_eq!(drain.freed_kwh_per_year, 1314);
    let (now, then) = (drain.before.unwrap(), drain.after.unwrap());
    assert_eq!((now.nodes_in_use, then.nodes_in_use), (1, 1));
    assert_eq!(drain.sequence, before.head.seq.get());
    assert_eq!(lab.api.ledger.snapshot().head, before.head);
    // By name or id, and with other limits.
    let one = ComputePlanRequest {
        max_moves: 1,
        idle_watts: 200,
        ..of(PlanKind::Drain, &fixture::node_id(1).to_string())
    };
    let one = plan(&lab, one).await.unwrap();
    let [stay] = &one.stays[..] else {
        panic!("{one:?}")
    };
    assert_eq!(
        (one.moves.len(), &*stay.instance_name, &*stay.node),
        (1, "db", "node-1")
    );
    assert_eq!(stay.reason, "the plan has as many moves as it may");
    // Who came a moment ago stays for an hour, if nothing else is said.
    let usual = ComputePlanRequest {
        cool_down: None,
        ..of(PlanKind::Drain, "node-1")
    };
    let usual = plan(&lab, usual).await.unwrap();
    assert_eq!((usual.moves.len(), usual.stays.len()), (0, 2));
    let why = &usual.stays[0].reason;
    assert!(
        why.starts_with("it came there lately and may move from "),
        "{why}"
    );
    // Both are where one would be enough already; and the fullest node could carry less.
    let consolidated = plan(&lab, of(PlanKind::Consolidate, "")).await.unwrap();
    assert!(consolidated.moves.is_empty(), "{consolidated:?}");
    let rebalanced = plan(&lab, of(PlanKind::Rebalance, "")).await.unwrap();
    assert_eq!(rebalanced.moves.len(), 1, "{rebalanced:?}");
}

#[tokio::test]
async fn what_no_plan_is_computed_for_is_refused() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    for (request, expected) in [
        (of(PlanKind::Unspecified, ""), "kind"),
        (of(PlanKind::Drain, ""), "node"),
        (of(PlanKind::Rebalance, "node-1"), "node"),
        (
            ComputePlanRequest {
                max_moves: 1001,
                ..of(PlanKind::Rebalance, "")
            },
            "max_moves",
        ),
        (
            ComputePlanRequest {
                idle_watts: 10_001,
                ..of(PlanKind::Rebalance, "")
            },
            "idle_watts",
        ),
        (
            ComputePlanRequest {
                cool_down: Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                }),
                ..of(PlanKind::Rebalance, "")
            },
            "cool_down",
        ),
    ] {
        assert_eq!(field(plan(&lab, request).await), expected);
    }
    let absent = plan(&lab, of(PlanKind::Drain, "node-9")).await;
    assert_eq!(refused(absent), (Code::NotFound, "NOT_FOUND".into()));
}
