//! Instances that become larger and smaller under people's hands.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use kapok_agent::driver::sim::Shape;
use kapok_proto::{
    common::v1::{Assignment, Needs},
    fabric::v1::{CreateInstanceRequest, Incarnation, ResizeInstanceRequest},
};
use kapok_tests::{
    Cluster,
    people::{People, reason, small},
};
use kapok_types::{Equipment, IncarnationId, MemoryMib, Vcpus, equipment::Cell, phase::Size};
use tonic::Status;

const SOON: Duration = Duration::from_secs(30);

async fn resize(
    people: &People,
    name: &str,
    vcpus: u32,
    memory_mib: u64,
) -> Result<kapok_proto::fabric::v1::Operation, Status> {
    let wanted = ResizeInstanceRequest {
        instance: name.into(),
        vcpus,
        memory_mib,
        request_id: people.request_id(),
        ..ResizeInstanceRequest::default()
    };
    let answer = people.instances().resize_instance(wanted).await;
    answer.map(tonic::Response::into_inner)
}

async fn life(cluster: &Cluster, name: &str) -> Incarnation {
    let instance = cluster.people.instance(name).await.unwrap();
    instance.incarnations.into_iter().next().unwrap()
}

/// vCPUs come to the guest that runs; memory and fewer vCPUs with a restart, and until the agent has
/// seen it the claim is the larger of both.
#[tokio::test(start_paused = true)]
async fn growth_is_live_where_it_can_be_and_claims_follow_what_is_seen() {
    let cluster = Cluster::builder().nodes(1).build().await;
    let (web, _) = cluster.run("web").await;
    let people = &cluster.people;
    let host = &cluster.nodes[0].host;
    let size = |vcpus, memory| {
        Some(Size {
            vcpus: Vcpus(vcpus),
            memory: MemoryMib(memory),
        })
    };

    let grown = people.succeeds(resize(people, "web", 2, 0).await).await;
    assert_eq!(grown.detail, "");
    assert_eq!((host.size(web), host.runs(web)), (size(2, 256), 1));

    let waits = people.succeeds(resize(people, "web", 1, 512).await).await;
    assert_eq!(
        waits.detail,
        "1 vCPU and 512 MiB of memory after its next start"
    );
    let one = life(&cluster, "web").await;
    let status = one.status.as_ref().unwrap();
    assert_eq!((status.vcpus, status.memory_mib), (2, 256));
    assert!(
        status.resize_pending && status.drift.is_empty(),
        "{status:?}"
    );
    assert_eq!(one.claim_vcpus, 2, "it has them still");
    assert!(one.claim_memory_mib > 512, "and will have this");

    people.succeeds(people.restart("web").await).await;
    assert_eq!((host.size(web), host.runs(web)), (size(1, 512), 2));
    cluster
        .eventually(SOON, "the surplus is given back", async || {
            life(&cluster, "web").await.claim_vcpus == 1
        })
        .await;

    // A guest that takes no vCPUs runs on as it was, and gets them with its next start.
    host.set_refuses_vcpus(web, true);
    let refused = people.succeeds(resize(people, "web", 2, 0).await).await;
    assert_eq!(refused.detail, "2 vCPUs after its next start");
    assert_eq!((host.size(web), host.runs(web)), (size(1, 512), 2));
    cluster.finish().await;
}

/// FAULTS 27, for growth: many want a node's last vCPUs at once, and one gets them.
#[tokio::test(start_paused = true)]
async fn the_last_vcpus_have_one_taker() {
    let cluster = Cluster::builder()
        .nodes(1)
        .shape(|shape| shape.cpus = 12)
        .overcommit_permille(1000)
        .build()
        .await;
    let people = &cluster.people;
    let names: Vec<_> = (0..4).map(|n| format!("web-{n}")).collect();
    for name in &names {
        cluster.run(name).await;
    }
    let answers = join_all(names.iter().map(|name| resize(people, name, 6, 0))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (1, 3));
    for status in refused.into_iter().filter_map(Result::err) {
        assert_eq!(reason(&status), "NO_ROOM");
        assert!(status.message().contains("node-1"), "{status:?}");
    }
    for accepted in taken {
        people.succeeds(accepted).await;
    }
    cluster.finish().await;
}

/// Threads for dedicated vCPUs on every node.
fn with_threads(shape: &mut Shape, dedicated: &[u16]) {
    shape.cpus = 16;
    shape.equipment = Arc::new(Equipment {
        cells: vec![Cell {
            id: 0,
            dedicated: dedicated.to_vec(),
            ..Cell::default()
        }],
        ..Equipment::default()
    });
}

async fn run_dedicated(cluster: &Cluster, name: &str) -> IncarnationId {
    let needs = Needs {
        dedicated_cpus: true,
        ..Needs::default()
    };
    let wanted = CreateInstanceRequest {
        needs: Some(needs),
        ..small(name)
    };
    let accepted = cluster.people.create_as(wanted).await;
    cluster.people.succeeds(accepted).await;
    cluster.place(name).await.0
}

/// The threads of an assignment.
fn threads(own: Option<&Assignment>) -> Vec<u32> {
    let cells = own.map_or(&[][..], |own| &own.cells);
    let each = cells.iter().flat_map(|share| share.threads.iter().copied());
    each.collect()
}

/// The threads that the simulated guest has.
fn has(cluster: &Cluster, one: IncarnationId) -> Vec<u16> {
    let own = cluster.nodes[0].host.assignment(one).unwrap();
    let each = own.cells.into_iter().flat_map(|share| share.threads);
    each.collect()
}

/// A guest with host threads of its own goes on with what it has, and its next start brings the
/// rest; what it gives up is nobody else's before.
#[tokio::test(start_paused = true)]
async fn a_bound_instance_grows_and_shrinks_with_its_next_start() {
    let cluster = Cluster::builder()
        .nodes(1)
        .shape(|shape| with_threads(shape, &[4, 5, 6]))
        .build()
        .await;
    let people = &cluster.people;
    let web = run_dedicated(&cluster, "web").await;
    let host = &cluster.nodes[0].host;
    assert_eq!((has(&cluster, web), host.runs(web)), (vec![4], 1));

    let grown = people.succeeds(resize(people, "web", 3, 0).await).await;
    assert_eq!(grown.detail, "3 vCPUs after its next start");
    let one = life(&cluster, "web").await;
    assert_eq!(threads(one.assignment.as_ref()), [4, 5, 6]);
    let status = one.status.unwrap();
    assert!(
        status.resize_pending && status.drift.is_empty(),
        "{status:?}"
    );
    assert_eq!((has(&cluster, web), host.runs(web)), (vec![4], 1));
    people.succeeds(people.restart("web").await).await;
    assert_eq!((has(&cluster, web), host.runs(web)), (vec![4, 5, 6], 2));

    people.succeeds(resize(people, "web", 1, 0).await).await;
    let one = life(&cluster, "web").await;
    assert_eq!(
        (
            threads(one.assignment.as_ref()),
            threads(one.surplus.as_ref())
        ),
        (vec![4], vec![5, 6])
    );
    let refused = people.create_as(CreateInstanceRequest {
        needs: Some(Needs {
            dedicated_cpus: true,
            ..Needs::default()
        }),
        ..small("db")
    });
    assert_eq!(reason(&refused.await.unwrap_err()), "NO_CAPACITY");
    people.succeeds(people.restart("web").await).await;
    cluster
        .eventually(SOON, "the surplus is given back", async || {
            let one = life(&cluster, "web").await;
            one.surplus.is_none() && one.claim_vcpus == 1
        })
        .await;
    let db = run_dedicated(&cluster, "db").await;
    assert_eq!((has(&cluster, web), has(&cluster, db)), (vec![4], vec![5]));

    // One that is off waits for nothing, and who wants back what it has neither.
    people.succeeds(people.stop("web").await).await;
    people.succeeds(resize(people, "web", 2, 0).await).await;
    people.succeeds(people.start("web").await).await;
    assert_eq!(has(&cluster, web), [4, 6]);
    people.succeeds(resize(people, "web", 1, 0).await).await;
    let back = people.succeeds(resize(people, "web", 2, 0).await).await;
    assert_eq!((back.detail.as_str(), has(&cluster, web)), ("", vec![4, 6]));
    let one = life(&cluster, "web").await;
    assert_eq!(
        (threads(one.assignment.as_ref()), one.surplus),
        (vec![4, 6], None)
    );
    cluster.finish().await;
}

/// FAULTS 27, for threads of one's own: many want a node's last one at once, and one gets it.
#[tokio::test(start_paused = true)]
async fn the_last_dedicated_thread_has_one_taker() {
    let cluster = Cluster::builder()
        .nodes(1)
        .shape(|shape| with_threads(shape, &[4, 5, 6, 7, 8]))
        .build()
        .await;
    let people = &cluster.people;
    let names: Vec<_> = (0..4).map(|n| format!("web-{n}")).collect();
    let mut guests = Vec::new();
    for name in &names {
        guests.push(run_dedicated(&cluster, name).await);
    }
    let answers = join_all(names.iter().map(|name| resize(people, name, 2, 0))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (1, 3));
    for status in refused.into_iter().filter_map(Result::err) {
        assert_eq!(reason(&status), "NO_ROOM");
        assert!(status.message().contains("dedicated CPUs"), "{status:?}");
    }
    for accepted in taken {
        people.succeeds(accepted).await;
    }
    for name in &names {
        people.succeeds(people.restart(name).await).await;
    }
    let mut all: Vec<_> = guests.iter().flat_map(|one| has(&cluster, *one)).collect();
    all.sort_unstable();
    assert_eq!(all, [4, 5, 6, 7, 8], "each has one guest");
    cluster.finish().await;
}
