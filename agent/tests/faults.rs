//! The hypervisor, its domains and the disk under faults, simulated: FAULTS 39 to 42, 44, 53.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::time::Duration;

use common::{BOUND, Client, Node, eventually, id, reason, status, until, until_status};
use kapok_agent::{
    driver::sim::{Call, Fault, Shape, Stage},
    local::Tombstone,
};
use kapok_proto::{
    agent::v1 as wire,
    common::v1::{self as words, Phase},
};
use kapok_types::{Epoch, Generation, InstanceId};
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;
use tonic::Code;
use uuid::Uuid;

async fn fleet(count: u128) -> (Node, Client) {
    let (node, mut client) = Node::ready(Shape::default()).await;
    for n in 1..=count {
        node.running(&mut client, n).await;
    }
    (node, client)
}

async fn life_sign(client: &mut Client) -> wire::HeartbeatResponse {
    let beats = client.heartbeat(wire::HeartbeatRequest::default()).await;
    beats.unwrap().into_inner().next().await.unwrap().unwrap()
}

/// FAULTS 39: the hypervisor's daemon goes and comes back; guests are found again, untouched.
#[tokio::test(start_paused = true)]
async fn the_hypervisor_goes_and_comes_back() {
    let (node, mut client) = fleet(3).await;
    node.host.set_up(false);
    for n in 1..=3 {
        until(&mut client, n, Phase::Unknown).await;
    }
    assert!(!life_sign(&mut client).await.hypervisor_up);
    // Work that comes meanwhile is taken and waits.
    client.apply_instance(node.apply(4)).await.unwrap();
    node.host.crash_guest(id(3));
    sleep(Duration::from_mins(1)).await;
    assert_eq!(node.host.runs(id(1)), 1);
    node.host.set_up(true);
    for n in 1..=4 {
        until(&mut client, n, Phase::Running).await;
    }
    assert!(life_sign(&mut client).await.hypervisor_up);
    assert_eq!((node.host.runs(id(1)), node.host.runs(id(2))), (1, 1));
    assert_eq!(node.host.runs(id(3)), 2, "what ended meanwhile is noticed");
}

/// FAULTS 39, at start: the services answer while the hypervisor is away.
#[tokio::test(start_paused = true)]
async fn an_agent_starts_before_its_hypervisor() {
    let (mut node, mut client) = fleet(1).await;
    node.kill();
    node.host.set_up(false);
    node.start();
    client = {
        drop(client);
        node.client().await
    };
    assert!(!life_sign(&mut client).await.hypervisor_up);
    let refused = client.get_node(wire::GetNodeRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // What is here already isn't known yet, so nothing new is taken; a delete is.
    let refused = client.apply_instance(node.apply(2)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::Unavailable, "HYPERVISOR_UNSEEN".into())
    );
    client.delete_instance(node.delete(1)).await.unwrap();
    node.host.set_up(true);
    until(&mut client, 1, Phase::Gone).await;
    assert!(node.host.domains().is_empty() && node.host.disks().is_empty());
    node.running(&mut client, 2).await;
}

/// FAULTS 40: listing hangs. The deadline passes, the node is degraded, and nothing is dead.
#[tokio::test(start_paused = true)]
async fn a_hanging_hypervisor_is_unknown_and_heartbeats_go_on() {
    let (node, mut client) = fleet(2).await;
    let stuck = |call, incarnation| Fault::Stick {
        call,
        incarnation,
        stage: Stage::Before,
    };
    node.host.inject(stuck(Call::List, None));
    node.host.inject(stuck(Call::Observe, Some(id(1))));
    node.host.inject(stuck(Call::Observe, Some(id(2))));
    for n in 1..=2 {
        until(&mut client, n, Phase::Unknown).await;
    }
    let mut beats = client
        .heartbeat(wire::HeartbeatRequest { interval_ms: 1000 })
        .await
        .unwrap()
        .into_inner();
    let start = Instant::now();
    for _ in 0..5 {
        beats.next().await.unwrap().unwrap();
    }
    assert!(
        start.elapsed() <= Duration::from_millis(4500),
        "{:?}",
        start.elapsed()
    );
    sleep(Duration::from_mins(10)).await;
    assert_eq!((node.host.runs(id(1)), node.host.runs(id(2))), (1, 1));
    node.host.release();
    for n in 1..=2 {
        until(&mut client, n, Phase::Running).await;
    }
}

/// FAULTS 41: one domain's process is stopped. It is flagged, the others stay fresh within five
/// seconds, and its delete gets through.
#[tokio::test(start_paused = true)]
async fn one_frozen_domain_hurts_nobody_else() {
    let (node, mut client) = fleet(4).await;
    node.host.inject(Fault::Freeze { incarnation: id(1) });
    let flagged = until(&mut client, 1, Phase::Unknown).await;
    assert_ne!(flagged.detail, "");
    let sign = life_sign(&mut client).await;
    assert_eq!(sign.quarantined, [id(1).to_string()]);
    assert!(sign.hypervisor_up);
    for n in 2..=4 {
        let start = Instant::now();
        node.host.set_paused(id(n), true);
        until(&mut client, n, Phase::Failing).await;
        node.host.set_paused(id(n), false);
        until(&mut client, n, Phase::Running).await;
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
    let start = Instant::now();
    client.delete_instance(node.delete(1)).await.unwrap();
    until(&mut client, 1, Phase::Gone).await;
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    assert!(!node.host.domains().contains(&id(1)) && !node.host.disks().contains(&id(1)));
}

/// FAULTS 41 without hints: others are fresh within five seconds by the timer alone.
#[tokio::test(start_paused = true)]
async fn without_hints_the_timer_is_fresh_enough() {
    let (node, mut client) = fleet(2).await;
    sleep(Duration::from_secs(7)).await;
    let start = Instant::now();
    node.host.set_mute(true);
    node.host.set_paused(id(2), true);
    until(&mut client, 2, Phase::Failing).await;
    assert!(
        start.elapsed() <= Duration::from_secs(5) + Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
}

/// FAULTS 41, an agent that starts over a frozen domain: it is *unknown*, and can be deleted.
#[tokio::test(start_paused = true)]
async fn a_new_agent_finds_a_frozen_domain_silent() {
    let (mut node, mut client) = fleet(2).await;
    node.kill();
    eventually("the dead agent lets go", || node.host.stuck_calls() == 0).await;
    node.host.inject(Fault::Freeze { incarnation: id(1) });
    client = {
        drop(client);
        node.start();
        node.client().await
    };
    until(&mut client, 1, Phase::Unknown).await;
    until(&mut client, 2, Phase::Running).await;
    client.delete_instance(node.delete(1)).await.unwrap();
    until(&mut client, 1, Phase::Gone).await;
    assert_eq!(node.host.domains(), [id(2)]);
}

/// FAULTS 42: five stuck calls, and control still works.
#[tokio::test(start_paused = true)]
async fn five_stuck_calls_leave_control_working() {
    let (node, mut client) = fleet(6).await;
    for n in 1..=5 {
        node.host.inject(Fault::Stick {
            call: Call::Observe,
            incarnation: Some(id(n)),
            stage: Stage::Before,
        });
    }
    for n in 1..=5 {
        until(&mut client, n, Phase::Unknown).await;
    }
    assert_eq!(life_sign(&mut client).await.quarantined.len(), 5);
    let mut stop = node.apply(6);
    (stop.generation, stop.power) = (2, words::Power::Stopped.into());
    let start = Instant::now();
    client.apply_instance(stop).await.unwrap();
    until(&mut client, 6, Phase::Stopped).await;
    node.running(&mut client, 7).await;
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    client.delete_instance(node.delete(3)).await.unwrap();
    until(&mut client, 3, Phase::Gone).await;
}

/// FAULTS 44: what outsiders do is reported; foreign domains are shown and never touched.
#[tokio::test(start_paused = true)]
async fn outsiders_are_reported_and_their_domains_left_alone() {
    let (node, mut client) = fleet(1).await;
    let pet = Uuid::from_u128(77);
    node.host.put_foreign(pet, "pet", true);
    let before = node.host.foreign();
    let end = Instant::now() + BOUND;
    loop {
        let list = client
            .list_instances(wire::ListInstancesRequest {})
            .await
            .unwrap()
            .into_inner();
        if list
            .foreign
            .iter()
            .any(|domain| domain.name == "pet" && domain.memory_mib == 512)
        {
            break;
        }
        assert!(Instant::now() < end, "the foreign domain isn't shown");
        sleep(Duration::from_millis(20)).await;
    }
    // A delete of an incarnation that happens to be a foreign domain's UUID touches nothing.
    let mut delete = node.delete(1);
    delete.incarnation_id = pet.to_string();
    client.delete_instance(delete).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(node.host.foreign(), before);

    node.host
        .outsider_edits(id(1), "memory is 512 MiB instead of 256 MiB");
    let found = until_status(&mut client, 1, "drifted", |it| !it.drift.is_empty()).await;
    assert!(found.drift[0].contains("512 MiB"), "{:?}", found.drift);

    node.host.outsider_destroys(id(1));
    let found = until(&mut client, 1, Phase::Failing).await;
    assert_eq!(found.ended(), words::Ended::ByOutsider);
    until(&mut client, 1, Phase::Running).await;

    let mut stop = node.apply(1);
    (stop.generation, stop.power) = (2, words::Power::Stopped.into());
    client.apply_instance(stop).await.unwrap();
    until(&mut client, 1, Phase::Stopped).await;
    node.host.outsider_undefines(id(1));
    let removed = |it: &words::InstanceStatus| it.drift.iter().any(|d| d.contains("was removed"));
    until_status(&mut client, 1, "redefined", |it| {
        removed(it) && it.phase() == Phase::Stopped
    })
    .await;
    eventually("defined again", || node.host.domains() == [id(1)]).await;
    assert_eq!(node.host.disks(), [id(1)]);

    node.host.remove_foreign(pet);
    let end = Instant::now() + BOUND;
    let foreign = async |client: &mut Client| {
        let list = client.list_instances(wire::ListInstancesRequest {}).await;
        list.unwrap().into_inner().foreign
    };
    while !foreign(&mut client).await.is_empty() {
        assert!(
            Instant::now() < end,
            "a removed foreign domain is still shown"
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// FAULTS 35: a delete's request ends when its tombstone is durable and nobody was told of it.
#[tokio::test(start_paused = true)]
async fn a_delete_whose_request_was_cut_off_is_made() {
    let (node, mut client) = fleet(2).await;
    let request = node.delete(1);
    let tombstone = Tombstone {
        incarnation: id(1),
        instance: InstanceId(request.instance_id.parse().unwrap()),
        generation: Generation(request.generation),
        epoch: Epoch(request.epoch),
    };
    // Also while the hypervisor can't be listed: the delete is told all the same.
    node.host.inject(Fault::Stick {
        call: Call::List,
        incarnation: None,
        stage: Stage::Before,
    });
    eventually("the listing hangs", || node.host.stuck_calls() == 1).await;
    node.local.as_ref().unwrap().bury(tombstone).await.unwrap();
    until(&mut client, 1, Phase::Gone).await;
    assert_eq!(node.host.domains(), [id(2)]);
}

/// FAULTS 44: a domain of ours is given to somebody else while it runs, and then deleted: nothing
/// is taken away under it.
#[tokio::test(start_paused = true)]
async fn a_domain_that_is_not_ours_any_more_is_left_alone() {
    let (node, mut client) = fleet(1).await;
    let version = |change: fn(u32) -> u32| {
        node.host
            .outsider_changes_record(id(1), |record| record.version = change(record.version));
    };
    version(|version| version + 1);
    let found = until(&mut client, 1, Phase::Unknown).await;
    assert!(found.detail.contains("isn't Kapok's"), "{}", found.detail);
    client.delete_instance(node.delete(1)).await.unwrap();
    sleep(Duration::from_mins(5)).await;
    let found = until(&mut client, 1, Phase::Deleting).await;
    assert!(found.detail.contains("isn't Kapok's"), "{}", found.detail);
    assert_eq!(node.host.is_on(id(1)), Some(true));
    assert_eq!(node.host.disks(), [id(1)]);
    version(|version| version - 1);
    until(&mut client, 1, Phase::Gone).await;
    assert!(node.host.domains().is_empty() && node.host.disks().is_empty());
}

/// FAULTS 44: a guest that somebody moved to another host isn't started a second time.
#[tokio::test(start_paused = true)]
async fn a_domain_that_somebody_moved_is_not_started_again() {
    let (mut node, mut client) = fleet(1).await;
    node.host.outsider_moves(id(1));
    let found = until(&mut client, 1, Phase::Failing).await;
    assert_eq!(found.ended(), words::Ended::ByOutsider);
    sleep(Duration::from_mins(30)).await;
    node.host.reboot();
    client = node.revive().await;
    sleep(Duration::from_mins(30)).await;
    let found = until(&mut client, 1, Phase::Failing).await;
    assert!(found.detail.contains("moved"), "{}", found.detail);
    assert_eq!(node.host.runs(id(1)), 1);
}

/// What the node is takes its time; what is on it doesn't wait for that.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_say_what_it_is_is_still_listed() {
    let (mut node, mut client) = fleet(1).await;
    node.kill();
    node.host.inject(Fault::Stick {
        call: Call::Facts,
        incarnation: None,
        stage: Stage::Before,
    });
    client = {
        drop(client);
        node.start();
        node.client().await
    };
    until(&mut client, 1, Phase::Running).await;
    let unsaid = client.get_node(wire::GetNodeRequest {}).await.unwrap_err();
    assert_eq!(unsaid.code(), Code::Unavailable);
    node.host.release();
    let end = Instant::now() + BOUND;
    while client.get_node(wire::GetNodeRequest {}).await.is_err() {
        assert!(Instant::now() < end, "it never says what it is");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A flood of events from others' domains is a few surveys, and no look at ours.
#[tokio::test(start_paused = true)]
async fn a_flood_of_hints_is_a_few_looks() {
    let (node, mut client) = fleet(2).await;
    until_status(&mut client, 2, "answering", |it| it.guest_agent).await;
    sleep(Duration::from_secs(2)).await;
    let calls = async |hint: fn(&Node, u128)| {
        node.host.keep_log(true);
        for round in 0..400 {
            hint(&node, round);
            sleep(Duration::from_millis(10)).await;
        }
        let log = node.host.log();
        let count = |wanted| log.iter().filter(|(call, _)| *call == wanted).count();
        (
            count(Call::List),
            count(Call::Observe),
            count(Call::GuestAgent),
        )
    };
    // Four seconds of others' domains: the timer looks at ours once or twice.
    let (lists, observes, agents) = calls(|node, round| {
        node.host
            .put_foreign(Uuid::from_u128(round + 1), "pet", true);
    })
    .await;
    assert!(
        lists <= 5 && observes <= 4 && agents <= 2,
        "{lists} {observes} {agents}"
    );
    // Lost events: everything is looked at, but not each time.
    let (lists, observes, agents) = calls(|node, _| node.host.set_up(true)).await;
    assert!((3..=5).contains(&lists), "{lists}");
    assert!(
        (6..=14).contains(&observes) && agents <= 2,
        "{observes} {agents}"
    );
}

/// FAULTS 53: the state disk is full. New work is refused, guests run, and it passes.
#[tokio::test(start_paused = true)]
async fn a_full_state_disk_refuses_work_and_guests_run() {
    let (node, mut client) = fleet(1).await;
    node.memory.set_full(true);
    let refused = client.delete_instance(node.delete(1)).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::Unavailable, "STORE".into())
    );
    let mut apply = node.apply(2);
    apply.epoch = 2;
    let refused = client.apply_instance(apply.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "STORE");
    sleep(Duration::from_mins(1)).await;
    until(&mut client, 1, Phase::Running).await;
    assert_eq!(node.host.runs(id(1)), 1);
    assert_eq!(status(&mut client, 2).await, None);
    node.memory.set_full(false);
    client.apply_instance(apply).await.unwrap();
    until(&mut client, 2, Phase::Running).await;
    let mut delete = node.delete(1);
    delete.epoch = 2;
    client.delete_instance(delete).await.unwrap();
    until(&mut client, 1, Phase::Gone).await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_pool_waits_for_the_controller_after_a_boot() {
    let shape = Shape {
        pool_shared: true,
        ..Shape::default()
    };
    let (mut node, mut client) = Node::ready(shape).await;
    node.running(&mut client, 1).await;
    node.kill();
    node.host.reboot();
    drop(client);
    node.start();
    client = node.client().await;
    until(&mut client, 1, Phase::Waiting).await;
    sleep(Duration::from_mins(1)).await;
    assert_eq!(node.host.runs(id(1)), 1);
    client.apply_instance(node.apply(1)).await.unwrap();
    until(&mut client, 1, Phase::Running).await;
    assert_eq!(node.host.runs(id(1)), 2);
}
