//! Reads and followers: nothing is missed, nothing is out of order, trimmed is said.

use std::sync::Arc;

use futures::StreamExt as _;
use kapok_types::Seq;

use super::{Backend, batches, bounded, end_at, fill, read_all};
use crate::{Batch, Chain, Checkpoint, Extent, Follow, Head, Read, Store, Stored};

/// A read begins with the batch that holds its position; behind the head there is nothing.
pub async fn reads_begin_anywhere(backend: impl Backend) {
    let store = backend.open().await;
    let leadership = store.campaign("a").await.unwrap();
    let made = fill(&store, &leadership.token, &[2, 3, 1]).await;
    for (from, first) in [(0, 0), (1, 0), (2, 0), (3, 1), (5, 1), (6, 2)] {
        let read = store.read(Seq(from), 10).await.unwrap();
        assert_eq!(read, Read::Batches(made[first..].to_vec()), "from {from}");
    }
    for from in [7, 8, u64::MAX] {
        assert_eq!(
            store.read(Seq(from), 10).await.unwrap(),
            Read::Batches(vec![]),
            "from {from}"
        );
    }
    assert_eq!(
        store.read(Seq(1), 2).await.unwrap(),
        Read::Batches(made[..2].to_vec())
    );
}

/// What was acknowledged is there after reopening, and the chain goes on where it ended.
pub async fn the_log_survives_reopening(backend: impl Backend) {
    let mut all = Vec::new();
    for _ in 0..3 {
        let store = backend.open().await;
        assert_eq!(read_all(&store, Head::default()).await, all);
        let leadership = bounded(store.campaign("a")).await.unwrap();
        all.extend(fill(&store, &leadership.token, &[1, 4]).await);
    }
    let store = backend.open().await;
    assert_eq!(store.head().await.unwrap(), all.last().unwrap().head());
    assert_eq!(read_all(&store, Head::default()).await, all);
}

/// A follower sees what was there and what comes, in order and without gaps, wherever it begins.
pub async fn followers_miss_nothing(backend: impl Backend) {
    let store = Arc::new(backend.open().await);
    let token = store.campaign("a").await.unwrap().token;
    let mut made = fill(&*store, &token, &[2; 20]).await;
    let early: Vec<_> = [0, 1, 2, 25, 40]
        .map(|from| (from, store.follow(Seq(from))))
        .into();
    let coming = batches(&mut Chain::at(made.last().unwrap().head()), &[3; 60]);
    made.extend(coming.clone());
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for batch in coming {
                store
                    .append(&token, batch.after().seq, &batch)
                    .await
                    .unwrap();
            }
        }
    });
    for (from, mut stream) in early {
        for batch in made.iter().filter(|batch| batch.head().seq >= Seq(from)) {
            let next = bounded(stream.next()).await.unwrap().unwrap();
            assert_eq!(next, Follow::Batch(batch.clone()), "from {from}");
        }
    }
    bounded(writer).await.unwrap();
    // One that begins at what comes next waits for it.
    let mut stream = store.follow(made.last().unwrap().head().seq.next());
    let waiting = tokio::spawn(async move { stream.next().await });
    let last = fill(&*store, &token, &[1]).await.remove(0);
    assert_eq!(
        bounded(waiting).await.unwrap().unwrap().unwrap(),
        Follow::Batch(last)
    );
}

/// Whoever asks for what was trimmed is told so, with the position that it can go on from.
pub async fn followers_of_trimmed_entries_are_told(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[2, 2, 2]).await;
    let Head { seq, hash } = end_at(&made, 4);
    let checkpoint = Checkpoint {
        seq,
        hash,
        puts: vec![],
        deletes: vec![],
    };
    store.checkpoint(&token, checkpoint).await.unwrap();
    store.trim(&token, Seq(5)).await.unwrap();

    assert_eq!(
        store.read(Seq(4), 10).await.unwrap(),
        Read::Trimmed { first: Seq(5) }
    );
    assert_eq!(
        store.read(Seq(5), 10).await.unwrap(),
        Read::Batches(made[2..].to_vec())
    );
    let mut stream = store.follow(Seq(1));
    let told = bounded(stream.next()).await.unwrap().unwrap();
    assert_eq!(told, Follow::Trimmed { first: Seq(5) });
    assert!(
        bounded(stream.next()).await.is_none(),
        "the stream ends there"
    );
    let mut stream = store.follow(Seq(5));
    let next = bounded(stream.next()).await.unwrap().unwrap();
    assert_eq!(next, Follow::Batch(made[2].clone()));
}

fn encoded(batches: &[Batch]) -> u64 {
    batches.iter().map(Batch::encoded_len).sum()
}

/// What is there, and how large it is, follows every append, checkpoint and trim, and survives
/// reopening.
pub async fn the_extent_is_exact(backend: impl Backend) {
    let store = backend.open().await;
    let expected = Extent {
        first: Seq(1),
        head: Head::default(),
        checkpoint: Seq::ZERO,
        log_bytes: 0,
    };
    assert_eq!(store.extent().await.unwrap(), expected);
    assert_eq!(expected.entries(), 0);
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[2, 3, 1]).await;
    let Head { seq, hash } = end_at(&made, 5);
    let checkpoint = Checkpoint {
        seq,
        hash,
        puts: vec![],
        deletes: vec![],
    };
    store.checkpoint(&token, checkpoint).await.unwrap();
    let mut expected = Extent {
        head: end_at(&made, 6),
        checkpoint: Seq(5),
        log_bytes: encoded(&made),
        ..expected
    };
    assert_eq!(store.extent().await.unwrap(), expected);
    assert_eq!(expected.entries(), 6);
    store.trim(&token, Seq(3)).await.unwrap();
    drop(store);
    let store = backend.open().await;
    expected.first = Seq(3);
    expected.log_bytes = encoded(&made[1..]);
    assert_eq!(store.extent().await.unwrap(), expected);
    assert_eq!(expected.entries(), 4);
}

/// Stored values are the batches as encoded, each under its first position.
pub async fn stored_values_are_the_batches(backend: impl Backend) {
    let store = backend.open().await;
    assert_eq!(store.stored(Seq(0), 10).await.unwrap(), []);
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[2, 3, 1]).await;
    let stored = |batch: &Batch| Stored {
        first: batch.after().seq.next(),
        value: batch.encode(),
    };
    let all: Vec<Stored> = made.iter().map(stored).collect();
    for (from, first) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (6, 2), (7, 3)] {
        let found = store.stored(Seq(from), 10).await.unwrap();
        assert_eq!(found, all[first..], "from {from}");
    }
    assert_eq!(store.stored(Seq(1), 2).await.unwrap(), all[..2]);
}
