//! Following the log: catch up by reading, then wait for the head to move.
//!
//! A follower holds the engine only while it reads, so that it neither keeps a dropped store open
//! nor its file locked.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use futures::{StreamExt as _, stream, stream::BoxStream};
use kapok_types::Seq;
use tokio::sync::watch;

use super::{Redb, engine::Engine};
use crate::{Batch, Error, Follow, Read, Store as _};

/// How much is read at a time while catching up, in batches.
const READ_AHEAD: usize = 8;

struct Follower {
    engine: Weak<Engine>,
    head: watch::Receiver<Seq>,
    next: Seq,
    ready: VecDeque<Batch>,
    ended: bool,
}

pub(super) fn follow(engine: &Arc<Engine>, from: Seq) -> BoxStream<'static, Result<Follow, Error>> {
    let follower = Follower {
        engine: Arc::downgrade(engine),
        head: engine.head.subscribe(),
        next: from.max(Seq(1)),
        ready: VecDeque::new(),
        ended: false,
    };
    stream::unfold(follower, |mut follower| async move {
        let item = follower.next().await?;
        follower.ended = !matches!(item, Ok(Follow::Batch(_)));
        Some((item, follower))
    })
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> Option<Result<Follow, Error>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.next = batch.head().seq.next();
                return Some(Ok(Follow::Batch(batch)));
            }
            // Marked before reading: a commit in between is then seen by the wait below.
            self.head.borrow_and_update();
            let store = Redb {
                engine: self.engine.upgrade()?,
            };
            let read = store.read(self.next, READ_AHEAD).await;
            drop(store);
            match read {
                Ok(Read::Batches(batches)) if batches.is_empty() => {
                    self.head.changed().await.ok()?;
                }
                Ok(Read::Batches(batches)) => self.ready.extend(batches),
                Ok(Read::Trimmed { first }) => return Some(Ok(Follow::Trimmed { first })),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
