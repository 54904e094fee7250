//! FAULTS 53 (disk full, disk failing) and 37 (power lost at any write), on a disk in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt as _;
use kapok_store::{
    AppendError, Batch, Chain, Checkpoint, Error, Follow, Head, LeaderToken, Read, Redb, Store,
    WriteError,
    conformance::bounded,
    redb::{Fault, MemoryDisk},
};
use kapok_types::Seq;

async fn appended(store: &Redb, token: &LeaderToken, batches: usize) -> Chain {
    let mut chain = Chain::at(store.head().await.unwrap());
    for n in 0..batches {
        let batch = next(&chain, n);
        store.append(token, chain.head_seq, &batch).await.unwrap();
        chain.advance(&batch).unwrap();
    }
    chain
}

/// A checkpoint with objects of these numbers put and deleted.
fn checkpoint(at: Head, puts: Range<u32>, deletes: Range<u32>) -> Checkpoint {
    let Head { seq, hash } = at;
    let name = |n| format!("object {n}");
    Checkpoint {
        seq,
        hash,
        puts: puts
            .map(|n| (name(n), Bytes::from_static(b"value")))
            .collect(),
        deletes: deletes.map(name).collect(),
    }
}

fn next(chain: &Chain, n: usize) -> Batch {
    chain.seal(vec![Bytes::from(vec![7; 3_000]); n % 3 + 1])
}

/// Verifies the whole log and gives its end.
async fn verified(store: &Redb) -> Chain {
    let Read::Batches(batches) = store.read(Seq(1), usize::MAX).await.unwrap() else {
        panic!("nothing was trimmed");
    };
    let mut chain = Chain::default();
    for batch in &batches {
        chain.advance(batch).unwrap();
    }
    assert_eq!(store.head().await.unwrap(), chain.head());
    chain
}

/// FAULTS 53: a full disk refuses new work by name, keeps what is there, and works again by
/// itself once there is room; followers go on.
#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let disk = MemoryDisk::new();
    let store = Redb::on_disk(&disk).unwrap();
    let token = store.campaign("a").await.unwrap().token;
    let before = appended(&store, &token, 5).await;
    let mut follower = store.follow(before.head_seq.next());

    disk.fail(0, Fault::Full);
    let batch = next(&before, 0);
    for attempt in 0..3 {
        let failed = store
            .append(&token, before.head_seq, &batch)
            .await
            .unwrap_err();
        let full = match &failed {
            AppendError::Unknown { source } | AppendError::Store(source) => source,
            other => panic!("{other:?}"),
        };
        assert!(
            matches!(full, Error::Full { .. }),
            "attempt {attempt}: {failed:?}"
        );
    }
    let Head { seq, hash } = before.head();
    let checkpoint = Checkpoint {
        seq,
        hash,
        puts: vec![],
        deletes: vec![],
    };
    let failed = store.checkpoint(&token, checkpoint).await.unwrap_err();
    assert!(
        matches!(
            &failed,
            WriteError::Unknown {
                source: Error::Full { .. }
            } | WriteError::Store(Error::Full { .. })
        ),
        "{failed:?}"
    );

    disk.heal();
    assert_eq!(verified(&store).await, before);
    store.append(&token, before.head_seq, &batch).await.unwrap();
    let seen = bounded(follower.next()).await.unwrap().unwrap();
    assert_eq!(seen, Follow::Batch(batch));
}

/// FAULTS 53, 37: whichever write or sync of an append fails, and however, the head tells
/// afterwards whether it landed, and the store goes on from there.
#[tokio::test]
async fn after_any_failure_the_head_tells() {
    let (mut landed, mut lost) = (0, 0);
    for fault in [Fault::Full, Fault::Unwritable, Fault::SyncUnheard] {
        let disk = MemoryDisk::new();
        let store = Redb::on_disk(&disk).unwrap();
        let token = store.campaign("a").await.unwrap().token;
        let mut chain = appended(&store, &token, 3).await;
        for calls in 0.. {
            let batch = next(&chain, 2);
            disk.fail(calls, fault);
            let result = store.append(&token, chain.head_seq, &batch).await;
            disk.heal();
            match result {
                Ok(()) => {
                    assert_eq!(verified(&store).await.head(), batch.head());
                    assert!(calls > 3, "{fault:?}: no call of the append met it");
                    break;
                }
                Err(AppendError::Unknown { .. }) => {
                    let head = verified(&store).await.head();
                    if head == batch.head() {
                        landed += 1;
                        chain.advance(&batch).unwrap();
                    } else {
                        lost += 1;
                        assert_eq!(head, chain.head(), "{fault:?} after {calls} calls");
                    }
                }
                Err(AppendError::Store(_)) => {
                    assert_eq!(
                        verified(&store).await,
                        chain,
                        "{fault:?} after {calls} calls"
                    );
                }
                Err(error) => panic!("{fault:?} after {calls} calls: {error:?}"),
            }
            chain = appended(&store, &token, 1).await;
        }
    }
    assert!(
        landed > 0 && lost > 0,
        "unknown has both outcomes: {landed} landed, {lost} did not"
    );
}

/// FAULTS 37: the power goes at any write of an append, any number of them having reached the
/// disk. All that was acknowledged is there; the rest is there whole or not at all.
#[tokio::test]
async fn power_lost_at_any_write() {
    for calls in 0.. {
        let mut kept = 0;
        let finished = loop {
            let disk = MemoryDisk::recording();
            let store = Redb::on_disk(&disk).unwrap();
            let token = store.campaign("a").await.unwrap().token;
            let before = appended(&store, &token, 4).await;
            let batch = next(&before, 2);
            disk.fail(calls, Fault::Unwritable);
            let acknowledged = store.append(&token, before.head_seq, &batch).await.is_ok();
            let unsynced = disk.unsynced();
            disk.lose_power(kept);
            disk.heal();
            drop(store);

            let store = Redb::on_disk(&disk).unwrap();
            let head = verified(&store).await.head();
            let whole = head == batch.head();
            assert!(
                whole || (!acknowledged && head == before.head()),
                "after {calls} calls with {kept} kept: head {head:?}, acknowledged {acknowledged}"
            );
            let token = store.campaign("b").await.unwrap().token;
            appended(&store, &token, 1).await;
            kept += 1;
            if kept > unsynced {
                break acknowledged;
            }
        };
        if finished {
            assert!(calls > 3, "no call of the append met the fault");
            break;
        }
    }
}

/// FAULTS 37: the power goes at any write of a checkpoint, or of moving its objects to the others.
/// The checkpoint is there whole or not at all, whole if it was acknowledged, and the next one goes
/// on from it.
#[tokio::test]
async fn power_lost_at_any_write_of_a_checkpoint() {
    // More than one step of the move, some of them twice, some of them gone.
    let first = |at| (checkpoint(at, 0..600, 0..0), 600);
    let second = |at| (checkpoint(at, 500..900, 0..100), 800);
    let (mut whole, mut none) = (0, 0);
    for calls in 0.. {
        let mut finished = false;
        for kept in [0, 1, usize::MAX] {
            let disk = MemoryDisk::recording();
            let store = Redb::on_disk(&disk).unwrap();
            let token = store.campaign("a").await.unwrap().token;
            let at = appended(&store, &token, 2).await.head();
            let (before, objects_before) = first(at);
            store.checkpoint(&token, before).await.unwrap();
            let at = appended(&store, &token, 2).await.head();
            let (after, objects_after) = second(at);
            disk.fail(calls, Fault::Unwritable);
            let acknowledged = store.checkpoint(&token, after).await.is_ok();
            finished = acknowledged && disk.is_well();
            disk.lose_power(kept);
            disk.heal();
            drop(store);

            let store = Redb::on_disk(&disk).unwrap();
            let loaded = store.load_checkpoint().await.unwrap().unwrap();
            if loaded.seq == at.seq {
                assert_eq!(loaded.objects.len(), objects_after, "after {calls} calls");
                assert!(!loaded.objects.contains_key("object 7"));
                whole += 1;
            } else {
                assert!(!acknowledged, "after {calls} calls with {kept} kept");
                assert_eq!(loaded.objects.len(), objects_before, "after {calls} calls");
                none += 1;
            }
            let token = store.campaign("b").await.unwrap().token;
            let at = appended(&store, &token, 1).await.head();
            let (again, _) = second(at);
            store.checkpoint(&token, again).await.unwrap();
            let loaded = store.load_checkpoint().await.unwrap().unwrap();
            assert_eq!((loaded.seq, loaded.objects.len()), (at.seq, objects_after));
        }
        if finished {
            break;
        }
    }
    assert!(whole > 3 && none > 10, "{whole} whole, {none} not at all");
}

/// What is trimmed makes room: an endless log with a checkpoint now and then takes no more disk.
#[tokio::test]
async fn a_trimmed_log_stays_small() {
    let disk = MemoryDisk::new();
    let store = Redb::on_disk(&disk).unwrap();
    let token = store.campaign("a").await.unwrap().token;
    let mut sizes = Vec::new();
    for round in 0..40 {
        let Head { seq, hash } = appended(&store, &token, 50).await.head();
        let puts = vec![(format!("object {}", round % 3), Bytes::from(vec![7; 9_000]))];
        let deletes = vec![format!("object {}", (round + 1) % 3)];
        store
            .checkpoint(
                &token,
                Checkpoint {
                    seq,
                    hash,
                    puts,
                    deletes,
                },
            )
            .await
            .unwrap();
        store.trim(&token, seq.next()).await.unwrap();
        sizes.push(disk.image().len());
    }
    assert!(
        sizes[39] <= sizes[..10].iter().copied().max().unwrap(),
        "{sizes:?}"
    );
}

/// A store dropped with its follower still there lets go of its disk, and the follower ends.
#[tokio::test]
async fn followers_end_with_their_store() {
    let disk = MemoryDisk::new();
    let store = Redb::on_disk(&disk).unwrap();
    let mut follower = store.follow(Seq(1));
    let refused = Redb::on_disk(&disk);
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    drop(store);
    assert!(bounded(follower.next()).await.is_none());
    Redb::on_disk(&disk).unwrap();
}
