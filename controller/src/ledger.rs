//! The ledger: the one task that writes. Before it leads, it is a [`Follower`].
//!
//! ```text
//!  callers ──Handle──▶ queue ──▶ decide each against the fabric plus what is staged
//!                                   │  one append makes the batch durable
//!                                   ▼
//!                      publish the new snapshot, then answer
//! ```
//!
//! Owns the [`Fabric`] and the leadership. Invariants:
//! - Nothing is answered before it is durable and published.
//! - A failed or unknown append is never undone in memory: the fabric is dropped and folded
//!   anew from the store, whose sequence number tells whether the batch landed.
//! - Reads never come here: they take the published [`Snapshot`].

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use kapok_store::{
    AppendError, Chain, Checkpoint, Head, LeaderToken, Leadership, Store, WriteError,
    log::BATCH_OVERHEAD_BYTES,
};
use kapok_types::{Env, Epoch, ImageId, Seq, Timestamp};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
};
use tracing::{error, info, warn};

pub use self::follower::Follower;
use self::{
    state::{Staged, State, entry_bytes},
    stats::{Batch, Stats},
    turn::Turn,
};
use crate::{
    fabric::{
        Actor, Ask, Command, Denied, Event, Fabric, Fresh, Origin, Outcome,
        checkpoint::{self, Key},
        decide::{self, Context, Decision, Rules},
    },
    log::{self, Record},
};

pub mod follower;
mod order;
mod state;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod turn;

/// Commands that may wait for the ledger.
const QUEUE: usize = 4096;
/// Commands in one batch.
const MAX_BATCH: usize = 1024;
/// Entries after which the folded objects are checkpointed.
const CHECKPOINT_EVERY: u64 = 10_000;
/// Objects that a checkpoint encodes before others have their turn.
const OBJECTS_AT_ONCE: usize = 256;

/// What the ledger has published: the intent as of one place in the log.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The intent.
    pub fabric: Fabric,
    /// The last entry that it holds.
    pub head: Head,
    /// The leadership that published it; of a controller that follows, the one that it knows of.
    pub epoch: Epoch,
}

/// An accepted and durable command.
#[derive(Debug, Clone)]
pub struct Done {
    /// What it came to.
    pub outcome: Outcome,
    /// A snapshot that holds its effect.
    pub snapshot: Arc<Snapshot>,
}

/// Why a command was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Refused; nothing changed.
    #[error(transparent)]
    Denied(Denied),
    /// The store's outcome is unknown or it can't be reached. The same request id may be sent
    /// again: it has one effect.
    #[error("the log can't be written at present: {reason}")]
    Unavailable {
        /// What the store said.
        reason: String,
    },
    /// Too many commands wait.
    #[error("too many changes wait; try again in a moment")]
    Busy,
}

/// Why the ledger could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] kapok_store::Error),
    /// The first entry of this leadership could not be written.
    #[error("the log can't be written")]
    Append(#[source] AppendError),
    /// The chain of the log is broken.
    #[error("the log's chain is broken at entry {}: {}", .0.seq, .0.reason)]
    Chain(kapok_store::Broken),
    /// An entry can't be read.
    #[error("entry {seq} of the log can't be folded")]
    Entry {
        /// Which.
        seq: Seq,
        /// Why.
        source: log::Error,
    },
    /// The checkpoint can't be read.
    #[error("the checkpoint can't be loaded")]
    Checkpoint(#[from] checkpoint::Error),
    /// The log was cut behind the checkpoint.
    #[error("the log begins at {first}, but the checkpoint ends before that")]
    Gap {
        /// The first entry that is left.
        first: Seq,
    },
    /// The leadership ended; another controller may lead.
    #[error("the leadership is lost")]
    Lost,
    /// Another controller leads.
    #[error("another controller leads with epoch {current}")]
    Fenced {
        /// Its epoch.
        current: Epoch,
    },
}

/// Access to the ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    queue: mpsc::Sender<Waiting>,
    published: watch::Receiver<Arc<Snapshot>>,
    env: Arc<dyn Env>,
    stats: Stats,
    turn: Turn,
    rules: Rules,
}

type Reply = oneshot::Sender<Result<Done, Error>>;

#[derive(Debug)]
struct Waiting {
    ask: Ask,
    reply: Reply,
}

/// The task's own state. [`Ledger::run`] consumes it.
#[derive(Debug)]
pub struct Ledger<S> {
    store: Arc<S>,
    env: Arc<dyn Env>,
    leadership: Leadership,
    state: State,
    queue: mpsc::Receiver<Waiting>,
    published: watch::Sender<Arc<Snapshot>>,
    stats: Stats,
    turn: Turn,
    rules: Rules,
    /// The checkpoint that is being written beside the ledger, if one is.
    checkpoints: JoinSet<Written>,
}

/// What came of a checkpoint: its place in the log, the objects in it, and why it failed if it did.
#[derive(Debug)]
struct Written {
    at: Seq,
    keys: BTreeSet<Key>,
    result: Result<(), Unwritten>,
}

/// Why a checkpoint wasn't written.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    #[error("object {key:?} can't be written")]
    Object {
        key: String,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Store(#[from] WriteError),
}

impl Handle {
    /// What the ledger did since it started.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether the ledger turns.
    pub fn turn(&self) -> &Turn {
        &self.turn
    }

    /// What the configuration says of decisions.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Ids for what may come of a command.
    pub fn fresh(&self) -> Fresh {
        Fresh {
            instance: self.env.instance_id(),
            incarnation: self.env.incarnation_id(),
            operation: self.env.operation_id(),
            image: ImageId(self.env.uuid()),
        }
    }

    /// Commands that wait for it.
    pub fn waiting(&self) -> usize {
        self.queue
            .max_capacity()
            .saturating_sub(self.queue.capacity())
    }

    /// The latest published intent. Never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().clone()
    }

    /// Wakes at each publication.
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.clone()
    }

    /// What a command would lead to now, changing nothing: dry runs.
    ///
    /// # Errors
    ///
    /// Why it would be refused.
    pub fn consider(&self, origin: Origin, command: Command) -> Result<Vec<Event>, Denied> {
        let ask = self.ask(origin, None, command);
        let snapshot = self.snapshot();
        let context = Context {
            fabric: &snapshot.fabric,
            ask: &ask,
            now: self.env.now(),
            rules: self.rules,
        };
        decide::decide(context).map(|decision| decision.events)
    }

    /// Decides a command and makes it durable.
    ///
    /// # Errors
    ///
    /// [`Error`]. After [`Error::Unavailable`] it may have happened all the same.
    ///
    /// # Cancel safety
    ///
    /// A command whose caller stops waiting is decided all the same.
    pub async fn submit(
        &self,
        origin: Origin,
        request_id: Option<String>,
        command: Command,
    ) -> Result<Done, Error> {
        let ask = self.ask(origin, request_id, command);
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Waiting { ask, reply })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::Busy,
                mpsc::error::TrySendError::Closed(_) => gone(),
            })?;
        let answer = answer.await.unwrap_or_else(|_| Err(gone()));
        if let Err(Error::Denied(denied)) = &answer
            && let Denied::NoCapacity(no_fit) = denied.cause()
        {
            self.stats.passed_over(no_fit.rejections());
        }
        answer
    }

    fn ask(&self, origin: Origin, request_id: Option<String>, command: Command) -> Ask {
        let fresh = self.fresh();
        Ask {
            origin,
            request_id,
            content: command.content(),
            command,
            fresh,
        }
    }
}

fn gone() -> Error {
    Error::Unavailable {
        reason: "this controller doesn't lead any more".into(),
    }
}

impl<S: Store> Ledger<S> {
    /// Folds the log, wins the leadership with an epoch above `floor`, and writes that it leads.
    ///
    /// # Errors
    ///
    /// [`Fatal`]: the store, its content or another leader is in the way.
    pub async fn start(
        store: Arc<S>,
        env: Arc<dyn Env>,
        candidate: &str,
        floor: Epoch,
        rules: Rules,
    ) -> Result<(Handle, Self), Fatal> {
        let (handle, follower) = Follower::open(store, env, rules).await?;
        let at_once = std::future::ready(());
        Ok((handle, follower.lead(candidate, floor, at_once).await?))
    }

    /// Writes that it leads.
    async fn begin(mut self) -> Result<Self, Fatal> {
        let epoch = self.leadership.token.epoch;
        info!(%epoch, head = %self.state.chain.head_seq, "leading");
        let mut staged = Staged::on(&self.state.fabric);
        self.put_own(&mut staged, Event::LeaderElected { epoch })?;
        let sealed = self.seal(&mut staged);
        if let Err(error) = self.append(&sealed).await {
            return Err(match error {
                AppendError::Fenced { current } => Fatal::Fenced { current },
                error => Fatal::Append(error),
            });
        }
        self.publish(staged, &sealed);
        Ok(self)
    }

    /// The leadership under which it writes, for whoever trims the log behind it.
    pub fn token(&self) -> LeaderToken {
        self.leadership.token
    }

    /// Writes until all handles are gone or the leadership is.
    ///
    /// # Errors
    ///
    /// [`Fatal::Fenced`] when another controller leads; the process is to end.
    pub async fn run(mut self) -> Result<(), Fatal> {
        let mut lost = self.leadership.lost.clone();
        loop {
            self.turn.waits();
            let mut waiting = Vec::new();
            let received = tokio::select! {
                biased;
                true = is_lost(&mut lost) => {
                    // A hint; the token is what protects the log. Whoever leads now says so.
                    warn!("the leadership is lost");
                    return Err(Fatal::Lost);
                }
                Some(written) = self.checkpoints.join_next() => {
                    self.checkpointed(written);
                    continue;
                }
                received = self.queue.recv_many(&mut waiting, MAX_BATCH) => received,
            };
            if received == 0 {
                return Ok(());
            }
            self.turn.computes(self.env.monotonic());
            order::largest_first(&self.state.fabric, &mut waiting);
            let mut rest = waiting.into_iter().peekable();
            while rest.peek().is_some() {
                let Err(error) = self.round(&mut rest).await else {
                    continue;
                };
                // Whoever waits is answered, not kept until the store is well again.
                refuse(rest.by_ref(), &error.to_string());
                self.recover(error).await?;
            }
            self.checkpoint_if_due();
        }
    }

    /// Decides, appends, publishes and answers as many commands as one batch holds.
    async fn round(
        &mut self,
        commands: &mut std::iter::Peekable<impl Iterator<Item = Waiting>>,
    ) -> Result<(), AppendError> {
        let limit = self.store.limits().payload_bytes();
        let mut staged = Staged::on(&self.state.fabric);
        let mut answers: Vec<(Reply, Result<Outcome, Error>)> = Vec::new();
        let mut batch = Batch::default();
        while let Some(next) = commands.peek() {
            let now = self.env.now();
            let context = Context {
                fabric: &staged.fabric,
                ask: &next.ask,
                now,
                rules: self.rules,
            };
            let began = self.env.monotonic();
            self.turn.computes(began);
            let decision = decide::decide(context);
            self.stats
                .decided(self.env.monotonic().saturating_sub(began));
            let answer = match decision {
                Err(denied) => {
                    self.stats.denied(&denied);
                    Err(Error::Denied(denied))
                }
                Ok(Decision { events, outcome }) if events.is_empty() => Ok(outcome),
                Ok(Decision { events, outcome }) => {
                    let (payload, events) = encode(now, &next.ask, events);
                    let size = entry_bytes(&payload);
                    if size + BATCH_OVERHEAD_BYTES > limit {
                        Err(Error::Denied(Denied::TooLarge { size, limit }))
                    } else if staged.bytes + size > limit {
                        break;
                    } else {
                        staged.put(payload, now, &events);
                        batch.take(&events);
                        Ok(outcome)
                    }
                }
            };
            if let Some(Waiting { reply, .. }) = commands.next() {
                answers.push((reply, answer));
            }
        }
        if !staged.payloads.is_empty() {
            let sealed = self.seal(&mut staged);
            if let Err(error) = self.append(&sealed).await {
                let reason = error.to_string();
                for (reply, _) in answers {
                    // Refusals too may rest on staged facts that never became true.
                    let _ = reply.send(Err(Error::Unavailable {
                        reason: reason.clone(),
                    }));
                }
                return Err(error);
            }
            self.publish(staged, &sealed);
            self.stats.published(&batch);
        }
        let snapshot = self.published.borrow().clone();
        for (reply, answer) in answers {
            let done = answer.map(|outcome| Done {
                outcome,
                snapshot: snapshot.clone(),
            });
            let _ = reply.send(done);
        }
        Ok(())
    }

    fn put_own(&self, staged: &mut Staged, event: Event) -> Result<(), Fatal> {
        let record = Record {
            version: log::VERSION,
            at: self.env.now(),
            by: Actor::controller(),
            from: String::new(),
            request_id: None,
            content: kapok_types::Digest::of(event.kind().as_bytes()),
            events: vec![event.clone()],
        };
        let payload = record.encode().map_err(|source| Fatal::Entry {
            seq: self.state.chain.head_seq.next(),
            source: log::Error::Unreadable(source),
        })?;
        staged.put(payload, record.at, &[event]);
        Ok(())
    }

    /// What is staged, as the chain's next batch.
    fn seal(&self, staged: &mut Staged) -> kapok_store::Batch {
        self.state.chain.seal(std::mem::take(&mut staged.payloads))
    }

    async fn append(&self, batch: &kapok_store::Batch) -> Result<(), AppendError> {
        let token: LeaderToken = self.leadership.token;
        let began = self.env.monotonic();
        let after = self.state.chain.head_seq;
        self.turn.waits();
        let appended = self.store.append(&token, after, batch).await;
        let ended = self.env.monotonic();
        self.turn.computes(ended);
        let took = ended.saturating_sub(began);
        self.stats.appended(took, appended.is_ok());
        appended
    }

    fn publish(&mut self, staged: Staged, batch: &kapok_store::Batch) {
        let Staged { fabric, dirty, .. } = staged;
        self.state.fabric = fabric;
        self.state.dirty.extend(dirty);
        if let Some(last) = batch.entries().last() {
            self.state.chain = Chain {
                head_seq: last.seq,
                head_hash: last.hash,
            };
        }
        let snapshot = Arc::new(self.state.snapshot(self.leadership.token.epoch));
        self.published.send_replace(snapshot);
    }

    /// After a failed or unknown append: drop the fabric, fold anew, or give up when fenced.
    async fn recover(&mut self, error: AppendError) -> Result<(), Fatal> {
        if let AppendError::Fenced { current } = error {
            error!(%current, "another controller leads; this one ends");
            return Err(Fatal::Fenced { current });
        }
        warn!(%error, "an append failed; folding the log anew");
        // The store may need a moment. Writes wait meanwhile, reads go on from the snapshot.
        self.turn.waits();
        let mut pause = std::time::Duration::from_millis(50);
        let mut lost = self.leadership.lost.clone();
        loop {
            let loaded = tokio::select! {
                biased;
                true = is_lost(&mut lost) => return Err(Fatal::Lost),
                loaded = State::load(&*self.store) => loaded,
            };
            match loaded {
                Ok(state) => {
                    self.state = state;
                    let snapshot = self.state.snapshot(self.leadership.token.epoch);
                    self.published.send_replace(Arc::new(snapshot));
                    return Ok(());
                }
                // What is damaged doesn't heal by waiting.
                Err(Fatal::Store(error)) if passes(&error) => {
                    warn!(%error, "the store doesn't answer yet");
                    let waiting = std::iter::from_fn(|| self.queue.try_recv().ok());
                    refuse(waiting, &error.to_string());
                    tokio::time::sleep(self.env.jittered(pause)).await;
                    pause = (pause * 2).min(std::time::Duration::from_secs(5));
                }
                Err(fatal) => return Err(fatal),
            }
        }
    }

    /// Begins to write a checkpoint if one is due and none is on its way. The ledger goes on
    /// meanwhile: the fabric that is written is the one of this moment.
    fn checkpoint_if_due(&mut self) {
        let head = self.state.chain.head();
        let since = head.seq.get().saturating_sub(self.state.checkpointed.get());
        if since < CHECKPOINT_EVERY || !self.checkpoints.is_empty() {
            return;
        }
        let (store, token) = (self.store.clone(), self.leadership.token);
        let fabric = self.state.fabric.clone();
        let keys = std::mem::take(&mut self.state.dirty);
        self.checkpoints.spawn(async move {
            let result = write_checkpoint(&*store, &token, &fabric, head, &keys).await;
            let at = head.seq;
            Written { at, keys, result }
        });
    }

    fn checkpointed(&mut self, written: Result<Written, JoinError>) {
        let Written { at, keys, result } = match written {
            Ok(written) => written,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only the ledger's own end cancels it.
            Err(_) => return,
        };
        match result {
            Ok(()) => {
                self.state.checkpointed = self.state.checkpointed.max(at);
                info!(seq = %at, "checkpoint written");
            }
            Err(error) => {
                // The log holds everything; the next one has these objects, too.
                warn!(%error, "the checkpoint was not written");
                self.state.dirty.extend(keys);
            }
        }
    }
}

/// Writes the objects of `keys` as they are in `fabric`, the fold of the log up to `head`.
async fn write_checkpoint<S: Store>(
    store: &S,
    token: &LeaderToken,
    fabric: &Fabric,
    head: Head,
    keys: &BTreeSet<Key>,
) -> Result<(), Unwritten> {
    let mut objects = Checkpoint {
        seq: head.seq,
        hash: head.hash,
        puts: Vec::new(),
        deletes: Vec::new(),
    };
    for (number, key) in keys.iter().enumerate() {
        if number % OBJECTS_AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
        let object = checkpoint::object(fabric, key).map_err(|source| Unwritten::Object {
            key: key.encode(),
            source,
        });
        match object? {
            Some(value) => objects.puts.push((key.encode(), Bytes::from(value))),
            None => objects.deletes.push(key.encode()),
        }
    }
    Ok(store.checkpoint(token, objects).await?)
}

/// Whether a failure of the store may pass by itself.
fn passes(error: &kapok_store::Error) -> bool {
    use kapok_store::Error as E;
    matches!(
        error,
        E::Full { .. } | E::Quota { .. } | E::Io { .. } | E::Unavailable { .. } | E::Stopped
    )
}

/// True once the leadership is known to be over; never, if nobody will ever say so.
async fn is_lost(lost: &mut watch::Receiver<bool>) -> bool {
    let said = lost.wait_for(|lost| *lost).await.is_ok();
    if !said {
        std::future::pending::<()>().await;
    }
    said
}

fn refuse(waiting: impl Iterator<Item = Waiting>, reason: &str) {
    for Waiting { reply, .. } in waiting {
        let reason = reason.to_owned();
        let _ = reply.send(Err(Error::Unavailable { reason }));
    }
}

/// An entry's bytes; gives the events back.
fn encode(now: Timestamp, ask: &Ask, events: Vec<Event>) -> (Bytes, Vec<Event>) {
    let record = Record {
        version: log::VERSION,
        at: now,
        by: ask.origin.by.clone(),
        from: ask.origin.from.clone(),
        request_id: ask.request_id.clone(),
        content: ask.content,
        events,
    };
    // Plain data: maps with text keys, numbers, text. It can't fail.
    (record.encode().unwrap_or_default(), record.events)
}
