//! Processes that die at the worst moment.

use std::time::Duration;

use kapok_agent::driver::sim::{Fault, Stage};
use kapok_proto::{common::v1::Phase, fabric::v1::CreateInstanceRequest};
use kapok_tests::{
    Cluster,
    people::{reason, small},
};
use tokio::time::timeout;
use tonic::Code;

/// Changes that a create and a delete make on a host, at most.
const STEPS: u32 = 8;

/// FAULTS 36: kill -9 the agent before and after every step of a create; it resumes, and the
/// guest is started exactly once.
#[tokio::test(start_paused = true)]
async fn an_agent_killed_at_any_step_of_a_create_resumes() {
    crate::show_log();
    let mut cluster = Cluster::builder().nodes(1).build().await;
    for (step, stage) in points() {
        let name = format!("web-{step}-{stage:?}").to_lowercase();
        cluster.nodes[0].host.inject(Fault::StickAtChange {
            passing: step,
            stage,
        });
        let create = cluster.people.create(&name).await;
        let was_stuck = is_stuck(&cluster).await;
        cluster.nodes[0].kill();
        cluster.nodes[0].host.release();
        cluster.nodes[0].start();
        cluster.people.succeeds(create).await;
        let (incarnation, _) = cluster.place(&name).await;
        assert_eq!(cluster.runs(incarnation), 1, "{name} (stuck: {was_stuck})");
        cluster
            .people
            .succeeds(cluster.people.delete(&name).await)
            .await;
    }
    cluster.finish().await;
}

/// FAULTS 36: the same for a delete; it unwinds, and no orphan stays.
#[tokio::test(start_paused = true)]
async fn an_agent_killed_at_any_step_of_a_delete_unwinds() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let mut reached = 0;
    for (step, stage) in points() {
        let name = format!("web-{step}-{stage:?}").to_lowercase();
        cluster.run(&name).await;
        cluster.nodes[0].host.inject(Fault::StickAtChange {
            passing: step,
            stage,
        });
        let delete = cluster.people.delete(&name).await;
        if is_stuck(&cluster).await {
            reached += 1;
        }
        cluster.nodes[0].kill();
        cluster.nodes[0].host.release();
        cluster.nodes[0].start();
        cluster.people.succeeds(delete).await;
        let host = &cluster.nodes[0].host;
        assert_eq!((host.domains(), host.disks()), (vec![], vec![]), "{name}");
    }
    assert!(
        reached >= 6,
        "destroy, remove and undefine were met before and after: {reached}"
    );
    cluster.finish().await;
}

fn points() -> impl Iterator<Item = (u32, Stage)> {
    (0..STEPS).flat_map(|step| [(step, Stage::Before), (step, Stage::After)])
}

async fn is_stuck(cluster: &Cluster) -> bool {
    timeout(Duration::from_secs(5), cluster.nodes[0].host.until_stuck())
        .await
        .is_ok()
}

/// FAULTS 37: kill -9 the controller at many moments around a create. What was acknowledged is
/// there afterwards; what wasn't may be asked for again with the same request id; no guest is
/// made or started twice.
#[tokio::test(start_paused = true)]
async fn a_controller_killed_around_a_create_loses_and_doubles_nothing() {
    let mut cluster = Cluster::builder().nodes(2).build().await;
    for moment in 0..25_u64 {
        let name = format!("web-{moment}");
        let wanted = CreateInstanceRequest {
            request_id: format!("create-{moment}"),
            ..small(&name)
        };
        // From before the request arrives to after the intent was sent; in yields of the one
        // thread first, then in time.
        let asking = {
            let (people, wanted) = (cluster.people.clone(), wanted.clone());
            tokio::spawn(async move { people.create_as(wanted).await })
        };
        if moment < 20 {
            for _ in 0..moment * 2 {
                tokio::task::yield_now().await;
            }
        } else {
            cluster.pass(Duration::from_millis(moment - 19)).await;
        }
        cluster.kill_controller().await;
        let answer = asking.await.unwrap();
        cluster.start_controller().await;
        cluster.ready().await;
        let found = cluster.people.instance(&name).await;
        if let Ok(acknowledged) = &answer {
            assert!(
                found.is_ok(),
                "{acknowledged:?} was acknowledged and is lost"
            );
        }
        let again = cluster.people.create_as(wanted).await.unwrap();
        if let Ok(acknowledged) = answer {
            assert_eq!(acknowledged.id, again.id);
        }
        cluster.phase_is(&name, Phase::Running).await;
        let (incarnation, _) = cluster.place(&name).await;
        assert_eq!(cluster.runs(incarnation), 1, "{name}");
    }
    assert_eq!(cluster.people.list().await.unwrap().len(), 25);
    cluster.finish().await;
}

/// FAULTS 37: the same around a delete.
#[tokio::test(start_paused = true)]
async fn a_controller_killed_around_a_delete_leaves_nothing_behind() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    for moment in 0..16_u64 {
        let name = format!("web-{moment}");
        cluster.run(&name).await;
        let people = cluster.people.clone();
        let asking = tokio::spawn({
            let name = name.clone();
            async move { people.delete(&name).await }
        });
        for _ in 0..moment * 3 {
            tokio::task::yield_now().await;
        }
        cluster
            .pass(Duration::from_millis(moment.saturating_sub(8)))
            .await;
        cluster.kill_controller().await;
        let answer = asking.await.unwrap();
        cluster.start_controller().await;
        cluster.ready().await;
        if answer.is_err() {
            match cluster.people.delete(&name).await {
                Ok(delete) => drop(cluster.people.succeeds(Ok(delete)).await),
                Err(refused) => assert_eq!(refused.code(), Code::NotFound, "{refused:?}"),
            }
        }
        cluster
            .eventually(Duration::from_mins(2), "it is gone", async || {
                cluster.people.instance(&name).await.is_err()
            })
            .await;
    }
    let host = &cluster.nodes[0].host;
    assert_eq!((host.domains(), host.disks()), (vec![], vec![]));
    cluster.finish().await;
}

/// Two controllers over one disk can't be: the second finds it locked.
#[tokio::test(start_paused = true)]
async fn a_second_controller_finds_the_log_locked() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let second = kapok_store::Redb::on_disk(&cluster.disk);
    assert!(
        matches!(second, Err(kapok_store::Error::Locked { .. })),
        "{second:?}"
    );
    cluster.finish().await;
}

/// FAULTS 45: guests run on without a controller, for as long as it takes, and nothing is done
/// to them when it returns.
#[tokio::test(start_paused = true)]
async fn guests_run_on_without_a_controller() {
    let mut cluster = Cluster::builder().nodes(3).build().await;
    let mut guests = Vec::new();
    for index in 0..3 {
        guests.push(cluster.run_on(&format!("web-{index}"), index).await);
    }
    cluster.kill_controller().await;
    let refused = cluster.people.list().await.unwrap_err();
    assert_eq!(reason(&refused), "", "nobody answers");
    cluster.pass(Duration::from_hours(2)).await;
    // Agents go on by themselves: a crashed guest is started again.
    cluster.nodes[0].host.crash_guest(guests[0]);
    cluster.pass(Duration::from_mins(1)).await;
    assert_eq!(cluster.runs(guests[0]), 2);
    cluster.nodes[1].restart();
    cluster.pass(Duration::from_mins(1)).await;
    cluster.start_controller().await;
    cluster.ready().await;
    cluster.pass(Duration::from_mins(1)).await;
    assert_eq!(
        guests
            .iter()
            .map(|guest| cluster.runs(*guest))
            .collect::<Vec<_>>(),
        [2, 1, 1]
    );
    for (index, guest) in guests.iter().enumerate() {
        assert_eq!(cluster.nodes[index].host.is_on(*guest), Some(true));
    }
    cluster.finish().await;
}

/// An orderly stop loses nothing either, and the next controller leads with a higher epoch.
#[tokio::test(start_paused = true)]
async fn an_orderly_stop_and_start_changes_nothing() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    cluster.stop_controller().await;
    cluster.nodes[0].stop().await;
    cluster.pass(Duration::from_mins(1)).await;
    cluster.nodes[0].start();
    cluster.start_controller().await;
    cluster.ready().await;
    cluster.phase_is("web", Phase::Running).await;
    assert_eq!(cluster.runs(web), 1);
    cluster.finish().await;
}
