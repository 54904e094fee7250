//! Logs larger than a message: read, looked at and followed a page at a time.

use futures::StreamExt as _;
use kapok_store::{Batch, Follow, Head, Store, conformance::bounded};
use kapok_types::Seq;

use super::{batch, open, place, whole};

/// Many small batches make pages grow, the large ones behind them don't fit one: all come all the same,
/// also to followers that were there before and that come after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_fit_messages() {
    let options = place();
    let store = open(&options).await;
    let token = store.campaign("a").await.unwrap().token;
    let reader = open(&options).await;
    let mut early = reader.follow(Seq(1));
    let mut made: Vec<Batch> = Vec::new();
    let mut head = Head::default();
    for n in 0..315 {
        let size = if n < 300 { 10 } else { 1_400_000 };
        let batch = batch(head, vec![7; size]);
        store.append(&token, head.seq, &batch).await.unwrap();
        head = batch.head();
        made.push(batch);
        if n == 0 {
            // From here on it watches.
            let first = bounded(early.next()).await.unwrap().unwrap();
            assert_eq!(first, Follow::Batch(made[0].clone()));
        }
    }
    assert!(whole(&reader).await == made);
    let stored = reader.stored(Seq(2), usize::MAX).await.unwrap();
    assert_eq!(stored.len(), made.len() - 1);
    let mut late = reader.follow(Seq(300));
    for batch in &made[1..] {
        let next = bounded(early.next()).await.unwrap().unwrap();
        assert!(next == Follow::Batch(batch.clone()), "{}", batch.head().seq);
    }
    for batch in &made[299..] {
        let next = bounded(late.next()).await.unwrap().unwrap();
        assert!(next == Follow::Batch(batch.clone()), "{}", batch.head().seq);
    }
}
