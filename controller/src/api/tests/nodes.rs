use kapok_proto::{
    agent::v1::{HeartbeatResponse, Lane},
    fabric::v1::NodeState,
};

use super::*;

/// FAULTS 42: a lane that is stuck and domains that are quarantined show in their node.
#[tokio::test]
async fn what_is_stuck_degrades_its_node() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    // Apart from the link, which reaches nobody here and says so.
    let (snapshot, observed) = (
        lab.api.ledger.snapshot(),
        observed::Table::new(System::new()),
    );
    let (name, view) = (
        "node-1".parse().unwrap(),
        view::View {
            fabric: &snapshot.fabric,
            observed: &observed,
        },
    );
    let sign = |stuck_ms, depth, quarantined: &[&str]| HeartbeatResponse {
        hypervisor_up: true,
        lanes: vec![Lane {
            name: "change".into(),
            stuck_ms,
            depth,
        }],
        quarantined: quarantined.iter().map(ToString::to_string).collect(),
        ..HeartbeatResponse::default()
    };
    let cases = [
        (sign(0, 3, &[]), ""),
        (sign(10_000, 3, &[]), ""),
        // Nobody waits: it only rests.
        (sign(60_000, 0, &[]), ""),
        (
            sign(12_345, 3, &[]),
            "its lane \"change\" is stuck: no call has ended for 12 s, 3 wait or run",
        ),
        (
            sign(0, 0, &["a", "b"]),
            "domains that don't answer and are quarantined: a, b",
        ),
        (
            sign(0, 0, &["a", "b", "c", "d", "e", "f"]),
            "domains that don't answer and are quarantined: a, b, c, d and 2 more",
        ),
    ];
    for (sign, expected) in cases {
        observed.heard(&name, &sign);
        let node = view.node(&snapshot.fabric.nodes[&name]);
        let state = if expected.is_empty() {
            NodeState::Ready
        } else {
            NodeState::Degraded
        };
        assert_eq!((node.state(), &*node.detail), (state, expected));
    }
}
