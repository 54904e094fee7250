//! What the seam's reads do.

use std::collections::BTreeMap;

use ::redb::{ReadableDatabase as _, ReadableTable as _};
use bytes::Bytes;
use kapok_types::Seq;

use super::{
    engine::{Engine, failed},
    tables::{self, corrupt},
};
use crate::{
    Batch, Chain, Error, Extent, Head, LoadedCheckpoint, Read, Stored, Use,
    log::{self, DecodeError},
};

/// A batch from its stored value.
pub(super) fn batch(value: &[u8]) -> Result<Batch, Error> {
    Batch::decode(Bytes::copy_from_slice(value)).map_err(|error| match error {
        DecodeError::Newer { found, .. } => Error::Newer {
            found: found.into(),
            known: log::VERSION.into(),
        },
        error => corrupt(format!("in the log: {error}")),
    })
}

pub(super) fn head(engine: &Engine) -> Result<Head, Error> {
    engine.with(|database| {
        let transaction = database.begin_read().map_err(failed("reading the head"))?;
        let meta = transaction
            .open_table(tables::META)
            .map_err(failed("reading the head"))?;
        tables::head(&meta, tables::HEAD)?.ok_or_else(|| corrupt("no head"))
    })
}

pub(super) fn using(engine: &Engine) -> Result<Use, Error> {
    const DOING: &str = "reading what the store is for";
    engine.with(|database| {
        let transaction = database.begin_read().map_err(failed(DOING))?;
        let meta = transaction
            .open_table(tables::META)
            .map_err(failed(DOING))?;
        tables::using(&meta)
    })
}

pub(super) fn read(engine: &Engine, from: Seq, max_batches: usize) -> Result<Read, Error> {
    const DOING: &str = "reading the log";
    let from = from.max(Seq(1));
    engine.with(|database| {
        let transaction = database.begin_read().map_err(failed(DOING))?;
        let meta = transaction
            .open_table(tables::META)
            .map_err(failed(DOING))?;
        let head = tables::head(&meta, tables::HEAD)?.ok_or_else(|| corrupt("no head"))?;
        let table = transaction.open_table(tables::LOG).map_err(failed(DOING))?;
        let first = table.first().map_err(failed(DOING))?;
        let first = first.map_or_else(|| head.seq.next(), |(key, _)| Seq(key.value()));
        if from < first {
            return Ok(Read::Trimmed { first });
        }
        if from > head.seq {
            return Ok(Read::Batches(Vec::new()));
        }
        // The batch that holds a position is the last one that begins at or before it.
        let mut starts = table.range(..=from.get()).map_err(failed(DOING))?;
        let start = starts.next_back().transpose().map_err(failed(DOING))?;
        let start = start.map_or(from.get(), |(key, _)| key.value());

        let mut batches: Vec<Batch> = Vec::new();
        let mut chain: Option<Chain> = None;
        for item in table
            .range(start..)
            .map_err(failed(DOING))?
            .take(max_batches)
        {
            let (key, value) = item.map_err(failed(DOING))?;
            let batch = batch(value.value())?;
            if batch.after().seq.next() != Seq(key.value()) {
                return Err(corrupt(format!(
                    "the batch at {} is another one",
                    key.value()
                )));
            }
            let mut known = chain.unwrap_or(Chain::at(batch.after()));
            known
                .advance(&batch)
                .map_err(|broken| corrupt(broken.to_string()))?;
            chain = Some(known);
            batches.push(batch);
        }
        Ok(Read::Batches(batches))
    })
}

pub(super) fn extent(engine: &Engine) -> Result<Extent, Error> {
    const DOING: &str = "measuring the log";
    engine.with(|database| {
        let transaction = database.begin_read().map_err(failed(DOING))?;
        let meta = transaction
            .open_table(tables::META)
            .map_err(failed(DOING))?;
        let head = tables::head(&meta, tables::HEAD)?.ok_or_else(|| corrupt("no head"))?;
        let checkpoint = tables::head(&meta, tables::CHECKPOINT)?.unwrap_or_default();
        let log_bytes = tables::number(&meta, tables::LOG_BYTES)?;
        let table = transaction.open_table(tables::LOG).map_err(failed(DOING))?;
        let first = table.first().map_err(failed(DOING))?;
        Ok(Extent {
            first: first.map_or_else(|| head.seq.next(), |(key, _)| Seq(key.value())),
            head,
            checkpoint: checkpoint.seq,
            log_bytes: log_bytes.ok_or_else(|| corrupt("no size"))?,
        })
    })
}

pub(super) fn stored(engine: &Engine, from: Seq, max_batches: usize) -> Result<Vec<Stored>, Error> {
    const DOING: &str = "reading the log as it is";
    engine.with(|database| {
        let transaction = database.begin_read().map_err(failed(DOING))?;
        let table = transaction.open_table(tables::LOG).map_err(failed(DOING))?;
        let items = table.range(from.get()..).map_err(failed(DOING))?;
        let stored = items.take(max_batches).map(|item| {
            let (key, value) = item.map_err(failed(DOING))?;
            Ok(Stored {
                first: Seq(key.value()),
                value: Bytes::copy_from_slice(value.value()),
            })
        });
        stored.collect()
    })
}

pub(super) fn load_checkpoint(engine: &Engine) -> Result<Option<LoadedCheckpoint>, Error> {
    const DOING: &str = "reading the checkpoint";
    engine.with(|database| {
        let transaction = database.begin_read().map_err(failed(DOING))?;
        let meta = transaction
            .open_table(tables::META)
            .map_err(failed(DOING))?;
        let Some(Head { seq, hash }) = tables::head(&meta, tables::CHECKPOINT)? else {
            return Ok(None);
        };
        let table = transaction
            .open_table(tables::OBJECTS)
            .map_err(failed(DOING))?;
        let mut objects = BTreeMap::new();
        for item in table.iter().map_err(failed(DOING))? {
            let (key, value) = item.map_err(failed(DOING))?;
            objects.insert(
                key.value().to_owned(),
                Bytes::copy_from_slice(value.value()),
            );
        }
        let settling = match transaction.open_table(tables::SETTLING) {
            // Of format 1.
            Err(::redb::TableError::TableDoesNotExist(_)) => None,
            opened => Some(opened.map_err(failed(DOING))?),
        };
        let settling = settling
            .as_ref()
            .map(::redb::ReadableTable::iter)
            .transpose();
        for item in settling.map_err(failed(DOING))?.into_iter().flatten() {
            let (key, value) = item.map_err(failed(DOING))?;
            let (_, key) = key.value();
            match value.value() {
                Some(value) => objects.insert(key.to_owned(), Bytes::copy_from_slice(value)),
                None => objects.remove(key),
            };
        }
        Ok(Some(LoadedCheckpoint { seq, hash, objects }))
    })
}
