//! FAULTS 32, the store's part on etcd: a leader that stood still until its lease ran out, and then
//! goes on with what it knew, writes nothing after its successor's campaign.
//!
//! The leader is one whose runtime isn't driven meanwhile: as with SIGSTOP, nothing of it runs, and its
//! first write afterwards goes out on what it remembers. So it is the transaction's comparison that is
//! tried here, not a look before it.

use bytes::Bytes;
use kapok_store::{
    AppendError, Etcd, Extent, Head, LeaderToken, Leadership, LoadedCheckpoint, Part, Store,
    Stored, WriteError, conformance::bounded,
};
use kapok_types::{Epoch, Seq};
use tokio::runtime::{Builder, Runtime};

use super::{append, batch, checkpoint, open, place};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn part(index: u32) -> Part {
    Part {
        index,
        puts: vec![(format!("late/{index}"), Bytes::from("x"))],
        deletes: vec!["kept".to_owned()],
    }
}

/// Who fenced a write, if that is how it ended.
trait FencedBy {
    fn fenced_by(self) -> Option<Epoch>;
}

impl FencedBy for Result<(), AppendError> {
    fn fenced_by(self) -> Option<Epoch> {
        match self {
            Err(AppendError::Fenced { current }) => Some(current),
            _ => None,
        }
    }
}

impl FencedBy for Result<(), WriteError> {
    fn fenced_by(self) -> Option<Epoch> {
        match self {
            Err(WriteError::Fenced { current }) => Some(current),
            _ => None,
        }
    }
}

async fn content(store: &Etcd) -> (Extent, Option<LoadedCheckpoint>, Vec<Stored>) {
    (
        store.extent().await.unwrap(),
        store.load_checkpoint().await.unwrap(),
        store.stored(Seq(1), 10).await.unwrap(),
    )
}

/// Lets a leader sleep through its successor's campaign and then make one `write`.
fn sleep_then<W: FencedBy>(write: impl AsyncFnOnce(&Etcd, LeaderToken, Head) -> W) {
    let options = place();
    let (sleeper, others) = (runtime(), runtime());
    let (old, Leadership { token, lost }, head) = sleeper.block_on(async {
        let store = open(&options).await;
        let leadership = store.campaign("sleeper").await.unwrap();
        let token = leadership.token;
        let head = append(&store, &token, &["a", "b"]).await;
        let puts = vec![("kept".to_owned(), Bytes::from("1"))];
        store
            .checkpoint(&token, checkpoint(head, puts))
            .await
            .unwrap();
        let head = append(&store, &token, &["c"]).await;
        store.stage(&token, part(0)).await.unwrap();
        (store, leadership, head)
    });
    assert!(!*lost.borrow());
    let (successor, new) = others.block_on(async {
        let store = open(&options).await;
        let new = bounded(store.campaign("successor")).await.unwrap();
        (store, new)
    });
    assert!(new.token.epoch > token.epoch);
    let before = others.block_on(content(&successor));
    let written = sleeper.block_on(write(&old, token, head));
    assert_eq!(written.fenced_by(), Some(new.token.epoch));
    assert_eq!(others.block_on(content(&successor)), before);
    assert!(!*new.lost.borrow());
    // It hears of it too, once it runs again.
    let mut lost = lost;
    sleeper
        .block_on(async { bounded(lost.wait_for(|lost| *lost)).await.map(drop) })
        .unwrap();
}

#[test]
fn a_late_append_is_fenced() {
    sleep_then(async |store, token, head| {
        store.append(&token, head.seq, &batch(head, "late")).await
    });
}

#[test]
fn a_late_stage_is_fenced() {
    sleep_then(async |store, token, _| store.stage(&token, part(1)).await);
}

#[test]
fn a_late_commit_is_fenced() {
    sleep_then(async |store, token, head| store.commit(&token, head, 1).await);
}

#[test]
fn a_late_trim_is_fenced() {
    sleep_then(async |store, token, _| store.trim(&token, Seq(2)).await);
}

/// A handle whose view is old neither writes on it nor refuses on it.
#[tokio::test]
async fn an_old_view_decides_nothing() {
    let options = place();
    let fresh = open(&options).await;
    let token = fresh.campaign("a").await.unwrap().token;
    let old = open(&options).await;
    let head = append(&fresh, &token, &["a"]).await;
    let refused = old
        .append(&token, Seq(0), &batch(Head::default(), "b"))
        .await;
    assert!(
        matches!(refused, Err(AppendError::Conflict { head: Seq(1) })),
        "{refused:?}"
    );
    let next = batch(head, "b");
    fresh.append(&token, head.seq, &next).await.unwrap();
    let head = next.head();
    let next = batch(head, "c");
    old.append(&token, head.seq, &next).await.unwrap();
    let head = next.head();

    fresh.stage(&token, part(0)).await.unwrap();
    old.stage(&token, part(1)).await.unwrap();
    fresh.commit(&token, head, 2).await.unwrap();
    let loaded = old.load_checkpoint().await.unwrap().unwrap();
    let names: Vec<&str> = loaded.objects.keys().map(String::as_str).collect();
    assert_eq!(names, ["late/0", "late/1"]);
    old.trim(&token, Seq(3)).await.unwrap();
    fresh.trim(&token, Seq(4)).await.unwrap();
    assert_eq!(old.extent().await.unwrap().first, Seq(4));
}
