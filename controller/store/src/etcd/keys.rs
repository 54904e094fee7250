//! The keys below the prefix, and how the fixed values are written.
//!
//! | key | value |
//! | --- | --- |
//! | `format` | u64: raised whenever an older version must not open them |
//! | `epoch` | u64: the epoch in force; what every write compares |
//! | `leader` | epoch u64, candidate as text; under the leader's lease, so it goes with it |
//! | `head` | the log's head, position and hash; then the bytes ever appended, u64 |
//! | `first` | the first position that is there and the bytes appended before it, u64 each |
//! | `begun` | position and hash behind which a log that moved here begins; mostly absent |
//! | `log/<position>/<bytes>` | the batch that begins there; the bytes appended before it |
//! | `checkpoint` | the current checkpoint, position and hash; absent before the first |
//! | `staged` | whose parts are staged: epoch u64, generation u64, count u32; then a digest of them |
//! | `use` | what the store is for: a byte, and the epoch of the source that a move goes by; absent when open |
//! | `parts/<generation>/<index>` | a part, staged or settling |
//! | `settling` | generation u64 of the parts that are the current checkpoint's and not moved yet |
//! | `objects/<key>` | object, as of the current checkpoint but for what is settling |
//!
//! Numbers in values are big-endian, in keys decimal with leading zeros, so that ranges sort.

use kapok_types::{Epoch, Seq};

use crate::{Error, Hash, Head, Leader};

/// The format that this version writes, and the newest that it reads.
pub(super) const KNOWN_FORMAT: u32 = 1;

/// The longest prefix that leaves room for guards in [`crate::Limits`], in bytes.
pub(super) const MAX_PREFIX_BYTES: usize = 96;

/// Says that a value that must be there, or must have a shape, is wrong.
pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::Corrupt { what: what.into() }
}

/// Where the store's keys are.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// Below `prefix`, which ends with a slash.
    pub(super) fn below(prefix: &str) -> Result<Self, Error> {
        let refused = |what: &str| Error::Options {
            what: format!("the prefix {prefix:?} {what}"),
        };
        if !prefix.ends_with('/') || prefix.len() < 2 {
            return Err(refused("must be a text that ends with a slash"));
        }
        if prefix.len() > MAX_PREFIX_BYTES {
            return Err(refused("is longer than 96 bytes"));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
        })
    }

    /// Where it is.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn of(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn leader(&self) -> String {
        self.of("leader")
    }

    /// What a batch is stored under.
    pub(super) fn batch(&self, first: Seq, offset: u64) -> String {
        format!("{}log/{:020}/{offset:020}", self.prefix, first.get())
    }

    /// Before every batch that begins at `from` or later, and behind all others.
    pub(super) fn batches_from(&self, from: Seq) -> String {
        format!("{}log/{:020}", self.prefix, from.get())
    }

    /// All batches.
    pub(super) fn log(&self) -> String {
        self.of("log/")
    }

    /// Behind all batches.
    pub(super) fn log_end(&self) -> String {
        self.of("log0")
    }

    /// Where a batch's key says that it begins, and the bytes appended before it.
    pub(super) fn place(&self, key: &[u8]) -> Result<(Seq, u64), Error> {
        let place = key.strip_prefix(self.log().as_bytes()).and_then(|rest| {
            let (seq, offset) = std::str::from_utf8(rest).ok()?.split_once('/')?;
            Some((Seq(seq.parse().ok()?), offset.parse().ok()?))
        });
        place.ok_or_else(|| {
            let key = String::from_utf8_lossy(key);
            corrupt(format!("{key:?} is no key of the log"))
        })
    }

    pub(super) fn part(&self, generation: u64, index: u32) -> String {
        format!("{}{index:010}", self.parts(generation))
    }

    /// All parts of a generation.
    pub(super) fn parts(&self, generation: u64) -> String {
        format!("{}parts/{generation:020}/", self.prefix)
    }

    /// Behind all parts of a generation.
    pub(super) fn parts_end(&self, generation: u64) -> String {
        format!("{}parts/{generation:020}0", self.prefix)
    }

    pub(super) fn objects(&self) -> String {
        self.of("objects/")
    }

    pub(super) fn objects_end(&self) -> String {
        self.of("objects0")
    }

    pub(super) fn object(&self, key: &str) -> String {
        format!("{}{key}", self.objects())
    }

    /// The object's key that is stored under `key`.
    pub(super) fn object_name(&self, key: &[u8]) -> Result<String, Error> {
        let name = key.strip_prefix(self.objects().as_bytes());
        let name = name.and_then(|name| String::from_utf8(name.to_vec()).ok());
        name.ok_or_else(|| corrupt("an object's key is no text"))
    }
}

/// Reads numbers and hashes off the front of a value.
pub(super) struct Fields<'a> {
    name: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) const fn of(name: &'static str, value: &'a [u8]) -> Self {
        Self { name, rest: value }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let split = self.rest.split_first_chunk::<N>();
        let (taken, rest) = split.ok_or_else(|| corrupt(format!("bad {}", self.name)))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn number(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn small(&mut self) -> Result<u32, Error> {
        self.take().map(u32::from_be_bytes)
    }

    /// The hash that is left; zero where nothing is.
    pub(super) fn hash_or_zero(&mut self) -> Result<Hash, Error> {
        if self.rest.is_empty() {
            return Ok(Hash::ZERO);
        }
        self.take().map(Hash)
    }

    pub(super) fn head(&mut self) -> Result<Head, Error> {
        Ok(Head {
            seq: Seq(self.number()?),
            hash: Hash(self.take()?),
        })
    }

    /// What is left, as it is.
    pub(super) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(corrupt(format!("bad {}", self.name)))
    }
}

/// A position and hash as a value.
pub(super) fn head_bytes(head: Head) -> Vec<u8> {
    let mut bytes = head.seq.get().to_be_bytes().to_vec();
    bytes.extend(head.hash.0);
    bytes
}

impl Leader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.epoch.get().to_be_bytes().to_vec();
        bytes.extend(self.candidate.as_bytes());
        bytes
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Error> {
        let mut fields = Fields::of("leader", value);
        let epoch = Epoch(fields.number()?);
        let candidate = String::from_utf8(fields.rest().to_vec());
        Ok(Self {
            candidate: candidate.map_err(|_| corrupt("bad leader"))?,
            epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_positions_do() {
        let keys = Keys::below("/kapok/a/").unwrap();
        let places = [(1, 0), (2, 300), (10, 900), (u64::MAX, u64::MAX)];
        let made: Vec<String> = places
            .iter()
            .map(|&(seq, offset)| keys.batch(Seq(seq), offset))
            .collect();
        assert!(made.is_sorted() && made.last().unwrap() < &keys.log_end());
        for (key, (seq, offset)) in made.iter().zip(places) {
            assert_eq!(keys.place(key.as_bytes()).unwrap(), (Seq(seq), offset));
            assert!(keys.batches_from(Seq(seq)) < *key);
        }
        assert!(made[1] < keys.batches_from(Seq(3)) && keys.batches_from(Seq(3)) < made[2]);
        assert!(keys.place(b"/kapok/a/log/x/1").is_err());
    }

    #[test]
    fn prefixes_are_bounded_folders() {
        for bad in ["", "/", "kapok", &format!("/{}/", "x".repeat(95))] {
            assert!(
                matches!(Keys::below(bad), Err(Error::Options { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn leaders_round_trip() {
        let leader = Leader {
            candidate: "控制器-1 https://10.0.0.1:7700".to_owned(),
            epoch: Epoch(7),
        };
        assert_eq!(Leader::decode(&leader.encode()).unwrap(), leader);
        assert!(Leader::decode(b"short").is_err());
    }
}
