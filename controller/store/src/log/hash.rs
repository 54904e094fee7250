//! The chain's hash.

use std::{fmt, str::FromStr};

use kapok_types::{Digest, Seq, Violation};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 of the log's chain, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// What stands before the first entry.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of the entry at `seq` with `payload`, after one whose hash is `prev`.
    pub fn link(prev: Self, seq: Seq, payload: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(prev.0);
        hasher.update(seq.get().to_be_bytes());
        hasher.update(payload);
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Hash {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = Violation;

    /// Takes 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Violation> {
        let digest: Result<Digest, _> = format!("sha256:{text}").parse();
        let refused = |_| Violation::new("hash", "must be 64 lower-case hex digits");
        digest.map(|digest| Self(digest.0)).map_err(refused)
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let hash = Hash::link(Hash::ZERO, Seq(1), b"x");
        assert_eq!(hash.to_string().parse::<Hash>().unwrap(), hash);
        assert!("00".parse::<Hash>().is_err());
    }
}
