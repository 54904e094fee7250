//! Checkpoints and trims: all or nothing, never ahead of the log, never trimmed past.

use std::collections::BTreeMap;

use bytes::Bytes;
use kapok_types::Seq;

use super::{Backend, bounded, end_at, fill, read_all};
use crate::{
    Chain, Checkpoint, Hash, Head, LoadedCheckpoint, Part, Read, Store, WriteError, seam::Object,
};

fn object(key: &str, value: &str) -> Object {
    (key.to_owned(), Bytes::from(value.to_owned()))
}

fn at(head: Head, puts: Vec<Object>, deletes: &[&str]) -> Checkpoint {
    let deletes = deletes.iter().map(|&key| key.to_owned()).collect();
    Checkpoint {
        seq: head.seq,
        hash: head.hash,
        puts,
        deletes,
    }
}

async fn expect_loaded(store: &impl Store, at: Head, objects: impl IntoIterator<Item = Object>) {
    let objects: BTreeMap<String, Bytes> = objects.into_iter().collect();
    let expected = LoadedCheckpoint {
        seq: at.seq,
        hash: at.hash,
        objects,
    };
    assert_eq!(store.load_checkpoint().await.unwrap(), Some(expected));
}

/// Puts and deletes apply on top of the checkpoint before, also across reopening.
pub async fn checkpoints_are_incremental(backend: impl Backend) {
    let store = backend.open().await;
    assert_eq!(store.load_checkpoint().await.unwrap(), None);
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[1, 1, 1]).await;
    let puts = vec![
        object("i/1", "one"),
        object("i/2", "two"),
        object("城/北京", ""),
    ];
    store
        .checkpoint(&token, at(end_at(&made, 1), puts.clone(), &[]))
        .await
        .unwrap();
    expect_loaded(&store, end_at(&made, 1), puts).await;

    let puts = vec![object("i/1", "one again"), object("i/3", "three")];
    store
        .checkpoint(&token, at(end_at(&made, 3), puts, &["i/2", "never was"]))
        .await
        .unwrap();
    drop(store);
    let store = backend.open().await;
    let expected = [
        object("i/1", "one again"),
        object("i/3", "three"),
        object("城/北京", ""),
    ];
    expect_loaded(&store, end_at(&made, 3), expected).await;
}

/// More than a transaction can carry, in operations and in bytes, is still one checkpoint.
pub async fn a_large_checkpoint_goes_in_parts(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[1, 1]).await;
    let many = |value: &str| {
        (0..700)
            .map(|n| object(&format!("k/{n:04}"), value))
            .collect()
    };
    let first: Vec<Object> = many("a");
    store
        .checkpoint(&token, at(end_at(&made, 1), first, &[]))
        .await
        .unwrap();
    let heavy = "b".repeat(20_000);
    let second: Vec<Object> = many(&heavy);
    store
        .checkpoint(&token, at(end_at(&made, 2), second.clone(), &[]))
        .await
        .unwrap();
    expect_loaded(&store, end_at(&made, 2), second).await;
}

/// Staged parts are invisible, a new part 0 discards them, and a commit needs them all.
pub async fn parts_show_only_when_committed(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[1, 1]).await;
    let base = vec![object("base", "1")];
    store
        .checkpoint(&token, at(end_at(&made, 1), base.clone(), &[]))
        .await
        .unwrap();

    let part = |index, key: &str| Part {
        index,
        puts: vec![object(key, "staged")],
        deletes: vec!["base".to_owned()],
    };
    store.stage(&token, part(0, "abandoned")).await.unwrap();
    store.stage(&token, part(1, "abandoned too")).await.unwrap();
    let refused = store.stage(&token, part(3, "skips one")).await;
    assert!(
        matches!(
            refused,
            Err(WriteError::MissingPart {
                staged: 2,
                needed: 3
            })
        ),
        "{refused:?}"
    );
    expect_loaded(&store, end_at(&made, 1), base.clone()).await;

    store.stage(&token, part(0, "x")).await.unwrap();
    for parts in [0, 2] {
        let refused = store.commit(&token, end_at(&made, 2), parts).await;
        assert!(
            matches!(refused, Err(WriteError::MissingPart { staged: 1, .. })),
            "{refused:?}"
        );
    }
    expect_loaded(&store, end_at(&made, 1), base).await;
    store.stage(&token, part(1, "y")).await.unwrap();
    store.stage(&token, part(1, "z")).await.unwrap();
    store.commit(&token, end_at(&made, 2), 2).await.unwrap();
    let expected = [object("x", "staged"), object("z", "staged")];
    expect_loaded(&store, end_at(&made, 2), expected).await;
}

/// What a fenced leader staged is never committed by the next.
pub async fn parts_are_one_leaderships(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[1]).await;
    let part = |index, key: &str| Part {
        index,
        puts: vec![object(key, "")],
        deletes: vec![],
    };
    store.stage(&token, part(0, "old")).await.unwrap();
    let token = bounded(store.campaign("a")).await.unwrap().token;
    let refused = store.commit(&token, end_at(&made, 1), 1).await;
    let missing = matches!(
        refused,
        Err(WriteError::MissingPart {
            staged: 0,
            needed: 1
        })
    );
    assert!(missing, "{refused:?}");
    let refused = store.stage(&token, part(1, "joins the old")).await;
    let missing = matches!(
        refused,
        Err(WriteError::MissingPart {
            staged: 0,
            needed: 1
        })
    );
    assert!(missing, "{refused:?}");
    store.commit(&token, end_at(&made, 1), 0).await.unwrap();
    expect_loaded(&store, end_at(&made, 1), []).await;
}

/// An object or a part that no transaction can carry is refused and changes nothing.
pub async fn an_object_has_a_limit(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[1]).await;
    let limits = store.limits();
    let huge = vec![7; usize::try_from(limits.payload_bytes()).unwrap()];
    let puts = vec![object("small", ""), ("huge".to_owned(), huge.into())];
    let refused = store
        .checkpoint(&token, at(end_at(&made, 1), puts.clone(), &[]))
        .await;
    assert!(
        matches!(refused, Err(WriteError::TooLarge { .. })),
        "{refused:?}"
    );
    let refused = store
        .stage(
            &token,
            Part {
                index: 0,
                puts,
                deletes: vec![],
            },
        )
        .await;
    assert!(
        matches!(refused, Err(WriteError::TooLarge { .. })),
        "{refused:?}"
    );
    let many = (0..=limits.payload_operations())
        .map(|n| n.to_string())
        .collect();
    let refused = store
        .stage(
            &token,
            Part {
                index: 0,
                puts: vec![],
                deletes: many,
            },
        )
        .await;
    assert!(
        matches!(refused, Err(WriteError::TooLarge { .. })),
        "{refused:?}"
    );
    assert_eq!(store.load_checkpoint().await.unwrap(), None);
}

/// A checkpoint is of this log, not ahead of it and never moves back.
pub async fn a_checkpoint_is_one_with_the_log(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[2, 2]).await;
    let ahead = Head {
        seq: Seq(5),
        hash: Hash([1; 32]),
    };
    let refused = store.checkpoint(&token, at(ahead, vec![], &[])).await;
    let named = matches!(
        refused,
        Err(WriteError::AheadOfLog {
            seq: Seq(5),
            head: Seq(4)
        })
    );
    assert!(named, "{refused:?}");
    let other = Head {
        seq: Seq(4),
        hash: Hash([1; 32]),
    };
    let refused = store.checkpoint(&token, at(other, vec![], &[])).await;
    assert!(
        matches!(refused, Err(WriteError::OtherHistory { seq: Seq(4) })),
        "{refused:?}"
    );
    assert_eq!(store.load_checkpoint().await.unwrap(), None);

    store
        .checkpoint(&token, at(end_at(&made, 4), vec![], &[]))
        .await
        .unwrap();
    let refused = store
        .checkpoint(&token, at(end_at(&made, 2), vec![], &[]))
        .await;
    let named = matches!(
        refused,
        Err(WriteError::BehindCurrent {
            seq: Seq(2),
            current: Seq(4)
        })
    );
    assert!(named, "{refused:?}");
    // Again at the same place is how one with an unknown outcome is repeated, trimmed or not.
    store.trim(&token, Seq(5)).await.unwrap();
    store
        .checkpoint(&token, at(end_at(&made, 4), vec![object("k", "")], &[]))
        .await
        .unwrap();
    expect_loaded(&store, end_at(&made, 4), [object("k", "")]).await;
}

/// No trim passes the committed checkpoint, or happens without one.
pub async fn trims_keep_what_is_not_folded(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[1, 1, 1]).await;
    let refused = store.trim(&token, Seq(2)).await;
    let named = matches!(
        refused,
        Err(WriteError::PastCheckpoint {
            before: Seq(2),
            checkpoint: Seq(0)
        })
    );
    assert!(named, "{refused:?}");
    store
        .checkpoint(&token, at(end_at(&made, 2), vec![], &[]))
        .await
        .unwrap();
    let refused = store.trim(&token, Seq(4)).await;
    let named = matches!(
        refused,
        Err(WriteError::PastCheckpoint {
            before: Seq(4),
            checkpoint: Seq(2)
        })
    );
    assert!(named, "{refused:?}");
    assert_eq!(read_all(&store, Head::default()).await, made);
    store.trim(&token, Seq(3)).await.unwrap();
    assert_eq!(read_all(&store, end_at(&made, 2)).await, made[2..]);
}

/// A batch that reaches to the position stays whole; trimming it all leaves a log that goes on.
pub async fn trims_take_whole_batches(backend: impl Backend) {
    let store = backend.open().await;
    let token = store.campaign("a").await.unwrap().token;
    let made = fill(&store, &token, &[2, 3, 2]).await;
    store
        .checkpoint(&token, at(end_at(&made, 7), vec![object("k", "v")], &[]))
        .await
        .unwrap();
    for (before, kept) in [(0, 0), (2, 0), (3, 1), (5, 1), (6, 2), (7, 2)] {
        store.trim(&token, Seq(before)).await.unwrap();
        let first = made[kept].after().seq.next();
        let read = store.read(first, 10).await.unwrap();
        assert_eq!(
            read,
            Read::Batches(made[kept..].to_vec()),
            "before {before}"
        );
        if let Some(trimmed) = first.get().checked_sub(1).filter(|&seq| seq > 0) {
            assert_eq!(
                store.read(Seq(trimmed), 10).await.unwrap(),
                Read::Trimmed { first }
            );
        }
    }
    store.trim(&token, Seq(8)).await.unwrap();
    assert_eq!(
        store.read(Seq(7), 10).await.unwrap(),
        Read::Trimmed { first: Seq(8) }
    );
    assert_eq!(store.read(Seq(8), 10).await.unwrap(), Read::Batches(vec![]));
    drop(store);
    let store = backend.open().await;
    assert_eq!(store.head().await.unwrap(), end_at(&made, 7));
    let token = bounded(store.campaign("a")).await.unwrap().token;
    let next = Chain::at(end_at(&made, 7)).seal(vec!["goes on".into()]);
    store.append(&token, Seq(7), &next).await.unwrap();
    assert_eq!(read_all(&store, end_at(&made, 7)).await, [next]);
}
