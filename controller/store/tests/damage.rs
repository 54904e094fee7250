//! FAULTS 54, the store's part: a damaged, foreign or newer file is refused by name and left as
//! it is, or gives all that it held.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use bytes::Bytes;
use kapok_store::{
    Chain, Checkpoint, Error, Head, LoadedCheckpoint, Read, Redb, Store,
    redb::{Fault, MemoryDisk},
};
use kapok_types::Seq;
use proptest::prelude::*;
use redb::{Database, ReadableTable as _, TableDefinition};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// Everything that a store holds, as its callers see it.
#[derive(Debug, PartialEq)]
struct Contents {
    head: Head,
    log: Read,
    checkpoint: Option<LoadedCheckpoint>,
}

async fn contents(store: &impl Store) -> Result<Contents, Error> {
    Ok(Contents {
        head: store.head().await?,
        log: store.read(Seq(1), usize::MAX).await?,
        checkpoint: store.load_checkpoint().await?,
    })
}

/// A dozen batches and a checkpoint, appended last the batch that must never be lost.
async fn fill(store: &impl Store) -> Contents {
    let token = store.campaign("a").await.unwrap().token;
    let mut chain = Chain::default();
    for n in 0..12 {
        let batch = chain.seal(vec![Bytes::from(format!("entry {n}")); n % 4 + 1]);
        store.append(&token, chain.head_seq, &batch).await.unwrap();
        chain.advance(&batch).unwrap();
        if n == 7 {
            let puts = (0..20).map(|n| (format!("object {n}"), Bytes::from(vec![7; n * 30])));
            let Head { seq, hash } = chain.head();
            let checkpoint = Checkpoint {
                seq,
                hash,
                puts: puts.collect(),
                deletes: vec![],
            };
            store.checkpoint(&token, checkpoint).await.unwrap();
        }
    }
    contents(store).await.unwrap()
}

/// The images of one store, closed in order and cut off while open, with what it held.
fn images() -> (Contents, [Vec<u8>; 2]) {
    let disk = MemoryDisk::new();
    let store = Redb::on_disk(&disk).unwrap();
    let held = now(fill(&store));
    let cut_off = disk.image();
    drop(store);
    (held, [disk.image(), cut_off])
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// A damaged store is refused by name, or gives all that it held. Nothing in between.
fn expect_refused_or_whole(image: Vec<u8>, held: &Contents) -> bool {
    let disk = MemoryDisk::with_image(image);
    match Redb::on_disk(&disk).and_then(|store| now(contents(&store))) {
        Err(Error::Corrupt { .. } | Error::Newer { .. }) => true,
        Err(error) => panic!("refused, but as {error:?}"),
        Ok(found) => {
            assert!(
                found == *held,
                "it opens at {:?} of {:?}",
                found.head.seq,
                held.head.seq
            );
            false
        }
    }
}

/// The one bit that says which of redb's two commit slots is in force. Flipped in a file that was
/// cut off, it brings the commit before the last back, whole and in order, and nothing inside the
/// file can tell: only a head that is kept elsewhere does.
const SLOT_BIT: usize = 9 * 8;

/// FAULTS 54: one flipped bit, anywhere but one, in a file that was closed or cut off.
#[test]
fn a_flipped_bit_is_never_a_smaller_store() {
    let (held, images) = images();
    let mut refused = 0;
    for image in images {
        // Every bit of the header, then one bit of every 61 bytes.
        let header = 0..512 * 8;
        let rest = (512..image.len())
            .step_by(61)
            .map(|byte| byte * 8 + byte % 8);
        for bit in header.chain(rest).filter(|&bit| bit != SLOT_BIT) {
            let mut flipped = image.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // A flip in a page that is not in use harms nothing.
            refused += usize::from(expect_refused_or_whole(flipped, &held));
        }
    }
    assert!(
        refused > 300,
        "only {refused} flips were noticed: the test flips the wrong ones"
    );
}

/// FAULTS 54: cut anywhere.
#[test]
fn a_truncated_file_is_refused() {
    let (held, images) = images();
    for image in images {
        let lengths = (1..image.len())
            .step_by(1021)
            .chain([image.len() - 1, image.len() / 2]);
        for len in lengths {
            let refused = expect_refused_or_whole(image[..len].to_vec(), &held);
            assert!(refused, "cut to {len} of {}", image.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// FAULTS 54: pages overwritten with noise never panic, and never give a smaller store.
    #[test]
    fn noise_in_a_file_is_refused(at in 0_usize..200, noise in proptest::collection::vec(any::<u8>(), 512)) {
        let (held, images) = images();
        for mut image in images {
            let start = at * 512 % (image.len() - 512);
            image[start..start + 512].copy_from_slice(&noise);
            expect_refused_or_whole(image, &held);
        }
    }
}

/// FAULTS 54: what is no store stays as it is, byte for byte; an empty file is not a new store.
#[tokio::test]
async fn what_is_no_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    for content in [
        &b""[..],
        b"x",
        b"SQLite format 3\0",
        &[0; 10_000],
        &[7; 8192],
    ] {
        std::fs::write(&path, content).unwrap();
        let refused = Redb::open(&path).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

/// FAULTS 54: a real file, flipped in its last batch: refused, and again the next time.
#[tokio::test]
async fn a_damaged_file_stays_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    let store = Redb::open(&path).await.unwrap();
    fill(&store).await;
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() - 8 {
        if &bytes[at..at + 8] == b"entry 11" {
            bytes[at] ^= 1;
        }
    }
    std::fs::write(&path, &bytes).unwrap();
    for _ in 0..2 {
        let refused = Redb::open(&path).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    }
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        u64::try_from(bytes.len()).unwrap()
    );
}

/// FAULTS 54: a store of a newer version, in its tables or in one batch of the log.
#[tokio::test]
async fn a_newer_store_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    drop(Redb::open(&path).await.unwrap());
    edit(&path, |meta, _| {
        meta.insert("format", 3_u64.to_be_bytes().as_slice())
            .unwrap();
    });
    let refused = Redb::open(&path).await;
    assert!(
        matches!(refused, Err(Error::Newer { found: 3, known: 2 })),
        "{refused:?}"
    );

    std::fs::remove_file(&path).unwrap();
    let store = Redb::open(&path).await.unwrap();
    fill(&store).await;
    drop(store);
    edit(&path, |_, log| {
        let mut batch = log.get(1).unwrap().unwrap().value().to_vec();
        batch[5] = 2;
        log.insert(1, batch.as_slice()).unwrap();
    });
    let read = Redb::open(&path).await.unwrap().read(Seq(1), 100).await;
    assert!(
        matches!(read, Err(Error::Newer { found: 2, known: 1 })),
        "{read:?}"
    );
}

/// FAULTS 54: a store whose parts don't fit together was edited; its chain tells.
#[tokio::test]
async fn an_edited_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let edits: [(&str, Edit); 9] = [
        ("cut", |_, log| drop(log.pop_last().unwrap())),
        ("emptied", |_, log| log.retain(|_, _| false).unwrap()),
        ("no head", |meta, _| drop(meta.remove("head").unwrap())),
        ("short head", |meta, _| {
            drop(meta.insert("head", [0; 39].as_slice()).unwrap());
        }),
        ("no format", |meta, _| drop(meta.remove("format").unwrap())),
        ("no epoch", |meta, _| drop(meta.remove("epoch").unwrap())),
        ("altered", |_, log| {
            let mut batch = log.get(1).unwrap().unwrap().value().to_vec();
            batch[62] ^= 1;
            log.insert(1, batch.as_slice()).unwrap();
        }),
        ("recomputed", |_, log| {
            let forged = Chain::default().seal(vec!["forged".into()]).encode();
            log.insert(1, forged.as_ref()).unwrap();
        }),
        ("one less", |_, log| drop(log.remove(2).unwrap().unwrap())),
    ];
    for (name, edited) in edits {
        let path = folder.path().join(name);
        let store = Redb::open(&path).await.unwrap();
        fill(&store).await;
        drop(store);
        edit(&path, edited);
        let found = match Redb::open(&path).await {
            Ok(store) => contents(&store).await,
            Err(error) => Err(error),
        };
        assert!(
            matches!(found, Err(Error::Corrupt { .. })),
            "{name}: {found:?}"
        );
    }
}

type Edit =
    fn(&mut redb::Table<'_, &'static str, &'static [u8]>, &mut redb::Table<'_, u64, &'static [u8]>);

fn edit(path: &Path, edited: Edit) {
    let transaction = Database::open(path).unwrap().begin_write().unwrap();
    edited(
        &mut transaction.open_table(META).unwrap(),
        &mut transaction.open_table(LOG).unwrap(),
    );
    transaction.commit().unwrap();
}

/// A second opener is told which file is in use, and the first goes on undisturbed.
#[tokio::test]
async fn a_second_opener_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    let store = Redb::open(&path).await.unwrap();
    let refused = Redb::open(&path).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Locked { path: named } if *named == path),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("log.redb"));
    fill(&store).await;
}

/// A crash while a store is made leaves none, or leaves what the next start can finish.
#[tokio::test]
async fn a_half_made_store_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    for leftover in [&b""[..], b"half"] {
        std::fs::write(folder.path().join("log.redb.new"), leftover).unwrap();
        fill(&Redb::open(&path).await.unwrap()).await;
        assert!(!folder.path().join("log.redb.new").exists());
        std::fs::remove_file(&path).unwrap();
    }
    let nowhere = Redb::open(folder.path().join("no/such/folder/log.redb")).await;
    assert!(matches!(nowhere, Err(Error::Io { .. })), "{nowhere:?}");
}

/// FAULTS 54: a disk that can't be written is no damage, and is not called so.
#[test]
fn an_unwritable_disk_is_not_damage() {
    let (_, [image, _]) = images();
    let disk = MemoryDisk::with_image(image);
    disk.fail(0, Fault::Unwritable);
    assert!(matches!(Redb::on_disk(&disk), Err(Error::Io { .. })));
    disk.heal();
    Redb::on_disk(&disk).unwrap();
}
