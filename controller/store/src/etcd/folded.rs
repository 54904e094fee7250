//! What the writes of checkpoints and the trim do.
//!
//! A part is one value, under the generation of the checkpoint it is for. The commit makes the
//! generation current, all at once, by naming it as the one that settles. From there its parts move
//! to `objects`, one after the other, each in as many transactions as the limits ask for; whoever
//! reads takes what is settling before what isn't. A crash in between loses nothing: a part goes only
//! with the last of its objects, moving one again changes nothing, and the next commit, under whatever
//! leadership, finishes the move first. Parts belong to the epoch that staged them, so what a fenced
//! leader left is never committed by the next.

use std::collections::BTreeMap;

use bytes::{BufMut as _, Bytes, BytesMut};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, Txn, TxnOp};
use kapok_types::Seq;
use tokio::time::Instant;

use super::{
    Inner,
    calls::kv,
    change::{Change, Plan, Write},
    keys::corrupt,
    reads,
    state::{Field, First, Staged, State, Value},
};
use crate::{Error, Hash, Head, LeaderToken, Limits, Part, WriteError};

/// The encoding of parts, their first byte.
const PART_VERSION: u8 = 1;

/// What the transaction around the one that moves objects takes of etcd's operations: the reads of the
/// fixed values, should it fail.
///
/// Source: etcd counts a nested transaction's against what the outer one leaves.
const STEP_OVERHEAD_OPERATIONS: usize = 16;
/// What guards, bookkeeping and framing take of a transaction that moves objects, in bytes.
const STEP_OVERHEAD_BYTES: usize = 3 * 1024;
/// What a moved object takes beside its key, value and the prefix, in bytes.
const OPERATION_BYTES: usize = 40;

/// Puts, and deletes where nothing is to be put, in the order of their keys.
pub(super) type Moves = BTreeMap<String, Option<Bytes>>;

/// A part as one value.
fn encode(part: &Part) -> Bytes {
    // One operation per key, as a transaction wants it: what is deleted and put is put.
    let deletes = part.deletes.iter().map(|key| (key.clone(), None));
    let puts = part.puts.iter();
    let puts = puts.map(|(key, value)| (key.clone(), Some(value.clone())));
    let moves: Moves = deletes.chain(puts).collect();
    let mut out = BytesMut::new();
    out.put_u8(PART_VERSION);
    for (key, value) in &moves {
        out.put_u32(length(key.as_bytes()));
        out.put_slice(key.as_bytes());
        match value {
            Some(value) => {
                out.put_u8(1);
                out.put_u32(length(value));
                out.put_slice(value);
            }
            None => out.put_u8(0),
        }
    }
    out.freeze()
}

/// Within a transaction's limits, so within 32 bits.
fn length(of: &[u8]) -> u32 {
    u32::try_from(of.len()).unwrap_or(u32::MAX)
}

/// What a part's value says.
pub(super) fn decode(value: &[u8]) -> Result<Moves, Error> {
    let (version, mut rest) = value.split_first().ok_or_else(|| corrupt("bad part"))?;
    if *version != PART_VERSION {
        return Err(Error::Newer {
            found: u32::from(*version),
            known: u32::from(PART_VERSION),
        });
    }
    let mut moves = Moves::new();
    while !rest.is_empty() {
        let (key, value) = take_move(&mut rest).ok_or_else(|| corrupt("bad part"))?;
        moves.insert(key, value);
    }
    Ok(moves)
}

fn take_move(rest: &mut &[u8]) -> Option<(String, Option<Bytes>)> {
    let key = String::from_utf8(take_text(rest)?.to_vec()).ok()?;
    let value = match rest.split_off_first()? {
        0 => None,
        1 => Some(Bytes::copy_from_slice(take_text(rest)?)),
        _ => return None,
    };
    Some((key, value))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (text, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(text)
}

/// A part of the next checkpoint.
pub(super) struct Stage {
    token: LeaderToken,
    index: u32,
    value: Bytes,
}

impl Stage {
    pub(super) fn of(token: LeaderToken, part: &Part) -> Result<Self, WriteError> {
        part.check(Limits::ETCD)?;
        Ok(Self {
            token,
            index: part.index,
            value: encode(part),
        })
    }
}

impl Change for Stage {
    type Error = WriteError;
    const DOING: &'static str = "staging a checkpoint";

    async fn plan(&self, store: &Inner, state: &State, _: Instant) -> Result<Plan, WriteError> {
        let staged = state.staged_by(self.token.epoch);
        if self.index > staged {
            return Err(WriteError::MissingPart {
                staged,
                needed: self.index,
            });
        }
        let keys = &store.calls.keys;
        let generation = state.staged.generation;
        let key = keys.part(generation, self.index);
        // Everything behind it is of an earlier attempt.
        let behind = DeleteOptions::new().with_range(keys.parts_end(generation));
        let delete = TxnOp::delete(format!("{key}\0"), Some(behind));
        let staged = Staged {
            epoch: self.token.epoch,
            generation,
            parts: self.index.saturating_add(1),
            digest: Hash::link(state.staged.digest, Seq(self.index.into()), &self.value),
        };
        Ok(Plan::Write(Write {
            guards: vec![Field::Staged],
            values: vec![Value::Staged(staged)],
            operations: vec![delete, TxnOp::put(key, self.value.as_ref(), None)],
            // Once it has settled.
            litter_bytes: u64::from(length(&self.value)),
        }))
    }
}

/// The staged parts become the current checkpoint's.
pub(super) struct Commit {
    pub(super) token: LeaderToken,
    pub(super) at: Head,
    pub(super) parts: u32,
}

impl Change for Commit {
    type Error = WriteError;
    const DOING: &'static str = "committing a checkpoint";

    async fn plan(&self, store: &Inner, state: &State, until: Instant) -> Result<Plan, WriteError> {
        let (at, needed) = (self.at, self.parts);
        let staged = state.staged_by(self.token.epoch);
        if staged != needed {
            return Err(WriteError::MissingPart { staged, needed });
        }
        let head = state.end.head;
        if at.seq > head.seq {
            return Err(WriteError::AheadOfLog {
                seq: at.seq,
                head: head.seq,
            });
        }
        let current = state.checkpoint.unwrap_or_default();
        if at.seq < current.seq {
            return Err(WriteError::BehindCurrent {
                seq: at.seq,
                current: current.seq,
            });
        }
        if at != current && Some(at) != state.begun && at != head {
            let hash = reads::hash(&store.calls, Self::DOING, at.seq, None, until).await;
            if hash.map_err(Error::from)? != Some(at.hash) {
                return Err(WriteError::OtherHistory { seq: at.seq });
            }
        }
        if state.settling.is_some() {
            // What a crash left goes first.
            store.settle(self.token).await?;
            return Ok(Plan::Again);
        }
        let keys = &store.calls.keys;
        let generation = state.staged.generation;
        let next = Staged {
            epoch: self.token.epoch,
            generation: generation.saturating_add(1),
            parts: 0,
            digest: Hash::ZERO,
        };
        let mut write = Write {
            guards: vec![Field::Staged, Field::Checkpoint, Field::Settling],
            values: vec![Value::Checkpoint(at), Value::Staged(next)],
            ..Write::default()
        };
        if needed > 0 {
            write.values.push(Value::Settling(Some(generation)));
        } else {
            let all = DeleteOptions::new().with_range(keys.parts_end(generation));
            let delete = TxnOp::delete(keys.parts(generation), Some(all));
            write.operations.push(delete);
        }
        Ok(Plan::Write(write))
    }
}

/// Some of the objects of the generation that settles.
struct Settle {
    generation: u64,
    operations: Vec<TxnOp>,
    /// Whether nothing is left to settle with this.
    last: bool,
}

impl Change for Settle {
    type Error = WriteError;
    const DOING: &'static str = "settling a checkpoint";

    async fn plan(&self, _: &Inner, state: &State, _: Instant) -> Result<Plan, WriteError> {
        if state.settling != Some(self.generation) {
            return Ok(Plan::Nothing);
        }
        Ok(Plan::Write(Write {
            guards: vec![Field::Settling],
            values: Vec::from_iter(self.last.then_some(Value::Settling(None))),
            operations: self.operations.clone(),
            litter_bytes: 0,
        }))
    }
}

impl Inner {
    /// Moves what settles to where it stays. What is read is the same before, meanwhile and after.
    pub(super) async fn settle(&self, token: LeaderToken) -> Result<(), WriteError> {
        const DOING: &str = Settle::DOING;
        let keys = &self.calls.keys;
        let state = self.calls.state(DOING, self.calls.until()).await?;
        let Some(generation) = state.settling else {
            return Ok(());
        };
        let step = |operations, last| Settle {
            generation,
            operations,
            last,
        };
        loop {
            let read = self.calls.read(DOING, self.calls.until(), |client| {
                let first = GetOptions::new()
                    .with_range(keys.parts_end(generation))
                    .with_limit(1);
                async move { kv(&client).get(keys.parts(generation), Some(first)).await }
            });
            let mut read = read.await.map_err(Error::from)?;
            let Some((key, value)) = read.take_kvs().pop().map(KeyValue::into_key_value) else {
                return self.change(token, &step(Vec::new(), true)).await;
            };
            let mut steps = self.steps(decode(&value)?);
            // Only as long as the part is there: a step whose answer was lost, and which comes late, would
            // put back what later parts have replaced.
            let there = Compare::create_revision(key.as_slice(), CompareOp::Greater, 0);
            let gone = TxnOp::delete(key, None);
            match steps.last_mut() {
                Some(last) => last.push(gone),
                None => steps.push(vec![gone]),
            }
            for operations in steps {
                let moving = Txn::new().when([there.clone()]).and_then(operations);
                self.change(token, &step(vec![TxnOp::txn(moving)], false))
                    .await?;
            }
        }
    }

    /// Moves, cut so that each piece fits a transaction along with the guards.
    fn steps(&self, moves: Moves) -> Vec<Vec<TxnOp>> {
        let limit = Limits::ETCD.bytes_per_transaction;
        let room = usize::try_from(limit).unwrap_or(usize::MAX) - STEP_OVERHEAD_BYTES;
        let most = usize::try_from(Limits::ETCD.operations_per_transaction).unwrap_or(usize::MAX)
            - STEP_OVERHEAD_OPERATIONS;
        let mut steps: Vec<Vec<TxnOp>> = Vec::new();
        let mut left = 0;
        for (key, value) in moves {
            let key = self.calls.keys.object(&key);
            let size = key.len() + value.as_ref().map_or(0, Bytes::len) + OPERATION_BYTES;
            let operation = match value {
                Some(value) => TxnOp::put(key, value, None),
                None => TxnOp::delete(key, None),
            };
            match steps.last_mut() {
                Some(step) if step.len() < most && size <= left => {
                    left -= size;
                    step.push(operation);
                }
                _ => {
                    left = room.saturating_sub(size);
                    steps.push(vec![operation]);
                }
            }
        }
        steps
    }
}

/// The log's beginning moves to the batch that holds a position.
pub(super) struct Trim {
    pub(super) before: Seq,
}

impl Change for Trim {
    type Error = WriteError;
    const DOING: &'static str = "trimming the log";

    async fn plan(&self, store: &Inner, state: &State, until: Instant) -> Result<Plan, WriteError> {
        let before = self.before;
        let checkpoint = state.checkpoint.unwrap_or_default().seq;
        if before.get() > checkpoint.get().saturating_add(1) {
            return Err(WriteError::PastCheckpoint { before, checkpoint });
        }
        if before <= state.first.seq {
            return Ok(Plan::Nothing);
        }
        let head = state.end.head.seq;
        let (seq, bytes) = if before > head {
            (head.next(), state.end.bytes)
        } else {
            let holder = store.calls.holder(Self::DOING, before, None, until).await;
            match holder.map_err(Error::from)? {
                Some(place) => place,
                // Somebody trimmed it meanwhile: the next look shows that.
                None => return Ok(Plan::Nothing),
            }
        };
        if seq <= state.first.seq {
            return Ok(Plan::Nothing);
        }
        let keys = &store.calls.keys;
        let dropped = DeleteOptions::new().with_range(keys.batches_from(seq));
        Ok(Plan::Write(Write {
            guards: vec![Field::First],
            values: vec![Value::First(First { seq, bytes })],
            operations: vec![TxnOp::delete(keys.log(), Some(dropped))],
            litter_bytes: bytes.saturating_sub(state.first.bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_round_trip_and_fit() {
        let part = Part {
            index: 0,
            puts: vec![
                ("a".to_owned(), "1".into()),
                ("城/北京".to_owned(), Bytes::new()),
            ],
            deletes: vec!["a".to_owned(), "b".to_owned()],
        };
        let value = encode(&part);
        let moves = decode(&value).unwrap();
        let expected: Moves = [
            ("a".to_owned(), Some("1".into())),
            ("b".to_owned(), None),
            ("城/北京".to_owned(), Some(Bytes::new())),
        ]
        .into();
        assert_eq!(moves, expected);
        assert!(u64::from(length(&value)) <= part.size_bytes());
        for cut in 1..value.len() {
            // A cut between two objects can't be seen, and etcd keeps values whole.
            let _ = decode(&value[..cut]);
        }
        assert!(decode(&value[..value.len() - 1]).is_err());
        assert!(decode(&[]).is_err());
        assert!(matches!(decode(&[9]), Err(Error::Newer { found: 9, .. })));
    }
}
