//! A batch as one stored value. All numbers are big-endian.
//!
//! ```text
//! "KPKB" | version u16 | after u64 | previous hash 32 | count u64 | count × entry
//! entry: length u64 | payload | hash 32
//! ```
//!
//! Decoding is bounded by the input's length and re-computes every hash, so a value that was cut
//! short or altered anywhere is refused by name.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kapok_types::Seq;

use super::{Batch, Entry, Hash};
use crate::seam::Head;

const MAGIC: [u8; 4] = *b"KPKB";

/// The encoding that this version writes, and the newest that it reads.
pub const VERSION: u16 = 1;

/// What a batch takes beside its entries, in bytes.
pub const BATCH_OVERHEAD_BYTES: u64 = 4 + 2 + 8 + 32 + 8;

/// What an entry takes beside its payload, in bytes.
pub const ENTRY_OVERHEAD_BYTES: u64 = 8 + 32;

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They don't begin as a batch does.
    #[error("not a batch of the log")]
    NotABatch,
    /// They were written by a newer version.
    #[error("a batch of version {found}, where this version knows up to {known}")]
    Newer {
        /// The version in the bytes.
        found: u16,
        /// The newest that is known.
        known: u16,
    },
    /// They end too early.
    #[error("a batch cut short")]
    Truncated,
    /// There are more of them than the batch says.
    #[error("{bytes} bytes too many behind a batch")]
    Trailing {
        /// How many are left over.
        bytes: usize,
    },
    /// The batch has no entries, and no such batch is ever written.
    #[error("a batch without entries")]
    Empty,
    /// A position is beyond what can be counted.
    #[error("a batch beyond the last position")]
    Overflow,
    /// An entry is not what its hash says.
    #[error("entry {seq} does not match its hash")]
    Altered {
        /// The entry's position, as far as the bytes can be believed.
        seq: Seq,
    },
}

fn length(of: &[u8]) -> u64 {
    u64::try_from(of.len()).unwrap_or(u64::MAX)
}

impl Batch {
    /// The size of [`Batch::encode`]'s result, in bytes.
    pub fn encoded_len(&self) -> u64 {
        let entries = self.entries.iter().map(|entry| length(&entry.payload));
        entries.fold(BATCH_OVERHEAD_BYTES, |sum, payload| {
            sum.saturating_add(payload)
                .saturating_add(ENTRY_OVERHEAD_BYTES)
        })
    }

    /// The batch as one value.
    pub fn encode(&self) -> Bytes {
        let mut out =
            BytesMut::with_capacity(usize::try_from(self.encoded_len()).unwrap_or_default());
        out.put_slice(&MAGIC);
        out.put_u16(VERSION);
        out.put_u64(self.after.seq.get());
        out.put_slice(&self.after.hash.0);
        out.put_u64(u64::try_from(self.entries.len()).unwrap_or(u64::MAX));
        for entry in &self.entries {
            out.put_u64(length(&entry.payload));
            out.put_slice(&entry.payload);
            out.put_slice(&entry.hash.0);
        }
        out.freeze()
    }

    /// Reads a batch back; payloads share the input's memory.
    ///
    /// # Errors
    /// When the bytes are not exactly what [`Batch::encode`] wrote.
    pub fn decode(input: Bytes) -> Result<Self, DecodeError> {
        let Claimed { after, entries } = Claimed::decode(input)?;
        for entry in &entries {
            if Hash::link(entry.prev, entry.seq, &entry.payload) != entry.hash {
                return Err(DecodeError::Altered { seq: entry.seq });
            }
        }
        Ok(Self { after, entries })
    }
}

/// What bytes claim to be a batch: framed as one, with hashes that nobody has checked yet. For
/// checks that go on behind what was altered; everyone else wants [`Batch::decode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// What it says stands before it.
    pub after: Head,
    /// Its entries as they are.
    pub entries: Vec<Entry>,
}

impl Claimed {
    /// Reads the frame; payloads share the input's memory.
    ///
    /// # Errors
    /// When the bytes are not framed as a batch. Never [`DecodeError::Altered`].
    pub fn decode(mut input: Bytes) -> Result<Self, DecodeError> {
        if take(&mut input, MAGIC.len())? != MAGIC.as_slice() {
            return Err(DecodeError::NotABatch);
        }
        match take(&mut input, 2)?.get_u16() {
            VERSION => {}
            0 => return Err(DecodeError::NotABatch),
            found => {
                return Err(DecodeError::Newer {
                    found,
                    known: VERSION,
                });
            }
        }
        let after = Head {
            seq: Seq(number(&mut input)?),
            hash: hash(&mut input)?,
        };
        let count = number(&mut input)?;
        if count == 0 {
            return Err(DecodeError::Empty);
        }
        if after.seq.get().checked_add(count).is_none() {
            return Err(DecodeError::Overflow);
        }
        // An entry takes this much at least, so a count that lies can't make memory grow.
        if count > length(&input) / ENTRY_OVERHEAD_BYTES {
            return Err(DecodeError::Truncated);
        }
        let mut entries = Vec::with_capacity(usize::try_from(count).unwrap_or_default());
        let mut last = after;
        for _ in 0..count {
            let size = number(&mut input)?;
            let size = usize::try_from(size).map_err(|_| DecodeError::Truncated)?;
            let payload = take(&mut input, size)?;
            let (seq, prev, hash) = (last.seq.next(), last.hash, hash(&mut input)?);
            entries.push(Entry {
                seq,
                prev,
                hash,
                payload,
            });
            last = Head { seq, hash };
        }
        if !input.is_empty() {
            return Err(DecodeError::Trailing { bytes: input.len() });
        }
        Ok(Self { after, entries })
    }
}

fn take(input: &mut Bytes, size: usize) -> Result<Bytes, DecodeError> {
    if input.len() < size {
        Err(DecodeError::Truncated)
    } else {
        Ok(input.split_to(size))
    }
}

fn number(input: &mut Bytes) -> Result<u64, DecodeError> {
    Ok(take(input, 8)?.get_u64())
}

fn hash(input: &mut Bytes) -> Result<Hash, DecodeError> {
    let mut hash = Hash::ZERO;
    take(input, hash.0.len())?.copy_to_slice(&mut hash.0);
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::Chain;

    fn batches() -> impl Strategy<Value = Batch> {
        let payloads = vec(vec(any::<u8>(), 0..64), 1..8);
        (0..u64::MAX / 2, any::<[u8; 32]>(), payloads).prop_map(|(seq, hash, payloads)| {
            let chain = Chain {
                head_seq: Seq(seq),
                head_hash: Hash(hash),
            };
            chain.seal(payloads.into_iter().map(Bytes::from).collect())
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(batch in batches()) {
            let bytes = batch.encode();
            prop_assert_eq!(length(&bytes), batch.encoded_len());
            prop_assert_eq!(Batch::decode(bytes).unwrap(), batch);
        }

        #[test]
        fn noise_is_refused(noise in vec(any::<u8>(), 0..512)) {
            prop_assert!(Batch::decode(noise.into()).is_err());
        }

        /// FAULTS 54, for one value: noise behind a true header gets past the magic.
        #[test]
        fn noise_behind_a_header_is_refused(batch in batches(), noise in vec(any::<u8>(), 0..256)) {
            let mut bytes = batch.encode()[..6].to_vec();
            bytes.extend(noise);
            prop_assert!(Batch::decode(bytes.into()).is_err());
        }

        /// FAULTS 54, for one value: cut anywhere.
        #[test]
        fn every_cut_is_refused(batch in batches()) {
            let bytes = batch.encode();
            for end in 0..bytes.len() {
                prop_assert_eq!(Batch::decode(bytes.slice(..end)), Err(DecodeError::Truncated));
            }
        }

        /// FAULTS 54, for one value: any one bit.
        #[test]
        fn every_flipped_bit_is_refused(batch in batches()) {
            let bytes = batch.encode();
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(Batch::decode(flipped.into()).is_err(), "bit {}", bit);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = Chain::default().seal(vec!["a".into()]).encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            Batch::decode(bytes.into()).unwrap_err()
        };
        assert_eq!(with(0, b'X'), DecodeError::NotABatch);
        assert_eq!(with(5, 9), DecodeError::Newer { found: 9, known: 1 });
        assert_eq!(with(5, 0), DecodeError::NotABatch);
        assert_eq!(with(53, 0), DecodeError::Empty);
        assert_eq!(with(46, 255), DecodeError::Truncated);
        assert_eq!(with(62, b'b'), DecodeError::Altered { seq: Seq(1) });
        let longer = [good.as_ref(), b"!"].concat();
        assert_eq!(
            Batch::decode(longer.into()),
            Err(DecodeError::Trailing { bytes: 1 })
        );
    }
}
