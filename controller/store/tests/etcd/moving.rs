//! Moving a log from redb to etcd and back.

use bytes::Bytes;
use futures::FutureExt as _;
use kapok_store::{
    Chain, Checkpoint, Head, Redb, Store,
    conformance::bounded,
    migrate::{Error, Moved, Progress, Step, migrate},
};
use kapok_types::Seq;

use super::{append, checkpoint, open, place};

fn silent(_: Progress) {}

/// A log with a trimmed beginning, a checkpoint in its middle, and batches of several entries.
async fn source() -> Redb {
    let store = Redb::in_memory().unwrap();
    let token = store.campaign("a").await.unwrap().token;
    let mut chain = Chain::default();
    for n in 1..=900_u16 {
        let size = usize::from(n % 7 + 1);
        let batch = chain.seal(vec![Bytes::from(n.to_string().repeat(size)); size]);
        store.append(&token, chain.head_seq, &batch).await.unwrap();
        chain.advance(&batch).unwrap();
        if n == 500 {
            let object = |n: u32| (format!("城/{n}"), Bytes::from(vec![7; 9_000]));
            let puts = (0..300).map(object).collect();
            store
                .checkpoint(&token, checkpoint(chain.head(), puts))
                .await
                .unwrap();
        }
    }
    store.trim(&token, Seq(1_000)).await.unwrap();
    store
}

async fn expect_same(one: &impl Store, other: &impl Store) {
    assert_eq!(one.extent().await.unwrap(), other.extent().await.unwrap());
    let (ours, theirs) = (
        one.stored(Seq(1), usize::MAX).await.unwrap(),
        other.stored(Seq(1), usize::MAX).await.unwrap(),
    );
    assert!(ours == theirs, "byte for byte");
    let (ours, theirs) = (
        one.load_checkpoint().await.unwrap(),
        other.load_checkpoint().await.unwrap(),
    );
    assert!(ours == theirs, "object for object");
}

/// redb to etcd to redb: byte for byte what it was, with an epoch above, and the log goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back() {
    let from = source().await;
    let old = from.campaign("b").await.unwrap().token;
    let there = open(&place()).await;
    let mut steps = Vec::new();
    let moved = migrate(&from, &there, |progress| steps.push(progress.step))
        .await
        .unwrap();
    // However often the old one is led by movers: they never meet.
    assert!(moved.epoch.get() > old.epoch.get() + 1_000_000);
    assert_eq!((moved.objects, moved.found), (300, 0));
    steps.dedup();
    assert_eq!(steps, [Step::Copy, Step::Checkpoint, Step::Verify]);
    expect_same(&from, &there).await;

    let back = Redb::in_memory().unwrap();
    let again = migrate(&there, &back, silent).await.unwrap();
    assert_eq!(
        Moved {
            epoch: again.epoch,
            ..moved
        },
        again
    );
    expect_same(&from, &back).await;
    let refused = there.campaign("c").await.unwrap_err();
    assert!(matches!(refused, kapok_store::Error::Moved), "{refused:?}");
    let token = bounded(back.campaign("c")).await.unwrap().token;
    let head = append(&back, &token, &["goes on"]).await;
    assert_eq!(head.seq, moved.extent.head.seq.next());
}

/// A move that is cut off anywhere is taken up; the target is no store for anybody before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_cut_off_is_taken_up() {
    let from = source().await;
    let options = place();
    for (cut_at, found_some) in [
        (Step::Copy, true),
        (Step::Checkpoint, true),
        (Step::Verify, true),
    ] {
        let there = open(&options).await;
        let (cut, cutting) = tokio::sync::oneshot::channel();
        let mut cut = Some(cut);
        let moving = migrate(&from, &there, move |progress| {
            if progress.step == cut_at
                && let Some(cut) = cut.take()
            {
                cut.send(()).unwrap();
            }
        });
        // Dropped at the next wait, as a kill would.
        tokio::select! {
            biased;
            _ = cutting => {}
            moved = moving => panic!("not cut off: {moved:?}"),
        }
        assert_eq!(there.extent().await.unwrap().entries() > 0, found_some);
        // What is half there is led by nobody, the source by whoever comes.
        let refused = bounded(there.campaign("store migrate")).await.unwrap_err();
        assert!(matches!(refused, kapok_store::Error::Moving), "{refused:?}");
        from.campaign("a").await.unwrap();
    }
    let there = open(&options).await;
    let moved = migrate(&from, &there, silent).await.unwrap();
    assert_eq!(moved.found, moved.extent.entries());
    expect_same(&from, &there).await;
}

/// What is no beginning of the source is named and left as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_with_something_else_is_left_alone() {
    let from = source().await;
    let first = from.extent().await.unwrap().first;
    let entry_before = Head {
        seq: Seq(first.get() - 1),
        ..Head::default()
    };
    for begin in [Head::default(), entry_before] {
        let there = open(&place()).await;
        let token = there.campaign("a").await.unwrap().token;
        there.begin(&token, begin).await.unwrap();
        append(&there, &token, &["another log"]).await;
        let before = there.stored(Seq(1), 10).await.unwrap();
        let refused = migrate(&from, &there, silent).await.unwrap_err();
        assert!(matches!(refused, Error::NotBlank { .. }), "{refused:?}");
        assert_eq!(there.stored(Seq(1), 10).await.unwrap(), before);
    }
    // One that a controller leads isn't waited for for ever.
    let there = open(&place()).await;
    let leads = there.campaign("controller").await.unwrap();
    let migrating = migrate(&from, &there, silent);
    let refused = bounded(migrating).await.unwrap_err();
    assert!(
        matches!(refused, Error::InUse { store: "target" }),
        "{refused:?}"
    );
    assert!(!*leads.lost.borrow());
}

/// A blank store, and one with nothing left but its checkpoint, move too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_logs_move_too() {
    let from = Redb::in_memory().unwrap();
    let there = open(&place()).await;
    migrate(&from, &there, silent).await.unwrap();
    expect_same(&from, &there).await;
    let from = Redb::in_memory().unwrap();
    let token = bounded(from.campaign("a")).await.unwrap().token;
    let at = append(&from, &token, &["x", "y"]).await;
    let all = Checkpoint {
        deletes: vec!["none".to_owned()],
        ..checkpoint(at, vec![("k".to_owned(), "v".into())])
    };
    from.checkpoint(&token, all).await.unwrap();
    from.trim(&token, at.seq.next()).await.unwrap();
    let moving = open(&place()).await;
    migrate(&from, &moving, silent).boxed().await.unwrap();
    expect_same(&from, &moving).await;
}
