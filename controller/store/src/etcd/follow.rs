//! Following the log: catch up by reading, then watch from the revision that was read.
//!
//! A watch that ends, for whatever reason, is begun anew by reading from the next position: so nothing
//! is missed, and what was trimmed meanwhile is told. While etcd can't be asked a follower waits.
//! One whose member freezes hears nothing until the connection's pings fail, some seconds later.
//! It holds the connections, and ends with the store all the same.

use std::{collections::VecDeque, sync::Arc};

use etcd_client::{EventType, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use futures::{StreamExt as _, stream, stream::BoxStream};
use kapok_types::Seq;
use tokio_util::sync::CancellationToken;

use super::{
    calls::{Calls, Failure, Pauses},
    reads::{self, Most},
};
use crate::{Batch, Error, Follow, Read};

/// How much is read at a time while catching up.
const READ_AHEAD: Most = Most {
    batches: 1024,
    bytes: 4 * 1024 * 1024,
};

struct Follower {
    calls: Arc<Calls>,
    next: Seq,
    ready: VecDeque<Batch>,
    watch: Option<WatchStream>,
    pauses: Pauses,
    ended: bool,
}

pub(super) fn follow(
    calls: Arc<Calls>,
    closed: CancellationToken,
    from: Seq,
) -> BoxStream<'static, Result<Follow, Error>> {
    let follower = Follower {
        calls,
        next: from.max(Seq(1)),
        ready: VecDeque::new(),
        watch: None,
        pauses: Pauses::new(),
        ended: false,
    };
    let batches = stream::unfold(follower, |mut follower| async move {
        let item = follower.next().await?;
        follower.ended = !matches!(item, Ok(Follow::Batch(_)));
        Some((item, follower))
    });
    batches.take_until(closed.cancelled_owned()).boxed()
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
            let watched = match self.watch.as_mut() {
                Some(watch) => watch.message().await,
                None => match self.catch_up().await {
                    Ok(None) => continue,
                    Ok(Some(told)) => return Some(Ok(told)),
                    // Nobody can be asked, or what was read was forgotten meanwhile: again.
                    Err(failure) => {
                        let forgotten = matches!(failure, Failure::Compacted(_));
                        let error = Error::from(failure);
                        let away =
                            matches!(error, Error::Unavailable { .. } | Error::Untrusted { .. });
                        if !forgotten && !away {
                            return Some(Err(error));
                        }
                        self.pauses.pause().await;
                        continue;
                    }
                },
            };
            match watched {
                Ok(Some(message)) if !message.canceled() => {
                    self.pauses = Pauses::new();
                    if let Err(error) = self.take(&message) {
                        return Some(Err(error));
                    }
                }
                _ => {
                    self.watch = None;
                    self.pauses.pause().await;
                }
            }
        }
    }

    /// Reads what is there; if that is nothing, watches for what comes.
    async fn catch_up(&mut self) -> Result<Option<Follow>, Failure> {
        let (read, revision) = reads::read_once(&self.calls, self.next, READ_AHEAD).await?;
        match read {
            Read::Trimmed { first } => return Ok(Some(Follow::Trimmed { first })),
            Read::Batches(batches) if batches.is_empty() => {}
            Read::Batches(batches) => {
                self.ready.extend(batches);
                return Ok(None);
            }
        }
        let keys = &self.calls.keys;
        let options = WatchOptions::new()
            .with_range(keys.log_end())
            .with_start_revision(revision.saturating_add(1))
            .with_filters([WatchFilterType::NoDelete])
            // What many appends wrote doesn't come as one message, larger than any is taken.
            .with_fragment();
        let opening = self.calls.watch("following the log", keys.log(), options);
        self.watch = Some(opening.await?);
        Ok(None)
    }

    /// Takes the batches that a message brings, as far as they follow on what came before.
    fn take(&mut self, message: &WatchResponse) -> Result<(), Error> {
        for event in message.events() {
            let (EventType::Put, Some(pair)) = (event.event_type(), event.kv()) else {
                continue;
            };
            let last = self.ready.back().map(|batch| batch.head().seq.next());
            let next = last.unwrap_or(self.next);
            let batch = reads::placed(&self.calls, pair.clone(), None)?;
            if batch.head().seq < next {
                continue;
            }
            if batch.after().seq >= next {
                // A gap: there is more to this than the watch says.
                self.watch = None;
                return Ok(());
            }
            self.ready.push_back(batch);
        }
        Ok(())
    }
}
