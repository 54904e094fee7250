//! Disks that are full, stores that are lost, backups that are old, clocks that jump.

use std::time::Duration;

use kapok_controller::fabric::city;
use kapok_proto::{
    agent::v1::{ApplyInstanceRequest, node_service_client::NodeServiceClient},
    common::v1::Phase,
    fabric::v1::{CreateInstanceRequest, NodeState, OperationState},
};
use kapok_store::redb::{Fault, MemoryDisk};
use kapok_tests::{
    Cluster,
    people::{reason, small},
};
use kapok_types::{Env as _, quantity::MIB};
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// FAULTS 53: the controller's disk is full or can't be written. New work is refused as
/// UNAVAILABLE, reads go on, guests run on, and afterwards nothing is lost or doubled.
#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_work_and_loses_nothing() {
    let cluster = Cluster::builder().nodes(2).build().await;
    let (web, _) = cluster.run("web").await;
    for (round, fault) in [Fault::Full, Fault::Unwritable, Fault::SyncUnheard]
        .into_iter()
        .enumerate()
    {
        let name = format!("late-{round}");
        let wanted = CreateInstanceRequest {
            request_id: name.clone(),
            ..small(&name)
        };
        cluster.disk.fail(0, fault);
        let refused = cluster.people.create_as(wanted.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{fault:?}: {refused:?}");
        assert!(cluster.people.instance("web").await.is_ok(), "reads go on");
        cluster.pass(Duration::from_mins(5)).await;
        cluster.disk.heal();
        cluster.pass(Duration::from_secs(30)).await;
        // Whether it landed or not: the same request has one effect.
        let create = cluster.people.create_as(wanted).await;
        cluster.people.succeeds(create).await;
        let (incarnation, _) = cluster.place(&name).await;
        assert_eq!(cluster.runs(incarnation), 1, "{fault:?}");
    }
    assert_eq!(cluster.people.list().await.unwrap().len(), 4);
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}

/// FAULTS 53: the agent's disk is full. It promises nothing that it can't keep, guests run on,
/// life signs arrive, and afterwards everything comes about.
#[tokio::test(start_paused = true)]
async fn a_full_agent_promises_nothing() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    cluster.nodes[0].memory.set_full(true);
    let delete = cluster.people.delete("web").await;
    cluster.pass(Duration::from_mins(2)).await;
    assert_eq!(
        cluster.nodes[0].host.is_on(web),
        Some(true),
        "no tombstone, no destroy"
    );
    let node = cluster.people.node("node-1").await.unwrap();
    assert_eq!(node.state(), NodeState::Degraded, "{node:?}");
    assert!(node.heartbeat_age_ms.unwrap() < 3000);
    // A new leadership can't be noted: nothing is done in its name.
    cluster.restart_controller().await;
    let create = cluster.people.create("db").await;
    cluster.pass(Duration::from_mins(1)).await;
    if let Ok(create) = &create {
        let operation = cluster.people.operation(&create.id).await.unwrap();
        assert_eq!(operation.state(), OperationState::Running);
    }
    assert_eq!(
        (cluster.nodes[0].host.domains(), cluster.runs(web)),
        (vec![web], 1)
    );
    cluster.nodes[0].memory.set_full(false);
    cluster.people.succeeds(delete).await;
    if create.is_ok() {
        cluster.people.succeeds(create).await;
    }
    cluster.ready().await;
    cluster.finish().await;
}

/// An agent whose store is gone takes no create before the full intent, and nothing that runs is
/// touched.
#[tokio::test(start_paused = true)]
async fn a_lost_local_store_needs_the_full_intent() {
    let mut cluster = Cluster::builder().nodes(2).build().await;
    let web = cluster.run_on("web", 0).await;
    let fabric = cluster.fabric().await;
    let instance = fabric.instance("web", &city()).unwrap();
    let intent = kapok_controller::fabric::Fabric::intent(instance, &instance.incarnations[0]);
    let epoch = cluster.nodes[0].epoch().unwrap().get();
    cluster.kill_controller().await;
    cluster.lose_local_store(0);
    cluster.pass(Duration::from_secs(10)).await;
    let wire = cluster
        .network
        .dialer(kapok_tests::trust::controller(), CancellationToken::new());
    let mut client = NodeServiceClient::new(wire.channel(&cluster.nodes[0].address));
    let unknown = ApplyInstanceRequest {
        incarnation_id: cluster.env.incarnation_id().to_string(),
        instance_id: cluster.env.instance_id().to_string(),
        epoch,
        ..ApplyInstanceRequest::from(&intent)
    };
    let refused = client.apply_instance(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(reason(&refused), "NEEDS_RESYNC");
    assert!(cluster.nodes[0].needs_resync());
    cluster.start_controller().await;
    cluster.ready().await;
    assert!(!cluster.nodes[0].needs_resync());
    assert_eq!(
        (cluster.nodes[0].host.is_on(web), cluster.runs(web)),
        (Some(true), 1)
    );
    cluster.run_on("db", 0).await;
    // Lost under a controller that runs: noticed by the life signs.
    cluster.lose_local_store(0);
    cluster
        .eventually(Duration::from_mins(1), "it was resynced", async || {
            !cluster.nodes[0].needs_resync()
        })
        .await;
    cluster.run_on("mail", 0).await;
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}

/// A delete that was promised before the store was lost is promised again by the resync's side.
#[tokio::test(start_paused = true)]
async fn a_deletion_survives_the_loss_of_its_tombstone() {
    use kapok_agent::driver::sim::{Fault, Stage};

    let mut cluster = Cluster::builder().nodes(1).build().await;
    cluster.run("web").await;
    cluster.nodes[0].host.inject(Fault::StickAtChange {
        passing: 1,
        stage: Stage::Before,
    });
    let delete = cluster.people.delete("web").await;
    cluster.nodes[0].host.until_stuck().await;
    cluster.nodes[0].kill();
    cluster.nodes[0].host.release();
    cluster.lose_local_store(0);
    cluster.people.succeeds(delete).await;
    let host = &cluster.nodes[0].host;
    assert_eq!((host.domains(), host.disks()), (vec![], vec![]));
    cluster.finish().await;
}

/// A controller from an old backup: what it doesn't know is reported and never touched.
#[tokio::test(start_paused = true)]
async fn strays_are_reported_and_never_touched() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    cluster.run("web").await;
    let backup = cluster.disk.image();
    let (stray, _) = cluster.run("db").await;
    cluster.kill_controller().await;
    cluster.disk = MemoryDisk::with_image(backup);
    cluster.forget_log().await;
    cluster.start_controller().await;
    cluster
        .eventually(
            Duration::from_mins(1),
            "the stray is reported",
            async || {
                let node = cluster.people.node("node-1").await.unwrap();
                node.stray_incarnation_ids == [stray.to_string()]
            },
        )
        .await;
    cluster.pass(Duration::from_mins(30)).await;
    assert_eq!(
        (cluster.nodes[0].host.is_on(stray), cluster.runs(stray)),
        (Some(true), 1)
    );
    assert_eq!(cluster.people.list().await.unwrap().len(), 1);
    cluster.finish_with_strays(&[stray]).await;
}

/// A restored controller whose epoch lies below what agents have seen is refused by all of them,
/// does no harm, and says so; told of the highest, it leads above it.
#[tokio::test(start_paused = true)]
async fn a_restored_controller_leads_above_what_agents_have_seen() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let backup = cluster.disk.image();
    for _ in 0..3 {
        cluster.restart_controller().await;
        cluster.ready().await;
        cluster.pass(Duration::from_secs(5)).await;
    }
    cluster
        .people
        .succeeds(cluster.people.stop("web").await)
        .await;
    let seen = cluster.nodes[0].epoch().unwrap();
    cluster.kill_controller().await;
    cluster.disk = MemoryDisk::with_image(backup);
    cluster.forget_log().await;
    cluster.start_controller().await;
    cluster.pass(Duration::from_mins(5)).await;
    assert_eq!(
        cluster.nodes[0].host.is_on(web),
        Some(false),
        "an old intent is not followed"
    );
    let node = cluster.people.node("node-1").await.unwrap();
    assert_ne!(node.state(), NodeState::Ready, "{node:?}");
    assert!(node.detail.contains("epoch"), "{:?}", node.detail);
    cluster.kill_controller().await;
    cluster.epoch_floor = seen;
    cluster.start_controller().await;
    cluster
        .eventually(Duration::from_mins(1), "the epoch is above", async || {
            cluster.nodes[0].epoch().unwrap() > seen
        })
        .await;
    cluster
        .people
        .succeeds(cluster.people.delete("web").await)
        .await;
    cluster.finish().await;
}

/// FAULTS 51: wall clocks jump by an hour, in both directions, everywhere. Leases and back-offs
/// run on monotonic time: no node is lost, no guest is touched, work goes on.
#[tokio::test(start_paused = true)]
async fn wall_clocks_may_jump() {
    let mut cluster = Cluster::builder().nodes(2).build().await;
    let (web, _) = cluster.run("web").await;
    let hour = Duration::from_hours(1);
    for round in 0..4 {
        match round {
            0 => cluster.env.jump(hour),
            1 => cluster.env.jump_back(hour * 2),
            2 => cluster
                .nodes
                .iter()
                .for_each(|node| node.env.jump_back(hour)),
            _ => cluster
                .nodes
                .iter()
                .for_each(|node| node.env.jump(hour * 2)),
        }
        for _ in 0..60 {
            let node = cluster.people.node("node-1").await.unwrap();
            assert_eq!(node.state(), NodeState::Ready);
            assert!(node.heartbeat_age_ms.unwrap() < 3000, "{node:?}");
            cluster.pass(Duration::from_secs(1)).await;
        }
        // Back-offs end in time, whatever the wall clock says.
        let node = cluster.place("web").await.1;
        cluster.nodes[node].host.crash_guest(web);
        cluster
            .eventually(Duration::from_secs(30), "it runs again", async || {
                cluster.runs(web) == round + 2
            })
            .await;
        let name = format!("db-{round}");
        cluster.run(&name).await;
        cluster
            .people
            .succeeds(cluster.people.delete(&name).await)
            .await;
        cluster.restart_controller().await;
        cluster.ready().await;
    }
    let fold = cluster.fold().await;
    let lost = fold.records.iter().flat_map(|record| &record.events);
    assert_eq!(lost.filter(|event| event.kind() == "node.lost").count(), 0);
    drop(fold);
    cluster.phase_is("web", Phase::Running).await;
    assert_eq!(cluster.runs(web), 5);
    cluster.finish().await;
}

/// Bad numbers are refused by field before anything is decided; nothing is made by half.
#[tokio::test(start_paused = true)]
async fn bad_numbers_are_refused_and_leave_nothing() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let head = cluster.fold().await.head();
    let bad = [
        (
            "vcpus",
            CreateInstanceRequest {
                vcpus: 0,
                ..small("web")
            },
        ),
        (
            "vcpus",
            CreateInstanceRequest {
                vcpus: u32::MAX,
                ..small("web")
            },
        ),
        (
            "memory_mib",
            CreateInstanceRequest {
                memory_mib: 0,
                ..small("web")
            },
        ),
        (
            "memory_mib",
            CreateInstanceRequest {
                memory_mib: u64::MAX,
                ..small("web")
            },
        ),
        (
            "root_disk_bytes",
            CreateInstanceRequest {
                root_disk_bytes: MIB - 1,
                ..small("web")
            },
        ),
        (
            "root_disk_bytes",
            CreateInstanceRequest {
                root_disk_bytes: u64::MAX,
                ..small("web")
            },
        ),
        (
            "name",
            CreateInstanceRequest {
                name: "x</name><devices>".into(),
                ..small("web")
            },
        ),
        (
            "name",
            CreateInstanceRequest {
                name: "../../etc/x".into(),
                ..small("web")
            },
        ),
        (
            "name",
            CreateInstanceRequest {
                name: "n".repeat(64),
                ..small("web")
            },
        ),
        (
            "run_policy",
            CreateInstanceRequest {
                run_policy: 77,
                ..small("web")
            },
        ),
    ];
    for (field, wanted) in bad {
        let refused = cluster.people.create_as(wanted).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::InvalidArgument,
            "{field}: {refused:?}"
        );
        let violations = kapok_proto::refusal::violations(&refused);
        assert!(
            violations.iter().any(|it| it.field == field),
            "{field}: {violations:?}"
        );
    }
    assert_eq!(
        cluster.fold().await.head(),
        head,
        "a refusal writes nothing"
    );
    cluster.finish().await;
}
