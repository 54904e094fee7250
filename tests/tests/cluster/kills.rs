//! Processes that die at the worst moment.

use std::time::Duration;

use kapok_agent::driver::sim::{Fault, Stage};
use kapok_controller::fabric::city;
use kapok_proto::{
    common::v1::{Phase, Power},
    fabric::v1::CreateInstanceRequest,
};
use kapok_tests::{
    Cluster,
    people::{reason, small},
};
use tokio::time::timeout;

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

/// FAULTS 36: the same for a start and a restart: the start that was owed is made, once, and is
/// never taken for the guest's own end.
#[tokio::test(start_paused = true)]
async fn an_agent_killed_at_any_step_of_a_start_owes_it() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let mut runs = 1;
    for (step, stage) in points().take(8) {
        for again in [false, true] {
            let host = cluster.nodes[0].host.clone();
            if !again {
                cluster
                    .people
                    .succeeds(cluster.people.stop("web").await)
                    .await;
            }
            host.inject(Fault::StickAtChange {
                passing: step,
                stage,
            });
            let asked = if again {
                cluster.people.restart("web").await
            } else {
                cluster.people.start("web").await
            };
            is_stuck(&cluster).await;
            cluster.nodes[0].kill();
            host.release();
            cluster.nodes[0].start();
            cluster.people.succeeds(asked).await;
            runs += 1;
            let point = format!("{step} {stage:?}, restart: {again}");
            assert_eq!(
                (host.is_on(web), host.runs(web)),
                (Some(true), runs),
                "{point}"
            );
            let power = cluster.people.instance("web").await.unwrap().power();
            assert_eq!(power, Power::Running, "{point}");
        }
    }
    cluster.finish().await;
}

/// FAULTS 36: the same for a delete; it unwinds by itself, without a controller, and no orphan
/// stays.
#[tokio::test(start_paused = true)]
async fn an_agent_killed_at_any_step_of_a_delete_unwinds() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let mut reached = 0;
    for (step, stage) in points().take(10) {
        let name = format!("web-{step}-{stage:?}").to_lowercase();
        cluster.run(&name).await;
        let host = cluster.nodes[0].host.clone();
        host.inject(Fault::StickAtChange {
            passing: step,
            stage,
        });
        let delete = cluster.people.delete(&name).await;
        if is_stuck(&cluster).await {
            reached += 1;
        }
        cluster.kill_controller().await;
        cluster.nodes[0].kill();
        host.release();
        cluster.nodes[0].start();
        cluster
            .eventually(
                Duration::from_mins(1),
                &format!("{name} is gone"),
                async || host.domains().is_empty() && host.disks().is_empty(),
            )
            .await;
        cluster.start_controller().await;
        cluster.people.succeeds(delete).await;
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

/// What a kill found the controller at.
#[derive(Debug, Default)]
struct Met {
    undecided: u32,
    decided_not_sent: u32,
    sent_not_answered: u32,
    answered: u32,
}

impl Met {
    fn count(&mut self, decided: bool, sent: bool, answered: bool) {
        match (decided, sent, answered) {
            (false, ..) => self.undecided += 1,
            (_, false, _) => self.decided_not_sent += 1,
            (_, true, false) => self.sent_not_answered += 1,
            (_, true, true) => self.answered += 1,
        }
    }
}

/// FAULTS 37: kill -9 the controller at many moments around a create: before it is decided,
/// between the decision and its sending, afterwards. What was acknowledged is there; what wasn't
/// may be asked for again with the same request id; no guest is made or started twice.
#[tokio::test(start_paused = true)]
async fn a_controller_killed_around_a_create_loses_and_doubles_nothing() {
    let mut cluster = Cluster::builder().nodes(2).build().await;
    let mut met = Met::default();
    for turns in 0..48_u32 {
        let name = format!("web-{turns}");
        let wanted = CreateInstanceRequest {
            request_id: format!("create-{turns}"),
            ..small(&name)
        };
        let made = |cluster: &Cluster| -> usize {
            cluster
                .nodes
                .iter()
                .map(|node| node.host.domains().len())
                .sum()
        };
        let before = made(&cluster);
        let killed = tokio::spawn(cluster.death().strike_after(turns));
        let answer = cluster.people.create_as(wanted.clone()).await;
        killed.await.unwrap();
        cluster.kill_controller().await;
        cluster.pass(Duration::from_secs(1)).await;
        let sent = made(&cluster) > before;
        cluster.start_controller().await;
        let found = cluster.fabric().await.instance(&name, &city()).is_some();
        met.count(found, sent, answer.is_ok());
        if let Ok(acknowledged) = &answer {
            assert!(found, "{acknowledged:?} was acknowledged and is lost");
        }
        assert!(found || !sent, "sent before it was durable");
        cluster.ready().await;
        let again = cluster.people.create_as(wanted).await.unwrap();
        if let Ok(acknowledged) = answer {
            assert_eq!(acknowledged.id, again.id);
        }
        cluster.phase_is(&name, Phase::Running).await;
        let (incarnation, _) = cluster.place(&name).await;
        assert_eq!(cluster.runs(incarnation), 1, "{name}");
    }
    println!("{met:?}");
    assert!(
        met.undecided > 0 && met.decided_not_sent > 0 && met.answered > 0,
        "{met:?}"
    );
    assert_eq!(cluster.people.list().await.unwrap().len(), 48);
    cluster.finish().await;
}

/// FAULTS 37: the same around a delete.
#[tokio::test(start_paused = true)]
async fn a_controller_killed_around_a_delete_leaves_nothing_behind() {
    let mut cluster = Cluster::builder().nodes(1).build().await;
    let mut met = Met::default();
    for turns in 0..48_u32 {
        let name = format!("web-{turns}");
        let (incarnation, _) = cluster.run(&name).await;
        let killed = tokio::spawn(cluster.death().strike_after(turns));
        let answer = cluster.people.delete(&name).await;
        killed.await.unwrap();
        cluster.kill_controller().await;
        cluster.pass(Duration::from_secs(1)).await;
        let sent = !cluster.nodes[0].host.domains().contains(&incarnation);
        cluster.start_controller().await;
        let fabric = cluster.fabric().await;
        let decided = fabric
            .instance(&name, &city())
            .is_none_or(|instance| instance.deleting);
        met.count(decided, sent, answer.is_ok());
        assert!(decided || answer.is_err(), "acknowledged and lost");
        assert!(decided || !sent, "sent before it was durable");
        cluster.ready().await;
        if !decided {
            cluster
                .people
                .succeeds(cluster.people.delete(&name).await)
                .await;
        }
        cluster
            .eventually(Duration::from_mins(2), "it is gone", async || {
                cluster.people.instance(&name).await.is_err()
            })
            .await;
    }
    println!("{met:?}");
    assert!(
        met.undecided > 0 && met.decided_not_sent > 0 && met.answered > 0,
        "{met:?}"
    );
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
