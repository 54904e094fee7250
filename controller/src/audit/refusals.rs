//! Who was refused, collected and counted, and written as one entry every few seconds.
//!
//! Noting never blocks and never fails. Refusals alike (who, from where, what, on what kind of
//! thing, why) are one [`Refusal`] with a count. How many kinds are told apart is bounded, and how
//! many are written in a time is too, by a budget that refills slowly; what is over is counted
//! under "others". So a million refusals are a few entries, and nobody can fill the store.
//!
//! A crash loses what was noted since the last entry: refusals changed nothing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kapok_types::{Env, Timestamp};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Refusal;
use crate::{
    fabric::{Actor, Command, Origin},
    ledger,
};

/// Kinds that are told apart at a time.
const MAX_KINDS: usize = 1000;
/// Of them, those of one actor, so that nobody crowds the others out; and those of all who have not
/// shown who they are.
const MAX_KINDS_EACH: usize = 50;
const MAX_KINDS_ANONYMOUS: usize = 500;
/// Rows that may be written at once after a quiet time, and how fast that comes back.
const BURST_ROWS: u64 = 1000;
const ROW_EVERY: Duration = Duration::from_secs(1);
/// How often what was noted is written.
const ROUND: Duration = Duration::from_secs(10);
/// Longest text of each part of a refusal, in bytes: callers choose some of them.
const MAX_TEXT_BYTES: usize = 128;

/// Who was refused. Cheap to clone; clones are the same collection.
#[derive(Debug, Clone)]
pub struct Refusals {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Arc<dyn Env>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kinds: BTreeMap<Kind, Tally>,
    /// Those that were too many to be told apart.
    others: Option<Tally>,
    total: u64,
    /// When the budget would have been empty.
    empty_at: Option<Duration>,
}

/// What makes refusals alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    by: Actor,
    from: String,
    action: String,
    /// The kind of the object: what stands before its name.
    object: String,
    reason: String,
}

#[derive(Debug, Clone)]
struct Tally {
    object: String,
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Refusals {
    /// An empty collection.
    pub fn new(env: Arc<dyn Env>) -> Self {
        let state = Mutex::default();
        Self {
            inner: Arc::new(Inner { env, state }),
        }
    }

    /// Notes that somebody was refused: who, from which address, what they wanted, with what
    /// ("instance/web"), and the code of why not. Nothing secret may be in it.
    pub fn note(&self, by: &Actor, from: &str, action: &str, object: &str, reason: &str) {
        let now = self.inner.env.now();
        let kind = Kind {
            by: Actor(clean(&by.0).into()),
            from: clean(from),
            action: clean(action),
            object: clean(of_what_kind(object)),
            reason: clean(reason),
        };
        let tally = Tally {
            object: clean(object),
            count: 1,
            first: now,
            last: now,
        };
        let mut state = self.state();
        state.total += 1;
        state.add(kind, tally);
    }

    /// Notes the handshakes that an acceptor of this name refuses, with the address and the reason.
    pub fn handshakes(
        &self,
        acceptor: &'static str,
    ) -> impl Fn(kapok_trust::Reason, SocketAddr) + Send + Sync + use<> {
        let refusals = self.clone();
        move |reason, from| {
            let from = from.ip().to_canonical().to_string();
            refusals.note(&anonymous(), &from, "connect", acceptor, reason.as_str());
        }
    }

    /// How many were noted since the start.
    pub fn total(&self) -> u64 {
        self.state().total
    }

    /// What is to be written now, as far as the budget goes.
    pub(crate) fn take(&self, whole: bool) -> Vec<Refusal> {
        let now = self.inner.env.monotonic();
        let mut state = self.state();
        let budget = if whole { u64::MAX } else { state.budget(now) };
        let mut taken = Vec::new();
        while u64::try_from(taken.len()).is_ok_and(|rows| rows < budget) {
            // Those behind "others" are counted first: they stand for the most.
            if let Some(tally) = state.others.take() {
                taken.push(tally.told(Kind::others()));
            } else if let Some((kind, tally)) = state.kinds.pop_first() {
                taken.push(tally.told(kind));
            } else {
                break;
            }
        }
        state.spend(u64::try_from(taken.len()).unwrap_or(u64::MAX), now);
        taken
    }

    /// Takes back what could not be written.
    pub(crate) fn put_back(&self, refusals: Vec<Refusal>) {
        let mut state = self.state();
        for Refusal {
            by,
            from,
            action,
            object,
            reason,
            count,
            first,
            last,
        } in refusals
        {
            let kind = Kind {
                by,
                from,
                action,
                object: of_what_kind(&object).to_owned(),
                reason,
            };
            let tally = Tally {
                object,
                count,
                first,
                last,
            };
            if kind == Kind::others() {
                state.add_others(&tally);
            } else {
                state.add(kind, tally);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = &self.inner.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, kind: Kind, tally: Tally) {
        if let Some(known) = self.kinds.get_mut(&kind) {
            known.add(&tally, &kind.object);
        } else if self.kinds.len() < MAX_KINDS && !self.has_most(&kind.by) {
            self.kinds.insert(kind, tally);
        } else {
            self.add_others(&tally);
        }
    }

    /// Whether an actor has as many kinds as one may have.
    fn has_most(&self, by: &Actor) -> bool {
        let most = if *by == anonymous() {
            MAX_KINDS_ANONYMOUS
        } else {
            MAX_KINDS_EACH
        };
        let first = Kind {
            by: by.clone(),
            from: String::new(),
            action: String::new(),
            object: String::new(),
            reason: String::new(),
        };
        let own = self
            .kinds
            .range(first..)
            .take_while(|(kind, _)| kind.by == *by);
        own.take(most).count() >= most
    }

    fn add_others(&mut self, tally: &Tally) {
        match &mut self.others {
            Some(others) => others.add(tally, OTHERS),
            others => {
                *others = Some(Tally {
                    object: OTHERS.to_owned(),
                    ..tally.clone()
                });
            }
        }
    }

    /// Rows that may be written now.
    fn budget(&self, now: Duration) -> u64 {
        let full = ROW_EVERY * u32::try_from(BURST_ROWS).unwrap_or(u32::MAX);
        let saved = match self.empty_at {
            None => full,
            Some(empty_at) => now.saturating_sub(empty_at).min(full),
        };
        u64::try_from(saved.as_millis() / ROW_EVERY.as_millis()).unwrap_or(BURST_ROWS)
    }

    fn spend(&mut self, rows: u64, now: Duration) {
        let left = self.budget(now).saturating_sub(rows);
        let left = ROW_EVERY * u32::try_from(left).unwrap_or(u32::MAX);
        if rows > 0 {
            self.empty_at = Some(now.saturating_sub(left));
        }
    }
}

/// The kind of those that are not told apart.
const OTHERS: &str = "others";

impl Kind {
    fn others() -> Self {
        Self {
            by: Actor(OTHERS.into()),
            from: String::new(),
            action: OTHERS.to_owned(),
            object: OTHERS.to_owned(),
            reason: "TOO_MANY_KINDS".to_owned(),
        }
    }
}

impl Tally {
    fn add(&mut self, other: &Self, object_kind: &str) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        if self.object != other.object {
            object_kind.clone_into(&mut self.object);
        }
    }

    fn told(self, kind: Kind) -> Refusal {
        let Self {
            object,
            count,
            first,
            last,
        } = self;
        Refusal {
            by: kind.by,
            from: kind.from,
            action: kind.action,
            object,
            reason: kind.reason,
            count,
            first,
            last,
        }
    }
}

/// Whoever has not shown who they are.
fn anonymous() -> Actor {
    Actor("anonymous".into())
}

fn of_what_kind(object: &str) -> &str {
    object.split('/').next().unwrap_or_default()
}

/// Text that callers may have chosen, made short and printable.
fn clean(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text[..end].chars().map(printable).collect()
}

/// Writes what was noted until stopped, and then once more.
pub(super) async fn run(refusals: Refusals, ledger: ledger::Handle, stop: CancellationToken) {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            _ = round.tick() => false,
        };
        write(&refusals, &ledger, stopping).await;
        if stopping {
            return;
        }
    }
}

async fn write(refusals: &Refusals, ledger: &ledger::Handle, whole: bool) {
    let taken = refusals.take(whole);
    if taken.is_empty() {
        return;
    }
    let command = Command::RecordRefusals {
        refusals: taken.clone(),
    };
    if let Err(error) = ledger.submit(Origin::controller(), None, command).await {
        warn!(%error, "refusals could not be recorded yet");
        refusals.put_back(taken);
    }
}

#[cfg(test)]
mod tests;
