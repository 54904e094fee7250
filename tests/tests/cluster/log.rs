//! The log: silent when nothing happens, followed without gaps, the same for the same seed.

use std::time::Duration;

use futures::StreamExt as _;
use kapok_proto::fabric::v1::{Event, WatchEventsRequest};
use kapok_tests::{Cluster, soak};

#[tokio::test(start_paused = true)]
async fn an_idle_fabric_writes_nothing() {
    let cluster = Cluster::builder().nodes(3).build().await;
    for index in 0..3 {
        cluster.run_on(&format!("web-{index}"), index).await;
    }
    // Until the agents keep the log's last head.
    cluster.pass(Duration::from_mins(2)).await;
    let head = cluster.fold().await.head();
    let writes: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| node.memory.writes())
        .collect();
    cluster.pass(Duration::from_mins(10)).await;
    assert_eq!(cluster.fold().await.head(), head);
    let after: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| node.memory.writes())
        .collect();
    assert_eq!(writes, after, "agents write nothing either");
    cluster.finish().await;
}

/// A follower that resumes after its last sequence misses nothing and sees nothing twice, over
/// controllers that stop, die and start.
#[tokio::test(start_paused = true)]
async fn events_resume_without_gap_or_repeat() {
    let mut cluster = Cluster::builder().nodes(2).build().await;
    let mut heard: Vec<Event> = Vec::new();
    for round in 0..4 {
        let after = heard.last().map_or(0, |event| event.sequence);
        let follower = follow(&cluster, after);
        cluster.run(&format!("web-{round}")).await;
        match round {
            0 => {}
            1 => cluster.stop_controller().await,
            _ => cluster.kill_controller().await,
        }
        if cluster.has_controller() {
            // Cut in the middle of the stream.
            cluster.network.cut(kapok_tests::cluster::CONTROLLER);
        } else {
            cluster.start_controller().await;
        }
        cluster.ready().await;
        let (events, ended_well) = follower.await.unwrap();
        assert!(!ended_well, "a follower is told that its stream broke");
        heard.extend(events);
    }
    let after = heard.last().unwrap().sequence;
    let rest = cluster.people.events_after(after).await.unwrap();
    heard.extend(rest);
    let all = cluster.people.events_after(0).await.unwrap();
    assert_eq!(heard.len(), all.len());
    for (heard, told) in heard.iter().zip(&all) {
        assert_eq!(
            (heard.sequence, &heard.kind, &heard.hash),
            (told.sequence, &told.kind, &told.hash)
        );
    }
    assert!(all.is_sorted_by_key(|event| event.sequence));
    cluster.finish().await;
}

/// Follows until the stream breaks; whether it ended without an error.
fn follow(cluster: &Cluster, after: u64) -> tokio::task::JoinHandle<(Vec<Event>, bool)> {
    let mut client = cluster.people.event_service();
    tokio::spawn(async move {
        let wanted = WatchEventsRequest {
            after_sequence: Some(after),
            until_now: false,
        };
        let mut stream = client.watch_events(wanted).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(answer) = stream.next().await {
            match answer {
                Ok(answer) => events.extend(answer.events),
                Err(_) => return (events, false),
            }
        }
        (events, true)
    })
}

/// One seed of a fabric with faults, twice, gives the same log byte for byte; another seed gives
/// another one.
#[test]
fn one_seed_replays_to_the_same_log() {
    crate::show_log();
    for seed in [3, 11] {
        let (first, second) = (
            soak::in_its_own_time(seed, 40),
            soak::in_its_own_time(seed, 40),
        );
        for (number, (one, other)) in first.iter().zip(&second).enumerate() {
            assert_eq!(
                String::from_utf8_lossy(one),
                String::from_utf8_lossy(other),
                "seed {seed}, entry {}",
                number + 1
            );
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert!(
            first.len() > 25,
            "something happened: {} entries",
            first.len()
        );
    }
    assert_ne!(soak::in_its_own_time(4, 10), soak::in_its_own_time(5, 10));
}

/// Random faults by seed. `KAPOK_SOAK_SEEDS` says how many seeds; each is printed if it fails.
#[test]
fn random_faults_break_no_invariant() {
    crate::show_log();
    let seeds = std::env::var("KAPOK_SOAK_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let first = std::env::var("KAPOK_SOAK_FIRST")
        .ok()
        .and_then(|text| text.parse().ok());
    let (first, seeds): (u64, u64) = (first.unwrap_or(100), seeds.unwrap_or(20));
    for seed in first..first + seeds {
        let run = std::panic::catch_unwind(|| soak::in_its_own_time(seed, 60));
        assert!(
            run.is_ok(),
            "seed {seed} failed: KAPOK_SOAK_FIRST={seed} KAPOK_SOAK_SEEDS=1"
        );
    }
}
