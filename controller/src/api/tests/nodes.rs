use kapok_proto::{
    agent::v1::{HeartbeatResponse, Lane},
    fabric::v1::{GetNodeRequest, NodeState},
};

use super::{console::Echoes, *};

/// A stolen key: whoever answers with a node's key on another server is neither commanded nor
/// believed, and that is said; rebound, it is a node like any other.
#[tokio::test]
async fn a_node_on_another_server_is_left_alone() {
    let agent = Echoes::new(&[("product_uuid", "b")]);
    let lab = Lab::start(agent.way(), "").await;
    let token = fixture::token(1, "node/node-1");
    lab.own(token).await;
    let join = fixture::join(
        1,
        fixture::node_id(1),
        "127.0.0.1:1",
        &[("product_uuid", "a")],
    );
    let Command::JoinNode(mut join) = join else {
        panic!("{join:?}");
    };
    let snapshot = lab.api.ledger.snapshot();
    join.certificate.authority = snapshot.fabric.active_authority().unwrap().fingerprint;
    lab.own(Command::JoinNode(join)).await;
    let name: Name = "node-1".parse().unwrap();
    let mut seen = lab.api.observed.changes();
    let mut until = async |words: &str| {
        let told = async || {
            let node = lab.api.observed.node(&name);
            node.is_some_and(|node| {
                let trouble = node.reported.trouble;
                node.reported.heard_at.is_some()
                    && (trouble.contains(words) && trouble.is_empty() == words.is_empty())
            })
        };
        while !told().await {
            soon(seen.changed()).await.unwrap();
        }
    };
    until("kapok node rebind node-1").await;
    assert!(lab.api.links.client(fixture::node_id(1)).is_none());
    let node = "node-1".to_owned();
    let shown = lab.nodes().get_node(GetNodeRequest { node }).await;
    let shown = shown.unwrap().into_inner();
    assert_eq!(shown.state(), NodeState::Degraded);
    assert_eq!(shown.fingerprint_changes["product_uuid"], "a, now b");
    assert!(shown.detail.contains("rebind"), "{}", shown.detail);
    let node = "node-1".to_owned();
    lab.own(Command::RebindNode {
        node,
        parts_differ: false,
    })
    .await;
    until("").await;
    soon(async {
        while lab.api.links.client(fixture::node_id(1)).is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

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
