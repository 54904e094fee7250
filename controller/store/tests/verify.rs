//! The check of a whole log, over its segments and the store: every kind of change is found and
//! located.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use bytes::Bytes;
use kapok_store::{
    Archive, Batch, Chain, Checkpoint, Hash, Head, Redb, Segment, Segments as _, Store,
    archive::Policy,
    redb::MemoryDisk,
    segments::MemorySegments,
    verify::{self, Expected, Report},
};
use kapok_types::Seq;
use proptest::{prelude::*, sample::Index};
use redb::{Database, ReadableTable as _, TableDefinition};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

const POLICY: Policy = Policy {
    keep_entries: 20,
    keep_bytes: 1024 * 1024,
    segment_entries: 10,
    segment_bytes: 1024 * 1024,
};

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

struct Fixture {
    archive: Archive<Redb>,
    segments: MemorySegments,
    recorded: Vec<Segment>,
    heads: Vec<Head>,
}

/// A log of 30 batches of 1 to 3 entries, the older ones in segments.
async fn fixture_on(store: Redb) -> Fixture {
    let (store, segments) = (Arc::new(store), MemorySegments::new());
    let archive = Archive::new(Arc::clone(&store), Arc::new(segments.clone()));
    let token = store.campaign("a").await.unwrap().token;
    let (mut chain, mut heads) = (Chain::default(), Vec::new());
    for n in 0..30 {
        let payload = |i| Bytes::from(format!("{{\"batch\":{n},\"entry\":{i}}}"));
        let batch = chain.seal((0..=n % 3).map(payload).collect());
        store.append(&token, chain.head_seq, &batch).await.unwrap();
        chain.advance(&batch).unwrap();
        heads.push(chain.head());
    }
    let Head { seq, hash } = chain.head();
    let checkpoint = Checkpoint {
        seq,
        hash,
        puts: vec![],
        deletes: vec![],
    };
    store.checkpoint(&token, checkpoint).await.unwrap();
    let mut recorded = Vec::new();
    while let Some(sealed) = archive.seal_next(&POLICY).await.unwrap() {
        archive.trim(&token, &sealed.segment).await.unwrap();
        recorded.push(sealed.segment);
    }
    assert!(recorded.len() > 2);
    Fixture {
        archive,
        segments,
        recorded,
        heads,
    }
}

fn fixture() -> Fixture {
    now(fixture_on(Redb::in_memory().unwrap()))
}

impl Fixture {
    fn verify(&self, expected: &[Head]) -> Report {
        let kept = |head: &Head| Expected {
            head: *head,
            by: "node-1".to_owned(),
        };
        let expected = expected.iter().map(kept).collect();
        now(verify::archive(&self.archive, &self.recorded, expected)).unwrap()
    }

    fn found(&self, expected: &[Head]) -> Vec<(u64, &'static str)> {
        let report = self.verify(expected);
        let named = report.faults.iter();
        named
            .map(|fault| (fault.seq.get(), fault.kind.as_str()))
            .collect()
    }

    fn content(&self, index: usize) -> Bytes {
        now(self.segments.get(self.recorded[index].span()))
            .unwrap()
            .unwrap()
    }

    fn replace(&self, index: usize, content: Option<Bytes>) {
        self.segments.damage(self.recorded[index].span(), content);
    }
}

#[test]
fn a_whole_log_is_sound() {
    let fixture = fixture();
    let report = fixture.verify(&fixture.heads);
    assert_eq!(report.faults, []);
    let last = *fixture.heads.last().unwrap();
    assert_eq!((report.first, report.last), (Seq(1), last));
    assert_eq!((report.entries, report.heads), (last.seq.get(), 30));
    // Nothing recorded as deleted is missed.
    let kept = Fixture {
        recorded: fixture.recorded[1..].to_vec(),
        ..fixture
    };
    assert_eq!(kept.found(&[]), []);
}

/// A segment that was written but not trimmed yet is in both places, and counts once.
#[test]
fn an_untrimmed_segment_counts_once() {
    let store = Arc::new(Redb::in_memory().unwrap());
    let Fixture { recorded, .. } = fixture();
    let whole = fixture();
    let archive = Archive::new(store, Arc::new(whole.segments.clone()));
    // The store is empty, the segments alone are checked.
    let report = now(verify::archive(&archive, &recorded, vec![])).unwrap();
    assert_eq!(report.entries, recorded.last().unwrap().last.get());
    let unheld = now(verify::archive(&whole.archive, &[], vec![])).unwrap();
    assert!(unheld.is_sound() && unheld.first == recorded.last().unwrap().last.next());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
    /// A single flipped bit of a segment is found, and in the batch that it is in or beside it.
    #[test]
    fn a_flipped_bit_is_located(at in any::<Index>(), bit in 0_u8..8, which in 0_usize..3) {
        let fixture = fixture();
        let mut content = fixture.content(which).to_vec();
        let at = at.index(content.len());
        content[at] ^= 1 << bit;
        fixture.replace(which, Some(content.into()));
        let report = fixture.verify(&fixture.heads);
        prop_assert!(!report.is_sound());
        let Segment { first, last, .. } = fixture.recorded[which];
        for fault in &report.faults {
            prop_assert!((first..=last).contains(&fault.seq), "{fault:?}");
        }
    }
}

/// One byte of each entry's payload in turn: exactly that entry is named.
#[test]
fn a_flipped_payload_is_named_exactly() {
    let fixture = fixture();
    let (_, batches) = Segment::open(&fixture.content(1)).unwrap();
    for entry in batches.iter().flat_map(Batch::entries) {
        let content = fixture.content(1);
        let mut flipped = content.to_vec();
        let at = content
            .windows(entry.payload.len())
            .position(|window| window == entry.payload)
            .unwrap();
        flipped[at + 3] ^= 4;
        fixture.replace(1, Some(flipped.into()));
        assert_eq!(fixture.found(&[]), [(entry.seq.get(), "edited")]);
        fixture.replace(1, Some(content));
    }
    assert_eq!(fixture.found(&[]), []);
}

#[test]
fn a_missing_segment_is_cut() {
    let fixture = fixture();
    for index in 0..3 {
        let content = fixture.content(index);
        fixture.replace(index, None);
        let first = fixture.recorded[index].first.get();
        assert_eq!(fixture.found(&fixture.heads), [(first, "cut")]);
        fixture.replace(index, Some(content));
    }
    // Also when its record went with it.
    let mut fixture = fixture;
    let gone = fixture.recorded.remove(1);
    fixture.segments.damage(gone.span(), None);
    assert_eq!(fixture.found(&[]), [(gone.first.get(), "cut")]);
}

#[test]
fn a_short_segment_is_cut_where_it_ends() {
    let fixture = fixture();
    let (_, batches) = Segment::open(&fixture.content(1)).unwrap();
    let (short, content) = Segment::seal(&batches[..2]).unwrap();
    fixture.replace(1, Some(content));
    assert_eq!(fixture.found(&[]), [(short.last.next().get(), "cut")]);
}

#[test]
fn batches_that_changed_places_are_found() {
    let fixture = fixture();
    let (_, batches) = Segment::open(&fixture.content(1)).unwrap();
    let value = |batch: &Batch| {
        let value = batch.encode();
        let size = u64::try_from(value.len()).unwrap();
        [&size.to_be_bytes()[..], &value].concat()
    };
    let content = fixture.content(1);
    let (first, second) = (value(&batches[0]), value(&batches[1]));
    let swapped = [
        &content[..94],
        &second,
        &first,
        &content[94 + first.len() + second.len()..],
    ]
    .concat();
    fixture.replace(1, Some(swapped.into()));
    let found = fixture.found(&[]);
    assert!(
        found.iter().all(|(_, kind)| *kind == "reordered"),
        "{found:?}"
    );
    assert_eq!(found[0].0, fixture.recorded[1].first.get());
}

/// A segment made anew, with its hashes and its seal: what the log remembers of it tells.
#[test]
fn a_segment_made_anew_is_recomputed() {
    let fixture = fixture();
    let (_, batches) = Segment::open(&fixture.content(1)).unwrap();
    let mut chain = Chain::at(batches[0].after());
    let forge = |batch: &Batch| {
        let payloads = batch.entries().iter().map(|_| "{\"forged\":1}".into());
        let forged = chain.seal(payloads.collect());
        chain.advance(&forged).unwrap();
        forged
    };
    let forged: Vec<Batch> = batches.iter().map(forge).collect();
    let (_, content) = Segment::seal(&forged).unwrap();
    fixture.replace(1, Some(content));
    let first = fixture.recorded[1].first.get();
    assert_eq!(fixture.found(&[]), [(first, "recomputed")]);
    let agreed = fixture.heads.iter().filter(|head| head.seq.get() < first);
    let heads: Vec<Head> = agreed.copied().collect();
    assert_eq!(fixture.found(&heads), [(first, "recomputed")]);
}

/// The whole log computed anew, or its tail cut, records and all: only heads that others keep
/// tell, and where.
#[test]
fn heads_kept_elsewhere_tell_of_another_log() {
    let fixture = fixture();
    let other = Head {
        seq: fixture.heads[20].seq,
        hash: Hash([1; 32]),
    };
    let heads = [fixture.heads[15], other];
    let place = fixture.heads[15].seq.next().get();
    assert_eq!(fixture.found(&heads), [(place, "recomputed")]);
    let end = fixture.heads.last().unwrap().seq;
    let beyond = Head {
        seq: Seq(end.get() + 5),
        hash: Hash([1; 32]),
    };
    assert_eq!(fixture.found(&[beyond]), [(end.next().get(), "cut")]);
}

/// Batches changed in the store itself, in the file below it.
#[test]
fn damage_in_the_store_is_located() {
    type Edit = fn(&mut redb::Table<'_, u64, &'static [u8]>, u64);
    let folder = tempfile::tempdir().unwrap();
    let edits: [(&str, Edit, &str); 4] = [
        (
            "edited",
            |log, key| {
                let mut value = log.get(key).unwrap().unwrap().value().to_vec();
                value[66] ^= 1;
                log.insert(key, value.as_slice()).unwrap();
            },
            "edited",
        ),
        (
            "removed",
            |log, key| drop(log.remove(key).unwrap().unwrap()),
            "cut",
        ),
        (
            "garbage",
            |log, key| drop(log.insert(key, [7; 80].as_slice()).unwrap()),
            "unreadable",
        ),
        (
            "renumbered",
            |log, key| {
                let mut value = log.get(key).unwrap().unwrap().value().to_vec();
                value[12] ^= 1;
                log.insert(key, value.as_slice()).unwrap();
            },
            "edited",
        ),
    ];
    for (name, edit, kind) in edits {
        let path = folder.path().join(name);
        let Fixture {
            archive,
            segments,
            recorded,
            heads,
        } = now(async { fixture_on(Redb::open(&path).await.unwrap()).await });
        let key = heads[heads.len() - 4].seq.next();
        drop(archive);
        let transaction = Database::open(&path).unwrap().begin_write().unwrap();
        edit(&mut transaction.open_table(LOG).unwrap(), key.get());
        transaction.commit().unwrap();
        let store = Arc::new(now(Redb::open(&path)).unwrap());
        let fixture = Fixture {
            archive: Archive::new(store, Arc::new(segments.clone())),
            segments,
            recorded,
            heads,
        };
        assert_eq!(fixture.found(&fixture.heads), [(key.get(), kind)], "{name}");
    }
}

/// A disk image from before the last batches, put in the store's place: whole in itself.
#[test]
fn an_older_store_is_cut() {
    let disk = MemoryDisk::new();
    let fixture = now(fixture_on(Redb::on_disk(&disk).unwrap()));
    let old = disk.image();
    let store = fixture.archive.store();
    let end = *fixture.heads.last().unwrap();
    let newer = now(async {
        let token = store.campaign("a").await.unwrap().token;
        let batch = Chain::at(end).seal(vec!["{}".into()]);
        store.append(&token, end.seq, &batch).await.unwrap();
        batch.head()
    });
    let old = Arc::new(Redb::on_disk(&MemoryDisk::with_image(old)).unwrap());
    let restored = Fixture {
        archive: Archive::new(old, Arc::new(fixture.segments.clone())),
        segments: fixture.segments.clone(),
        recorded: fixture.recorded.clone(),
        heads: vec![],
    };
    assert_eq!(restored.found(&[end]), []);
    assert_eq!(restored.found(&[end, newer]), [(newer.seq.get(), "cut")]);
}
