//! What agents say of their servers decides where new instances go, and no more than the brake lets
//! it.

use std::time::Duration;

use kapok_health::{Component, Kind, Reading, quantity};
use kapok_proto::{
    common::v1::Condition,
    fabric::v1::{
        GetNodeHealthRequest, ListNodeHealthRequest, ListNodeHealthResponse, Node, NodeState,
        ReleaseNodeRequest,
    },
};
use kapok_tests::Cluster;

const SOON: Duration = Duration::from_mins(2);

/// Nodes whose servers are watched, and all said to be well.
async fn watched(nodes: usize) -> Cluster {
    let mut cluster = Cluster::builder().nodes(nodes).build().await;
    for node in &mut cluster.nodes {
        node.watch_health();
    }
    for index in 0..nodes {
        disk(&cluster, index, false).await;
    }
    cluster.ready().await;
    until(&cluster, |all| count(all, "healthy") == nodes).await;
    cluster
}

/// What SMART says of a node's disk.
async fn disk(cluster: &Cluster, index: usize, failing: bool) {
    let disk = Component::new(Kind::Disk, "sda");
    let reading = Reading::flag(&disk, quantity::SMART_FAILING, failing);
    let health = cluster.nodes[index].health().unwrap();
    health.report("smart", Ok(vec![reading])).await;
}

async fn all(cluster: &Cluster) -> ListNodeHealthResponse {
    let request = ListNodeHealthRequest::default();
    let answer = cluster.people.nodes().list_node_health(request).await;
    answer.unwrap().into_inner()
}

fn count(all: &ListNodeHealthResponse, word: &str) -> usize {
    usize::try_from(all.counts[word]).unwrap()
}

/// Nodes in quarantine, and nodes that are held.
fn quarantined(all: &ListNodeHealthResponse) -> (usize, usize) {
    let quarantines = all.nodes.iter().filter_map(|node| node.quarantine.as_ref());
    let held = quarantines.clone().filter(|one| one.held).count();
    (quarantines.count() - held, held)
}

async fn until(cluster: &Cluster, is_so: impl Fn(&ListNodeHealthResponse) -> bool) {
    let look = async || is_so(&all(cluster).await);
    cluster
        .eventually(SOON, "the nodes' health is such", look)
        .await;
}

async fn node(cluster: &Cluster, index: usize) -> Node {
    let name = cluster.nodes[index].name.as_str();
    cluster.people.node(name).await.unwrap()
}

/// A verdict goes from the reading to the scheduler: new instances go elsewhere, what runs runs on,
/// a person's word goes before it, and a node that is well again comes back after the quiet time.
#[tokio::test(start_paused = true)]
async fn a_failing_server_takes_nothing_new() {
    let cluster = watched(2).await;
    let guest = cluster.run_on("web", 0).await;
    disk(&cluster, 0, true).await;
    until(&cluster, |all| quarantined(all) == (1, 0)).await;
    let shown = node(&cluster, 0).await;
    assert_eq!(shown.condition(), Condition::Failing);
    assert_eq!(shown.verdicts, ["DISK_SMART_FAILING disk/sda"]);
    assert_eq!(shown.state(), NodeState::Degraded);
    for n in 0..4 {
        let (_, place) = cluster.run(&format!("other-{n}")).await;
        assert_eq!(place, 1, "nothing new goes to a node in quarantine");
    }
    assert_eq!(cluster.runs(guest), 1, "what runs there runs on");
    let asked = GetNodeHealthRequest {
        node: "node-1".into(),
        readings: true,
    };
    let told = cluster.people.nodes().get_node_health(asked).await.unwrap();
    let told = told.into_inner().health.unwrap();
    assert!(
        told.components
            .iter()
            .any(|one| one.component == "disk/sda")
    );
    assert!(!told.verdicts[0].evidence.is_empty());

    let release = ReleaseNodeRequest {
        node: "node-1".into(),
        reason: "the disk comes tomorrow".into(),
        life: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        request_id: String::new(),
    };
    cluster.people.nodes().release_node(release).await.unwrap();
    cluster.run_on("released", 0).await;
    cluster.pass(Duration::from_mins(1)).await;
    let ended = async || node(&cluster, 0).await.release.is_none();
    cluster
        .eventually(SOON, "the release has ended", ended)
        .await;
    assert_eq!(quarantined(&all(&cluster).await), (1, 0));

    disk(&cluster, 0, false).await;
    // The agent's own patience, and then the controller's.
    for _ in 0..18 {
        cluster.pass(Duration::from_mins(10)).await;
        disk(&cluster, 0, false).await;
        if quarantined(&all(&cluster).await) == (0, 0) {
            break;
        }
    }
    assert_eq!(quarantined(&all(&cluster).await), (0, 0));
    cluster.run_on("back", 0).await;
    cluster.check_invariants().await;
}

/// FAULTS 47's sibling, DESIGN's rule 6: half of the nodes turn failing at once. A fifth takes
/// nothing new, the others are held and go on taking instances; no guest notices, and a controller
/// that is killed in between changes nothing about it.
#[tokio::test(start_paused = true)]
async fn half_of_the_nodes_turn_failing_at_once() {
    let mut cluster = watched(10).await;
    let guest = cluster.run_on("web", 0).await;
    for index in 0..5 {
        disk(&cluster, index, true).await;
    }
    until(&cluster, |all| count(all, "failing") == 5).await;
    until(&cluster, |all| quarantined(all) == (2, 3)).await;
    cluster.restart_controller().await;
    until(&cluster, |all| {
        count(all, "failing") == 5 && quarantined(all) == (2, 3)
    })
    .await;
    cluster.pass(Duration::from_mins(30)).await;
    assert_eq!(quarantined(&all(&cluster).await), (2, 3));
    assert_eq!(cluster.runs(guest), 1);
    let (kinds, limit) = {
        let fold = cluster.fold().await;
        let events = fold.records.iter().flat_map(|record| &record.events);
        let judged = events.clone().filter(|event| event.kind() == "node.judged");
        let held = events.filter(|event| event.kind() == "node.quarantine_held");
        (
            (judged.count(), held.count()),
            fold.fabric.quarantined.len(),
        )
    };
    // Ten were first healthy; five turned. Nothing is written of what doesn't change.
    assert_eq!(kinds, (15, 3));
    assert_eq!(limit, 2);
    cluster.check_invariants().await;
}
