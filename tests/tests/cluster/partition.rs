//! Networks that lose nodes: *unreachable* is never *dead*.

use std::time::Duration;

use kapok_proto::{
    common::v1::Phase,
    fabric::v1::{CreateInstanceRequest, NodeState},
};
use kapok_tests::{Cluster, people::small};
use kapok_types::IncarnationId;
use tokio::time::Instant;

/// One guest on each node.
async fn one_on_each(cluster: &Cluster) -> Vec<IncarnationId> {
    let mut guests = Vec::new();
    for index in 0..cluster.nodes.len() {
        guests.push(cluster.run_on(&format!("web-{index}"), index).await);
    }
    guests
}

fn all_untouched(cluster: &Cluster, guests: &[IncarnationId]) {
    for (index, guest) in guests.iter().enumerate() {
        assert_eq!(
            cluster.nodes[index].host.is_on(*guest),
            Some(true),
            "web-{index}"
        );
        assert_eq!(cluster.runs(*guest), 1, "web-{index}");
    }
}

async fn count(cluster: &Cluster, kind: &str) -> usize {
    let fold = cluster.fold().await;
    let events = fold.records.iter().flat_map(|record| &record.events);
    events.filter(|event| event.kind() == kind).count()
}

/// FAULTS 46: life signs arrive but commands don't, and the reverse. Nothing is restarted, here
/// or elsewhere, and what was asked for comes about when the line heals.
#[tokio::test(start_paused = true)]
async fn half_a_line_is_no_proof_of_anything() {
    let builder = Cluster::builder().nodes(2);
    let builder = builder.timing(|timing| timing.operation_deadline = Duration::from_hours(1));
    let cluster = builder.build().await;
    let guests = one_on_each(&cluster).await;
    let address = cluster.nodes[0].address.clone();
    let towards: fn(&Cluster, &str) = |cluster, address| cluster.network.hang_towards(address);
    let back: fn(&Cluster, &str) = |cluster, address| cluster.network.hang_back(address);
    for (round, hang) in [towards, back].into_iter().enumerate() {
        hang(&cluster, &address);
        let stop = cluster.people.stop("web-0").await;
        cluster.node_is("node-1", NodeState::Unreachable).await;
        cluster.phase_is("web-0", Phase::Unknown).await;
        cluster.pass(Duration::from_mins(10)).await;
        assert_eq!(count(&cluster, "incarnation.placed").await, 2 + round);
        let other = cluster.run(&format!("other-{round}")).await;
        assert_eq!(other.1, 1, "only the node in touch takes new ones");
        cluster.network.heal(&address);
        cluster.ready().await;
        cluster.people.succeeds(stop).await;
        assert_eq!(cluster.nodes[0].host.is_on(guests[0]), Some(false));
        cluster
            .people
            .succeeds(cluster.people.start("web-0").await)
            .await;
        assert_eq!(cluster.runs(guests[0]), 2 + u64::try_from(round).unwrap());
    }
    assert_eq!(cluster.runs(guests[1]), 1);
    cluster.finish().await;
}

/// FAULTS 47: half of the nodes vanish at once. Nothing happens to any instance, nothing is
/// placed anew, claims stay, and the rest of the fabric works.
#[tokio::test(start_paused = true)]
async fn half_of_the_nodes_vanish_and_nothing_is_moved() {
    let cluster = Cluster::builder().nodes(6).build().await;
    let guests = one_on_each(&cluster).await;
    for node in &cluster.nodes[..3] {
        cluster.network.hang(&node.address);
    }
    for number in 1..=3 {
        cluster
            .node_is(&format!("node-{number}"), NodeState::Unreachable)
            .await;
    }
    cluster.pass(Duration::from_mins(30)).await;
    assert_eq!(count(&cluster, "incarnation.placed").await, 6);
    assert_eq!(count(&cluster, "incarnation.ended").await, 0);
    let node = cluster.people.node("node-1").await.unwrap();
    assert_eq!(node.vcpus.unwrap().claimed, 1, "its claims stay");
    assert!(cluster.run("new").await.1 >= 3);
    for node in &cluster.nodes[..3] {
        cluster.network.heal(&node.address);
    }
    cluster.ready().await;
    all_untouched(&cluster, &guests);
    cluster.finish().await;
}

/// FAULTS 49, as far as nothing is restarted elsewhere yet: a node returns after its instance was
/// deleted. The stale domain is destroyed before its disk goes, and the claim counts until then.
#[tokio::test(start_paused = true)]
async fn a_returning_node_destroys_what_was_deleted_meanwhile() {
    use kapok_agent::driver::sim::Call;

    let cluster = Cluster::builder().nodes(2).build().await;
    let guests = one_on_each(&cluster).await;
    let node = &cluster.nodes[0];
    cluster.network.refuse(&node.address);
    cluster.node_is("node-1", NodeState::Unreachable).await;
    let delete = cluster.people.delete("web-0").await;
    cluster.pass(Duration::from_mins(5)).await;
    assert_eq!(node.host.is_on(guests[0]), Some(true));
    let pool = cluster.people.node("node-1").await.unwrap();
    assert_eq!(pool.vcpus.unwrap().claimed, 1, "silence proves nothing");
    let taken = cluster.people.create_as(small("web-0")).await;
    assert!(taken.is_err(), "the name is taken until the end is proven");
    node.host.keep_log(true);
    cluster.network.heal(&node.address);
    cluster.people.succeeds(delete).await;
    let log = node.host.log();
    let at = |call: Call| {
        log.iter()
            .position(|entry| *entry == (call, Some(guests[0])))
    };
    assert!(at(Call::Destroy).unwrap() < at(Call::RemoveRoot).unwrap());
    assert!(at(Call::RemoveRoot).unwrap() < at(Call::Undefine).unwrap());
    cluster.finish().await;
}

/// FAULTS 59: all agents reconnect at once. No node is called lost, and who can't connect tries
/// again at its own time.
#[tokio::test(start_paused = true)]
async fn all_agents_reconnect_at_once_without_false_deaths() {
    let mut cluster = Cluster::builder().nodes(20).build().await;
    let mut guests = Vec::new();
    for number in 0..20 {
        guests.push(cluster.run(&format!("web-{number}")).await.0);
    }
    for _ in 0..5 {
        for node in &cluster.nodes {
            cluster.network.cut(&node.address);
        }
        cluster.pass(Duration::from_secs(15)).await;
    }
    cluster.restart_controller().await;
    cluster.pass(Duration::from_secs(30)).await;
    for node in &mut cluster.nodes {
        node.restart();
    }
    cluster.pass(Duration::from_secs(30)).await;
    assert_eq!(count(&cluster, "node.lost").await, 0);
    let begun = Instant::now();
    for node in &cluster.nodes {
        cluster.network.refuse(&node.address);
    }
    cluster.pass(Duration::from_mins(2)).await;
    let mut last = Vec::new();
    for node in &cluster.nodes {
        let dials = cluster.network.dials(&node.address);
        let tries = dials.iter().filter(|at| **at > begun).count();
        assert!(
            (20..=60).contains(&tries),
            "{} was dialled {tries} times",
            node.name
        );
        last.push(*dials.last().unwrap());
    }
    last.sort();
    let spread = last[last.len() - 1] - last[0];
    assert!(
        spread > Duration::from_secs(1),
        "all dial within {spread:?}"
    );
    for node in &cluster.nodes {
        cluster.network.heal(&node.address);
    }
    cluster.ready().await;
    for guest in guests {
        assert_eq!(cluster.runs(guest), 1);
    }
    cluster.finish().await;
}

/// FAULTS 60: late life signs below the bound lose nobody.
#[tokio::test(start_paused = true)]
async fn a_slow_line_is_no_lost_node() {
    let cluster = Cluster::builder().nodes(2).build().await;
    cluster
        .network
        .delay(&cluster.nodes[0].address, Duration::from_millis(1500));
    cluster.pass(Duration::from_mins(10)).await;
    assert_eq!(count(&cluster, "node.lost").await, 0);
    cluster.people.cordon("node-2").await.unwrap();
    let (web, place) = cluster.run("web").await;
    assert_eq!((place, cluster.runs(web)), (0, 1));
    // And a line that carries nothing for a little less than the bound, again and again.
    for _ in 0..20 {
        cluster.network.hang(&cluster.nodes[0].address);
        cluster.pass(Duration::from_secs(8)).await;
        cluster.network.heal(&cluster.nodes[0].address);
        cluster.pass(Duration::from_secs(3)).await;
    }
    assert_eq!(count(&cluster, "node.lost").await, 0);
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}

/// A node that is lost is said to be lost at the stated bound, not before and not much later.
#[tokio::test(start_paused = true)]
async fn silence_is_noticed_at_its_bound() {
    let cluster = Cluster::builder().nodes(1).build().await;
    cluster.pass(Duration::from_secs(20)).await;
    let begun = Instant::now();
    cluster.network.hang(&cluster.nodes[0].address);
    cluster.node_is("node-1", NodeState::Unreachable).await;
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(13),
        "{took:?}"
    );
    let wanted = CreateInstanceRequest {
        validate_only: true,
        ..small("web")
    };
    assert!(cluster.people.create_as(wanted).await.is_err());
    cluster.network.heal(&cluster.nodes[0].address);
    cluster.ready().await;
    cluster.finish().await;
}

/// Another node answers at a node's address: it gets nothing of the first one's intent.
#[tokio::test(start_paused = true)]
async fn another_node_at_the_address_is_refused() {
    let mut cluster = Cluster::builder().nodes(2).build().await;
    let guest = cluster.run_on("web", 0).await;
    let (first, second) = (
        cluster.nodes[0].address.clone(),
        cluster.nodes[1].address.clone(),
    );
    cluster.people.set_address("node-1", &second).await.unwrap();
    cluster.people.set_address("node-2", &first).await.unwrap();
    cluster.restart_controller().await;
    cluster.pass(Duration::from_mins(2)).await;
    let node = cluster.people.node("node-1").await.unwrap();
    assert_eq!(node.state(), NodeState::Unreachable, "{node:?}");
    assert!(
        node.detail.contains(&cluster.nodes[1].id.to_string()),
        "{:?}",
        node.detail
    );
    assert!(cluster.nodes[1].host.domains().is_empty());
    cluster.people.set_address("node-1", &first).await.unwrap();
    cluster.people.set_address("node-2", &second).await.unwrap();
    cluster.restart_controller().await;
    cluster.ready().await;
    assert_eq!(cluster.runs(guest), 1);
    cluster.finish().await;
}
