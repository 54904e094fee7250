//! What people ask for comes about on the nodes, and what guests do is understood.

use std::time::Duration;

use kapok_proto::{
    common::v1::{Ended, Phase, Power, RunPolicy},
    fabric::v1::{CreateInstanceRequest, OperationState},
};
use kapok_tests::{
    Cluster,
    people::{reason, small},
};
use tonic::Code;

#[tokio::test(start_paused = true)]
async fn instances_live_a_whole_life_on_several_nodes() {
    crate::show_log();
    let cluster = Cluster::builder().nodes(3).build().await;
    let people = &cluster.people;
    for (index, name) in ["web", "db", "mail"].into_iter().enumerate() {
        let incarnation = cluster.run_on(name, index).await;
        assert_eq!(cluster.nodes[index].host.is_on(incarnation), Some(true));
        cluster.phase_is(name, Phase::Running).await;
    }
    let (web, _) = cluster.place("web").await;
    people.succeeds(people.stop("web").await).await;
    assert_eq!(cluster.nodes[0].host.is_on(web), Some(false));
    assert_eq!(
        people.instance("web").await.unwrap().phase(),
        Phase::Stopped
    );
    people.succeeds(people.start("web").await).await;
    assert_eq!(
        (cluster.nodes[0].host.is_on(web), cluster.runs(web)),
        (Some(true), 2)
    );
    people.succeeds(people.restart("web").await).await;
    assert_eq!(
        (cluster.nodes[0].host.is_on(web), cluster.runs(web)),
        (Some(true), 3)
    );
    let (db, _) = cluster.place("db").await;
    assert_eq!(cluster.runs(db), 1, "others are not touched");
    people.succeeds(people.delete("web").await).await;
    assert_eq!(
        people.instance("web").await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        (
            cluster.nodes[0].host.domains(),
            cluster.nodes[0].host.disks()
        ),
        (vec![], vec![])
    );
    let node = people.node("node-1").await.unwrap();
    assert_eq!(node.memory_mib.unwrap().claimed, 0, "the claim has ended");
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_may_be_made_to_be_off() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let people = &cluster.people;
    let wanted = CreateInstanceRequest {
        stopped: true,
        ..small("web")
    };
    people.succeeds(people.create_as(wanted).await).await;
    let (web, _) = cluster.place("web").await;
    assert_eq!(
        (cluster.nodes[0].host.is_on(web), cluster.runs(web)),
        (Some(false), 0)
    );
    people.succeeds(people.start("web").await).await;
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_guests_own_shutdown_becomes_intent_stopped() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    cluster.nodes[0].host.guest_shuts_down(web);
    cluster
        .eventually(
            Duration::from_secs(30),
            "the intent is stopped",
            async || cluster.people.instance("web").await.unwrap().power() == Power::Stopped,
        )
        .await;
    let instance = cluster.people.instance("web").await.unwrap();
    assert_eq!(
        (instance.phase(), instance.ended()),
        (Phase::Stopped, Ended::ByGuest)
    );
    cluster.pass(Duration::from_mins(10)).await;
    assert_eq!(
        cluster.runs(web),
        1,
        "nothing restarts what its guest ended"
    );
    let events = cluster.people.events_after(0).await.unwrap();
    let told = events
        .iter()
        .filter(|event| event.kind == "instance.stopped_by_guest")
        .count();
    assert_eq!(told, 1);
    // People may turn it on again.
    cluster
        .people
        .succeeds(cluster.people.start("web").await)
        .await;
    assert_eq!(cluster.runs(web), 2);
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn always_means_always() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let people = &cluster.people;
    let wanted = CreateInstanceRequest {
        run_policy: RunPolicy::Always.into(),
        ..small("web")
    };
    people.succeeds(people.create_as(wanted).await).await;
    let (web, _) = cluster.place("web").await;
    cluster.nodes[0].host.guest_shuts_down(web);
    cluster
        .eventually(Duration::from_secs(30), "it is on again", async || {
            cluster.runs(web) == 2
        })
        .await;
    assert_eq!(
        people.instance("web").await.unwrap().power(),
        Power::Running
    );
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_crashed_guest_is_started_again_with_back_off() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let mut waits = Vec::new();
    for crash in 1..=6 {
        let before = tokio::time::Instant::now();
        cluster.nodes[0].host.crash_guest(web);
        cluster
            .eventually(Duration::from_mins(2), "it is on again", async || {
                cluster.runs(web) == crash + 1
            })
            .await;
        waits.push(before.elapsed().as_secs());
    }
    assert!(waits[0] <= 2, "{waits:?}");
    assert!(
        waits[5] >= 20 && waits.is_sorted(),
        "the waits double: {waits:?}"
    );
    assert_eq!(
        cluster.people.instance("web").await.unwrap().power(),
        Power::Running
    );
    cluster.finish().await;
}

/// A guest that ignores the button is turned off when its grace is over.
#[tokio::test(start_paused = true)]
async fn a_deaf_guest_is_turned_off_after_its_grace() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    cluster.nodes[0].host.set_ignores_shutdown(web, true);
    let begun = tokio::time::Instant::now();
    cluster
        .people
        .succeeds(cluster.people.stop("web").await)
        .await;
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_mins(1) && took < Duration::from_secs(75),
        "{took:?}"
    );
    assert_eq!(cluster.nodes[0].host.is_on(web), Some(false));
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let before = cluster.fold().await.head();
    let wanted = CreateInstanceRequest {
        validate_only: true,
        ..small("web")
    };
    cluster.people.create_as(wanted).await.unwrap();
    assert_eq!(
        cluster.people.instance("web").await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(cluster.fold().await.head(), before);
    cluster.finish().await;
}

/// FAULTS 33 and 34 on people's side: one request id, one effect; other content is refused.
#[tokio::test(start_paused = true)]
async fn a_repeated_request_has_one_effect_across_a_restart() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let wanted = CreateInstanceRequest {
        request_id: "once".into(),
        ..small("web")
    };
    let first = cluster.people.create_as(wanted.clone()).await.unwrap();
    let again = cluster.people.create_as(wanted.clone()).await.unwrap();
    assert_eq!(first.id, again.id);
    cluster.people.succeeds(Ok(again)).await;
    cluster.restart_controller().await;
    cluster.ready().await;
    let later = cluster.people.create_as(wanted.clone()).await.unwrap();
    assert_eq!(first.id, later.id);
    let other = CreateInstanceRequest {
        name: "db".into(),
        ..wanted
    };
    let refused = cluster.people.create_as(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(reason(&refused), "REQUEST_ID_REUSED");
    assert_eq!(cluster.people.list().await.unwrap().len(), 1);
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_create_leaves_nothing() {
    let cluster = Cluster::builder()
        .nodes(1)
        .shape(|shape| shape.latency = Duration::from_secs(5));
    let cluster = cluster
        .settings(|s| s.call_deadline = Duration::from_mins(1))
        .build()
        .await;
    let people = &cluster.people;
    let create = people.create("web").await.unwrap();
    cluster.pass(Duration::from_secs(8)).await;
    let cancelled = people.cancel(&create.id).await.unwrap();
    assert_eq!(cancelled.state(), OperationState::Cancelled);
    cluster
        .eventually(Duration::from_mins(3), "it is gone", async || {
            people.instance("web").await.is_err()
        })
        .await;
    assert_eq!(
        (
            cluster.nodes[0].host.domains(),
            cluster.nodes[0].host.disks()
        ),
        (vec![], vec![])
    );
    cluster.finish().await;
}

/// Operations whose deadline passes are detached, and the fabric goes on all the same.
#[tokio::test(start_paused = true)]
async fn an_operation_past_its_deadline_is_detached_and_goes_on() {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .timing(|timing| timing.operation_deadline = Duration::from_secs(30))
        .build()
        .await;
    cluster.nodes[0].kill();
    let create = cluster.people.create("web").await.unwrap();
    let ended = cluster
        .people
        .ended(&create.id, Duration::from_mins(1))
        .await;
    assert_eq!(ended.state(), OperationState::Detached, "{ended:?}");
    cluster.nodes[0].start();
    cluster.phase_is("web", Phase::Running).await;
    let later = cluster.people.operation(&create.id).await.unwrap();
    assert_eq!(
        later.state(),
        OperationState::Detached,
        "an operation ends once"
    );
    cluster.finish().await;
}

/// A later wish supersedes the operation that it overtakes.
#[tokio::test(start_paused = true)]
async fn a_later_wish_supersedes_an_earlier_one() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let create = cluster.people.create("web").await.unwrap();
    let delete = cluster.people.delete("web").await;
    cluster.people.succeeds(delete).await;
    let create = cluster.people.operation(&create.id).await.unwrap();
    assert_eq!(create.state(), OperationState::Superseded);
    cluster.finish().await;
}
