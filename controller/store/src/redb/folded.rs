//! What the writes of checkpoints, the trim and the beginning of a log that moves here do.
//!
//! Parts wait in the table `staged` until the commit makes them current, all at once, by giving their
//! table another name: `settling`. From there they move to `objects` in steps, and appends go on
//! between two steps; whoever reads takes what is settling before what isn't. A crash in between
//! loses nothing: the next commit finishes the move first. Parts belong to the epoch that staged them,
//! so what a fenced leader left is never committed by the next.
//!
//! Staging and settling aren't made durable one by one: a crash takes back a part that nothing
//! rests on yet, or a step that is then made again.

use ::redb::{ReadableTable as _, WriteTransaction};
use kapok_types::{Epoch, Seq};

use super::{
    engine::{Engine, failed},
    reads,
    tables::{self, corrupt},
    writes::{self, Meta},
};
use crate::{Error, Head, LeaderToken, Limits, Part, Use, WriteError};

/// Objects that one step settles: a few milliseconds.
const STEP: usize = 256;

fn guard(meta: &Meta<'_>, token: LeaderToken) -> Result<(), WriteError> {
    writes::fenced_by(meta, token)?.map_or(Ok(()), |current| Err(WriteError::Fenced { current }))
}

/// How many parts the leadership of `token` has staged.
fn staged(meta: &Meta<'_>, token: LeaderToken) -> Result<u32, Error> {
    let Some(bytes) = tables::value(meta, tables::STAGED_BY)? else {
        return Ok(0);
    };
    let bytes = <[u8; 12]>::try_from(bytes.as_slice()).map_err(|_| corrupt("bad staged parts"))?;
    let [e0, e1, e2, e3, e4, e5, e6, e7, parts @ ..] = bytes;
    let epoch = Epoch(u64::from_be_bytes([e0, e1, e2, e3, e4, e5, e6, e7]));
    Ok(if epoch == token.epoch {
        u32::from_be_bytes(parts)
    } else {
        0
    })
}

fn staged_bytes(token: LeaderToken, parts: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&token.epoch.get().to_be_bytes());
    bytes[8..].copy_from_slice(&parts.to_be_bytes());
    bytes
}

pub(super) fn stage(engine: &Engine, token: LeaderToken, part: &Part) -> Result<(), WriteError> {
    const DOING: &str = "staging a checkpoint";
    part.check(Limits::ETCD)?;
    engine.transact_softly(|transaction| {
        let mut meta = writes::meta(transaction)?;
        guard(&meta, token)?;
        let staged = staged(&meta, token)?;
        if part.index > staged {
            return Err(WriteError::MissingPart {
                staged,
                needed: part.index,
            });
        }
        let mut table = transaction
            .open_table(tables::STAGED)
            .map_err(failed(DOING))?;
        // Everything from here on is of an earlier attempt.
        table
            .retain_in((part.index, "").., |_, _| false)
            .map_err(failed(DOING))?;
        for key in &part.deletes {
            table
                .insert((part.index, key.as_str()), None)
                .map_err(failed(DOING))?;
        }
        for (key, value) in &part.puts {
            let value = Some(value.as_ref());
            table
                .insert((part.index, key.as_str()), value)
                .map_err(failed(DOING))?;
        }
        let parts = staged_bytes(token, part.index.saturating_add(1));
        writes::put(&mut meta, tables::STAGED_BY, &parts)?;
        Ok(())
    })
}

pub(super) fn commit(
    engine: &Engine,
    token: LeaderToken,
    at: Head,
    parts: u32,
) -> Result<(), WriteError> {
    const DOING: &str = "committing a checkpoint";
    engine.transact(|transaction| {
        let mut meta = writes::meta(transaction)?;
        guard(&meta, token)?;
        let staged = staged(&meta, token)?;
        if staged != parts {
            return Err(WriteError::MissingPart {
                staged,
                needed: parts,
            });
        }
        let head = writes::log_head(&meta)?;
        if at.seq > head.seq {
            return Err(WriteError::AheadOfLog {
                seq: at.seq,
                head: head.seq,
            });
        }
        let current = tables::head(&meta, tables::CHECKPOINT)?.unwrap_or_default();
        if at.seq < current.seq {
            return Err(WriteError::BehindCurrent {
                seq: at.seq,
                current: current.seq,
            });
        }
        if at != current && tables::head(&meta, tables::BEGUN)? != Some(at) {
            let log = transaction.open_table(tables::LOG).map_err(failed(DOING))?;
            let mut starts = log.range(..=at.seq.get()).map_err(failed(DOING))?;
            let holder = starts.next_back().transpose().map_err(failed(DOING))?;
            let batch = holder
                .map(|(_, value)| reads::batch(value.value()))
                .transpose()?;
            let entry = batch.as_ref().and_then(|batch| batch.entry(at.seq));
            if entry.is_none_or(|entry| entry.hash != at.hash) {
                return Err(WriteError::OtherHistory { seq: at.seq });
            }
        }
        if parts > 0 {
            // What a crash left goes first.
            while move_some(transaction)? {}
            transaction
                .delete_table(tables::SETTLING)
                .map_err(failed(DOING))?;
            transaction
                .rename_table(tables::STAGED, tables::SETTLING)
                .map_err(failed(DOING))?;
        } else {
            transaction
                .delete_table(tables::STAGED)
                .map_err(failed(DOING))?;
        }
        transaction
            .open_table(tables::STAGED)
            .map_err(failed(DOING))?;
        writes::put(&mut meta, tables::FORMAT, &tables::format_bytes())?;
        writes::put(&mut meta, tables::STAGED_BY, &staged_bytes(token, 0))?;
        writes::put(&mut meta, tables::CHECKPOINT, &tables::head_bytes(at))?;
        Ok(())
    })
}

/// Makes one step of moving what the last commit made current, and says whether there is more. What
/// is read stays the same.
pub(super) fn settle(engine: &Engine) -> Result<bool, WriteError> {
    engine.transact_softly(|transaction| Ok(move_some(transaction)?))
}

fn move_some(transaction: &WriteTransaction) -> Result<bool, Error> {
    const DOING: &str = "settling a checkpoint";
    let mut parts = transaction
        .open_table(tables::SETTLING)
        .map_err(failed(DOING))?;
    let mut objects = transaction
        .open_table(tables::OBJECTS)
        .map_err(failed(DOING))?;
    for _ in 0..STEP {
        let Some((key, value)) = parts.pop_first().map_err(failed(DOING))? else {
            return Ok(false);
        };
        let (_, key) = key.value();
        match value.value() {
            Some(value) => objects.insert(key, value),
            None => objects.remove(key),
        }
        .map_err(failed(DOING))?;
    }
    Ok(true)
}

/// Begins a blank log behind `at`.
pub(super) fn begin(engine: &Engine, token: LeaderToken, at: Head) -> Result<(), WriteError> {
    engine.transact(|transaction| {
        let mut meta = writes::meta(transaction)?;
        guard(&meta, token)?;
        let head = writes::log_head(&meta)?;
        let begun = tables::head(&meta, tables::BEGUN)?.unwrap_or_default();
        let checkpoint = tables::head(&meta, tables::CHECKPOINT)?.unwrap_or_default();
        if head != begun || checkpoint != Head::default() || ![at, Head::default()].contains(&begun)
        {
            return Err(WriteError::NotBlank {
                head: head.seq,
                checkpoint: checkpoint.seq,
            });
        }
        writes::put(&mut meta, tables::HEAD, &tables::head_bytes(at))?;
        writes::put(&mut meta, tables::BEGUN, &tables::head_bytes(at))?;
        Ok(())
    })?;
    engine.publish(at.seq);
    Ok(())
}

/// Says what the store is for.
pub(super) fn put_use(engine: &Engine, token: LeaderToken, using: Use) -> Result<(), WriteError> {
    engine.transact(|transaction| {
        let mut meta = writes::meta(transaction)?;
        guard(&meta, token)?;
        writes::put(&mut meta, tables::USE, &using.encode())?;
        Ok(())
    })
}

pub(super) fn trim(engine: &Engine, token: LeaderToken, before: Seq) -> Result<(), WriteError> {
    const DOING: &str = "trimming the log";
    engine.transact(|transaction| {
        let mut meta = writes::meta(transaction)?;
        guard(&meta, token)?;
        let checkpoint = tables::head(&meta, tables::CHECKPOINT)?
            .unwrap_or_default()
            .seq;
        if before.get() > checkpoint.get().saturating_add(1) {
            return Err(WriteError::PastCheckpoint { before, checkpoint });
        }
        let mut log = transaction.open_table(tables::LOG).map_err(failed(DOING))?;
        // The last batch that begins before it reaches to where the next one begins.
        let last = log
            .range(..before.get())
            .map_err(failed(DOING))?
            .next_back();
        let last = last
            .transpose()
            .map_err(failed(DOING))?
            .map(|(key, _)| key.value());
        let Some(last) = last else { return Ok(()) };
        let next = log.range(before.get()..).map_err(failed(DOING))?.next();
        let next = next
            .transpose()
            .map_err(failed(DOING))?
            .map(|(key, _)| key.value());
        let next = match next {
            Some(next) => next,
            None => writes::log_head(&meta)?.seq.next().get(),
        };
        let end = if next <= before.get() { next } else { last };
        let mut dropped: u64 = 0;
        log.retain_in(..end, |_, value| {
            dropped = dropped.saturating_add(u64::try_from(value.len()).unwrap_or(u64::MAX));
            false
        })
        .map_err(failed(DOING))?;
        let log_bytes = writes::log_bytes(&meta)?.saturating_sub(dropped);
        writes::put(&mut meta, tables::LOG_BYTES, &log_bytes.to_be_bytes())?;
        Ok(())
    })
}
