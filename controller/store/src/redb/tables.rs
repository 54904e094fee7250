//! The file's tables and the few fixed values in them.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | name | the values below |
//! | `log` | first position of a batch | the batch |
//! | `objects` | object's key | object, as of the current checkpoint |
//! | `staged` | (part, object's key) | object, or nothing where it is deleted |
//! | `settling` | as `staged` | of the current checkpoint, not moved to `objects` yet: goes before it |

use ::redb::{ReadableTable, TableDefinition};
use kapok_types::Seq;

use crate::{Error, Hash, Head, Use};

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
pub(super) const STAGED: TableDefinition<'_, (u32, &str), Option<&[u8]>> =
    TableDefinition::new("staged");
pub(super) const SETTLING: TableDefinition<'_, (u32, &str), Option<&[u8]>> =
    TableDefinition::new("settling");

/// The format of these tables, u64: raised whenever an older version must not open them.
pub(super) const FORMAT: &str = "format";
/// The epoch in force, u64.
pub(super) const EPOCH: &str = "epoch";
/// Who won it, text; for people who look into a file.
pub(super) const LEADER: &str = "leader";
/// The log's head, position and hash.
pub(super) const HEAD: &str = "head";
/// What the values of `log` take, u64.
pub(super) const LOG_BYTES: &str = "log_bytes";
/// The current checkpoint, position and hash; absent before the first.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// Behind which position and hash a log that moved here begins; mostly absent.
pub(super) const BEGUN: &str = "begun";
/// Whose parts are staged and how many, epoch u64 and count u32; absent before the first.
pub(super) const STAGED_BY: &str = "staged_by";

/// What the store is for, [`Use`]; absent when it always was open.
pub(super) const USE: &str = "use";

/// The format that this version writes, and the newest that it reads. 2 came with `settling`; a file
/// of format 1 becomes one of format 2 with its next checkpoint.
pub(super) const KNOWN_FORMAT: u32 = 2;

/// [`KNOWN_FORMAT`] as it is stored.
pub(super) fn format_bytes() -> [u8; 8] {
    u64::from(KNOWN_FORMAT).to_be_bytes()
}

/// Says that a value that must be there, or must have a shape, is wrong.
pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::Corrupt { what: what.into() }
}

/// The value `key` of the `meta` table.
pub(super) fn value(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<Vec<u8>>, Error> {
    let found = meta
        .get(key)
        .map_err(super::engine::failed("reading the store's state"))?;
    Ok(found.map(|value| value.value().to_vec()))
}

/// The number `key` of the `meta` table.
pub(super) fn number(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<u64>, Error> {
    let Some(bytes) = value(meta, key)? else {
        return Ok(None);
    };
    let bytes = <[u8; 8]>::try_from(bytes.as_slice());
    bytes
        .map(|bytes| Some(u64::from_be_bytes(bytes)))
        .map_err(|_| corrupt(format!("bad {key}")))
}

/// The position and hash `key` of the `meta` table.
pub(super) fn head(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<Head>, Error> {
    let Some(bytes) = value(meta, key)? else {
        return Ok(None);
    };
    let split = bytes.split_first_chunk::<8>();
    let head = split.and_then(|(seq, hash)| {
        let hash = Hash(<[u8; 32]>::try_from(hash).ok()?);
        Some(Head {
            seq: Seq(u64::from_be_bytes(*seq)),
            hash,
        })
    });
    head.map(Some).ok_or_else(|| corrupt(format!("bad {key}")))
}

/// What the store is for.
pub(super) fn using(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Use, Error> {
    match value(meta, USE)? {
        Some(bytes) => Use::decode(&bytes).ok_or_else(|| corrupt("bad use")),
        None => Ok(Use::Open),
    }
}

/// A position and hash as a value of the `meta` table.
pub(super) fn head_bytes(head: Head) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&head.seq.get().to_be_bytes());
    bytes[8..].copy_from_slice(&head.hash.0);
    bytes
}
