//! The database stays small, whatever goes through it, and transactions within etcd's limits.

use bytes::Bytes;
use kapok_store::{EtcdOptions, Head, Store, conformance, testing::EtcdCluster};

use super::{Place, append, batch, checkpoint, open, place};

/// Of appends, checkpoints and trims only what is there takes space, and a little more: etcd's
/// history of it is compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_compacted() {
    const ROUNDS: usize = 40;
    let cluster = EtcdCluster::start(1);
    let store = open(&EtcdOptions::new(cluster.endpoints(), "/kapok/space/")).await;
    let token = store.campaign("a").await.unwrap().token;
    let mut head = Head::default();
    let mut written: usize = 0;
    for round in 0..ROUNDS {
        for _ in 0..75 {
            let batch = batch(head, vec![7; 4_000]);
            store.append(&token, head.seq, &batch).await.unwrap();
            head = batch.head();
            written += 4_000;
        }
        let object = |n: usize| (format!("k/{n}"), Bytes::from(vec![1; 10_000 + round]));
        let puts: Vec<_> = (0..20).map(object).collect();
        // Staged and settled.
        written += puts.iter().map(|(_, value)| 2 * value.len()).sum::<usize>();
        store
            .checkpoint(&token, checkpoint(head, puts))
            .await
            .unwrap();
        store.trim(&token, head.seq.next()).await.unwrap();
    }
    let health = store.health().await.unwrap();
    let status = health.members[0].status.as_ref().unwrap();
    let written = u64::try_from(written).unwrap();
    assert!(written > 25_000_000);
    assert!(
        status.database_bytes * 4 < written,
        "{written} bytes make {status:?}"
    );
    assert_eq!(store.extent().await.unwrap().log_bytes, 0);
}

/// The longest prefix still leaves room in a transaction for the largest batch, the largest object and
/// the most objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_prefix_leaves_room() {
    let long = || {
        let options = place();
        let prefix = format!(
            "{}{}/",
            options.prefix,
            "x".repeat(95 - options.prefix.len())
        );
        assert_eq!(prefix.len(), 96);
        EtcdOptions { prefix, ..options }
    };
    conformance::the_size_limit_is_exact(Place(long())).await;
    conformance::a_large_checkpoint_goes_in_parts(Place(long())).await;
    let store = open(&long()).await;
    let token = store.campaign("a").await.unwrap().token;
    let at = append(&store, &token, &["x"]).await;
    let most = usize::try_from(store.limits().payload_bytes()).unwrap() - 64 - 1;
    let puts = vec![("k".to_owned(), Bytes::from(vec![7; most]))];
    store
        .checkpoint(&token, checkpoint(at, puts.clone()))
        .await
        .unwrap();
    // It has settled: a commit of nothing needs it to.
    store
        .checkpoint(&token, checkpoint(at, vec![]))
        .await
        .unwrap();
    let loaded = store.load_checkpoint().await.unwrap().unwrap();
    assert!(loaded.objects.into_iter().eq(puts));
}
