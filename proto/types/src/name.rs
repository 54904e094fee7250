//! Identifiers that people choose.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::Violation;

/// Longest identifier, in bytes (they are ASCII).
pub const MAX_LEN: usize = 63;

/// An identifier of the form `[a-z0-9-]{1,63}` that doesn't start or end with a hyphen and isn't
/// a UUID.
///
/// Cheap to clone. Safe by construction in XML, file names and labels (FAULTS 1, 12).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The identifier's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Violation> {
        let refused = |reason: String| Violation::new("name", reason);
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(refused(format!(
                "has {} bytes; must have 1 to {MAX_LEN} characters of a-z, 0-9 and hyphen",
                text.len()
            )));
        }
        if let Some(wrong) = text
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
        {
            return Err(refused(format!(
                "contains {wrong:?}; only a-z, 0-9 and hyphen are allowed, at most {MAX_LEN} of them"
            )));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(refused("must not start or end with a hyphen".into()));
        }
        // Things are asked for by name or by id: a name that is somebody's id would answer for it.
        if uuid::Uuid::try_parse(text).is_ok() {
            return Err(refused(
                "looks like a UUID; names must not pass for ids".into(),
            ));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAULTS 1 and 12: no name can carry markup, a path or a NUL byte.
    #[test]
    fn hostile_names_are_refused_with_field_and_limit() {
        let long = "a".repeat(64);
        for wrong in [
            "",
            "x</name><devices>",
            "../../etc/x",
            "/etc/x",
            "a\0b",
            "Web",
            "-a",
            "a-",
            "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11",
            "0190d6b46f5e7c3a8b1e2f6d1c9a0b11",
            "城市",
            &long,
        ] {
            let refused = wrong.parse::<Name>().unwrap_err();
            assert_eq!(refused.field, "name", "{wrong}");
            assert!(!refused.reason.is_empty());
        }
        assert!("a".repeat(63).parse::<Name>().is_ok());
        assert_eq!("web-1".parse::<Name>().unwrap().as_str(), "web-1");
    }
}
