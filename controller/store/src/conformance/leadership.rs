//! Leadership: epochs rise, older tokens are fenced, at most one writer is believed.

use std::sync::Arc;

use bytes::Bytes;
use kapok_types::{Epoch, Seq};

use super::{Backend, bounded, fill, read_all};
use crate::{
    AppendError, Chain, Checkpoint, Head, LeaderToken, Leadership, Part, Store, WriteError,
};

/// Tries every write with `token` and expects that each is fenced by `current`.
async fn expect_fenced(store: &impl Store, token: LeaderToken, current: Epoch) {
    let head = store.head().await.unwrap();
    let batch = Chain::at(head).seal(vec!["late".into()]);
    // Fenced comes before a conflict: a late leader must not think it may retry.
    for after in [head.seq, Seq(head.seq.get() + 7)] {
        let refused = store.append(&token, after, &batch).await;
        assert!(
            matches!(refused, Err(AppendError::Fenced { current: by }) if by == current),
            "append: {refused:?}"
        );
    }
    let checkpoint = Checkpoint {
        seq: head.seq,
        hash: head.hash,
        puts: Vec::new(),
        deletes: Vec::new(),
    };
    for refused in [
        store.stage(&token, Part::new(0)).await,
        store.commit(&token, head, 0).await,
        store.checkpoint(&token, checkpoint).await,
        store.trim(&token, Seq(1)).await,
    ] {
        assert!(
            matches!(refused, Err(WriteError::Fenced { current: by }) if by == current),
            "{refused:?}"
        );
    }
    assert_eq!(store.head().await.unwrap(), head);
}

/// FAULTS 32, the store's part: a leader that slept through its successor's campaign writes
/// nothing, and neither does a token of an epoch that never was.
pub async fn a_frozen_leader_is_fenced(backend: impl Backend) {
    let store = backend.open().await;
    let Leadership { token: old, .. } = store.campaign("a").await.unwrap();
    let made = fill(&store, &old, &[2]).await;
    let new = bounded(store.campaign("b")).await.unwrap();
    assert!(new.token.epoch > old.epoch, "{:?} after {old:?}", new.token);
    expect_fenced(&store, old, new.token.epoch).await;
    let future = LeaderToken {
        epoch: Epoch(new.token.epoch.get() + 1),
    };
    expect_fenced(&store, future, new.token.epoch).await;
    let more = fill(&store, &new.token, &[1]).await;
    assert_eq!(
        read_all(&store, Head::default()).await,
        [made, more].concat()
    );
}

/// A candidate's new campaign ends its own earlier leadership, which is told.
pub async fn a_lost_leadership_is_signalled(backend: impl Backend) {
    let store = backend.open().await;
    let mut old = store.campaign("a").await.unwrap();
    assert!(!*old.lost.borrow());
    let new = bounded(store.campaign("a")).await.unwrap();
    assert!(*bounded(old.lost.wait_for(|lost| *lost)).await.unwrap());
    assert!(!*new.lost.borrow());
    expect_fenced(&store, old.token, new.token.epoch).await;
}

/// An epoch that agents reported is passed, and the next campaign goes on from there.
pub async fn a_floor_is_passed(backend: impl Backend) {
    let store = backend.open().await;
    let first = store.campaign_above("a", Epoch(40)).await.unwrap().token;
    assert!(first.epoch > Epoch(40), "{first:?}");
    let second = bounded(store.campaign_above("a", Epoch(3)))
        .await
        .unwrap()
        .token;
    assert!(second.epoch > first.epoch, "{second:?} after {first:?}");
}

/// The epoch is as durable as the log: a token from before is fenced after reopening.
pub async fn epochs_survive_reopening(backend: impl Backend) {
    let store = backend.open().await;
    let first = store.campaign_above("a", Epoch(9)).await.unwrap().token;
    drop(store);
    let store = backend.open().await;
    let second = bounded(store.campaign("a")).await.unwrap().token;
    assert!(second.epoch > first.epoch, "{second:?} after {first:?}");
    expect_fenced(&store, first, second.epoch).await;
}

/// Of many candidates that campaign and append at once, exactly one appends at a position.
pub async fn one_of_many_candidates_appends(backend: impl Backend) {
    const CANDIDATES: usize = 8;
    let store = Arc::new(backend.open().await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..CANDIDATES {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let name = format!("candidate {n}");
            let Leadership { token, lost } = store.campaign(&name).await.unwrap();
            let batch = Chain::default().seal(vec![Bytes::from(name)]);
            let result = store.append(&token, Seq(0), &batch).await;
            drop(lost);
            (token.epoch, batch, result)
        });
    }
    let results = bounded(tasks.join_all()).await;
    let mut epochs: Vec<Epoch> = results.iter().map(|(epoch, ..)| *epoch).collect();
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), CANDIDATES, "no epoch is given twice");
    let mut winners = Vec::new();
    for (_, batch, result) in results {
        match result {
            Ok(()) => winners.push(batch),
            Err(AppendError::Fenced { .. } | AppendError::Conflict { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "exactly one wins");
    assert_eq!(read_all(&*store, Head::default()).await, winners);
}
