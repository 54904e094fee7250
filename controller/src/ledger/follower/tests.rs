//! A follower beside a leader, over one store in memory whose campaigns wait until they are let.

use std::time::Duration;

use futures::stream::BoxStream;
use kapok_store::{
    AppendError, Batch, Error, Extent, Head, LeaderToken, Leadership, Limits, LoadedCheckpoint,
    Part, Read, Redb, Stored, Use, WriteError,
};
use kapok_types::env::Seeded;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    fabric::{Command, Fabric, Origin, fixture},
    ledger::write_checkpoint,
};

const BOUND: Duration = Duration::from_secs(20);

/// A store in which a candidate waits for its turn, as it does in a cluster.
#[derive(Debug, Clone)]
struct Turns {
    store: Redb,
    turn: Arc<Notify>,
}

impl Store for Turns {
    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn campaign_above(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        self.turn.notified().await;
        self.store.campaign_above(candidate, floor).await
    }

    async fn campaign_moving(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        self.store.campaign_moving(candidate, floor).await
    }

    fn leaders(&self) -> watch::Receiver<Option<Leader>> {
        self.store.leaders()
    }

    async fn get_use(&self) -> Result<Use, Error> {
        self.store.get_use().await
    }

    async fn put_use(&self, token: &LeaderToken, using: Use) -> Result<(), WriteError> {
        self.store.put_use(token, using).await
    }

    async fn append(
        &self,
        token: &LeaderToken,
        after: Seq,
        batch: &Batch,
    ) -> Result<(), AppendError> {
        self.store.append(token, after, batch).await
    }

    async fn begin(&self, token: &LeaderToken, at: Head) -> Result<(), WriteError> {
        self.store.begin(token, at).await
    }

    async fn head(&self) -> Result<Head, Error> {
        self.store.head().await
    }

    async fn read(&self, from: Seq, max_batches: usize) -> Result<Read, Error> {
        self.store.read(from, max_batches).await
    }

    async fn extent(&self) -> Result<Extent, Error> {
        self.store.extent().await
    }

    async fn stored(&self, from: Seq, max_batches: usize) -> Result<Vec<Stored>, Error> {
        self.store.stored(from, max_batches).await
    }

    fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>> {
        self.store.follow(from)
    }

    async fn stage(&self, token: &LeaderToken, part: Part) -> Result<(), WriteError> {
        self.store.stage(token, part).await
    }

    async fn commit(&self, token: &LeaderToken, at: Head, parts: u32) -> Result<(), WriteError> {
        self.store.commit(token, at, parts).await
    }

    async fn load_checkpoint(&self) -> Result<Option<LoadedCheckpoint>, Error> {
        self.store.load_checkpoint().await
    }

    async fn trim(&self, token: &LeaderToken, before: Seq) -> Result<(), WriteError> {
        self.store.trim(token, before).await
    }
}

/// Everything that a fabric holds.
fn said(fabric: &Fabric) -> String {
    format!(
        "{:?} {:?} {:?}",
        fabric.nodes, fabric.authorities, fabric.tokens
    )
}

/// A leader and a follower of one log.
struct Pair {
    store: Redb,
    turn: Arc<Notify>,
    leader: Handle,
    leading: JoinHandle<Result<(), Fatal>>,
    follower: Handle,
    following: JoinHandle<Result<Ledger<Turns>, Fatal>>,
}

impl Pair {
    async fn new() -> Self {
        let store = Redb::in_memory().unwrap();
        let (leader, ledger) = Ledger::start(
            Arc::new(store.clone()),
            Seeded::new(1),
            "a",
            Epoch::ZERO,
            Rules::default(),
        )
        .await
        .unwrap();
        let leading = tokio::spawn(ledger.run());
        let turn = Arc::new(Notify::new());
        let turns = Turns {
            store: store.clone(),
            turn: turn.clone(),
        };
        let opened = Follower::open(Arc::new(turns), Seeded::new(2), Rules::default());
        let (follower, following) = opened.await.unwrap();
        let following = tokio::spawn(following.lead("b", Epoch::ZERO, std::future::ready(())));
        Self {
            store,
            turn,
            leader,
            leading,
            follower,
            following,
        }
    }

    async fn write(&self, command: Command) -> Seq {
        let origin = Origin::controller();
        let done = self.leader.submit(origin, None, command).await.unwrap();
        done.snapshot.head.seq
    }

    async fn follower_holds(&self, seq: Seq) {
        let mut changes = self.follower.changes();
        let holds = changes.wait_for(|snapshot| snapshot.head.seq >= seq);
        drop(timeout(BOUND, holds).await.unwrap().unwrap());
    }
}

/// What the leader has written shows at the follower, the same to the last object; the follower itself
/// takes nothing; and elected, it goes on where the other one was.
#[tokio::test]
async fn a_follower_holds_what_the_leader_wrote_and_goes_on() {
    let pair = Pair::new().await;
    pair.write(fixture::authority(1)).await;
    let mut seq = Seq(0);
    for command in fixture::new_node(1, "node-1", "127.0.0.1:1") {
        seq = pair.write(command).await;
    }
    pair.follower_holds(seq).await;
    let (theirs, ours) = (pair.leader.snapshot(), pair.follower.snapshot());
    assert_eq!(ours.head, theirs.head);
    assert_eq!(ours.epoch, theirs.epoch);
    assert_eq!(said(&ours.fabric), said(&theirs.fabric));
    let refused = pair
        .follower
        .submit(Origin::controller(), None, fixture::authority(2))
        .await;
    assert!(
        matches!(&refused, Err(super::super::Error::Unavailable { .. })),
        "{refused:?}"
    );

    pair.turn.notify_one();
    let ledger = timeout(BOUND, pair.following).await.unwrap();
    let ledger = ledger.unwrap().unwrap();
    let epoch = ledger.token().epoch;
    assert!(epoch > theirs.epoch);
    let running = tokio::spawn(ledger.run());
    let origin = Origin::controller();
    let command = fixture::user("user/li-wei", &["auditor"]);
    let done = pair.follower.submit(origin, None, command).await.unwrap();
    assert_eq!(done.snapshot.head.seq.get(), theirs.head.seq.get() + 2);
    assert_eq!(done.snapshot.epoch, epoch);
    // The other one is fenced.
    drop(pair.leader);
    assert!(
        timeout(BOUND, pair.leading)
            .await
            .unwrap()
            .unwrap()
            .is_err()
    );
    drop(pair.follower);
    timeout(BOUND, running).await.unwrap().unwrap().unwrap();
}

/// A follower that was left behind by a checkpoint and a trim folds anew.
#[tokio::test]
async fn a_follower_that_is_left_behind_folds_anew() {
    let pair = Pair::new().await;
    let seq = pair.write(fixture::authority(1)).await;
    pair.follower_holds(seq).await;
    let snapshot = pair.leader.snapshot();
    let token = LeaderToken {
        epoch: snapshot.epoch,
    };
    let state = State::load(&pair.store).await.unwrap();
    let written = write_checkpoint(
        &pair.store,
        &token,
        &state.fabric,
        snapshot.head,
        &state.dirty,
    );
    written.await.unwrap();
    pair.store.trim(&token, snapshot.head.seq).await.unwrap();
    let late = Follower::open(
        Arc::new(pair.store.clone()),
        Seeded::new(3),
        Rules::default(),
    );
    let (late, _) = late.await.unwrap();
    assert_eq!(late.snapshot().head, snapshot.head);
    assert_eq!(said(&late.snapshot().fabric), said(&snapshot.fabric));
    pair.following.abort();
}
