//! Capacity: who gets the last of it, and what is said when there is none.

use kapok_proto::fabric::v1::{
    CreateInstanceRequest, ExplainInstanceRequest, OperationState,
    explain_instance_request::Question,
};
use kapok_tests::{
    Cluster,
    people::{reason, small},
};
use tonic::Code;

/// FAULTS 27: of 100 who want the last place, exactly one gets it, and nothing leaks.
#[tokio::test(start_paused = true)]
async fn of_a_hundred_creates_for_the_last_place_one_wins() {
    let cluster = Cluster::builder()
        .nodes(3)
        .overcommit_permille(1000)
        .build()
        .await;
    let people = &cluster.people;
    // 3 nodes with 16 threads each: 47 of 48 vCPUs are taken.
    for (name, vcpus) in [("a", 16), ("b", 16), ("c", 15)] {
        people
            .succeeds(
                people
                    .create_as(CreateInstanceRequest {
                        vcpus,
                        ..small(name)
                    })
                    .await,
            )
            .await;
    }
    for round in 0..2 {
        let all = (0..100).map(|number| people.create_as(small(&format!("last-{round}-{number}"))));
        let answers = futures::future::join_all(all).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for refused in lost {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
            assert_eq!(reason(&refused), "NO_CAPACITY");
        }
        let won = people.succeeds(won.into_iter().next().unwrap()).await;
        // Nothing leaked: the place is free again for exactly one.
        people
            .succeeds(people.delete(&won.instance_name).await)
            .await;
    }
    let mut claimed = 0;
    for number in 1..=3 {
        claimed += people
            .node(&format!("node-{number}"))
            .await
            .unwrap()
            .vcpus
            .unwrap()
            .claimed;
    }
    assert_eq!(claimed, 47);
    assert_eq!(people.list().await.unwrap().len(), 3);
    cluster.finish().await;
}

#[tokio::test(start_paused = true)]
async fn no_capacity_names_every_node_with_its_numbers() {
    let mut cluster = Cluster::builder().nodes(4).build().await;
    let people = cluster.people.clone();
    people.cordon("node-1").await.unwrap();
    cluster.nodes[1].kill();
    cluster
        .node_is("node-2", kapok_proto::fabric::v1::NodeState::Unreachable)
        .await;
    let wanted = CreateInstanceRequest {
        memory_mib: 1 << 20,
        ..small("big")
    };
    let refused = people.create_as(wanted.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), "NO_CAPACITY");
    for (node, word) in [
        ("node-1", "cordon"),
        ("node-2", "unreachable"),
        ("node-3", "memory"),
        ("node-4", "memory"),
    ] {
        let line = refused.message().lines().find(|line| line.contains(node));
        let line = line.unwrap_or_else(|| panic!("{node} isn't in {:?}", refused.message()));
        assert!(line.contains(word), "{line:?} lacks {word:?}");
    }
    // The same without a try, node by node.
    let question = ExplainInstanceRequest {
        question: Some(Question::Create(wanted)),
    };
    let explained = people.explain(question).await.unwrap();
    assert_eq!(explained.nodes.len(), 4);
    assert!(
        explained
            .nodes
            .iter()
            .all(|node| !node.fits && !node.reason.is_empty())
    );
    assert!(
        explained.claim_memory.unwrap().total_mib > 1 << 20,
        "QEMU's share is in it"
    );
    cluster.nodes[1].start();
    cluster.ready().await;
    assert!(people.list().await.unwrap().is_empty());
    cluster.finish().await;
}

/// What foreign domains hold is taken off, before and after they change.
#[tokio::test(start_paused = true)]
async fn foreign_domains_take_their_share_and_are_left_alone() {
    let cluster = Cluster::builder()
        .nodes(1)
        .overcommit_permille(1000)
        .build()
        .await;
    let host = &cluster.nodes[0].host;
    let foreign = uuid::Uuid::from_u128(7);
    host.put_foreign(foreign, "handmade", true);
    cluster
        .eventually(
            std::time::Duration::from_secs(30),
            "it is reported",
            async || cluster.people.node("node-1").await.unwrap().foreign_domains == 1,
        )
        .await;
    let all = CreateInstanceRequest {
        vcpus: 16,
        ..small("web")
    };
    let refused = cluster.people.create_as(all.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let fits = CreateInstanceRequest { vcpus: 15, ..all };
    let made = cluster.people.create_as(fits).await;
    assert_eq!(
        cluster.people.succeeds(made).await.state(),
        OperationState::Succeeded
    );
    let before = host.foreign();
    cluster
        .people
        .succeeds(cluster.people.delete("web").await)
        .await;
    assert_eq!(host.foreign(), before, "a foreign domain was altered");
    cluster.finish().await;
}
