//! Who leads: the campaign, the lease that goes with a leadership, and who others see leading.
//!
//! Two keys, written in one transaction: `epoch`, which every write compares and which stays; and
//! `leader`, under a lease, which says that the leader lives. While it is there, other candidates wait.
//! It goes when the leadership is dropped, or by itself when the lease was not renewed. A token
//! whose `leader` key is gone is still in force until the next campaign: nobody else writes before.
//!
//! What protects the log is the epoch, so a leader that hears nothing of etcd goes on: its writes fail
//! as long as that lasts, and a leadership is not lost by it. Once etcd answers again and the lease has
//! run out, the leader puts its key back under a new one, unless somebody else leads by then.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use kapok_types::Epoch;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    calls::{Calls, Failure, Pauses, kv},
    keys::corrupt,
    state::{self, Field, Value},
};
use crate::{Error, Leader, LeaderToken, Leadership, Use};

const CAMPAIGNING: &str = "campaigning";
const RENEWING: &str = "renewing the lease";

/// The key `leader` as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    leader: Option<Leader>,
    /// When the key was made or changed; 0 if it is absent.
    changed: i64,
    /// When it was looked at.
    revision: i64,
}

async fn see(calls: &Calls) -> Result<Seen, Error> {
    let read = calls.read("looking for the leader", calls.until(), |client| {
        let key = calls.keys.leader();
        let get = Txn::new().and_then([TxnOp::get(key, None)]);
        async move { kv(&client).txn(get).await }
    });
    let answer = read.await?;
    let revision = state::revision(&answer)?;
    let Some(TxnOpResponse::Get(mut got)) = answer.op_responses().pop() else {
        return Err(corrupt("etcd answers another question"));
    };
    let pair = got.take_kvs().pop();
    let leader = pair.as_ref().map(|pair| Leader::decode(pair.value()));
    Ok(Seen {
        leader: leader.transpose()?,
        changed: pair.map_or(0, |pair| pair.mod_revision()),
        revision,
    })
}

/// Waits until the key `leader` is changed or gone after `revision`, or until it is time to look:
/// when it can't be told any more, and when a lease has passed, as a member that froze tells nothing.
async fn changed(calls: &Calls, revision: i64) {
    let _told_or_not = timeout(calls.lease_ttl(), told(calls, revision)).await;
}

async fn told(calls: &Calls, revision: i64) {
    let options = WatchOptions::new().with_start_revision(revision.saturating_add(1));
    let opening = calls.watch("watching the leader", calls.keys.leader(), options);
    let Ok(mut stream) = opening.await else {
        return;
    };
    while let Ok(Some(message)) = stream.message().await {
        if message.canceled() || !message.events().is_empty() {
            return;
        }
    }
}

impl Inner {
    pub(super) async fn campaign(
        &self,
        candidate: &str,
        floor: Epoch,
        check: fn(Use) -> Result<(), Error>,
    ) -> Result<Leadership, Error> {
        let (calls, keys) = (&self.calls, &self.calls.keys);
        let mut attempts = calls.attempts(calls.until());
        loop {
            let seen = see(calls).await?;
            if let Some(leader) = &seen.leader
                && leader.candidate != candidate
            {
                changed(calls, seen.revision).await;
                attempts = calls.attempts(calls.until());
                continue;
            }
            let state = calls.state(CAMPAIGNING, calls.until()).await?;
            check(state.using)?;
            let next = state.epoch.max(floor).get().checked_add(1);
            let epoch = Epoch(next.ok_or_else(|| corrupt("no epoch is left"))?);
            let leader = Leader {
                candidate: candidate.to_owned(),
                epoch,
            };
            let lease = grant(calls).await?;
            let as_seen = Compare::mod_revision(keys.leader(), CompareOp::Equal, seen.changed);
            let under_lease = PutOptions::new().with_lease(lease.id);
            let win = Txn::new()
                .when([
                    as_seen,
                    state.unchanged(keys, Field::Epoch),
                    state.unchanged(keys, Field::Format),
                    state.unchanged(keys, Field::Use),
                ])
                .and_then([
                    Value::Epoch(epoch).write(keys),
                    TxnOp::put(keys.leader(), leader.encode(), Some(under_lease)),
                ]);
            let won = calls.transact(CAMPAIGNING, &mut attempts, win).await;
            let revision = match won {
                Ok(answer) if answer.succeeded() => state::revision(&answer)?,
                lost => {
                    // Another came first; or the answer did not come: what was won then ends here.
                    let calls = Arc::clone(calls);
                    self.tasks
                        .spawn(async move { revoke(&calls, lease.id).await });
                    match lost {
                        Ok(_) => {}
                        Err(Failure::Away(_) | Failure::Doubtful(_)) if !attempts.are_over() => {
                            attempts.pause().await;
                        }
                        Err(failure) => return Err(failure.into()),
                    }
                    continue;
                }
            };
            let mut state = state;
            state.revision = revision;
            state.epoch = epoch;
            state.write(Value::Epoch(epoch), revision);
            self.remember(&state);
            let (mine, lost) = watch::channel(false);
            let leading = Leading {
                calls: Arc::clone(calls),
                leader,
                lease,
                revision,
                closed: self.closed.clone(),
            };
            self.tasks.spawn(leading.run(mine));
            tracing::info!(candidate, epoch = epoch.get(), "leadership won");
            let token = LeaderToken { epoch };
            return Ok(Leadership { token, lost });
        }
    }
}

/// A lease as it was granted.
#[derive(Debug, Clone, Copy)]
struct Lease {
    id: i64,
    ttl: Duration,
}

async fn grant(calls: &Calls) -> Result<Lease, Error> {
    let seconds = calls.lease_ttl().as_millis().div_ceil(1000);
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    // One that was granted and not heard of ends by itself.
    let granting = calls.read("taking a lease", calls.until(), |client| {
        let mut leases = client.lease_client();
        async move { leases.grant(seconds, None).await }
    });
    let granted = granting.await?;
    let seconds = u64::try_from(granted.ttl()).unwrap_or_default();
    Ok(Lease {
        id: granted.id(),
        ttl: Duration::from_secs(seconds),
    })
}

/// Ends a lease, if it can be done in time; otherwise it ends by itself.
async fn revoke(calls: &Calls, lease: i64) {
    let revoking = calls.read("resigning", calls.until(), |client| {
        let mut leases = client.lease_client();
        async move { leases.revoke(lease).await }
    });
    if let Err(failure) = revoking.await {
        let error = Error::from(failure);
        tracing::debug!(%error, "a lease is left to end by itself");
    }
}

/// A leadership that was won, until it is over.
struct Leading {
    calls: Arc<Calls>,
    /// What the key `leader` says as long as this lasts.
    leader: Leader,
    /// The lease that it is under, as far as that is known.
    lease: Lease,
    /// When it was last written.
    revision: i64,
    closed: CancellationToken,
}

impl Leading {
    async fn run(mut self, mine: watch::Sender<bool>) {
        let closed = self.closed.clone();
        tokio::select! {
            () = mine.closed() => tracing::info!("leadership resigned"),
            () = closed.cancelled() => {}
            () = self.hold() => tracing::warn!("leadership lost: another one was won since"),
        }
        mine.send_replace(true);
        revoke(&self.calls, self.lease.id).await;
    }

    /// Keeps the key `leader` there until another leads.
    async fn hold(&mut self) {
        let mut pauses = Pauses::new();
        loop {
            tokio::select! {
                () = self.renew() => {}
                () = self.superseded() => {}
            }
            loop {
                match self.put_back().await {
                    Ok(true) => break,
                    Ok(false) => return,
                    Err(error) => tracing::debug!(%error, "the leader key isn't put back yet"),
                }
                pauses.pause().await;
            }
        }
    }

    /// Renews the lease until it is gone. While nobody answers it may live or not.
    async fn renew(&self) {
        let Lease { id, ttl } = self.lease;
        // Often enough that an election among the members fits in between.
        let (every, patience) = (ttl / 5, ttl / 4);
        sleep(every).await;
        loop {
            // Sends one request and takes its answer; the next one may find another member.
            let renewing = |client: Client| async move {
                client.lease_client().keep_alive(id).await.map(drop)
            };
            match self.calls.attempt(RENEWING, patience, renewing).await {
                Ok(()) => sleep(every).await,
                Err(Failure::Refused(_)) => return,
                Err(_) => sleep(every / 10).await,
            }
        }
    }

    /// Waits until the key `leader` is no longer as this last wrote it.
    async fn superseded(&self) {
        let mut pauses = Pauses::new();
        loop {
            if let Ok(seen) = see(&self.calls).await {
                if seen.changed != self.revision {
                    return;
                }
                pauses = Pauses::new();
                changed(&self.calls, seen.revision).await;
            }
            pauses.pause().await;
        }
    }

    /// Puts the key `leader` under a new lease, and says whether it could: not when another leads, or
    /// did since.
    async fn put_back(&mut self) -> Result<bool, Error> {
        const DOING: &str = "putting the leader key back";
        let keys = &self.calls.keys;
        let seen = see(&self.calls).await?;
        if seen.leader.is_some_and(|leader| leader != self.leader) {
            return Ok(false);
        }
        if self.calls.state(DOING, self.calls.until()).await?.epoch != self.leader.epoch {
            return Ok(false);
        }
        // Whatever becomes of it, this is the one to give back in the end; the one before runs out.
        self.lease = grant(&self.calls).await?;
        let under_lease = PutOptions::new().with_lease(self.lease.id);
        let put = Txn::new()
            .when([
                state::in_force(keys, self.leader.epoch),
                Compare::mod_revision(keys.leader(), CompareOp::Equal, seen.changed),
            ])
            .and_then([TxnOp::put(
                keys.leader(),
                self.leader.encode(),
                Some(under_lease),
            )]);
        let mut attempts = self.calls.attempts(self.calls.until());
        let answer = self.calls.transact(DOING, &mut attempts, put).await?;
        if !answer.succeeded() {
            let source = "it was changed meanwhile".into();
            let doing = DOING;
            return Err(Error::Unavailable { doing, source });
        }
        self.revision = state::revision(&answer)?;
        tracing::info!("the lease had run out; the leadership goes on under a new one");
        Ok(true)
    }
}

/// Keeps `told` at who leads, until the store is dropped. While etcd can't be asked, it stays at the
/// last that was known.
pub(super) async fn tell(
    calls: Arc<Calls>,
    told: watch::Sender<Option<Leader>>,
    closed: CancellationToken,
) {
    let telling = async {
        let mut pauses = Pauses::new();
        loop {
            if let Ok(seen) = see(&calls).await {
                told.send_if_modified(|known| {
                    let news = *known != seen.leader;
                    known.clone_from(&seen.leader);
                    news
                });
                pauses = Pauses::new();
                changed(&calls, seen.revision).await;
            }
            pauses.pause().await;
        }
    };
    tokio::select! {
        () = telling => {}
        () = closed.cancelled() => {}
        () = told.closed() => {}
    }
}

/// Who leads now, if anybody does.
pub(super) async fn leader(calls: &Calls) -> Result<Option<Leader>, Error> {
    Ok(see(calls).await?.leader)
}
