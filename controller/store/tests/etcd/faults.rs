//! Members that die, freeze, and are too few.

use std::time::Duration;

use futures::StreamExt as _;
use kapok_store::{
    AppendError, Chain, Error, Etcd, EtcdOptions, Follow, Head, LeaderToken, Store,
    conformance::bounded, testing::EtcdCluster,
};
use kapok_types::Seq;

use super::{batch, open, whole};

/// What a case may take, whatever happens to the cluster. Far above any deadline in it.
const BOUND: Duration = Duration::from_mins(2);

fn options(cluster: &EtcdCluster) -> EtcdOptions {
    EtcdOptions {
        call_deadline: Duration::from_secs(30),
        ..EtcdOptions::new(cluster.endpoints(), "/kapok/faults/")
    }
}

async fn append(store: &Etcd, token: &LeaderToken, head: &mut Head, count: usize) {
    for _ in 0..count {
        let batch = batch(*head, format!("after {}", head.seq));
        store.append(token, head.seq, &batch).await.unwrap();
        *head = batch.head();
    }
}

/// Each member of three dies once, then each freezes once: every write is acknowledged, the leadership
/// stays, a follower misses nothing, and health says who is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_not_missed() {
    let mut cluster = EtcdCluster::start(3);
    let store = open(&options(&cluster)).await;
    let leadership = store.campaign("a").await.unwrap();
    let token = leadership.token;
    let mut follower = open(&options(&cluster)).await.follow(Seq(1));
    let following = store.clone();
    let mut stream = following.follow(Seq(1));
    let mut head = Head::default();
    for index in 0..3 {
        cluster.stop_member(index);
        append(&store, &token, &mut head, 20).await;
        let health = store.health().await.unwrap();
        let away: Vec<&str> = (health.members.iter())
            .filter(|member| member.status.is_err())
            .map(|member| member.name.as_str())
            .collect();
        assert_eq!(away, [format!("m{}", index + 1)], "{health:?}");
        cluster.start_member(index);
        cluster.wait();
    }
    for index in 0..3 {
        cluster.pause(index);
        append(&store, &token, &mut head, 5).await;
        cluster.resume(index);
        cluster.wait();
    }
    assert!(!*leadership.lost.borrow());
    let health = store.health().await.unwrap();
    let leaders = health.members.iter().filter(|member| {
        member
            .status
            .as_ref()
            .is_ok_and(|status| status.leads && status.database_bytes > 0)
    });
    assert_eq!(
        (health.members.len(), leaders.count()),
        (3, 1),
        "{health:?}"
    );

    let all = whole(&store).await;
    assert_eq!(all.last().unwrap().head(), head);
    for batch in &all {
        let next = bounded(stream.next()).await.unwrap().unwrap();
        assert_eq!(next, Follow::Batch(batch.clone()));
    }
    // The other one's store was dropped: it has ended.
    assert!(bounded(follower.next()).await.is_none());
    let figures = store.figures().unwrap();
    assert!(
        figures.writes.count >= 75 && figures.writes.took > Duration::ZERO,
        "{figures:?}"
    );
}

/// Without a majority every call ends in its time, nothing that may have landed is called failed, and
/// all goes on by itself when the majority is back: the same leadership too, though its lease may have
/// run out meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_calls_end_and_go_on_after_it() {
    let mut cluster = EtcdCluster::start(3);
    let options = EtcdOptions {
        call_deadline: Duration::from_secs(2),
        ..options(&cluster)
    };
    let store = open(&options).await;
    let leadership = store.campaign("a").await.unwrap();
    let mut stream = store.follow(Seq(1));
    let mut head = Head::default();
    append(&store, &leadership.token, &mut head, 3).await;
    cluster.stop_member(0);
    cluster.stop_member(1);

    let mut lost: Option<kapok_store::Batch> = None;
    let calls = async {
        let late = batch(head, "without a majority");
        match store.append(&leadership.token, head.seq, &late).await {
            Err(AppendError::Unknown { .. }) => lost = Some(late),
            Err(AppendError::Store(Error::Unavailable { .. })) => {}
            other => panic!("{other:?}"),
        }
        for refused in [
            store.head().await.map(drop),
            store.read(Seq(1), 1).await.map(drop),
            store.load_checkpoint().await.map(drop),
            store.campaign("b").await.map(drop),
            Etcd::open(options.clone()).await.map(drop),
        ] {
            assert!(
                matches!(refused, Err(Error::Unavailable { .. })),
                "{refused:?}"
            );
        }
    };
    tokio::time::timeout(BOUND, calls).await.unwrap();
    // All of that took several leases. Nobody has led since, so it isn't over.
    assert!(!*leadership.lost.borrow());

    cluster.start_member(0);
    cluster.start_member(1);
    cluster.wait();
    let again = async {
        loop {
            match store.head().await {
                Ok(found) => return found,
                Err(Error::Unavailable { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    let found = tokio::time::timeout(BOUND, again).await.unwrap();
    // One with an unknown outcome is there whole or not at all.
    let landed = lost.filter(|batch| batch.head() == found);
    assert!(found == head || landed.is_some(), "{found:?}");
    head = found;
    append(&store, &leadership.token, &mut head, 3).await;
    let all = whole(&store).await;
    assert_eq!(all.last().unwrap().head(), head);
    let mut chain = Chain::default();
    while chain.head() != head {
        let next = tokio::time::timeout(BOUND, stream.next()).await.unwrap();
        let Some(Ok(Follow::Batch(batch))) = next else {
            panic!("{next:?}");
        };
        chain.advance(&batch).unwrap();
    }
    let mut leaders = store.leaders();
    let there = leaders.wait_for(|leader| {
        (leader.as_ref()).is_some_and(|leader| leader.epoch == leadership.token.epoch)
    });
    tokio::time::timeout(BOUND, there).await.unwrap().unwrap();
    assert!(!*leadership.lost.borrow());
}
