//! Hypervisors that go away, hang, or are used behind Kapok's back.

use std::time::Duration;

use kapok_agent::driver::sim::{Call, Fault, Stage};
use kapok_proto::{
    common::v1::{Ended, Phase},
    fabric::v1::NodeState,
};
use kapok_tests::Cluster;
use kapok_types::IncarnationId;
use tokio::time::Instant;

async fn three_on_one(cluster: &Cluster) -> Vec<IncarnationId> {
    let mut guests = Vec::new();
    for name in ["web", "db", "mail"] {
        guests.push(cluster.run(name).await.0);
    }
    guests
}

/// FAULTS 39: the daemon goes and comes back under running guests; nobody touches them. An agent
/// that starts meanwhile waits for it.
#[tokio::test(start_paused = true)]
async fn guests_outlive_their_hypervisors_daemon() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let guests = three_on_one(&cluster).await;
    cluster.nodes[0].host.set_up(false);
    cluster.node_is("node-1", NodeState::Degraded).await;
    cluster.phase_is("web", Phase::Unknown).await;
    cluster.pass(Duration::from_mins(5)).await;
    let create = cluster.people.create("late").await;
    cluster.nodes[0].restart();
    cluster.pass(Duration::from_mins(1)).await;
    let node = cluster.people.node("node-1").await.unwrap();
    assert_eq!(node.state(), NodeState::Degraded, "in touch, not lost");
    cluster.nodes[0].host.set_up(true);
    cluster.ready().await;
    for name in ["web", "db", "mail"] {
        cluster.phase_is(name, Phase::Running).await;
    }
    cluster.people.succeeds(create).await;
    for guest in guests {
        assert_eq!(cluster.runs(guest), 1);
    }
    cluster.finish().await;
}

/// FAULTS 40: the daemon is stopped, no call ends. The node is degraded, never unreachable, its
/// guests are *unknown*, never off, and when it goes on nothing has been done to them.
#[tokio::test(start_paused = true)]
async fn a_stopped_daemon_makes_a_node_degraded_never_dead() {
    let cluster = Cluster::builder().nodes(2).build().await;
    let mut guests = Vec::new();
    for name in ["web", "db"] {
        guests.push(cluster.run_on(name, 0).await);
    }
    let host = &cluster.nodes[0].host;
    host.inject(Fault::Stick {
        call: Call::List,
        incarnation: None,
        stage: Stage::Before,
    });
    for guest in &guests {
        host.inject(Fault::Freeze {
            incarnation: *guest,
        });
    }
    cluster.phase_is("web", Phase::Unknown).await;
    cluster.node_is("node-1", NodeState::Degraded).await;
    for _ in 0..60 {
        cluster.pass(Duration::from_secs(10)).await;
        let node = cluster.people.node("node-1").await.unwrap();
        assert_eq!(node.state(), NodeState::Degraded);
        assert!(node.heartbeat_age_ms.unwrap() < 3000, "{node:?}");
    }
    host.release();
    cluster.ready().await;
    for (name, guest) in ["web", "db"].into_iter().zip(guests) {
        cluster.phase_is(name, Phase::Running).await;
        assert_eq!(cluster.runs(guest), 1, "{name}");
        assert_eq!(host.is_on(guest), Some(true));
    }
    cluster.finish().await;
}

/// FAULTS 41: one QEMU is stopped. The others are fresh within 5 s, that one is flagged, and its
/// delete is bounded.
#[tokio::test(start_paused = true)]
async fn one_stuck_domain_hurts_nobody_else() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let guests = three_on_one(&cluster).await;
    let host = &cluster.nodes[0].host;
    host.inject(Fault::Freeze {
        incarnation: guests[0],
    });
    cluster.phase_is("web", Phase::Unknown).await;
    let node = cluster.people.node("node-1").await.unwrap();
    assert_eq!(node.quarantined, [guests[0].to_string()]);
    let begun = Instant::now();
    host.guest_shuts_down(guests[1]);
    cluster.phase_is("db", Phase::Stopped).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    cluster
        .people
        .succeeds(cluster.people.delete("web").await)
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(cluster.runs(guests[2]), 1);
    cluster.ready().await;
    cluster.finish().await;
}

/// FAULTS 42: five stuck calls, and control of everything else still works.
#[tokio::test(start_paused = true)]
async fn five_stuck_calls_leave_control_of_the_rest() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let mut stuck = Vec::new();
    for number in 0..5 {
        stuck.push(cluster.run(&format!("stuck-{number}")).await.0);
    }
    let (web, _) = cluster.run("web").await;
    let host = &cluster.nodes[0].host;
    for incarnation in &stuck {
        host.inject(Fault::Freeze {
            incarnation: *incarnation,
        });
    }
    for number in 0..5 {
        cluster
            .phase_is(&format!("stuck-{number}"), Phase::Unknown)
            .await;
    }
    for _ in 0..3 {
        let begun = Instant::now();
        cluster
            .people
            .succeeds(cluster.people.stop("web").await)
            .await;
        cluster
            .people
            .succeeds(cluster.people.start("web").await)
            .await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
    }
    assert_eq!(cluster.runs(web), 4);
    cluster.run("another").await;
    let node = cluster.people.node("node-1").await.unwrap();
    assert_eq!(node.quarantined.len(), 5);
    assert!(node.heartbeat_age_ms.unwrap() < 3000);
    host.release();
    cluster.ready().await;
    for incarnation in stuck {
        assert_eq!(cluster.runs(incarnation), 1);
    }
    cluster.finish().await;
}

/// A start whose answer comes late is *unknown* meanwhile, never failed, and counted once.
#[tokio::test(start_paused = true)]
async fn an_overdue_start_is_unknown_and_counts_once() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let host = &cluster.nodes[0].host;
    host.inject(Fault::Stick {
        call: Call::Start,
        incarnation: None,
        stage: Stage::After,
    });
    let create = cluster.people.create("web").await;
    cluster.phase_is("web", Phase::Unknown).await;
    cluster.pass(Duration::from_mins(2)).await;
    assert_eq!(
        cluster.people.running().await.unwrap().len(),
        1,
        "nobody calls it failed"
    );
    host.release();
    cluster.people.succeeds(create).await;
    let (web, _) = cluster.place("web").await;
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}

/// FAULTS 44: what somebody does with the hypervisor's own tools is reported and set right.
#[tokio::test(start_paused = true)]
async fn what_outsiders_do_is_reported_and_set_right() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let host = &cluster.nodes[0].host;
    let foreign = uuid::Uuid::from_u128(44);
    host.put_foreign(foreign, "handmade", false);
    let before = host.foreign();
    let (web, _) = cluster.run("web").await;
    let instance = async || cluster.people.instance("web").await.unwrap();
    let drift = async || {
        let instance = instance().await;
        instance.incarnations[0]
            .status
            .as_ref()
            .map_or_else(Vec::new, |it| it.drift.clone())
    };

    host.outsider_destroys(web);
    cluster
        .eventually(Duration::from_secs(5), "the end is told", async || {
            instance().await.ended() == Ended::ByOutsider
        })
        .await;
    cluster.phase_is("web", Phase::Running).await;
    assert_eq!(cluster.runs(web), 2);

    // The agent's own last word on the start is written by then.
    cluster.pass(Duration::from_secs(5)).await;
    host.outsider_edits(web, "it has another disk");
    cluster
        .eventually(Duration::from_secs(15), "the drift is told", async || {
            drift()
                .await
                .iter()
                .any(|difference| difference.contains("another disk"))
        })
        .await;

    host.outsider_undefines(web);
    cluster
        .eventually(
            Duration::from_mins(1),
            "the definition is persistent again",
            async || {
                host.record(web).is_some()
                    && !drift()
                        .await
                        .iter()
                        .any(|difference| difference.contains("persistent"))
            },
        )
        .await;
    assert_eq!(host.is_on(web), Some(true));
    assert_eq!(
        cluster.runs(web),
        2,
        "a removed definition is no reason to touch the guest"
    );

    // Removed while it was off: the disk is not made anew.
    cluster
        .people
        .succeeds(cluster.people.stop("web").await)
        .await;
    host.outsider_undefines(web);
    cluster
        .eventually(Duration::from_mins(1), "it is defined again", async || {
            host.domains() == [web]
        })
        .await;
    assert_eq!(host.disks(), [web]);
    assert_eq!(host.foreign(), before, "a foreign domain was altered");
    cluster.finish().await;
}

/// FAULTS 50: the disk's lock refuses a start while it may run elsewhere; that is shown, and no
/// force is used.
#[tokio::test(start_paused = true)]
async fn a_locked_disk_is_shown_and_waited_for() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let host = &cluster.nodes[0].host;
    cluster
        .people
        .succeeds(cluster.people.stop("web").await)
        .await;
    host.set_locked_elsewhere(web, true);
    let start = cluster.people.start("web").await;
    cluster.phase_is("web", Phase::Failing).await;
    let detail = cluster.people.instance("web").await.unwrap().detail;
    assert!(detail.contains("lock"), "{detail:?}");
    cluster.pass(Duration::from_mins(5)).await;
    assert_eq!(cluster.runs(web), 1);
    host.set_locked_elsewhere(web, false);
    cluster.people.succeeds(start).await;
    assert_eq!(cluster.runs(web), 2);
    cluster.finish().await;
}

/// A guest that an I/O error has paused is shown with its reason and left as it is.
#[tokio::test(start_paused = true)]
async fn a_paused_guest_is_shown_and_left() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let host = &cluster.nodes[0].host;
    host.set_paused(web, true);
    cluster.phase_is("web", Phase::Failing).await;
    let detail = cluster.people.instance("web").await.unwrap().detail;
    assert!(detail.contains("I/O error"), "{detail:?}");
    cluster.pass(Duration::from_mins(5)).await;
    host.set_paused(web, false);
    cluster.phase_is("web", Phase::Running).await;
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}
