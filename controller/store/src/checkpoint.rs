//! Checkpoints: the fold of the log up to a position, as named objects.
//!
//! A checkpoint is incremental: its puts and deletes are applied on top of the objects of the one
//! before. What is larger than a transaction goes in parts, which show only once committed.

use std::collections::BTreeMap;

use bytes::Bytes;
use kapok_types::Seq;

use crate::{Hash, Limits, WriteError, seam::Object};

/// What changed in the folded objects since the checkpoint before, up to and including `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry that is folded in.
    pub seq: Seq,
    /// That entry's hash, from which the chain is verified onwards.
    pub hash: Hash,
    /// Objects that are new or changed. A key that is also deleted is put.
    pub puts: Vec<Object>,
    /// Keys of objects that are gone. One that does not exist is no error.
    pub deletes: Vec<String>,
}

/// A part of a checkpoint, as large as one transaction at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its place in the checkpoint, from 0. Where two parts name one key, the later one holds.
    pub index: u32,
    /// Objects that are new or changed. A key that is also deleted is put.
    pub puts: Vec<Object>,
    /// Keys of objects that are gone.
    pub deletes: Vec<String>,
}

/// The current checkpoint, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedCheckpoint {
    /// The last entry that is folded in: reading goes on after it.
    pub seq: Seq,
    /// That entry's hash.
    pub hash: Hash,
    /// Every object, by key.
    pub objects: BTreeMap<String, Bytes>,
}

/// What one operation takes beside its key and value, in bytes.
const OPERATION_BYTES: u64 = 64;

/// What a put or a delete counts towards [`Limits::payload_bytes`].
fn weight(key: &str, value: &[u8]) -> u64 {
    let bytes = u64::try_from(key.len().saturating_add(value.len())).unwrap_or(u64::MAX);
    bytes.saturating_add(OPERATION_BYTES)
}

impl Part {
    /// An empty part.
    pub const fn new(index: u32) -> Self {
        Self {
            index,
            puts: Vec::new(),
            deletes: Vec::new(),
        }
    }

    /// How many puts and deletes it holds.
    pub fn operations(&self) -> u32 {
        u32::try_from(self.puts.len().saturating_add(self.deletes.len())).unwrap_or(u32::MAX)
    }

    /// What it counts towards [`Limits::payload_bytes`], in bytes.
    pub fn size_bytes(&self) -> u64 {
        let puts = self.puts.iter().map(|(key, value)| weight(key, value));
        let deletes = self.deletes.iter().map(|key| weight(key, &[]));
        puts.chain(deletes).fold(0, u64::saturating_add)
    }

    /// Whether one transaction can carry it.
    ///
    /// # Errors
    /// [`WriteError::TooLarge`] naming the limit that it breaks.
    pub fn check(&self, limits: Limits) -> Result<(), WriteError> {
        let (operations, most) = (self.operations(), limits.payload_operations());
        if operations > most {
            return Err(WriteError::TooLarge {
                what: format!("the number of operations in part {}", self.index),
                size: operations.into(),
                limit: most.into(),
            });
        }
        let (size, limit) = (self.size_bytes(), limits.payload_bytes());
        if size > limit {
            let what = format!("the bytes of part {}", self.index);
            return Err(WriteError::TooLarge { what, size, limit });
        }
        Ok(())
    }
}

/// Cuts a checkpoint into parts that each fit a transaction. Deletes come first, so that a key
/// that is both deleted and put is put. At least one part, so that leftovers are discarded.
///
/// # Errors
/// [`WriteError::TooLarge`] for an object that no part can hold.
pub fn split(checkpoint: Checkpoint, limits: Limits) -> Result<Vec<Part>, WriteError> {
    let mut parts = Vec::new();
    let mut part = Part::new(0);
    let mut size: u64 = 0;
    let deletes = checkpoint.deletes.into_iter().map(|key| (key, None));
    let puts = checkpoint
        .puts
        .into_iter()
        .map(|(key, value)| (key, Some(value)));
    for (key, value) in deletes.chain(puts) {
        let weight = weight(&key, value.as_deref().unwrap_or_default());
        if weight > limits.payload_bytes() {
            let what = format!("the bytes of object {key:?}");
            return Err(WriteError::TooLarge {
                what,
                size: weight,
                limit: limits.payload_bytes(),
            });
        }
        let full = part.operations() >= limits.payload_operations()
            || size.saturating_add(weight) > limits.payload_bytes();
        if full {
            let next = Part::new(part.index.saturating_add(1));
            parts.push(std::mem::replace(&mut part, next));
            size = 0;
        }
        size = size.saturating_add(weight);
        match value {
            Some(value) => part.puts.push((key, value)),
            None => part.deletes.push(key),
        }
    }
    parts.push(part);
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(puts: Vec<Object>, deletes: Vec<String>) -> Checkpoint {
        Checkpoint {
            seq: Seq(1),
            hash: Hash::ZERO,
            puts,
            deletes,
        }
    }

    #[test]
    fn every_part_fits_and_nothing_is_lost() {
        let object = |n: usize| (format!("k{n}"), Bytes::from(vec![7; n * 97 % 100_000]));
        let puts: Vec<Object> = (0..1_000).map(object).collect();
        let deletes: Vec<String> = (0..300).map(|n| format!("gone{n}")).collect();
        let parts = split(of(puts.clone(), deletes.clone()), Limits::ETCD).unwrap();
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(usize::try_from(part.index).unwrap(), index);
            part.check(Limits::ETCD).unwrap();
        }
        assert_eq!(
            parts
                .iter()
                .flat_map(|p| p.puts.clone())
                .collect::<Vec<_>>(),
            puts
        );
        assert_eq!(
            parts
                .iter()
                .flat_map(|p| p.deletes.clone())
                .collect::<Vec<_>>(),
            deletes
        );
    }

    #[test]
    fn an_empty_one_still_has_a_part() {
        assert_eq!(
            split(of(vec![], vec![]), Limits::ETCD).unwrap(),
            [Part::new(0)]
        );
    }

    #[test]
    fn an_object_over_the_limit_is_named() {
        let huge = vec![0; usize::try_from(Limits::ETCD.bytes_per_transaction).unwrap()];
        let refused = split(of(vec![("x".into(), huge.into())], vec![]), Limits::ETCD).unwrap_err();
        assert!(refused.to_string().contains("\"x\""), "{refused}");
    }
}
