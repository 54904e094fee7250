//! A sealed segment: a stretch of the log in one file, moved out of the store. All numbers are
//! big-endian.
//!
//! ```text
//! "KPKS" | version u16 | first u64 | last u64 | hash before 32 | hash of last 32 | batches u64
//! batches × (length u64 | batch)
//! SHA-256 of all before 32
//! ```
//!
//! The chain inside says that the entries are the log's; the digest that the bytes are the ones
//! that were written. Whoever trims keeps the [`Segment`], which says both of a file elsewhere.

use std::{fmt, str::FromStr};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kapok_types::{Digest, Seq};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Chain, Hash, Head,
    log::{Claimed, DecodeError},
};

const MAGIC: [u8; 4] = *b"KPKS";
/// The format that this version writes, and the newest that it reads.
pub const VERSION: u16 = 1;
const HEADER_BYTES: usize = 4 + 2 + 8 + 8 + 32 + 32 + 8;
const DIGEST_BYTES: usize = 32;

/// Which entries a segment holds. As text, its file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first.
    pub first: Seq,
    /// The last.
    pub last: Seq,
}

/// A sealed segment, as it is remembered once its entries have left the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Its first entry.
    pub first: Seq,
    /// Its last entry.
    pub last: Seq,
    /// The hash of the entry before the first.
    pub prev: Hash,
    /// The hash of the last.
    pub hash: Hash,
    /// Size of its file.
    pub bytes: u64,
    /// SHA-256 of its file.
    pub digest: Digest,
}

/// Why bytes are not a sealed segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They don't begin as a segment does.
    #[error("not a segment of the log")]
    NotASegment,
    /// They were written by a newer version.
    #[error("a segment of version {found}, where this version knows up to {VERSION}")]
    Newer {
        /// The version in the bytes.
        found: u16,
    },
    /// They are not the ones that were sealed.
    #[error("its digest is not the one that it was sealed with")]
    Altered,
    /// A batch can't be read.
    #[error("its batch at {at} can't be read")]
    Batch {
        /// Where the batch should begin.
        at: Seq,
        /// Why.
        source: DecodeError,
    },
    /// Its batches and its header don't fit together.
    #[error("what it holds at {at} is not what it says")]
    Unfit {
        /// From where on.
        at: Seq,
    },
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded, so that a listing is in order.
        write!(f, "{:020}-{:020}.log", self.first.get(), self.last.get())
    }
}

impl FromStr for Span {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let number = |text: &str| text.parse().map(Seq).map_err(drop);
        let (first, last) = name
            .strip_suffix(".log")
            .and_then(|name| name.split_once('-'))
            .ok_or(())?;
        let span = Self {
            first: number(first)?,
            last: number(last)?,
        };
        let sound = span.to_string() == name && span.first <= span.last && span.first > Seq::ZERO;
        sound.then_some(span).ok_or(())
    }
}

impl Segment {
    /// Which entries it holds.
    pub const fn span(&self) -> Span {
        Span {
            first: self.first,
            last: self.last,
        }
    }

    /// How many entries it holds.
    pub const fn entries(&self) -> u64 {
        self.last.get().saturating_sub(self.first.get()) + 1
    }

    /// Seals batches that follow each other into a file's content. Nothing for no batches, and
    /// for batches that don't follow each other.
    pub fn seal(batches: &[Batch]) -> Option<(Self, Bytes)> {
        let (start, end) = (batches.first()?.after(), batches.last()?.head());
        let mut chain = Chain::at(start);
        let mut out = BytesMut::new();
        out.put_slice(&MAGIC);
        out.put_u16(VERSION);
        out.put_u64(start.seq.next().get());
        out.put_u64(end.seq.get());
        out.put_slice(&start.hash.0);
        out.put_slice(&end.hash.0);
        out.put_u64(length(batches.len()));
        for batch in batches {
            chain.advance(batch).ok()?;
            let value = batch.encode();
            out.put_u64(length(value.len()));
            out.put_slice(&value);
        }
        let inner = Digest::of(&out);
        out.put_slice(&inner.0);
        let content = out.freeze();
        let segment = Self {
            first: start.seq.next(),
            last: end.seq,
            prev: start.hash,
            hash: end.hash,
            bytes: length(content.len()),
            digest: Digest::of(&content),
        };
        Some((segment, content))
    }

    /// Reads a file's content, verified: its digest, its chain, and that the header fits.
    ///
    /// # Errors
    /// When it is not exactly what [`Segment::seal`] made.
    pub fn open(content: &Bytes) -> Result<(Self, Vec<Batch>), Error> {
        let (bytes, digest) = (length(content.len()), Digest::of(content));
        let body = content.len().checked_sub(DIGEST_BYTES);
        let body = body.ok_or(Error::NotASegment)?;
        if Digest::of(&content[..body]).0 != content[body..] {
            // Whose it is matters more than that it was altered.
            Header::read(&mut content.clone())?;
            return Err(Error::Altered);
        }
        let mut rest = content.slice(..body);
        let header = Header::read(&mut rest)?;
        let mut chain = Chain::at(header.after);
        let mut batches = Vec::new();
        for _ in 0..header.batches {
            let at = chain.head_seq.next();
            let value = framed(&mut rest).ok_or(Error::Unfit { at })?;
            let batch = Batch::decode(value).map_err(|source| Error::Batch { at, source })?;
            chain.advance(&batch).map_err(|_| Error::Unfit { at })?;
            batches.push(batch);
        }
        if chain.head() != header.head || !rest.is_empty() {
            let at = chain.head_seq;
            return Err(Error::Unfit { at });
        }
        let segment = Self {
            first: header.after.seq.next(),
            last: header.head.seq,
            prev: header.after.hash,
            hash: header.head.hash,
            bytes,
            digest,
        };
        Ok((segment, batches))
    }
}

/// What can still be read of a segment that may have been altered: its batches up to the first
/// that can't be framed, each as it is.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) batches: Vec<Result<Claimed, DecodeError>>,
    /// Whether something behind them can't be read.
    pub(crate) torn: bool,
}

impl Remains {
    pub(crate) fn of(content: &Bytes) -> Self {
        let body = content.len().saturating_sub(DIGEST_BYTES);
        let mut rest = content.slice(HEADER_BYTES.min(body)..body);
        let mut batches = Vec::new();
        while let Some(value) = framed(&mut rest) {
            batches.push(Claimed::decode(value));
        }
        Self {
            batches,
            torn: !rest.is_empty(),
        }
    }
}

struct Header {
    after: Head,
    head: Head,
    batches: u64,
}

impl Header {
    fn read(input: &mut Bytes) -> Result<Self, Error> {
        if input.len() < HEADER_BYTES || input.split_to(MAGIC.len()) != MAGIC.as_slice() {
            return Err(Error::NotASegment);
        }
        match input.get_u16() {
            VERSION => {}
            0 => return Err(Error::NotASegment),
            found => return Err(Error::Newer { found }),
        }
        let (first, last) = (input.get_u64(), input.get_u64());
        let (mut prev, mut hash) = (Hash::ZERO, Hash::ZERO);
        input.copy_to_slice(&mut prev.0);
        input.copy_to_slice(&mut hash.0);
        let before = first.checked_sub(1).ok_or(Error::NotASegment)?;
        Ok(Self {
            after: Head {
                seq: Seq(before),
                hash: prev,
            },
            head: Head {
                seq: Seq(last),
                hash,
            },
            batches: input.get_u64(),
        })
    }
}

/// The next value behind its length; nothing at the end and where the length lies.
fn framed(input: &mut Bytes) -> Option<Bytes> {
    let size = input.get(..8)?.try_into().map(u64::from_be_bytes).ok()?;
    let end = usize::try_from(size).ok()?.checked_add(8)?;
    if end > input.len() {
        return None;
    }
    let mut value = input.split_to(end);
    value.advance(8);
    Some(value)
}

fn length(of: usize) -> u64 {
    u64::try_from(of).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn batches(sizes: &[usize]) -> Vec<Batch> {
        let mut chain = Chain::default();
        let batch = |&size: &usize| {
            let batch = chain.seal(vec![Bytes::from(vec![b'x'; size % 40]); size]);
            chain.advance(&batch).unwrap();
            batch
        };
        sizes.iter().map(batch).collect()
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(sizes in vec(1_usize..6, 1..8)) {
            let batches = batches(&sizes);
            let (segment, content) = Segment::seal(&batches).unwrap();
            prop_assert_eq!(segment.entries(), u64::try_from(sizes.iter().sum::<usize>()).unwrap());
            prop_assert_eq!(Segment::open(&content).unwrap(), (segment, batches));
        }
    }

    /// FAULTS 54, for a segment: any one bit flipped, or cut anywhere.
    #[test]
    fn no_damaged_segment_opens() {
        let (_, content) = Segment::seal(&batches(&[2, 1, 3])).unwrap();
        for bit in 0..content.len() * 8 {
            let mut flipped = content.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Segment::open(&flipped.into()).is_err(), "bit {bit}");
        }
        for end in 0..content.len() {
            assert!(
                Segment::open(&content.slice(..end)).is_err(),
                "cut to {end}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (_, content) = Segment::seal(&batches(&[2])).unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = content.to_vec();
            bytes[at] = byte;
            Segment::open(&bytes.into()).unwrap_err()
        };
        assert_eq!(with(0, b'X'), Error::NotASegment);
        assert_eq!(with(5, 9), Error::Newer { found: 9 });
        assert_eq!(with(150, 9), Error::Altered);
        let apart = [batches(&[1]).remove(0), batches(&[1, 1, 1]).remove(2)];
        assert_eq!(Segment::seal(&apart), None);
        assert_eq!(Segment::seal(&[]), None);
    }

    #[test]
    fn names_are_exact() {
        let span = Span {
            first: Seq(1),
            last: Seq(10_000),
        };
        let name = span.to_string();
        assert_eq!(name, "00000000000000000001-00000000000000010000.log");
        assert_eq!(name.parse(), Ok(span));
        for bad in [
            "1-2.log",
            "",
            "x.log",
            "00000000000000000002-00000000000000000001.log",
        ] {
            assert_eq!(bad.parse::<Span>(), Err(()), "{bad}");
        }
    }
}
