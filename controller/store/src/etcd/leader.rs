//! Who leads: the campaign, the lease that goes with a leadership, and who others see leading.
//!
//! Two keys, written in one transaction: `epoch`, which every write compares and which stays; and
//! `leader`, under a lease, which says that the leader lives. While it is there, other candidates wait.
//! It goes when the leadership is dropped, or by itself when the lease was not renewed. A token
//! whose `leader` key is gone is still in force until the next campaign: nobody else writes before.
//!
//! The timers here are for being told in time. What protects the log is the epoch.

use std::{sync::Arc, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use kapok_types::Epoch;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    calls::{Calls, Failure, Pauses, kv},
    keys::{Leader, corrupt},
    state::{self, Field, Value},
};
use crate::{Error, LeaderToken, Leadership};

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
            let next = state.epoch.max(floor).get().checked_add(1);
            let epoch = Epoch(next.ok_or_else(|| corrupt("no epoch is left"))?);
            let leader = Leader {
                candidate: candidate.to_owned(),
                epoch,
            };
            let granted_at = Instant::now();
            let (lease, ttl) = self.grant().await?;
            let as_seen = Compare::mod_revision(keys.leader(), CompareOp::Equal, seen.changed);
            let under_lease = PutOptions::new().with_lease(lease);
            let win = Txn::new()
                .when([
                    as_seen,
                    state.unchanged(keys, Field::Epoch),
                    state.unchanged(keys, Field::Format),
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
                    self.tasks.spawn(async move { revoke(&calls, lease).await });
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
                lease,
                ttl,
                revision,
                closed: self.closed.clone(),
            };
            self.tasks.spawn(leading.run(mine, granted_at));
            tracing::info!(candidate, epoch = epoch.get(), "leadership won");
            let token = LeaderToken { epoch };
            return Ok(Leadership { token, lost });
        }
    }

    /// A new lease and how long it lasts.
    async fn grant(&self) -> Result<(i64, Duration), Error> {
        let calls = &self.calls;
        let seconds = calls.lease_ttl().as_millis().div_ceil(1000);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        // One that was granted and not heard of ends by itself.
        let granting = calls.read(CAMPAIGNING, calls.until(), |client| {
            let mut leases = client.lease_client();
            async move { leases.grant(seconds, None).await }
        });
        let granted = granting.await?;
        let seconds = u64::try_from(granted.ttl()).unwrap_or_default();
        Ok((granted.id(), Duration::from_secs(seconds)))
    }
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
    lease: i64,
    ttl: Duration,
    /// When it was won.
    revision: i64,
    closed: CancellationToken,
}

impl Leading {
    async fn run(self, mine: watch::Sender<bool>, granted_at: Instant) {
        tokio::select! {
            () = mine.closed() => tracing::info!("leadership resigned"),
            () = self.closed.cancelled() => {}
            () = self.renew(granted_at) => tracing::warn!("leadership lost: the lease ran out"),
            () = self.superseded() => tracing::warn!("leadership lost: the leader key is gone or another's"),
        }
        mine.send_replace(true);
        revoke(&self.calls, self.lease).await;
    }

    /// Renews the lease until it can't be told to live any more: before it ends, not after.
    async fn renew(&self, granted_at: Instant) {
        let margin = self.ttl / 5;
        let mut lives_until = granted_at + self.ttl - margin;
        // Often enough that an election among the members fits in between.
        let (every, patience) = (self.ttl / 5, self.ttl / 4);
        sleep(every).await;
        loop {
            let asked_at = Instant::now();
            let left = lives_until.saturating_duration_since(asked_at);
            let lease = self.lease;
            // Sends one request and takes its answer; the next one may find another member.
            let renewing = |client: Client| async move {
                client.lease_client().keep_alive(lease).await.map(drop)
            };
            match self
                .calls
                .attempt(RENEWING, patience.min(left), renewing)
                .await
            {
                Ok(()) => {
                    lives_until = asked_at + self.ttl - margin;
                    sleep(every).await;
                }
                // It is gone.
                Err(Failure::Refused(_)) => return,
                Err(_) if Instant::now() >= lives_until => return,
                Err(_) => sleep(every / 10).await,
            }
        }
    }

    /// Waits until the key `leader` is no longer as it was when this was won.
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
