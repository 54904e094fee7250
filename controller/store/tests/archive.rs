//! The log over store and segments: sealed, recorded, trimmed, followed, and crashed between any
//! two steps.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use kapok_store::{
    Archive, Batch, Chain, Checkpoint, Error, Follow, Head, LeaderToken, Read, Redb, Segment,
    Segments as _, Store, WriteError,
    archive::Policy,
    conformance::bounded,
    redb::MemoryDisk,
    segments::{Directory, MemorySegments},
};
use kapok_types::Seq;

const POLICY: Policy = Policy {
    keep_entries: 20,
    keep_bytes: 1024 * 1024,
    segment_entries: 10,
    segment_bytes: 1024 * 1024,
};

struct Fixture {
    archive: Archive<Redb>,
    segments: MemorySegments,
    token: LeaderToken,
    made: Vec<Batch>,
}

impl Fixture {
    /// A log of `batches` batches of 1 to 4 entries each, all checkpointed.
    async fn new(batches: usize) -> Self {
        let segments = MemorySegments::new();
        let store = Arc::new(Redb::in_memory().unwrap());
        let token = store.campaign("a").await.unwrap().token;
        let mut fixture = Self {
            archive: Archive::new(store, Arc::new(segments.clone())),
            segments,
            token,
            made: Vec::new(),
        };
        fixture.append(batches).await;
        fixture.checkpoint().await;
        fixture
    }

    async fn append(&mut self, batches: usize) {
        let store = self.archive.store();
        let mut chain = Chain::at(store.head().await.unwrap());
        for n in 0..batches {
            let payload = |i| Bytes::from(format!("{{\"entry\":[{n},{i}]}}"));
            let batch = chain.seal((0..=n % 4).map(payload).collect());
            store
                .append(&self.token, chain.head_seq, &batch)
                .await
                .unwrap();
            chain.advance(&batch).unwrap();
            self.made.push(batch);
        }
    }

    async fn checkpoint(&self) {
        let store = self.archive.store();
        let Head { seq, hash } = store.head().await.unwrap();
        let checkpoint = Checkpoint {
            seq,
            hash,
            puts: vec![],
            deletes: vec![],
        };
        store.checkpoint(&self.token, checkpoint).await.unwrap();
    }

    /// Seals and trims all that is due.
    async fn archive_all(&self) -> Vec<Segment> {
        let mut recorded = Vec::new();
        while let Some(sealed) = self.archive.seal_next(&POLICY).await.unwrap() {
            self.archive
                .trim(&self.token, &sealed.segment)
                .await
                .unwrap();
            recorded.push(sealed.segment);
        }
        recorded
    }

    async fn expect_whole(&self) {
        let mut chain = Chain::default();
        let mut found = Vec::new();
        loop {
            let read = self.archive.read(chain.head_seq.next(), 3).await.unwrap();
            let Read::Batches(batches) = read else {
                panic!("{read:?}")
            };
            assert!(batches.len() <= 3);
            if batches.is_empty() {
                break;
            }
            for batch in batches {
                chain.advance(&batch).unwrap();
                found.push(batch);
            }
        }
        assert_eq!(found, self.made);
    }
}

#[tokio::test]
async fn old_entries_move_and_the_log_stays_whole() {
    let fixture = Fixture::new(40).await;
    let recorded = fixture.archive_all().await;
    assert!(recorded.len() > 3, "{recorded:?}");
    let extent = fixture.archive.store().extent().await.unwrap();
    assert!((20..35).contains(&extent.entries()), "{extent:?}");
    for pair in recorded.windows(2) {
        assert_eq!(
            (pair[0].last.next(), pair[0].hash),
            (pair[1].first, pair[1].prev)
        );
    }
    fixture.expect_whole().await;
    // Nothing more is due, and nothing is written for it.
    fixture.segments.fail(0, false);
    assert_eq!(fixture.archive.seal_next(&POLICY).await.unwrap(), None);
    fixture.expect_whole().await;
}

#[tokio::test]
async fn nothing_leaves_that_no_checkpoint_covers() {
    let mut fixture = Fixture::new(2).await;
    fixture.append(60).await;
    assert_eq!(fixture.archive.seal_next(&POLICY).await.unwrap(), None);
    fixture.checkpoint().await;
    assert!(fixture.archive.seal_next(&POLICY).await.unwrap().is_some());
}

#[tokio::test]
async fn large_entries_leave_by_their_size() {
    let fixture = Fixture::new(8).await;
    let by_size = Policy {
        keep_entries: 1_000_000,
        keep_bytes: 300,
        segment_entries: 1_000_000,
        segment_bytes: 200,
    };
    let sealed = fixture.archive.seal_next(&by_size).await.unwrap().unwrap();
    let content = fixture.segments.get(sealed.segment.span()).await.unwrap();
    assert!(content.unwrap().len() < 700);
    fixture
        .archive
        .trim(&fixture.token, &sealed.segment)
        .await
        .unwrap();
    fixture.expect_whole().await;
}

/// A crash between any two steps loses nothing, and the steps are taken again: the file fails to
/// be written, or is written and nobody hears; it isn't recorded; it isn't trimmed.
#[tokio::test]
async fn every_step_can_be_taken_again() {
    let fixture = Fixture::new(40).await;
    let Fixture {
        archive, segments, ..
    } = &fixture;
    for unheard in [false, true] {
        segments.fail(0, unheard);
        assert!(archive.seal_next(&POLICY).await.is_err());
        segments.heal();
        fixture.expect_whole().await;
        assert_eq!(segments.list().await.unwrap().len(), usize::from(unheard));
    }
    // Written and never recorded: the same again; and a torn file is replaced.
    let first = archive.seal_next(&POLICY).await.unwrap().unwrap();
    assert_eq!(
        archive.seal_next(&POLICY).await.unwrap(),
        Some(first.clone())
    );
    segments.damage(first.segment.span(), Some("torn".into()));
    assert_eq!(
        archive.seal_next(&POLICY).await.unwrap(),
        Some(first.clone())
    );
    fixture.expect_whole().await;
    // Trimmed once and again; then the next one is due.
    for _ in 0..2 {
        archive.trim(&fixture.token, &first.segment).await.unwrap();
        fixture.expect_whole().await;
    }
    let second = archive.seal_next(&POLICY).await.unwrap().unwrap();
    assert_eq!(second.segment.first, first.segment.last.next());
    // Another policy's leftover goes once it is nobody's; what is recorded stays.
    archive
        .sweep(|span| span == second.segment.span())
        .await
        .unwrap();
    assert_eq!(segments.list().await.unwrap().len(), 2);
    archive.sweep(|_| false).await.unwrap();
    assert_eq!(segments.list().await.unwrap(), [first.segment.span()]);
    fixture.expect_whole().await;
}

/// With another file in its place nothing is trimmed; without its file, it is sealed again first, from
/// the entries that are still there.
#[tokio::test]
async fn nothing_is_trimmed_that_is_nowhere_else() {
    let fixture = Fixture::new(40).await;
    let sealed = fixture.archive.seal_next(&POLICY).await.unwrap().unwrap();
    let (segment, span) = (&sealed.segment, sealed.segment.span());
    let content = fixture.segments.get(span).await.unwrap().unwrap();
    let (_, other) = Segment::seal(&fixture.made[..3]).unwrap();
    for bad in [content.slice(1..), other] {
        fixture.segments.damage(span, Some(bad));
        let refused = fixture.archive.trim(&fixture.token, segment).await;
        assert!(
            matches!(refused, Err(WriteError::Store(Error::Segment { .. }))),
            "{refused:?}"
        );
    }
    fixture.segments.damage(span, None);
    // Entries that aren't those of the record are no segment of it.
    let forged = Segment {
        hash: segment.prev,
        ..segment.clone()
    };
    assert!(fixture.archive.seal_again(&forged).await.is_err());
    assert_eq!(fixture.segments.get(span).await.unwrap(), None);

    fixture.archive.trim(&fixture.token, segment).await.unwrap();
    assert_eq!(fixture.segments.get(span).await.unwrap(), Some(content));
    fixture.expect_whole().await;
    // Once they have left the store, nobody can.
    fixture.segments.damage(span, None);
    let again = fixture.archive.seal_again(segment).await.unwrap();
    assert_eq!(again, None);
}

/// The store loses its power at any write of a trim: the log is whole all the same.
#[tokio::test]
async fn power_is_lost_while_trimming() {
    for kept in 0.. {
        let disk = MemoryDisk::recording();
        let segments = Arc::new(MemorySegments::new());
        let store = Arc::new(Redb::on_disk(&disk).unwrap());
        let token = store.campaign("a").await.unwrap().token;
        let mut fixture = Fixture {
            archive: Archive::new(store, segments.clone()),
            segments: (*segments).clone(),
            token,
            made: Vec::new(),
        };
        fixture.append(20).await;
        fixture.checkpoint().await;
        let sealed = fixture.archive.seal_next(&POLICY).await.unwrap().unwrap();
        disk.fail(kept, kapok_store::redb::Fault::Unwritable);
        let trimmed = fixture.archive.trim(&token, &sealed.segment).await;
        disk.lose_power(0);
        disk.heal();
        drop(fixture.archive);
        let store = Arc::new(Redb::on_disk(&disk).unwrap());
        let token = store.campaign("a").await.unwrap().token;
        fixture.archive = Archive::new(store, segments);
        fixture.expect_whole().await;
        fixture.archive.trim(&token, &sealed.segment).await.unwrap();
        fixture.expect_whole().await;
        if trimmed.is_ok() {
            assert!(kept > 2, "no write of the trim failed");
            break;
        }
    }
}

/// A follower goes through segments into the store and on, wherever it begins, also when what it
/// is about to read is trimmed meanwhile.
#[tokio::test]
async fn followers_cross_from_segments_into_the_store() {
    let mut fixture = Fixture::new(40).await;
    let early = fixture.archive.follow(Seq(0));
    let mut slow = fixture.archive.follow(Seq(1));
    let first = bounded(slow.next()).await.unwrap().unwrap();
    assert_eq!(first, Follow::Batch(fixture.made[0].clone()));
    assert!(!fixture.archive_all().await.is_empty());
    let late = fixture.archive.follow(Seq(7));
    fixture.append(5).await;
    let made = fixture.made.clone();
    for (mut stream, skipped) in [(early, 0), (slow, 1), (late, 3)] {
        for batch in made.iter().skip(skipped) {
            let next = bounded(stream.next()).await.unwrap().unwrap();
            assert_eq!(next, Follow::Batch(batch.clone()));
        }
    }
}

/// Segments whose retention is over are said to be trimmed, and what is kept is named.
#[tokio::test]
async fn what_is_deleted_is_said_to_be() {
    let fixture = Fixture::new(40).await;
    let recorded = fixture.archive_all().await;
    fixture.segments.remove(recorded[0].span()).await.unwrap();
    let first = recorded[1].first;
    for from in [0, 1, recorded[0].last.get()] {
        let read = fixture.archive.read(Seq(from), 9).await.unwrap();
        assert_eq!(read, Read::Trimmed { first }, "{from}");
        let mut stream = fixture.archive.follow(Seq(from));
        let told = bounded(stream.next()).await.unwrap().unwrap();
        assert_eq!(told, Follow::Trimmed { first });
        assert!(bounded(stream.next()).await.is_none());
    }
    let Read::Batches(batches) = fixture.archive.read(first, 1).await.unwrap() else {
        panic!("it is there")
    };
    assert_eq!(batches[0].after().seq, recorded[0].last);
}

/// FAULTS 54, for segments: a damaged one is refused by name, and the rest is still read.
#[tokio::test]
async fn a_damaged_segment_is_refused_by_name() {
    let fixture = Fixture::new(40).await;
    let recorded = fixture.archive_all().await;
    let span = recorded[1].span();
    let content = fixture.segments.get(span).await.unwrap().unwrap();
    let mut flipped = content.to_vec();
    flipped[200] ^= 1;
    fixture.segments.damage(span, Some(flipped.into()));
    let refused = fixture.archive.read(span.first, 1).await;
    assert!(
        matches!(&refused, Err(Error::Segment { span: named, .. }) if *named == span),
        "{refused:?}"
    );
    for good in [recorded[0].first, recorded[2].first] {
        fixture.archive.read(good, 1).await.unwrap();
    }
}

#[tokio::test]
async fn a_directory_holds_them_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::new(40).await;
    let store = Arc::clone(fixture.archive.store());
    let home = || Arc::new(Directory::open(folder.path().join("segments")).unwrap());
    fixture.archive = Archive::new(Arc::clone(&store), home());
    assert!(fixture.archive_all().await.len() > 2);
    fixture.archive = Archive::new(store, home());
    fixture.expect_whole().await;
}
