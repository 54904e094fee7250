//! Identities. Each kind is its own type, so that one can't stand where another is meant.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use uuid::Uuid;

use crate::Violation;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $field:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = Violation;

            /// Takes the hyphenated lower-case form only, so that one id has one spelling.
            fn from_str(text: &str) -> Result<Self, Violation> {
                Uuid::try_parse(text)
                    .ok()
                    .filter(|id| id.hyphenated().to_string() == text)
                    .map(Self)
                    .ok_or_else(|| Violation::new($field, "must be a UUID in hyphenated lower-case form"))
            }
        }
    )*};
}

ids! {
    /// A physical server that runs an agent. Made once on the server, never its host name.
    NodeId = "node_id";
    /// A virtual machine that Kapok manages, for as long as its intent exists.
    InstanceId = "instance_id";
    /// One instance's life on one node. Every placement makes a new one.
    IncarnationId = "incarnation_id";
    /// A long-running change.
    OperationId = "operation_id";
    /// An image that instances can be created from.
    ImageId = "image_id";
}

/// The SHA-256 of a blob: its content address everywhere in the fabric.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// 64 lower-case hexadecimal digits, safe in a file or volume name.
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut out, byte| {
                let _ = write!(out, "{byte:02x}");
                out
            })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Violation;

    /// Takes `sha256:` and 64 lower-case hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Violation> {
        let refused = || Violation::new("digest", "must be `sha256:` and 64 lower-case hex digits");
        let hex = text
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64)
            .ok_or_else(refused)?;
        let mut bytes = [0_u8; 32];
        for (slot, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let digit = |byte: u8| match byte {
                b'0'..=b'9' => Some(byte - b'0'),
                b'a'..=b'f' => Some(byte - b'a' + 10),
                _ => None,
            };
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                return Err(refused());
            };
            *slot = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_has_one_spelling() {
        let text = "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11";
        assert_eq!(text.parse::<NodeId>().unwrap().to_string(), text);
        for wrong in [
            "",
            "0190D6B4-6F5E-7C3A-8B1E-2F6D1C9A0B11",
            "0190d6b46f5e7c3a8b1e2f6d1c9a0b11",
            "../x",
        ] {
            assert_eq!(wrong.parse::<NodeId>().unwrap_err().field, "node_id");
        }
    }

    #[test]
    fn digest_round_trips_and_refuses_other_spellings() {
        let digest = Digest::of(b"kapok");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for wrong in [
            String::new(),
            digest.hex(),
            digest.to_string().to_uppercase(),
            "sha256:00".into(),
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
