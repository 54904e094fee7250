use futures::{StreamExt as _, future::join_all};
use kapok_store::{Follow, Head, Redb, segments::MemorySegments, verify};
use kapok_types::{Epoch, Seq, env::Seeded};

use super::*;
use crate::{
    audit::Refusal,
    fabric::{Actor, decide::Rules},
    ledger::{Handle, Ledger},
};

struct Fixture {
    keeper: Keeper<Redb>,
    segments: MemorySegments,
    env: Arc<Seeded>,
    stop: CancellationToken,
}

impl Fixture {
    /// A log of so many entries and a few, of which the newest thousand are to stay.
    async fn new(entries: u64) -> Self {
        let env = Seeded::new(1);
        let store = Arc::new(Redb::in_memory().unwrap());
        let started = Ledger::start(
            Arc::clone(&store),
            env.clone(),
            "test",
            Epoch(0),
            Rules::default(),
        );
        let (ledger, task) = started.await.unwrap();
        let token = task.token();
        tokio::spawn(task.run());
        let segments = MemorySegments::new();
        let keeper = Keeper {
            archive: Archive::new(store, Arc::new(segments.clone())),
            token,
            policy: Policy {
                keep_entries: 1000,
                ..Policy::default()
            },
            ledger,
            env: env.clone(),
        };
        let fixture = Self {
            keeper,
            segments,
            env,
            stop: CancellationToken::new(),
        };
        fixture.grow(entries).await;
        fixture
    }

    async fn grow(&self, entries: u64) {
        let now = self.env.now();
        let refusal = Refusal {
            by: Actor("user/eve".into()),
            from: String::new(),
            action: "instance.get".into(),
            object: String::new(),
            reason: "FORBIDDEN".into(),
            count: 1,
            first: now,
            last: now,
        };
        for _ in 0..entries / 1000 {
            let submit = |_| {
                let refusals = vec![refusal.clone()];
                self.keeper.record(Command::RecordRefusals { refusals })
            };
            for done in join_all((0..1000).map(submit)).await {
                done.unwrap();
            }
        }
    }

    async fn round(&self) -> Result<(), Failed> {
        self.keeper.round(&self.stop).await
    }

    fn ledger(&self) -> &Handle {
        &self.keeper.ledger
    }

    fn records(&self) -> Vec<SegmentRecord> {
        let snapshot = self.ledger().snapshot();
        snapshot.fabric.segments.values().cloned().collect()
    }

    fn head(&self) -> Head {
        self.ledger().snapshot().head
    }

    async fn first(&self) -> Seq {
        self.keeper.archive.store().extent().await.unwrap().first
    }

    /// Everything from the log's first entry on follows, and verifies.
    async fn expect_whole(&self) {
        let mut follow = self.keeper.archive.follow(Seq(1));
        let mut chain = kapok_store::Chain::default();
        while chain.head() != self.head() {
            let Some(Ok(Follow::Batch(batch))) = follow.next().await else {
                panic!("the log has a hole behind {}", chain.head_seq)
            };
            chain.advance(&batch).unwrap();
        }
        let recorded: Vec<_> = self
            .records()
            .into_iter()
            .map(|record| record.segment)
            .collect();
        let checked = verify::archive(&self.keeper.archive, &recorded, vec![]).await;
        assert_eq!(checked.unwrap().faults, []);
    }
}

#[tokio::test]
async fn old_entries_move_out_and_are_on_record() {
    let fixture = Fixture::new(22_000).await;
    fixture.round().await.unwrap();
    let records = fixture.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!(records[0].newest, fixture.env.now());
    let last = records[1].segment.last;
    assert_eq!(fixture.first().await, last.next());
    assert!(last.get() < 21_000);
    fixture.expect_whole().await;
    // Nothing more is due: an idle fabric writes nothing.
    let head = fixture.head();
    for _ in 0..3 {
        fixture.round().await.unwrap();
    }
    assert_eq!(fixture.head(), head);
}

/// A crash behind any step is finished by the next round, and loses nothing.
#[tokio::test]
async fn every_round_finishes_what_was_left() {
    let fixture = Fixture::new(22_000).await;
    // Nothing is written, and nothing moves.
    fixture.segments.fail(0, false);
    assert!(matches!(fixture.round().await, Err(Failed::Store(_))));
    assert_eq!(
        (fixture.records().len(), fixture.first().await),
        (0, Seq(1))
    );
    // The file is there, and nobody recorded it.
    fixture.segments.fail(0, true);
    assert!(fixture.round().await.is_err());
    assert_eq!(
        (fixture.records().len(), fixture.first().await),
        (0, Seq(1))
    );
    fixture.segments.heal();
    fixture.expect_whole().await;
    // It is recorded, and nobody trimmed.
    let policy = archive::Policy {
        keep_entries: 1000,
        ..archive::Policy::default()
    };
    let sealed = fixture
        .keeper
        .archive
        .seal_next(&policy)
        .await
        .unwrap()
        .unwrap();
    let record = Command::RecordSegment {
        segment: sealed.segment.clone(),
        newest: fixture.env.now(),
    };
    fixture.keeper.record(record).await.unwrap();
    assert_eq!(fixture.first().await, Seq(1));
    fixture.expect_whole().await;
    fixture.round().await.unwrap();
    assert_eq!(fixture.records().len(), 2);
    assert_eq!(fixture.records()[0].segment, sealed.segment);
    assert_eq!(
        fixture.first().await,
        fixture.records()[1].segment.last.next()
    );
    fixture.expect_whole().await;
}

/// Segments go when their retention is over, one a round, never before the floor; their hashes
/// stay.
#[tokio::test]
async fn retention_is_kept() {
    const DAY: Duration = Duration::from_hours(24);
    let mut fixture = Fixture::new(22_000).await;
    fixture.keeper.policy.retention = DAY;
    fixture.round().await.unwrap();
    let before = fixture.records();
    fixture.env.advance(DAY * 180);
    fixture.round().await.unwrap();
    assert_eq!(fixture.records(), before, "180 days are the floor");
    fixture.env.advance(Duration::from_secs(1));
    let segments = fixture.segments.clone();
    let held = || async { kapok_store::Segments::list(&segments).await.unwrap().len() };
    // Recorded, and the file stays behind: the next round removes it.
    segments.fail(0, false);
    assert!(fixture.round().await.is_err());
    assert_eq!(
        (fixture.records()[0].deleted, held().await),
        (Some(fixture.env.now()), 2)
    );
    segments.heal();
    fixture.round().await.unwrap();
    assert_eq!(held().await, 0);
    let after = fixture.records();
    assert!(after.iter().all(|record| record.deleted.is_some()));
    assert_eq!(after[1].segment, before[1].segment);
    let first = fixture.first().await;
    let mut follow = fixture.keeper.archive.follow(Seq(1));
    let told = follow.next().await.unwrap().unwrap();
    assert_eq!(told, Follow::Trimmed { first });
}

/// The fabric knows its segments after a restart that folds the checkpoint.
#[tokio::test]
async fn records_survive_a_restart() {
    let fixture = Fixture::new(12_000).await;
    fixture.round().await.unwrap();
    fixture.grow(10_000).await;
    let (before, head) = (fixture.records(), fixture.head());
    assert_eq!(before.len(), 1);
    let store = Arc::clone(fixture.keeper.archive.store());
    drop(fixture);
    let env = Seeded::new(2);
    let started = Ledger::start(store, env, "again", Epoch(0), Rules::default());
    let (ledger, _task) = started.await.unwrap();
    let snapshot = ledger.snapshot();
    let records: Vec<_> = snapshot.fabric.segments.values().cloned().collect();
    assert_eq!(records, before);
    assert_eq!(snapshot.head.seq, head.seq.next());
}
