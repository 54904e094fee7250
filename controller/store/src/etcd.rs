//! The backend for several controllers: the log in an etcd cluster.
//!
//! [`Etcd`] is a cheap handle. `keys` says what lies where; `state` is the few fixed values that
//! every write compares and changes; `change` is how anything is written, `folded` what checkpoints
//! and trims are in it, `reads` and `follow` how it is read; `leader` is who may write; `calls` is the
//! one way to etcd, with deadlines and attempts at other members; `compactor` keeps the database small;
//! `health` and `figures` say how it is.
//!
//! **Invariants.** Every write is a transaction that compares the key `epoch` with its token's: a leader
//! that slept writes nothing, whoever's clock says what. What the guards of a write read and what
//! it writes is one transaction. A write's loss of an answer is never a failure: it is looked up, or
//! unknown.
//!
//! **Absent on purpose.** It sets up no cluster, changes no member and defragments nothing: that is
//! the work of etcd's own tools. It needs a cluster of its own: the history of all keys is compacted.
//! What it can't tell: that the cluster was set back to an older copy. A head kept elsewhere tells,
//! and a campaign above the agents' epochs goes on from there.

mod calls;
mod change;
mod compactor;
mod figures;
mod folded;
mod follow;
mod health;
mod keys;
mod leader;
mod options;
mod reads;
mod state;

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use etcd_client::{Compare, CompareOp, Txn};
use futures::stream::BoxStream;
use kapok_types::{Epoch, Seq};
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::options::{EtcdOptions, EtcdTls, EtcdUser};
use self::{
    calls::{Calls, Failure},
    change::{Append, Begin, PutUse},
    compactor::Compactor,
    folded::{Commit, Stage, Trim},
    reads::Most,
    state::State,
};
use crate::{
    AppendError, Batch, Error, Extent, Follow, Head, Leader, LeaderToken, Leadership, Limits,
    LoadedCheckpoint, Part, Read, Store, Stored, Use, WriteError,
    health::{Figures, Health},
};

/// The store in an etcd cluster. Clones are handles on the same connection.
#[derive(Debug, Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

/// One opening of the store.
struct Inner {
    calls: Arc<Calls>,
    options: Arc<EtcdOptions>,
    /// The fixed values as this process last saw or wrote them: plans begin with these.
    known: Mutex<Option<State>>,
    compactor: Compactor,
    leaders: OnceLock<watch::Receiver<Option<Leader>>>,
    /// What runs beside the calls, all of it until `closed`.
    tasks: TaskTracker,
    closed: CancellationToken,
    _closing: DropGuard,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("endpoints", &self.options.endpoints)
            .field("prefix", &self.calls.keys.prefix())
            .finish_non_exhaustive()
    }
}

impl Etcd {
    /// Opens the store below the options' prefix, or makes it if nothing is there.
    ///
    /// # Errors
    /// [`Error::Options`], [`Error::Unavailable`] and [`Error::Untrusted`] if no member can be asked,
    /// [`Error::Newer`] and [`Error::Corrupt`] if what is there can't be trusted: it is then left as
    /// it is.
    pub async fn open(options: EtcdOptions) -> Result<Self, Error> {
        let options = Arc::new(options);
        let calls = Arc::new(Calls::new(Arc::clone(&options))?);
        let mut state = reads::verify(&calls).await?;
        if state.format.is_none() {
            make(&calls).await?;
            state = reads::verify(&calls).await?;
        }
        tracing::debug!(head = state.end.head.seq.get(), "store opened");
        let closed = CancellationToken::new();
        Ok(Self {
            inner: Arc::new(Inner {
                calls,
                options,
                known: Mutex::new(Some(state)),
                compactor: Compactor::default(),
                leaders: OnceLock::new(),
                tasks: TaskTracker::new(),
                _closing: closed.clone().drop_guard(),
                closed,
            }),
        })
    }

    /// Who leads, if anybody does: asked now.
    ///
    /// # Errors
    /// When etcd can't be asked.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        leader::leader(&self.inner.calls).await
    }

    /// Ends leaderships and followers of this opening, and waits until the leases are given back,
    /// so that another controller can lead at once. For a process that is about to end: no handle of
    /// this opening leads or follows afterwards.
    pub async fn close(self) {
        self.inner.closed.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn compact(&self, trimmed: bool) {
        let inner = &self.inner;
        let Some(revision) = inner.compactor.due(trimmed) else {
            return;
        };
        let compacting = compactor::compact(Arc::clone(&inner.calls), revision);
        if trimmed {
            compacting.await;
        } else {
            // An append doesn't wait for it.
            inner.tasks.spawn(compacting);
        }
    }
}

/// Makes a blank store, unless somebody else does at the same time.
async fn make(calls: &Calls) -> Result<(), Error> {
    const DOING: &str = "making the store";
    let mut attempts = calls.attempts(calls.until());
    loop {
        let keys = &calls.keys;
        let absent = Compare::create_revision(keys.of("format"), CompareOp::Equal, 0);
        let made = Txn::new().when([absent]).and_then(state::blank(keys));
        match calls.transact(DOING, &mut attempts, made).await {
            Ok(_) => return Ok(()),
            // Landed or not, it is found or made the next time.
            Err(Failure::Away(_) | Failure::Doubtful(_)) if !attempts.are_over() => {
                attempts.pause().await;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
}

impl Store for Etcd {
    fn limits(&self) -> Limits {
        Limits::ETCD
    }

    async fn campaign_above(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        self.inner.campaign(candidate, floor, Use::check).await
    }

    async fn campaign_moving(&self, candidate: &str, floor: Epoch) -> Result<Leadership, Error> {
        self.inner.campaign(candidate, floor, |_| Ok(())).await
    }

    fn lease_ttl(&self) -> Duration {
        self.inner.calls.lease_ttl()
    }

    fn leaders(&self) -> watch::Receiver<Option<Leader>> {
        let inner = &self.inner;
        let told = inner.leaders.get_or_init(|| {
            let (told, leaders) = watch::channel(None);
            let (calls, closed) = (Arc::clone(&inner.calls), inner.closed.clone());
            inner.tasks.spawn(leader::tell(calls, told, closed));
            leaders
        });
        told.clone()
    }

    async fn health(&self) -> Option<Health> {
        Some(health::health(&self.inner.calls, &self.inner.options).await)
    }

    fn figures(&self) -> Option<Figures> {
        Some(Figures {
            reads: self.inner.calls.reads.figures(),
            writes: self.inner.calls.writes.figures(),
        })
    }

    async fn get_use(&self) -> Result<Use, Error> {
        reads::using(&self.inner.calls).await
    }

    async fn put_use(&self, token: &LeaderToken, using: Use) -> Result<(), WriteError> {
        self.inner.change(*token, &PutUse { using }).await
    }

    async fn append(
        &self,
        token: &LeaderToken,
        after: Seq,
        batch: &Batch,
    ) -> Result<(), AppendError> {
        let append = Append { after, batch };
        append.check()?;
        self.inner.change(*token, &append).await?;
        self.compact(false).await;
        Ok(())
    }

    async fn begin(&self, token: &LeaderToken, at: Head) -> Result<(), WriteError> {
        self.inner.change(*token, &Begin { at }).await
    }

    async fn head(&self) -> Result<Head, Error> {
        reads::head(&self.inner.calls).await
    }

    async fn read(&self, from: Seq, max_batches: usize) -> Result<Read, Error> {
        let most = Most {
            batches: max_batches,
            bytes: usize::MAX,
        };
        let (read, _) = reads::read(&self.inner.calls, from, most).await?;
        Ok(read)
    }

    async fn extent(&self) -> Result<Extent, Error> {
        reads::extent(&self.inner.calls).await
    }

    async fn stored(&self, from: Seq, max_batches: usize) -> Result<Vec<Stored>, Error> {
        reads::stored(&self.inner.calls, from, max_batches).await
    }

    fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>> {
        let inner = &self.inner;
        follow::follow(Arc::clone(&inner.calls), inner.closed.clone(), from)
    }

    async fn stage(&self, token: &LeaderToken, part: Part) -> Result<(), WriteError> {
        let stage = Stage::of(*token, &part)?;
        self.inner.change(*token, &stage).await
    }

    async fn commit(&self, token: &LeaderToken, at: Head, parts: u32) -> Result<(), WriteError> {
        let token = *token;
        let commit = Commit { token, at, parts };
        self.inner.change(token, &commit).await?;
        // It is the current one now, whatever becomes of the rest: the next commit goes on with it.
        if let Err(error) = self.inner.settle(token).await {
            tracing::debug!(%error, "a checkpoint is left to settle with the next");
        }
        self.compact(false).await;
        Ok(())
    }

    async fn load_checkpoint(&self) -> Result<Option<LoadedCheckpoint>, Error> {
        reads::load_checkpoint(&self.inner.calls).await
    }

    async fn trim(&self, token: &LeaderToken, before: Seq) -> Result<(), WriteError> {
        self.inner.change(*token, &Trim { before }).await?;
        self.compact(true).await;
        Ok(())
    }
}
