//! How anything is written: one guarded transaction, planned on what is known, again on what is.
//!
//! Each transaction compares the epoch with the token's and each value that its plan rests on. Where
//! a comparison fails, the same transaction says how things stand, and the plan is made anew. So a
//! plan may begin with what the last write left; a refusal is only ever given on a fresh view.
//!
//! An attempt whose answer was lost is made again. If the first one landed after all, the second's
//! comparisons fail, and the state shows what the first wrote: it landed once. A write ends as
//! unknown only if its deadline passes, or another leadership begins, before that is seen.

use std::{future::Future, sync::PoisonError};

use etcd_client::{Txn, TxnOp};
use kapok_types::{Epoch, Seq};
use tokio::time::Instant;

use super::{
    Inner,
    calls::Failure,
    state::{self, End, Field, First, State, Value},
};
use crate::{AppendError, Batch, Chain, Error, Head, LeaderToken, Limits, Use, WriteError};

/// What was sent, and its answer lost.
type Sent = Option<(Vec<Value>, State, Error)>;

/// What `error` means for a change of which `sent` may have landed.
fn failed<C: Change>(sent: &Sent, error: Error) -> C::Error {
    if sent.is_some() {
        C::Error::unknown(error)
    } else {
        error.into()
    }
}

/// An error that the guards and the way to etcd can become.
pub(super) trait Refusal: From<Error> {
    fn unknown(source: Error) -> Self;
    fn fenced(current: Epoch) -> Self;
}

impl Refusal for AppendError {
    fn unknown(source: Error) -> Self {
        Self::Unknown { source }
    }

    fn fenced(current: Epoch) -> Self {
        Self::Fenced { current }
    }
}

impl Refusal for WriteError {
    fn unknown(source: Error) -> Self {
        Self::Unknown { source }
    }

    fn fenced(current: Epoch) -> Self {
        Self::Fenced { current }
    }
}

/// What a change comes to in a given state.
pub(super) enum Plan {
    /// It is made already, or there is nothing to make.
    Nothing,
    /// The state was changed on the way: look again.
    Again,
    Write(Write),
}

/// One transaction.
#[derive(Default)]
pub(super) struct Write {
    /// What it rests on beside the epoch.
    pub(super) guards: Vec<Field>,
    /// The fixed values that it writes.
    pub(super) values: Vec<Value>,
    /// Everything else that it does.
    pub(super) operations: Vec<TxnOp>,
    /// What it makes of etcd's history that nobody needs, in bytes, roughly.
    pub(super) litter_bytes: u64,
}

/// A change that a leader makes.
pub(super) trait Change: Sync {
    type Error: Refusal + Send;
    const DOING: &'static str;

    /// What it comes to in `state`, which may be out of date where the plan's guards say so.
    fn plan(
        &self,
        store: &Inner,
        state: &State,
        until: Instant,
    ) -> impl Future<Output = Result<Plan, Self::Error>> + Send;
}

impl Inner {
    /// Makes `change` if `token` is in force.
    pub(super) async fn change<C: Change>(
        &self,
        token: LeaderToken,
        change: &C,
    ) -> Result<(), C::Error> {
        let mut until = self.calls.until();
        let mut attempts = self.calls.attempts(until);
        let mut known = self.known(token.epoch).map(|state| (state, false));
        // What was sent and may have landed: its values, the state it was planned on, what came back.
        let mut sent: Sent = None;
        loop {
            let (state, fresh) = match known.take() {
                Some(known) => known,
                None => match self.calls.state(C::DOING, until).await {
                    Ok(state) => (state, true),
                    Err(error) => return Err(failed::<C>(&sent, error)),
                },
            };
            if fresh {
                self.remember(&state);
            }
            if let Some((values, planned, _)) = &sent
                && state.shows(values, planned)
            {
                return Ok(());
            }
            let planned = if state.epoch == token.epoch {
                change.plan(self, &state, until).await
            } else {
                Err(C::Error::fenced(state.epoch))
            };
            let write = match planned {
                Ok(Plan::Write(write)) => write,
                Ok(Plan::Again) => {
                    // What it did on the way is not this change's time.
                    until = self.calls.until();
                    attempts = self.calls.attempts(until);
                    continue;
                }
                // Not on a view that may be old.
                Ok(Plan::Nothing) | Err(_) if !fresh => continue,
                Ok(Plan::Nothing) => return Ok(()),
                Err(refusal) => {
                    return Err(match sent {
                        Some((.., source)) => C::Error::unknown(source),
                        None => refusal,
                    });
                }
            };
            let transaction = self.transaction(token, &state, &write);
            let failure = match self
                .calls
                .transact(C::DOING, &mut attempts, transaction)
                .await
            {
                Ok(answer) if answer.succeeded() => {
                    let revision = state::revision(&answer).map_err(C::Error::unknown)?;
                    self.wrote(token.epoch, &write.values, revision);
                    self.compactor.littered(revision, write.litter_bytes);
                    return Ok(());
                }
                Ok(answer) => {
                    let found = State::found(&answer);
                    known = Some((found.map_err(|error| failed::<C>(&sent, error))?, true));
                    if !attempts.are_over() {
                        continue;
                    }
                    let source = "others keep changing what it rests on".into();
                    let doing = C::DOING;
                    Failure::Away(Error::Unavailable { doing, source })
                }
                Err(failure) => failure,
            };
            match failure {
                Failure::Full(error) => {
                    // No attempt is on its way any more but an earlier one.
                    let now = self.calls.state(C::DOING, until).await;
                    let now = now.map_err(C::Error::unknown)?;
                    if now.shows(&write.values, &state) {
                        return Ok(());
                    }
                    return Err(failed::<C>(&sent, error));
                }
                Failure::Away(error) if attempts.are_over() => {
                    return Err(match sent {
                        Some((.., source)) => C::Error::unknown(source),
                        None => error.into(),
                    });
                }
                Failure::Away(_) => known = known.or(Some((state, fresh))),
                Failure::Doubtful(error) => {
                    if attempts.are_over() {
                        return Err(C::Error::unknown(error));
                    }
                    sent = Some((write.values, state, error));
                }
                failure => {
                    return Err(match sent {
                        Some((.., source)) => C::Error::unknown(source),
                        None => Error::from(failure).into(),
                    });
                }
            }
            attempts.pause().await;
        }
    }

    fn transaction(&self, token: LeaderToken, state: &State, write: &Write) -> Txn {
        let keys = &self.calls.keys;
        let guards = write.guards.iter();
        let mut compares = vec![state::in_force(keys, token.epoch)];
        compares.extend(guards.map(|&field| state.unchanged(keys, field)));
        let mut operations: Vec<TxnOp> =
            write.values.iter().map(|value| value.write(keys)).collect();
        operations.extend(write.operations.iter().cloned());
        Txn::new()
            .when(compares)
            .and_then(operations)
            .or_else(State::gets(keys))
    }

    /// The state as this process last saw it, if that was in `epoch`.
    fn known(&self, epoch: Epoch) -> Option<State> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone().filter(|state| state.epoch == epoch)
    }

    pub(super) fn remember(&self, state: &State) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known
            .as_ref()
            .is_none_or(|known| known.revision < state.revision)
        {
            *known = Some(state.clone());
        }
    }

    fn wrote(&self, epoch: Epoch, values: &[Value], revision: i64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_mut().filter(|known| known.epoch == epoch) {
            for value in values {
                known.write(*value, revision);
            }
        }
    }
}

/// A batch at the log's end.
pub(super) struct Append<'a> {
    pub(super) after: Seq,
    pub(super) batch: &'a Batch,
}

impl Append<'_> {
    /// What is refused whatever the state is.
    pub(super) fn check(&self) -> Result<(), AppendError> {
        if self.batch.is_empty() {
            return Err(AppendError::Empty);
        }
        let (size_bytes, limit_bytes) = (self.batch.encoded_len(), Limits::ETCD.payload_bytes());
        if size_bytes > limit_bytes {
            return Err(AppendError::TooLarge {
                size_bytes,
                limit_bytes,
            });
        }
        Ok(())
    }
}

impl Change for Append<'_> {
    type Error = AppendError;
    const DOING: &'static str = "appending to the log";

    async fn plan(&self, store: &Inner, state: &State, _: Instant) -> Result<Plan, AppendError> {
        let end = state.end;
        if end.head.seq != self.after {
            let head = end.head.seq;
            return Err(AppendError::Conflict { head });
        }
        let chain = Chain::at(end.head);
        chain.verify(self.batch).map_err(AppendError::Broken)?;
        let key = store.calls.keys.batch(self.after.next(), end.bytes);
        let value = self.batch.encode();
        let end = End {
            head: self.batch.head(),
            bytes: end.bytes.saturating_add(self.batch.encoded_len()),
        };
        Ok(Plan::Write(Write {
            guards: vec![Field::Head],
            values: vec![Value::Head(end)],
            operations: vec![TxnOp::put(key, value, None)],
            // The head before it.
            litter_bytes: 256,
        }))
    }
}

/// The beginning of a log that moves here.
pub(super) struct Begin {
    pub(super) at: Head,
}

impl Change for Begin {
    type Error = WriteError;
    const DOING: &'static str = "beginning the log";

    async fn plan(&self, _: &Inner, state: &State, _: Instant) -> Result<Plan, WriteError> {
        let at = self.at;
        let head = state.end.head;
        let begun = state.begun.unwrap_or_default();
        let checkpoint = state.checkpoint.unwrap_or_default().seq;
        if head != begun || checkpoint != Seq::ZERO || ![at, Head::default()].contains(&begun) {
            return Err(WriteError::NotBlank {
                head: head.seq,
                checkpoint,
            });
        }
        if at == begun {
            return Ok(Plan::Nothing);
        }
        let first = First {
            seq: at.seq.next(),
            bytes: 0,
        };
        let end = End { head: at, bytes: 0 };
        Ok(Plan::Write(Write {
            guards: vec![Field::Head, Field::First, Field::Begun, Field::Checkpoint],
            values: vec![Value::Head(end), Value::First(first), Value::Begun(at)],
            ..Write::default()
        }))
    }
}

/// What the store is for from now on.
pub(super) struct PutUse {
    pub(super) using: Use,
}

impl Change for PutUse {
    type Error = WriteError;
    const DOING: &'static str = "saying what the store is for";

    async fn plan(&self, _: &Inner, _: &State, _: Instant) -> Result<Plan, WriteError> {
        Ok(Plan::Write(Write {
            guards: vec![Field::Use],
            values: vec![Value::Use(self.using)],
            ..Write::default()
        }))
    }
}
