//! What campaigns and appends do, and how errors of all writes tell *failed* from *unknown*. Each is one
//! transaction that checks its guards itself.

use std::sync::PoisonError;

use ::redb::WriteTransaction;
use kapok_types::{Epoch, Seq};
use tokio::sync::watch;

use super::{
    engine::{Engine, InForce, failed},
    tables::{self, corrupt},
};
use crate::{
    AppendError, Batch, Chain, Error, Head, Leader, LeaderToken, Leadership, Limits, Use,
    WriteError,
};

/// An error that the engine's failures can become.
pub(super) trait Failure: From<Error> {
    /// When nothing tells whether the write landed.
    fn unknown(source: Error) -> Self;
    /// The failure below, if that is what it is.
    fn store(&self) -> Option<&Error>;
}

/// The failure of the engine behind `error`, after which it must be opened again.
pub(super) fn leads_to(error: &impl Failure) -> Option<&Error> {
    error.store().filter(|error| {
        use Error::{Moved, Moving, Newer, Stopped};
        !matches!(error, Newer { .. } | Stopped | Moving | Moved)
    })
}

impl Failure for Error {
    fn unknown(source: Error) -> Self {
        source
    }

    fn store(&self) -> Option<&Error> {
        Some(self)
    }
}

impl Failure for AppendError {
    fn unknown(source: Error) -> Self {
        Self::Unknown { source }
    }

    fn store(&self) -> Option<&Error> {
        match self {
            Self::Unknown { source } | Self::Store(source) => Some(source),
            _ => None,
        }
    }
}

impl Failure for WriteError {
    fn unknown(source: Error) -> Self {
        Self::Unknown { source }
    }

    fn store(&self) -> Option<&Error> {
        match self {
            Self::Unknown { source } | Self::Store(source) => Some(source),
            _ => None,
        }
    }
}

pub(super) type Meta<'a> = ::redb::Table<'a, &'static str, &'static [u8]>;

pub(super) fn meta(transaction: &WriteTransaction) -> Result<Meta<'_>, Error> {
    transaction
        .open_table(tables::META)
        .map_err(failed("reading the store's state"))
}

pub(super) fn put(meta: &mut Meta<'_>, key: &'static str, value: &[u8]) -> Result<(), Error> {
    meta.insert(key, value)
        .map_err(failed("writing the store's state"))?;
    Ok(())
}

/// The epoch in force, if it is not this token's.
pub(super) fn fenced_by(meta: &Meta<'_>, token: LeaderToken) -> Result<Option<Epoch>, Error> {
    let current = tables::number(meta, tables::EPOCH)?.ok_or_else(|| corrupt("no epoch"))?;
    Ok(Some(Epoch(current)).filter(|current| *current != token.epoch))
}

pub(super) fn log_head(meta: &Meta<'_>) -> Result<Head, Error> {
    tables::head(meta, tables::HEAD)?.ok_or_else(|| corrupt("no head"))
}

/// What the log's values take.
pub(super) fn log_bytes(meta: &Meta<'_>) -> Result<u64, Error> {
    tables::number(meta, tables::LOG_BYTES)?.ok_or_else(|| corrupt("no size"))
}

pub(super) fn campaign(
    engine: &Engine,
    candidate: &str,
    floor: Epoch,
    check: impl FnOnce(Use) -> Result<(), Error>,
) -> Result<Leadership, Error> {
    let epoch = engine.transact(|transaction| -> Result<Epoch, Error> {
        let mut meta = meta(transaction)?;
        check(tables::using(&meta)?)?;
        let current = tables::number(&meta, tables::EPOCH)?.ok_or_else(|| corrupt("no epoch"))?;
        let next = current.max(floor.get()).checked_add(1);
        let next = next.ok_or_else(|| corrupt("no epoch is left"))?;
        put(&mut meta, tables::EPOCH, &next.to_be_bytes())?;
        put(&mut meta, tables::LEADER, candidate.as_bytes())?;
        Ok(Epoch(next))
    })?;
    let (mine, lost) = watch::channel(false);
    let mut leader = engine.leader.lock().unwrap_or_else(PoisonError::into_inner);
    // Campaigns may reach this point in another order than they were committed.
    match leader.as_ref() {
        Some(newer) if newer.epoch > epoch => {
            mine.send_replace(true);
        }
        _ => {
            if let Some(older) = leader.replace(InForce { epoch, lost: mine }) {
                older.lost.send_replace(true);
            }
            let candidate = candidate.to_owned();
            engine
                .leaders
                .send_replace(Some(Leader { candidate, epoch }));
        }
    }
    tracing::info!(candidate, epoch = epoch.get(), "leadership won");
    Ok(Leadership {
        token: LeaderToken { epoch },
        lost,
    })
}

pub(super) fn append(
    engine: &Engine,
    token: LeaderToken,
    after: Seq,
    batch: &Batch,
) -> Result<(), AppendError> {
    const DOING: &str = "appending to the log";
    if batch.is_empty() {
        return Err(AppendError::Empty);
    }
    let (size_bytes, limit_bytes) = (batch.encoded_len(), Limits::ETCD.payload_bytes());
    if size_bytes > limit_bytes {
        return Err(AppendError::TooLarge {
            size_bytes,
            limit_bytes,
        });
    }
    let value = batch.encode();
    engine.transact(|transaction| {
        let mut meta = meta(transaction)?;
        if let Some(current) = fenced_by(&meta, token)? {
            return Err(AppendError::Fenced { current });
        }
        let head = log_head(&meta)?;
        if head.seq != after {
            return Err(AppendError::Conflict { head: head.seq });
        }
        Chain::at(head).verify(batch).map_err(AppendError::Broken)?;
        let mut log = transaction.open_table(tables::LOG).map_err(failed(DOING))?;
        log.insert(after.next().get(), value.as_ref())
            .map_err(failed(DOING))?;
        put(&mut meta, tables::HEAD, &tables::head_bytes(batch.head()))?;
        let log_bytes = log_bytes(&meta)?.saturating_add(size_bytes);
        put(&mut meta, tables::LOG_BYTES, &log_bytes.to_be_bytes())?;
        Ok(())
    })?;
    engine.publish(batch.head().seq);
    Ok(())
}
