//! Instances that become larger and smaller under people's hands.

use std::time::Duration;

use futures::future::join_all;
use kapok_proto::fabric::v1::{Incarnation, ResizeInstanceRequest};
use kapok_tests::{
    Cluster,
    people::{People, reason},
};
use kapok_types::{MemoryMib, Vcpus, phase::Size};
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
