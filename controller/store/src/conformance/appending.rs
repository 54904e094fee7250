//! Appends: order, guards, limits.

use bytes::Bytes;
use kapok_types::Seq;

use super::{Backend, batches, fill, read_all};
use crate::{
    AppendError, Batch, Chain, Hash, Head, Store,
    log::{BATCH_OVERHEAD_BYTES, ENTRY_OVERHEAD_BYTES},
};

/// A blank store is empty; what is appended is read back as it was, in order.
pub async fn appends_land_in_order(backend: impl Backend) {
    let store = backend.open().await;
    assert_eq!(store.head().await.unwrap(), Head::default());
    assert!(read_all(&store, Head::default()).await.is_empty());
    let leadership = store.campaign("a").await.unwrap();
    let made = fill(&store, &leadership.token, &[1, 5, 2, 64, 1]).await;
    assert_eq!(read_all(&store, Head::default()).await, made);
}

/// An append anywhere but at the head changes nothing, and says where the head is.
pub async fn a_conflict_names_the_head(backend: impl Backend) {
    let store = backend.open().await;
    let leadership = store.campaign("a").await.unwrap();
    let made = fill(&store, &leadership.token, &[2, 3]).await;
    let mut ahead = Chain {
        head_seq: Seq(9),
        head_hash: Hash::ZERO,
    };
    let ahead = batches(&mut ahead, &[1]);
    for batch in [&made[0], &made[1], &ahead[0]] {
        let refused = store
            .append(&leadership.token, batch.after().seq, batch)
            .await;
        assert!(
            matches!(refused, Err(AppendError::Conflict { head: Seq(5) })),
            "after {}: {refused:?}",
            batch.after().seq
        );
    }
    assert_eq!(read_all(&store, Head::default()).await, made);
}

/// A batch made after another entry than the head's is refused, whatever its position says.
pub async fn another_history_is_refused(backend: impl Backend) {
    let store = backend.open().await;
    let leadership = store.campaign("a").await.unwrap();
    let made = fill(&store, &leadership.token, &[2]).await;
    let other = Chain {
        head_seq: Seq(2),
        head_hash: Hash([7; 32]),
    }
    .seal(vec!["x".into()]);
    let refused = store.append(&leadership.token, Seq(2), &other).await;
    assert!(
        matches!(refused, Err(AppendError::Broken(_))),
        "{refused:?}"
    );
    // One that says another position than it is appended at, too.
    let later = Chain {
        head_seq: Seq(3),
        head_hash: made[0].head().hash,
    }
    .seal(vec!["x".into()]);
    let refused = store.append(&leadership.token, Seq(2), &later).await;
    assert!(
        matches!(refused, Err(AppendError::Broken(_))),
        "{refused:?}"
    );
    assert_eq!(read_all(&store, Head::default()).await, made);
}

/// A batch without entries is refused.
pub async fn a_batch_needs_entries(backend: impl Backend) {
    let store = backend.open().await;
    let leadership = store.campaign("a").await.unwrap();
    let empty = Chain::default().seal(Vec::new());
    let refused = store.append(&leadership.token, Seq(0), &empty).await;
    assert!(matches!(refused, Err(AppendError::Empty)), "{refused:?}");
    assert_eq!(store.head().await.unwrap(), Head::default());
}

/// A batch of exactly the limit is taken, one byte more is refused and changes nothing.
pub async fn the_size_limit_is_exact(backend: impl Backend) {
    let store = backend.open().await;
    let limits = store.limits();
    assert!(
        limits.operations_per_transaction <= 128,
        "etcd takes no more"
    );
    assert!(
        limits.bytes_per_transaction <= 3 * 512 * 1024,
        "etcd takes no more"
    );
    let most = limits.payload_bytes() - BATCH_OVERHEAD_BYTES - ENTRY_OVERHEAD_BYTES;
    let of = |size: u64| -> Batch {
        let payload = vec![7; usize::try_from(size).unwrap()];
        Chain::default().seal(vec![Bytes::from(payload)])
    };
    let leadership = store.campaign("a").await.unwrap();
    let refused = store.append(&leadership.token, Seq(0), &of(most + 1)).await;
    let limit = limits.payload_bytes();
    assert!(
        matches!(refused, Err(AppendError::TooLarge { size_bytes, limit_bytes })
            if size_bytes == limit + 1 && limit_bytes == limit),
        "{refused:?}"
    );
    assert_eq!(store.head().await.unwrap(), Head::default());
    store
        .append(&leadership.token, Seq(0), &of(most))
        .await
        .unwrap();
    assert_eq!(read_all(&store, Head::default()).await, [of(most)]);
}
