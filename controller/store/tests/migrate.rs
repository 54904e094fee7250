//! Moving a log between two files; the cases with etcd are with the etcd backend's.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::panic::{AssertUnwindSafe, resume_unwind};

use bytes::Bytes;
use futures::FutureExt as _;
use kapok_store::{
    Chain, Checkpoint, Error as StoreError, Redb, Store, Use,
    migrate::{Error, Step, migrate},
};
use kapok_types::{Epoch, Seq};

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
        // Exactly there, as a kill would.
        let moving = migrate(&from, &to, |progress| {
            if progress.step == cut_at {
                resume_unwind(Box::new(()));
            }
        });
        let cut = AssertUnwindSafe(moving).catch_unwind().await;
        assert!(cut.is_err(), "not cut off: {cut:?}");
        // A call that was on its way may hold the file for a moment.
        drop(to);
        while matches!(Redb::open(&path).await, Err(StoreError::Locked { .. })) {
            tokio::task::yield_now().await;
        }
        // What is half there is led by nobody, the source by whoever comes.
        let to = Redb::open(&path).await.unwrap();
        let refused = to.campaign("a").await.unwrap_err();
        assert!(matches!(refused, StoreError::Moving), "{refused:?}");
        assert!(refused.to_string().contains("store migrate"), "{refused}");
        from.campaign("a").await.unwrap();
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
    let (from, to) = (source().await, source().await);
    let head = to.head().await.unwrap();
    let other = Chain::at(head).seal(vec!["other".into()]);
    let token = to.campaign("a").await.unwrap().token;
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
    // Both are what they were, for controllers too.
    for store in [&from, &to] {
        assert_eq!(store.get_use().await.unwrap(), Use::Open);
    }
}

/// After a move the source is led by nobody and moves nowhere else; moved back, with what was appended
/// since, it is the one to be led again.
#[tokio::test]
async fn one_of_both_is_led() {
    let (from, to) = (source().await, Redb::in_memory().unwrap());
    migrate(&from, &to, |_| {}).await.unwrap();
    let refused = from.campaign("a").await.unwrap_err();
    assert!(matches!(refused, StoreError::Moved), "{refused:?}");
    for again in [&to, &Redb::in_memory().unwrap()] {
        let refused = migrate(&from, again, |_| {}).await.unwrap_err();
        assert!(matches!(refused, Error::AlreadyMoved), "{refused:?}");
        assert_eq!(again.get_use().await.unwrap(), Use::Open);
    }
    let token = to.campaign("a").await.unwrap().token;
    let head = to.head().await.unwrap();
    let next = Chain::at(head).seal(vec!["next".into()]);
    to.append(&token, head.seq, &next).await.unwrap();

    let moved = migrate(&to, &from, |_| {}).await.unwrap();
    assert_eq!(moved.found + 1, moved.extent.entries());
    let refused = to.campaign("a").await.unwrap_err();
    assert!(matches!(refused, StoreError::Moved), "{refused:?}");
    let again = from.campaign("a").await.unwrap().token;
    assert!(again.epoch > token.epoch);
    assert_eq!(from.head().await.unwrap(), next.head());
}

/// A move that ended between its two last writes leaves none that is led, and the same one again ends
/// it; no other does.
#[tokio::test]
async fn a_move_that_ended_before_its_last_write_is_ended_by_the_next() {
    let (from, to) = (source().await, Redb::in_memory().unwrap());
    migrate(&from, &to, |_| {}).await.unwrap();
    let Use::Moved { run } = from.get_use().await.unwrap() else {
        panic!("it isn't moved");
    };
    let other_run = Epoch(run.get() - 1);
    for using in [Use::Moving { run: other_run }, Use::Moving { run }] {
        let mover = to.campaign_moving("mover", Epoch(0)).await.unwrap().token;
        to.put_use(&mover, using).await.unwrap();
        let refused = to.campaign("a").await.unwrap_err();
        assert!(matches!(refused, StoreError::Moving), "{refused:?}");
        let refused = migrate(&to, &Redb::in_memory().unwrap(), |_| {}).await;
        assert!(matches!(refused, Err(Error::SourceMoving)), "{refused:?}");
        if using == (Use::Moving { run: other_run }) {
            let refused = migrate(&from, &to, |_| {}).await.unwrap_err();
            assert!(matches!(refused, Error::AlreadyMoved), "{refused:?}");
        }
    }
    migrate(&from, &to, |_| {}).await.unwrap();
    assert!(from.campaign("a").await.is_err());
    to.campaign("a").await.unwrap();
}

/// Whoever leads the source before the move is over keeps the target closed, whether or not it wrote.
#[tokio::test]
async fn a_source_that_is_led_meanwhile_ends_the_move() {
    for writes in [false, true] {
        let (from, to) = (source().await, Redb::in_memory().unwrap());
        let lead = || {
            // In memory nothing waits.
            let token = from.campaign("a").now_or_never().unwrap().unwrap().token;
            let head = from.head().now_or_never().unwrap().unwrap();
            let batch = Chain::at(head).seal(vec!["late".into()]);
            if writes {
                let appending = from.append(&token, head.seq, &batch).now_or_never();
                appending.unwrap().unwrap();
            }
        };
        let mut led = false;
        let moving = migrate(&from, &to, |progress| {
            if progress.step == Step::Verify && !led {
                led = true;
                lead();
            }
        });
        let refused = moving.await.unwrap_err();
        match refused {
            Error::SourceLed { .. } => assert!(!writes),
            Error::Differs { .. } => assert!(writes),
            other => panic!("{other:?}"),
        }
        let refused = to.campaign("a").await.unwrap_err();
        assert!(matches!(refused, StoreError::Moving), "{refused:?}");
        assert_eq!(from.get_use().await.unwrap(), Use::Open);
        // All of it is taken up.
        let moved = migrate(&from, &to, |_| {}).await.unwrap();
        assert_eq!(moved.found + u64::from(writes), moved.extent.entries());
        to.campaign("a").await.unwrap();
    }
}
