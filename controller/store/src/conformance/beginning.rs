//! Logs that move here from another store: a blank log begins anywhere, once.

use bytes::Bytes;
use kapok_types::{Epoch, Seq};

use super::{Backend, bounded, fill, read_all};
use crate::{
    Chain, Checkpoint, Error, Extent, Follow, Hash, Head, LeaderToken, LoadedCheckpoint, Read,
    Store, Use, WriteError,
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

/// A store that a log moves into, or moved out of, is led by nobody but a mover, also after reopening;
/// opened again it is one like any other, and holds what it held.
pub async fn only_an_open_store_is_led(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[2]).await;
    assert_eq!(store.get_use().await.unwrap(), Use::Open);
    let moving = Use::Moving { run: Epoch(7) };
    store.put_use(&token, moving).await.unwrap();
    drop(store);

    let store = backend.open().await;
    assert_eq!(store.get_use().await.unwrap(), moving);
    let refused = bounded(store.campaign("a")).await.unwrap_err();
    assert!(matches!(refused, Error::Moving), "{refused:?}");
    // Nothing came of it: the token is in force.
    let moved = Use::Moved {
        run: Epoch(u64::MAX),
    };
    store.put_use(&token, moved).await.unwrap();
    assert_eq!(store.get_use().await.unwrap(), moved);
    let refused = bounded(store.campaign_above("a", Epoch(9)))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::Moved), "{refused:?}");

    let mover = bounded(store.campaign_moving("a", Epoch(40)))
        .await
        .unwrap();
    assert!(mover.token.epoch > Epoch(40), "{mover:?}");
    let late = store.put_use(&token, Use::Open).await;
    assert!(
        matches!(late, Err(WriteError::Fenced { current }) if current == mover.token.epoch),
        "{late:?}"
    );
    assert_eq!(store.get_use().await.unwrap(), moved);
    store.put_use(&mover.token, Use::Open).await.unwrap();
    let token = bounded(store.campaign("a")).await.unwrap().token;
    let more = fill(&store, &token, &[1]).await;
    assert_eq!(
        read_all(&store, Head::default()).await,
        [made, more].concat()
    );
}
