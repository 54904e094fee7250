//! Moving a log between two files; the cases with etcd are with the etcd backend's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use kapok_store::{
    Chain, Checkpoint, Redb, Store,
    migrate::{Error, Step, migrate},
};
use kapok_types::Seq;

/// A trimmed log with a checkpoint in its middle.
async fn source() -> Redb {
    let store = Redb::in_memory().unwrap();
    let token = store.campaign("a").await.unwrap().token;
    let mut chain = Chain::default();
    for n in 1..=600_u16 {
        let batch = chain.seal(vec![Bytes::from(n.to_string()); 2]);
        store.append(&token, chain.head_seq, &batch).await.unwrap();
        chain.advance(&batch).unwrap();
        if n == 200 {
            let checkpoint = Checkpoint {
                seq: chain.head_seq,
                hash: chain.head_hash,
                puts: vec![("k".to_owned(), "v".into())],
                deletes: vec![],
            };
            store.checkpoint(&token, checkpoint).await.unwrap();
        }
    }
    store.trim(&token, Seq(101)).await.unwrap();
    store
}

/// A move that is cut off at any step is taken up by the next, also across reopening, and the result
/// is the source byte for byte.
#[tokio::test]
async fn a_move_is_taken_up_and_exact() {
    let from = source().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    for cut_at in [Step::Copy, Step::Checkpoint, Step::Verify] {
        let to = Redb::open(&path).await.unwrap();
        let (cut, cutting) = tokio::sync::oneshot::channel();
        let mut cut = Some(cut);
        let moving = migrate(&from, &to, move |progress| {
            if progress.step == cut_at
                && let Some(cut) = cut.take()
            {
                cut.send(()).unwrap();
            }
        });
        tokio::select! {
            biased;
            _ = cutting => {}
            moved = moving => panic!("not cut off: {moved:?}"),
        }
        // A call that was on its way may hold the file for a moment.
        drop(to);
        while matches!(
            Redb::open(&path).await,
            Err(kapok_store::Error::Locked { .. })
        ) {
            tokio::task::yield_now().await;
        }
    }
    let to = Redb::open(&path).await.unwrap();
    let moved = migrate(&from, &to, |_| {}).await.unwrap();
    assert_eq!((moved.objects, moved.found), (1, moved.extent.entries()));
    assert_eq!(to.extent().await.unwrap(), from.extent().await.unwrap());
    assert_eq!(
        to.load_checkpoint().await.unwrap(),
        from.load_checkpoint().await.unwrap()
    );
    let all = to.stored(Seq(1), usize::MAX).await.unwrap();
    assert_eq!(all, from.stored(Seq(1), usize::MAX).await.unwrap());
    assert_eq!(all.len(), 550);
}

/// A log that goes on differently is not taken for the beginning of this one.
#[tokio::test]
async fn another_log_is_left_alone() {
    let from = source().await;
    let to = Redb::in_memory().unwrap();
    migrate(&from, &to, |_| {}).await.unwrap();
    let token = to.campaign("a").await.unwrap().token;
    let head = to.head().await.unwrap();
    let other = Chain::at(head).seal(vec!["other".into()]);
    to.append(&token, head.seq, &other).await.unwrap();
    let refused = migrate(&from, &to, |_| {}).await.unwrap_err();
    assert!(matches!(&refused, Error::NotBlank { .. }), "{refused:?}");
    let token = from.campaign("a").await.unwrap().token;
    let ours = Chain::at(head).seal(vec!["ours".into()]);
    from.append(&token, head.seq, &ours).await.unwrap();
    let refused = migrate(&from, &to, |_| {}).await.unwrap_err();
    assert!(
        refused.to_string().contains(&head.seq.next().to_string()),
        "{refused}"
    );
    assert_eq!(to.head().await.unwrap(), other.head());
}
