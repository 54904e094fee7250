//! A ledger that doesn't lead: it folds what another controller writes, and is a candidate.
//!
//! ```text
//!   open ─▶ fold the log, publish ─▶ lead: ┌ the next batch ─▶ fold, publish ┐ ─▶ elected: fold the
//!                                          └────────────────◀────────────────┘    rest, write on
//! ```
//!
//! Whoever asks it for a change is refused: a request is passed on to the controller that leads
//! before it comes here. What it holds when it is elected is folded already, so taking over costs
//! what was written in the last moment, however large the fabric is.

use std::{collections::BTreeSet, sync::Arc};

use futures::{FutureExt as _, StreamExt as _};
use kapok_store::{Follow, Leader, Store};
use kapok_types::{Env, Epoch, Seq};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use super::{
    CHECKPOINT_EVERY, Fatal, Handle, Ledger, QUEUE, Snapshot, State, Stats, Turn, Waiting, passes,
    refuse,
};
use crate::fabric::{checkpoint::Key, decide::Rules};

/// The pause before a store that failed is asked again, and the longest one.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
const LONGEST_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// A ledger before it leads. [`Follower::lead`] consumes it.
#[derive(Debug)]
pub struct Follower<S> {
    store: Arc<S>,
    env: Arc<dyn Env>,
    state: State,
    queue: mpsc::Receiver<Waiting>,
    published: watch::Sender<Arc<Snapshot>>,
    leaders: watch::Receiver<Option<Leader>>,
    stats: Stats,
    turn: Turn,
    rules: Rules,
    /// What was touched up to `settled`, as long as no checkpoint of the leader's is known to hold it:
    /// else a follower of a month would remember every object that there ever was.
    older: BTreeSet<Key>,
    settled: Seq,
}

impl<S: Store> Follower<S> {
    /// Folds the log and publishes what it comes to. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`Fatal`]: the store or its content is in the way.
    pub async fn open(
        store: Arc<S>,
        env: Arc<dyn Env>,
        rules: Rules,
    ) -> Result<(Handle, Self), Fatal> {
        let state = State::load(&*store).await?;
        let (send, queue) = mpsc::channel(QUEUE);
        let snapshot = Arc::new(state.snapshot(Epoch::ZERO));
        let (published, subscribe) = watch::channel(snapshot);
        let stats = Stats::default();
        let turn = Turn::default();
        let handle = Handle {
            queue: send,
            published: subscribe,
            env: env.clone(),
            stats: stats.clone(),
            turn: turn.clone(),
            rules,
        };
        let follower = Self {
            leaders: store.leaders(),
            store,
            env,
            settled: state.chain.head_seq,
            state,
            queue,
            published,
            stats,
            turn,
            rules,
            older: BTreeSet::new(),
        };
        Ok((handle, follower))
    }

    /// Follows until it is elected with an epoch above `floor`, takes in the rest of the log, and
    /// writes that it leads. It is a candidate from the end of `may_lead` on.
    ///
    /// # Errors
    ///
    /// [`Fatal`]: the store, its content or another leader is in the way.
    pub async fn lead(
        mut self,
        candidate: &str,
        floor: Epoch,
        may_lead: impl Future<Output = ()>,
    ) -> Result<Ledger<S>, Fatal> {
        let store = Arc::clone(&self.store);
        let may_lead = may_lead.shared();
        let campaign = || async {
            may_lead.clone().await;
            store.campaign_above(candidate, floor).await
        };
        let mut elected = std::pin::pin!(campaign());
        let mut pause = PAUSE;
        let leadership = 'following: loop {
            let mut log = store.follow(self.state.chain.head_seq.next());
            let failed = loop {
                let told = tokio::select! {
                    biased;
                    won = &mut elected => match won {
                        Ok(leadership) => break 'following leadership,
                        Err(error) if passes(&error) => {
                            elected.set(campaign());
                            break error;
                        }
                        Err(error) => return Err(error.into()),
                    },
                    Some(waiting) = self.queue.recv() => {
                        refuse(std::iter::once(waiting), "this controller doesn't lead");
                        continue;
                    }
                    Ok(()) = self.leaders.changed() => {
                        self.publish();
                        continue;
                    }
                    told = log.next() => told,
                };
                match told {
                    Some(Ok(Follow::Batch(batch))) => {
                        self.state.take(&batch)?;
                        self.publish();
                        self.settle().await;
                        pause = PAUSE;
                    }
                    Some(Ok(Follow::Trimmed { first })) => {
                        info!(%first, "the log was trimmed; folding it anew");
                        match State::load(&*store).await {
                            Ok(state) => self.state = state,
                            Err(Fatal::Store(error)) if passes(&error) => break error,
                            Err(fatal) => return Err(fatal),
                        }
                        self.publish();
                        log = store.follow(self.state.chain.head_seq.next());
                    }
                    Some(Err(error)) if passes(&error) => break error,
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(Fatal::Lost),
                }
            };
            warn!(error = %failed, "the log can't be followed; trying again");
            tokio::time::sleep(self.env.jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        // Nobody else writes any more. What is there is all there is.
        if let Some(first) = self.state.catch_up(&*store).await? {
            info!(%first, "the log was trimmed; folding it anew");
            self.state = State::load(&*store).await?;
            self.older.clear();
        }
        self.state.checkpointed = store.extent().await?.checkpoint;
        self.state.dirty.append(&mut self.older);
        let ledger = Ledger {
            store: self.store,
            env: self.env,
            leadership,
            state: self.state,
            queue: self.queue,
            published: self.published,
            stats: self.stats,
            turn: self.turn,
            rules: self.rules,
            checkpoints: JoinSet::new(),
        };
        ledger.begin().await
    }

    fn publish(&self) {
        let epoch = self.leaders.borrow().as_ref().map(|leader| leader.epoch);
        let snapshot = self.state.snapshot(epoch.unwrap_or(Epoch::ZERO));
        self.published.send_replace(Arc::new(snapshot));
    }

    /// Forgets what was touched long ago, once a checkpoint holds it.
    async fn settle(&mut self) {
        let head = self.state.chain.head_seq;
        if head.get().saturating_sub(self.settled.get()) < CHECKPOINT_EVERY {
            return;
        }
        // If it can't be asked now, it is with the next batch.
        if let Ok(extent) = self.store.extent().await
            && extent.checkpoint >= self.settled
        {
            self.older = std::mem::take(&mut self.state.dirty);
            self.settled = head;
        }
    }
}

#[cfg(test)]
mod tests;
