//! The log's values: entries, batches of them, and the hash chain that joins all.
//!
//! `hash = SHA-256(previous hash ‖ position, 8 bytes big-endian ‖ payload)`. An append's unit is
//! the [`Batch`], one stored value. Nothing here knows what a payload means.

mod codec;
mod hash;

use bytes::Bytes;
use kapok_types::Seq;

pub use codec::{BATCH_OVERHEAD_BYTES, Claimed, DecodeError, ENTRY_OVERHEAD_BYTES, VERSION};
pub use hash::Hash;

use crate::seam::Head;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position; the log's first has 1.
    pub seq: Seq,
    /// The hash of the entry before; [`Hash::ZERO`] before the first.
    pub prev: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// What the log's owner put there.
    pub payload: Bytes,
}

/// Consecutive entries, appended together or not at all.
///
/// **Invariant:** its entries are chained to each other and to what it says stands before them.
/// It is made by [`Chain::seal`] and by [`Batch::decode`], which checks, and by nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    after: Head,
    entries: Vec<Entry>,
}

/// Where the hash chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log's chain breaks at {seq}: {reason}")]
pub struct Broken {
    /// The first position that does not follow from what stands before it.
    pub seq: Seq,
    /// What is wrong there.
    pub reason: &'static str,
}

/// The end of a verified chain: what the next batch must continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    /// Position of the last entry; 0 before the first.
    pub head_seq: Seq,
    /// Its hash; [`Hash::ZERO`] before the first.
    pub head_hash: Hash,
}

impl Batch {
    /// The position and hash that it continues.
    pub const fn after(&self) -> Head {
        self.after
    }

    /// The position and hash of its last entry: the log's head once it is appended.
    pub fn head(&self) -> Head {
        self.entries.last().map_or(self.after, |entry| Head {
            seq: entry.seq,
            hash: entry.hash,
        })
    }

    /// Its entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether it has no entries. Such a batch can't be appended.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at `seq`, if it is in here.
    pub fn entry(&self, seq: Seq) -> Option<&Entry> {
        let index = seq
            .get()
            .checked_sub(self.after.seq.get())?
            .checked_sub(1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }
}

impl IntoIterator for Batch {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl Chain {
    /// The chain that ends at `head`.
    pub const fn at(head: Head) -> Self {
        Self {
            head_seq: head.seq,
            head_hash: head.hash,
        }
    }

    /// The position and hash of its end.
    pub const fn head(&self) -> Head {
        Head {
            seq: self.head_seq,
            hash: self.head_hash,
        }
    }

    /// Makes the batch that continues this chain with `payloads`. The chain itself stays where it
    /// is until the batch is durable and [`Chain::advance`] is called with it.
    #[must_use]
    pub fn seal(&self, payloads: Vec<Bytes>) -> Batch {
        let mut chain = *self;
        let entries = payloads
            .into_iter()
            .map(|payload| {
                let (seq, prev) = (chain.head_seq.next(), chain.head_hash);
                let hash = Hash::link(prev, seq, &payload);
                chain = Self {
                    head_seq: seq,
                    head_hash: hash,
                };
                Entry {
                    seq,
                    prev,
                    hash,
                    payload,
                }
            })
            .collect();
        Batch {
            after: self.head(),
            entries,
        }
    }

    /// Whether `batch` continues this chain.
    ///
    /// # Errors
    /// The first position that does not follow.
    pub fn verify(&self, batch: &Batch) -> Result<(), Broken> {
        let seq = batch.after.seq.next();
        if batch.after.seq != self.head_seq {
            return Err(Broken {
                seq,
                reason: "its position does not follow the one before",
            });
        }
        if batch.after.hash != self.head_hash {
            return Err(Broken {
                seq,
                reason: "it was made after another entry",
            });
        }
        // Inside, it is chained by the type's invariant.
        Ok(())
    }

    /// Verifies `batch` and moves the chain's end to it.
    ///
    /// # Errors
    /// As [`Chain::verify`]; the chain stays where it is.
    pub fn advance(&mut self, batch: &Batch) -> Result<(), Broken> {
        self.verify(batch)?;
        *self = Self::at(batch.head());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_continues_only_itself() {
        let mut chain = Chain::default();
        let first = chain.seal(vec!["a".into(), "b".into()]);
        let rival = chain.seal(vec!["x".into(), "y".into()]);
        chain.advance(&first).unwrap();
        assert_eq!(chain.head_seq, Seq(2));
        assert_eq!(first.entries()[1].prev, first.entries()[0].hash);
        let next = chain.seal(vec!["c".into()]);
        chain.verify(&next).unwrap();

        let broken = Chain::at(rival.head()).verify(&next).unwrap_err();
        assert_eq!(
            (broken.seq, broken.reason),
            (Seq(3), "it was made after another entry")
        );
        let broken = Chain::default().verify(&next).unwrap_err();
        assert_eq!(broken.reason, "its position does not follow the one before");
    }

    #[test]
    fn entries_are_found_by_position() {
        let batch = Chain {
            head_seq: Seq(4),
            head_hash: Hash::ZERO,
        }
        .seal(vec!["e".into()]);
        assert_eq!(batch.entry(Seq(5)).unwrap().payload, "e");
        assert!(batch.entry(Seq(4)).is_none() && batch.entry(Seq(6)).is_none());
        assert!(batch.entry(Seq(0)).is_none() && batch.entry(Seq(u64::MAX)).is_none());
    }

    /// Written down once and for all: a change of the formula breaks every chain there is.
    #[test]
    fn the_formula_is_fixed() {
        let batch = Chain::default().seal(vec!["kapok".into()]);
        assert_eq!(batch.head().hash.to_string(), FORMULA);
    }

    const FORMULA: &str = "078a0a50176b555ed87a3b463aaf0d5bf2d1a33f915a69c88873e212756f459a";
}
