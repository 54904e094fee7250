//! A commit that is cut off between its pointer and the last of its objects.

use std::collections::BTreeMap;

use bytes::Bytes;
use kapok_store::{Store, conformance::bounded};
use kapok_types::Seq;

use super::{append, bare, checkpoint, open, place};

/// FAULTS 37, the store's part on etcd: what a killed leader had committed is the checkpoint, whole,
/// before the next one moves it on, and after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_cut_off_while_it_settles_loses_nothing() {
    let options = place();
    let store = open(&options).await;
    let onlooker = open(&options).await;
    let mut etcd = bare(&options).await;
    let mut expected: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut cut_off = false;
    for round in 0..20_u8 {
        let token = bounded(store.campaign("a")).await.unwrap().token;
        let at = append(&store, &token, &["x"]).await;
        let value = Bytes::from(vec![round; 20_000]);
        // The keys move along, so that each round leaves some of the one before as they were.
        let names = (0..400_u16).map(|n| format!("k/{:04}", n + u16::from(round) * 100));
        let puts: Vec<_> = names.map(|name| (name, value.clone())).collect();
        expected.extend(puts.iter().cloned());
        let committing = tokio::spawn({
            let store = store.clone();
            async move { store.checkpoint(&token, checkpoint(at, puts)).await }
        });
        // As soon as it shows, its leader is gone.
        let shows = async {
            while onlooker.extent().await.unwrap().checkpoint != at.seq {
                tokio::task::yield_now().await;
            }
        };
        bounded(shows).await;
        committing.abort();
        let _cut_off_or_done = committing.await;
        let settling = etcd.get(format!("{}settling", options.prefix), None).await;
        let settles = !settling.unwrap().kvs().is_empty();
        let loaded = onlooker.load_checkpoint().await.unwrap().unwrap();
        assert_eq!((loaded.seq, loaded.objects == expected), (at.seq, true));
        if cut_off {
            // This one had to finish the one before.
            break;
        }
        cut_off = settles;
    }
    assert!(cut_off, "no commit was cut off");
    let token = bounded(onlooker.campaign("b")).await.unwrap().token;
    let at = append(&onlooker, &token, &["y"]).await;
    onlooker
        .checkpoint(&token, checkpoint(at, vec![]))
        .await
        .unwrap();
    onlooker.trim(&token, at.seq).await.unwrap();
    let loaded = onlooker.load_checkpoint().await.unwrap().unwrap();
    assert_eq!((loaded.seq, loaded.objects == expected), (at.seq, true));
    assert_eq!(onlooker.extent().await.unwrap().first, Seq(at.seq.get()));
    // Nothing of the parts is left behind.
    let parts = etcd_client::GetOptions::new()
        .with_prefix()
        .with_count_only();
    let left = etcd
        .get(format!("{}parts/", options.prefix), Some(parts))
        .await
        .unwrap();
    assert_eq!(left.count(), 0);
}
