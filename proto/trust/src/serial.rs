//! How certificates are told apart: serial numbers and fingerprints.

use std::{fmt, str::FromStr};

use kapok_types::{Digest, Env, Violation};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A certificate's number: 16 random bytes, unique in the fabric.
///
/// The first byte lies in `0x40..=0x7f`, so that the number is positive and always 16 bytes long
/// in DER: its text form is one and the same everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    /// A new number.
    pub fn new(env: &dyn Env) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&env.random().to_be_bytes());
        bytes[8..].copy_from_slice(&env.random().to_be_bytes());
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Self(bytes)
    }

    /// The number in a certificate, if it is one of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 16] = bytes.try_into().ok()?;
        (bytes[0] & 0xc0 == 0x40).then_some(Self(bytes))
    }

    /// Big-endian, as DER has it.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// A SHA-256 that names a certificate.
///
/// Of a leaf it is taken over its DER. Of an *authority* it is taken over the DER of its public
/// key, and is its subject key identifier: every certificate that an authority has signed says so
/// in its authority key identifier, and a cross certificate of the same key has the same
/// fingerprint. `openssl x509 -text` prints it under that name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Hashes `der`.
    pub fn of(der: &[u8]) -> Self {
        Self(Digest::of(der).0)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Takes lower-case digits only, so that one number has one spelling.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (slot, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *slot = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl FromStr for Serial {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        unhex::<16>(text)
            .and_then(|bytes| Self::from_bytes(&bytes))
            .ok_or_else(|| {
                Violation::new("serial", "must be a certificate's 32 lower-case hex digits")
            })
    }
}

impl FromStr for Fingerprint {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        unhex(text)
            .map(Self)
            .ok_or_else(|| Violation::new("fingerprint", "must be 64 lower-case hex digits"))
    }
}

macro_rules! text_forms {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

text_forms!(Serial Fingerprint);

#[cfg(test)]
mod tests {
    use kapok_types::env::Seeded;

    use super::*;

    #[test]
    fn serials_are_positive_sixteen_bytes_and_have_one_spelling() {
        let env = Seeded::new(1);
        for _ in 0..100 {
            let serial = Serial::new(&*env);
            assert!((0x40..=0x7f).contains(&serial.as_bytes()[0]));
            assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
        }
        for wrong in [
            "",
            "00112233445566778899aabbccddeeff",
            "7F112233445566778899AABBCCDDEEFF",
            "7f11",
        ] {
            assert!(wrong.parse::<Serial>().is_err(), "{wrong}");
        }
        let fingerprint = Fingerprint::of(b"kapok");
        let text = serde_json::to_string(&fingerprint).unwrap();
        assert_eq!(
            serde_json::from_str::<Fingerprint>(&text).unwrap(),
            fingerprint
        );
    }
}
