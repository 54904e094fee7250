//! Requests over real gRPC: what is taken, what is refused, and that the effect is one.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{BOUND, Node, id, reason, resync, status, until, until_status};
use kapok_agent::driver::sim::{Call, Fault, Shape};
use kapok_proto::{
    agent::v1 as wire,
    common::v1::{self as words, Phase},
    refusal,
};
use kapok_types::{Equipment, equipment::Cell};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

#[tokio::test(start_paused = true)]
async fn an_instance_is_created_shown_and_deleted() {
    let (node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    let found = until_status(&mut client, 1, "answering", |it| it.guest_agent).await;
    assert_eq!((found.generation, found.done.unwrap().starts), (1, 1));
    assert_eq!(node.host.runs(id(1)), 1);

    let mut stop = node.apply(1);
    (stop.generation, stop.power) = (2, words::Power::Stopped.into());
    client.apply_instance(stop).await.unwrap();
    let found = until(&mut client, 1, Phase::Stopped).await;
    assert_eq!(found.ended(), words::Ended::ByIntent);

    let mut delete = node.delete(1);
    delete.generation = 2;
    client.delete_instance(delete).await.unwrap();
    until(&mut client, 1, Phase::Gone).await;
    assert!(node.host.domains().is_empty() && node.host.disks().is_empty());
    let acknowledge = wire::AcknowledgeGoneRequest {
        epoch: 1,
        incarnation_ids: vec![id(1).to_string()],
    };
    client.acknowledge_gone(acknowledge).await.unwrap();
    assert_eq!(status(&mut client, 1).await, None);
}

/// FAULTS 31: a lower epoch is refused, also after a restart; a higher one is durable before
/// anything is done in its name.
#[tokio::test(start_paused = true)]
async fn a_lower_epoch_is_refused() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    let mut apply = node.apply(1);
    apply.epoch = 5;
    client.apply_instance(apply).await.unwrap();
    until(&mut client, 1, Phase::Running).await;
    for restart in [false, true] {
        if restart {
            client = node.revive().await;
        }
        let late = client.apply_instance(node.apply(2)).await.unwrap_err();
        assert_eq!(
            (late.code(), reason(&late)),
            (Code::FailedPrecondition, "STALE_EPOCH".into())
        );
        let late = client.delete_instance(node.delete(1)).await.unwrap_err();
        assert_eq!(reason(&late), "STALE_EPOCH");
        let late = resync(&mut client, 4, &[]).await.unwrap_err();
        assert_eq!(reason(&late), "STALE_EPOCH");
        let acknowledge = wire::AcknowledgeGoneRequest {
            epoch: 4,
            incarnation_ids: Vec::new(),
        };
        assert_eq!(
            reason(&client.acknowledge_gone(acknowledge).await.unwrap_err()),
            "STALE_EPOCH"
        );
        let remove = wire::RemoveImageRequest {
            digest: kapok_types::Digest::of(b"image").to_string(),
            epoch: 4,
        };
        assert_eq!(
            reason(&client.remove_image(remove).await.unwrap_err()),
            "STALE_EPOCH"
        );
    }
    until(&mut client, 1, Phase::Running).await;
    assert!(!node.host.domains().contains(&id(2)));
}

/// FAULTS 31, the order: when the epoch can't be stored, nothing reaches the hypervisor.
#[tokio::test(start_paused = true)]
async fn nothing_is_done_for_an_epoch_that_is_not_stored() {
    let (node, mut client) = Node::ready(Shape::default()).await;
    node.host.keep_log(true);
    node.memory.set_full(true);
    let mut apply = node.apply(1);
    apply.epoch = 2;
    let refused = client.apply_instance(apply.clone()).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::Unavailable, "STORE".into())
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    let changes = node
        .host
        .log()
        .into_iter()
        .filter(|(call, _)| call.changes())
        .count();
    assert_eq!(changes, 0, "acted before the epoch was durable");
    node.memory.set_full(false);
    client.apply_instance(apply).await.unwrap();
    until(&mut client, 1, Phase::Running).await;
}

/// Rule 9 of the design: the controller's word isn't enough to hand out a thread or a device.
#[tokio::test(start_paused = true)]
async fn what_the_node_does_not_offer_is_refused() {
    let cell = Cell {
        id: 0,
        dedicated: vec![2, 3],
        ..Cell::default()
    };
    let equipment = Equipment {
        cells: vec![cell],
        ..Equipment::default()
    };
    let shape = Shape {
        equipment: Arc::new(equipment),
        ..Shape::default()
    };
    let (node, mut client) = Node::ready(shape).await;
    let mut apply = node.apply(1);
    let spec = apply.spec.as_mut().unwrap();
    let (vcpus, memory_mib) = (spec.vcpus, spec.memory_mib);
    spec.needs = Some(words::Needs {
        dedicated_cpus: true,
        ..words::Needs::default()
    });
    let assigned = |first: u32| words::Assignment {
        cells: vec![words::CellShare {
            cell: 0,
            vcpus,
            threads: (first..first + vcpus).collect(),
            memory_mib,
        }],
        ..words::Assignment::default()
    };
    let refused = async |client: &mut common::Client, apply: &wire::ApplyInstanceRequest| {
        let refused = client.apply_instance(apply.clone()).await.unwrap_err();
        let expected = (Code::FailedPrecondition, "NOT_OFFERED".into());
        assert_eq!((refused.code(), reason(&refused)), expected, "{refused}");
    };
    // Nothing is assigned, a shared thread is, a device is that isn't there.
    refused(&mut client, &apply).await;
    apply.assignment = Some(assigned(4));
    refused(&mut client, &apply).await;
    let mut device = assigned(2);
    device.devices = vec!["0000:65:00.0".into()];
    apply.assignment = Some(device);
    refused(&mut client, &apply).await;
    assert!(node.host.domains().is_empty());

    apply.assignment = Some(assigned(2));
    client.apply_instance(apply.clone()).await.unwrap();
    until(&mut client, 1, Phase::Running).await;
    // What is held is taken again, and what else changes beside it.
    (apply.generation, apply.power) = (2, words::Power::Stopped.into());
    client.apply_instance(apply).await.unwrap();
    until(&mut client, 1, Phase::Stopped).await;
}

/// FAULTS 33: the same again, also to another run of the agent: one effect, the same answer.
#[tokio::test(start_paused = true)]
async fn the_same_request_twice_has_one_effect() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    for restart in [false, true] {
        if restart {
            client = node.revive().await;
            until(&mut client, 1, Phase::Running).await;
        }
        let again = client.apply_instance(node.apply(1)).await.unwrap();
        assert_eq!(again.into_inner().generation, 1);
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((node.host.runs(id(1)), node.host.resets(id(1))), (1, 0));
    let mut reset = node.apply(1);
    reset.generation = 2;
    reset.counters = Some(words::Counters {
        starts: 1,
        restarts: 0,
        resets: 1,
    });
    for _ in 0..3 {
        client.apply_instance(reset.clone()).await.unwrap();
    }
    until_status(&mut client, 1, "reset", |it| it.done.unwrap().resets == 1).await;
    client.apply_instance(reset).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(node.host.resets(id(1)), 1);
    client
        .delete_instance(wire::DeleteInstanceRequest {
            generation: 2,
            ..node.delete(1)
        })
        .await
        .unwrap();
    client
        .delete_instance(wire::DeleteInstanceRequest {
            generation: 2,
            ..node.delete(1)
        })
        .await
        .unwrap();
    until(&mut client, 1, Phase::Gone).await;
}

/// FAULTS 34: other content under a generation that is held is refused, also by another run.
#[tokio::test(start_paused = true)]
async fn other_content_under_one_generation_is_refused() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    for restart in [false, true] {
        if restart {
            client = node.revive().await;
            until(&mut client, 1, Phase::Running).await;
        }
        let mut other = node.apply(1);
        other.power = words::Power::Stopped.into();
        let refused = client.apply_instance(other).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused)),
            (Code::Aborted, "CONTENT_MISMATCH".into())
        );
    }
    assert_eq!(node.host.is_on(id(1)), Some(true));
}

/// FAULTS 35: a delete that overtakes its create, and a create that comes after it.
#[tokio::test(start_paused = true)]
async fn the_tombstone_wins() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    client.delete_instance(node.delete(1)).await.unwrap();
    for restart in [false, true] {
        if restart {
            client = node.revive().await;
        }
        let late = client.apply_instance(node.apply(1)).await.unwrap_err();
        assert_eq!(
            (late.code(), reason(&late)),
            (Code::FailedPrecondition, "RELEASED".into())
        );
    }
    until(&mut client, 1, Phase::Gone).await;
    assert!(node.host.domains().is_empty() && node.host.disks().is_empty());

    // Also after its end was acknowledged: a create may still be on its way on an old connection.
    client
        .acknowledge_gone(wire::AcknowledgeGoneRequest {
            epoch: 1,
            incarnation_ids: vec![node.apply(1).incarnation_id],
        })
        .await
        .unwrap();
    let late = client.apply_instance(node.apply(1)).await.unwrap_err();
    assert_eq!(reason(&late), "RELEASED");

    // A delete of an older intent than the one held is late itself.
    let mut newer = node.apply(2);
    newer.generation = 3;
    client.apply_instance(newer).await.unwrap();
    let late = client.delete_instance(node.delete(2)).await.unwrap_err();
    assert_eq!(
        (late.code(), reason(&late)),
        (Code::Aborted, "STALE_GENERATION".into())
    );
    until(&mut client, 2, Phase::Running).await;
}

#[tokio::test(start_paused = true)]
async fn bad_fields_and_other_nodes_are_refused_by_name() {
    let (node, mut client) = Node::ready(Shape::default()).await;
    let mut wrong = node.apply(1);
    wrong.spec.as_mut().unwrap().vcpus = 0;
    let refused = client.apply_instance(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refusal::violations(&refused)[0].field, "spec.vcpus");
    let mut wrong = node.apply(1);
    wrong.node_id = id(9).to_string();
    assert_eq!(
        reason(&client.apply_instance(wrong).await.unwrap_err()),
        "WRONG_NODE"
    );
    let mut wrong = node.apply(1);
    wrong.image_sources = vec![wire::PeerSource::default(); 9];
    let refused = client.apply_instance(wrong).await.unwrap_err();
    assert_eq!(refusal::violations(&refused)[0].field, "image_sources");
    let long = |address: usize, ticket: usize| wire::PeerSource {
        address: "x".repeat(address),
        ticket: vec![0; ticket].into(),
        node_id: String::new(),
    };
    let nobody = wire::PeerSource {
        node_id: "nobody".into(),
        ..wire::PeerSource::default()
    };
    for (source, field) in [
        (long(513, 0), "image_sources.address"),
        (long(0, 16 * 1024 + 1), "image_sources.ticket"),
        (nobody, "image_sources.node_id"),
    ] {
        let mut wrong = node.apply(1);
        wrong.image_sources = vec![source];
        let refused = client.apply_instance(wrong).await.unwrap_err();
        assert_eq!(refusal::violations(&refused)[0].field, field);
    }
    assert!(node.host.domains().is_empty());
}

/// FAULTS 18: a message over the limit is refused before it is decoded, and the agent goes on.
#[tokio::test(start_paused = true)]
async fn a_message_over_the_limit_is_refused() {
    let (node, mut client) = Node::ready(Shape::default()).await;
    let mut huge = node.apply(1);
    huge.name = "x".repeat(kapok_proto::MAX_MESSAGE_BYTES + 1);
    let refused = client.apply_instance(huge).await.unwrap_err();
    assert!(
        matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{refused:?}"
    );
    let acknowledge = wire::AcknowledgeGoneRequest {
        epoch: 1,
        incarnation_ids: vec![id(1).to_string(); 1001],
    };
    let refused = client.acknowledge_gone(acknowledge).await.unwrap_err();
    assert_eq!(refusal::violations(&refused)[0].field, "incarnation_ids");
    let resync = wire::ResyncRequest {
        epoch: 1,
        instances: vec![node.apply(1); 101],
        complete: true,
    };
    let refused = client
        .resync(Request::new(tokio_stream::once(resync)))
        .await
        .unwrap_err();
    assert_eq!(refusal::violations(&refused)[0].field, "instances");
    node.running(&mut client, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_store_takes_no_create_until_resynced() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    node.running(&mut client, 2).await;
    node.memory.lose();
    client = node.revive().await;
    until(&mut client, 1, Phase::Running).await;
    let refused = client.apply_instance(node.apply(3)).await.unwrap_err();
    assert_eq!(reason(&refused), "NEEDS_RESYNC");
    // What it has may be changed.
    client.apply_instance(node.apply(1)).await.unwrap();
    // A stream without an end changes nothing.
    let half = wire::ResyncRequest {
        epoch: 1,
        instances: vec![node.apply(3)],
        complete: false,
    };
    let refused = client
        .resync(Request::new(tokio_stream::once(half)))
        .await
        .unwrap_err();
    assert_eq!(refusal::violations(&refused)[0].field, "complete");
    assert_eq!(status(&mut client, 3).await, None);
    let strays = resync(&mut client, 1, &[node.apply(1), node.apply(3)])
        .await
        .unwrap();
    assert_eq!(strays, [id(2).to_string()]);
    until(&mut client, 3, Phase::Running).await;
    assert_eq!(node.host.is_on(id(2)), Some(true), "a stray is left alone");
    assert_eq!(node.host.runs(id(1)), 1);
}

/// With its store a node loses the epoch and what it was told to let go of: it learns the epoch
/// back from its domains, and starts nothing that the controller hasn't spoken for.
#[tokio::test(start_paused = true)]
async fn a_lost_store_keeps_the_epoch_and_starts_nothing_unconfirmed() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    for n in 1..=2 {
        let mut apply = node.apply(n);
        apply.epoch = 5;
        client.apply_instance(apply).await.unwrap();
        until(&mut client, n, Phase::Running).await;
    }
    node.kill();
    node.memory.lose();
    node.host.crash_guest(id(1));
    node.host.crash_guest(id(2));
    client = node.revive().await;
    for n in 1..=2 {
        until(&mut client, n, Phase::Waiting).await;
    }
    let refused = client.delete_instance(node.delete(2)).await.unwrap_err();
    assert_eq!(reason(&refused), "STALE_EPOCH");
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!((node.host.runs(id(1)), node.host.runs(id(2))), (1, 1));
    let mut wanted = node.apply(1);
    wanted.epoch = 6;
    let strays = resync(&mut client, 6, &[wanted]).await.unwrap();
    assert_eq!(strays, [id(2).to_string()]);
    until(&mut client, 1, Phase::Running).await;
    until(&mut client, 2, Phase::Waiting).await;
    assert_eq!(node.host.runs(id(2)), 1, "a stray is left alone");
}

/// A snapshot says what is here, so there is none before that is known.
#[tokio::test(start_paused = true)]
async fn nothing_is_shown_before_the_first_listing() {
    use wire::{watch_item::Item, watch_response::Event};
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    for n in 1..=3 {
        node.running(&mut client, n).await;
    }
    node.kill();
    node.host.set_up(false);
    node.host.inject(Fault::Freeze { incarnation: id(3) });
    node.start();
    client = {
        drop(client);
        node.client().await
    };
    let refused = client.list_instances(wire::ListInstancesRequest {}).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::Unavailable, "HYPERVISOR_UNSEEN".into())
    );
    let watch = client.watch(wire::WatchRequest {}).await.unwrap();
    let mut watch = watch.into_inner();
    let early = timeout(Duration::from_mins(1), watch.next()).await;
    assert!(early.is_err(), "{early:?}");
    node.host.set_up(true);
    let mut shown = Vec::new();
    loop {
        match watch.next().await.unwrap().unwrap().event.unwrap() {
            Event::End(_) => break,
            Event::Item(item) => match item.item.unwrap() {
                Item::Instance(status) => shown.push(status.incarnation_id),
                other => assert!(matches!(other, Item::Node(_)), "{other:?}"),
            },
            Event::Begin(_) => {}
        }
    }
    assert_eq!(shown, [1, 2, 3].map(|n| id(n).to_string()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_begins_with_a_snapshot_and_goes_on_without_gaps() {
    use wire::{watch_item::Item, watch_response::Event};
    let (node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    let mut watch = client
        .watch(wire::WatchRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut snapshot = Vec::new();
    let first = watch.next().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Begin(_))));
    loop {
        match watch.next().await.unwrap().unwrap().event.unwrap() {
            Event::Item(item) => snapshot.push(item.item.unwrap()),
            Event::End(_) => break,
            Event::Begin(_) => panic!("a second beginning"),
        }
    }
    assert!(
        matches!(&snapshot[..], [Item::Node(_), Item::Instance(_)]),
        "{snapshot:?}"
    );
    client.delete_instance(node.delete(1)).await.unwrap();
    until(&mut client, 1, Phase::Gone).await;
    let acknowledge = wire::AcknowledgeGoneRequest {
        epoch: 1,
        incarnation_ids: vec![id(1).to_string()],
    };
    client.acknowledge_gone(acknowledge).await.unwrap();
    let mut revision = first.revision;
    let forgotten = async {
        loop {
            let change = watch.next().await.unwrap().unwrap();
            assert_eq!(change.revision, revision + 1);
            assert_eq!(change.run_id, first.run_id);
            revision = change.revision;
            if let Some(Event::Item(item)) = change.event
                && let Some(Item::ForgottenIncarnationId(gone)) = item.item
            {
                return gone;
            }
        }
    };
    assert_eq!(timeout(BOUND, forgotten).await.unwrap(), id(1).to_string());
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_in_time_and_tell_the_run() {
    let (mut node, mut client) = Node::ready(Shape::default()).await;
    let mut beats = client
        .heartbeat(wire::HeartbeatRequest { interval_ms: 500 })
        .await
        .unwrap()
        .into_inner();
    let start = tokio::time::Instant::now();
    let mut run = String::new();
    for sequence in 1..=5 {
        let beat = beats.next().await.unwrap().unwrap();
        assert_eq!(beat.sequence, sequence);
        assert!(beat.hypervisor_up && !beat.needs_resync && beat.epoch == 1);
        assert!(beat.lanes.iter().any(|lane| lane.name == "store"));
        run = beat.run_id;
    }
    assert!(
        start.elapsed() <= Duration::from_millis(2100),
        "{:?}",
        start.elapsed()
    );
    client = node.revive().await;
    let mut beats = client
        .heartbeat(wire::HeartbeatRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_ne!(beats.next().await.unwrap().unwrap().run_id, run);
    let refused = client
        .heartbeat(wire::HeartbeatRequest { interval_ms: 1 })
        .await
        .unwrap_err();
    assert_eq!(refusal::violations(&refused)[0].field, "interval_ms");
}

#[tokio::test(start_paused = true)]
async fn a_console_carries_both_ways() {
    let (node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    let (input, requests) = tokio::sync::mpsc::channel(4);
    let open = wire::ConsoleRequest {
        incarnation_id: id(1).to_string(),
        force: false,
        input: None,
    };
    input.send(open).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut output = client.console(requests).await.unwrap().into_inner();
    let greeting = output.next().await.unwrap().unwrap().output.unwrap();
    assert!(greeting.data.starts_with(b"kapok"));
    let typed = wire::ConsoleRequest {
        input: Some(words::ConsoleData {
            data: "hello".into(),
        }),
        ..Default::default()
    };
    input.send(typed).await.unwrap();
    let echo = output.next().await.unwrap().unwrap().output.unwrap();
    assert_eq!(&echo.data[..], b"hello");
    node.host.crash_guest(id(1));
    let ended = timeout(BOUND, async { while output.next().await.is_some() {} }).await;
    assert!(ended.is_ok(), "the console outlives its guest");
    let open = wire::ConsoleRequest {
        incarnation_id: id(9).to_string(),
        ..Default::default()
    };
    let refused = client.console(tokio_stream::once(open)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn images_in_use_stay() {
    let shape = Shape {
        has_all_images: false,
        ..Shape::default()
    };
    let (node, mut client) = Node::ready(shape).await;
    let digest = kapok_types::Digest::of(b"image");
    let format = kapok_types::instance::DiskFormat::Qcow2;
    node.host.put_image(digest, format, 1000, false);
    node.running(&mut client, 1).await;
    let list = client
        .list_images(wire::ListImagesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((list.images.len(), list.images[0].overlays), (1, 1));
    let remove = wire::RemoveImageRequest {
        digest: digest.to_string(),
        epoch: 1,
    };
    let refused = client.remove_image(remove.clone()).await.unwrap_err();
    assert_eq!(reason(&refused), "IMAGE_IN_USE");
    client.delete_instance(node.delete(1)).await.unwrap();
    until(&mut client, 1, Phase::Gone).await;
    client.remove_image(remove).await.unwrap();
    assert!(node.host.images().is_empty());
}

#[tokio::test(start_paused = true)]
async fn facts_count_what_is_not_ours() {
    let (node, mut client) = Node::ready(Shape::default()).await;
    let facts = client
        .get_node(wire::GetNodeRequest {})
        .await
        .unwrap()
        .into_inner()
        .node
        .unwrap();
    assert_eq!(facts.node_id, node.id.to_string());
    assert_eq!(
        (facts.memory_mib, facts.reserved_memory_mib),
        (65_536 - 1024, 1024)
    );
    assert_eq!(
        (facts.foreign_memory_mib, facts.driver.as_str()),
        (0, "simulator")
    );
    node.host.put_foreign(uuid::Uuid::from_u128(5), "pet", true);
    let end = tokio::time::Instant::now() + BOUND;
    loop {
        let facts = client
            .get_node(wire::GetNodeRequest {})
            .await
            .unwrap()
            .into_inner();
        if facts.node.unwrap().foreign_memory_mib == 512 {
            break;
        }
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One seed, one sequence of calls.
#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_sequence() {
    let mut logs = Vec::new();
    for _ in 0..2 {
        let (node, mut client) = Node::ready(Shape::default()).await;
        node.host.keep_log(true);
        for n in 1..=5 {
            client.apply_instance(node.apply(n)).await.unwrap();
        }
        for n in 1..=5 {
            until(&mut client, n, Phase::Running).await;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let log = node.host.log();
        assert!(log.iter().any(|(call, _)| *call == Call::Observe));
        logs.push(log);
    }
    assert_eq!(logs[0], logs[1]);
}
