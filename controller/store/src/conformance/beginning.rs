//! Logs that move here from another store: a blank log begins anywhere, once.

use bytes::Bytes;
use kapok_types::{Epoch, Seq};

use super::{Backend, bounded, fill, read_all};
use crate::{
    Chain, Checkpoint, Extent, Follow, Hash, Head, LeaderToken, LoadedCheckpoint, Read, Store,
    WriteError,
};

const AT: Head = Head {
    seq: Seq(41),
    hash: Hash([7; 32]),
};

fn expect_not_blank(refused: &Result<(), WriteError>, head: Seq) {
    assert!(
        matches!(refused, Err(WriteError::NotBlank { head: at, .. }) if *at == head),
        "{refused:?}"
    );
}

/// A log that begins behind a position is one whose earlier entries were trimmed; it takes what
/// continues it, a checkpoint of that very position, and trims.
pub async fn a_blank_log_begins_anywhere(backend: impl Backend) {
    use futures::StreamExt as _;

    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    store.begin(&token, AT).await.unwrap();
    // Once more is how one with an unknown outcome is repeated.
    store.begin(&token, AT).await.unwrap();
    let expected = Extent {
        first: Seq(42),
        head: AT,
        checkpoint: Seq::ZERO,
        log_bytes: 0,
    };
    assert_eq!(store.extent().await.unwrap(), expected);
    drop(store);

    let store = backend.open().await;
    assert_eq!(store.extent().await.unwrap(), expected);
    assert_eq!(store.load_checkpoint().await.unwrap(), None);
    let trimmed = Read::Trimmed { first: Seq(42) };
    assert_eq!(store.read(Seq(1), 10).await.unwrap(), trimmed);
    let told = bounded(store.follow(Seq(41)).next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told, Follow::Trimmed { first: Seq(42) });
    assert_eq!(
        store.read(Seq(42), 10).await.unwrap(),
        Read::Batches(vec![])
    );

    let token = bounded(store.campaign("a")).await.unwrap().token;
    let made = fill(&store, &token, &[2, 3]).await;
    assert_eq!(read_all(&store, AT).await, made);
    let objects = [("k".to_owned(), Bytes::from("v"))];
    let checkpoint = Checkpoint {
        seq: AT.seq,
        hash: AT.hash,
        puts: objects.to_vec(),
        deletes: vec![],
    };
    store.checkpoint(&token, checkpoint).await.unwrap();
    let loaded = LoadedCheckpoint {
        seq: AT.seq,
        hash: AT.hash,
        objects: objects.into(),
    };
    assert_eq!(store.load_checkpoint().await.unwrap(), Some(loaded));
    let Head { seq, hash } = made[0].head();
    let checkpoint = Checkpoint {
        seq,
        hash,
        puts: vec![],
        deletes: vec![],
    };
    store.checkpoint(&token, checkpoint).await.unwrap();
    store.trim(&token, Seq(44)).await.unwrap();
    let extent = Extent {
        first: Seq(44),
        head: made[1].head(),
        checkpoint: Seq(43),
        log_bytes: made[1].encoded_len(),
    };
    assert_eq!(store.extent().await.unwrap(), extent);
}

/// Nothing that is there is begun anew, and only by the leader.
pub async fn only_a_blank_log_is_begun(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let late = LeaderToken {
        epoch: Epoch(token.epoch.get() - 1),
    };
    let refused = store.begin(&late, AT).await;
    assert!(
        matches!(refused, Err(WriteError::Fenced { current }) if current == token.epoch),
        "{refused:?}"
    );
    store.begin(&token, AT).await.unwrap();
    let elsewhere = Head { seq: Seq(40), ..AT };
    for other in [elsewhere, Head::default()] {
        expect_not_blank(&store.begin(&token, other).await, AT.seq);
    }
    let batch = Chain::at(AT).seal(vec!["a".into()]);
    store.append(&token, AT.seq, &batch).await.unwrap();
    for again in [AT, elsewhere] {
        expect_not_blank(&store.begin(&token, again).await, Seq(42));
    }
    assert_eq!(read_all(&store, AT).await, [batch]);
}
