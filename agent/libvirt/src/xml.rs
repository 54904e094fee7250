//! libvirt's documents as typed values: written by an escaping serializer, read with DTDs off.
//!
//! No function here joins strings into XML and none takes XML apart by searching it. Writing is
//! deterministic: the same value gives the same bytes. Reading is bounded in size and depth, and
//! refuses every DOCTYPE and every entity that isn't one of XML's own five.

use quick_xml::{Reader, escape::resolve_predefined_entity, events::Event};
use serde::{Serialize, de::DeserializeOwned};

pub mod capabilities;
pub(crate) mod cpu_model;
mod document;
pub mod domain;
pub mod domain_view;
pub mod metadata;
pub mod network;
pub mod node_device;
pub mod placement;
pub mod probe;
pub mod storage;
pub mod topology;

/// Largest document read or written, in bytes: libvirt's own limit for a string in a message.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Deepest nesting of elements that is read. libvirt's own documents stay below 20.
pub const MAX_DEPTH: usize = 64;

/// A document or a field that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_BYTES`].
    #[error("document has {bytes} bytes; at most {MAX_BYTES} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It has a document type declaration, which could define entities.
    #[error("document has a DOCTYPE, which is never read")]
    Doctype,
    /// It uses an entity that only a DTD could define.
    #[error("document uses the entity {name:?}; only XML's own five are read")]
    Entity {
        /// The entity's name, cut to 64 characters.
        name: String,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("document nests deeper than {MAX_DEPTH} elements")]
    TooDeep,
    /// Not well-formed, or lacking what it must have.
    #[error("document can't be read: {reason}")]
    Malformed {
        /// The parser's words.
        reason: String,
    },
    /// A value can't be written.
    #[error("{field} {reason}")]
    Field {
        /// Which value.
        field: &'static str,
        /// What is wrong and what the limit is.
        reason: String,
    },
}

impl Error {
    pub(crate) fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field {
            field,
            reason: reason.into(),
        }
    }

    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed {
            reason: reason.into(),
        }
    }
}

/// What a parser says about a document.
pub(crate) fn malformed<E: std::error::Error>(error: E) -> Error {
    Error::malformed(error.to_string())
}

/// Writes `value` as a document whose root is `root`.
pub(crate) fn write<T: Serialize>(root: &str, value: &T) -> Result<String, Error> {
    let text = quick_xml::se::to_string_with_root(root, value).map_err(malformed)?;
    if text.len() > MAX_BYTES {
        return Err(Error::TooLarge { bytes: text.len() });
    }
    // Fields are checked one by one when they are taken; this is the net below.
    match text.chars().find(|&c| !is_legal(c)) {
        Some(c) => Err(Error::field(
            "document",
            format!("contains {c:?}, which XML can't carry"),
        )),
        None => Ok(text),
    }
}

/// Reads a document that passes [`guard`].
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    guard(text)?;
    quick_xml::de::from_str(text).map_err(malformed)
}

/// Walks a document once without building anything, and refuses what must never be read.
pub(crate) fn guard(text: &str) -> Result<(), Error> {
    if text.len() > MAX_BYTES {
        return Err(Error::TooLarge { bytes: text.len() });
    }
    let mut reader = Reader::from_str(text);
    let mut depth = 0_usize;
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::DocType(_) => return Err(Error::Doctype),
            Event::GeneralRef(entity) => {
                resolve(&entity)?;
            }
            Event::Start(element) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(Error::TooDeep);
                }
                guard_attributes(&element)?;
            }
            Event::Empty(element) => guard_attributes(&element)?,
            Event::End(_) => depth = depth.saturating_sub(1),
            Event::Eof if depth > 0 => return Err(Error::malformed("it ends inside an element")),
            Event::Eof => return Ok(()),
            Event::Text(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_) => {}
        }
    }
}

/// References in attributes aren't events of their own.
fn guard_attributes(element: &quick_xml::events::BytesStart<'_>) -> Result<(), Error> {
    let mut rest = element.attributes_raw();
    while let Some((_, after)) = rest.split_once('&') {
        let (name, after) = after.split_once(';').unwrap_or((after, ""));
        if !name.starts_with('#') && resolve_predefined_entity(name).is_none() {
            return Err(unknown_entity(name));
        }
        rest = after;
    }
    Ok(())
}

/// The text that a reference in character data stands for.
pub(crate) fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Result<String, Error> {
    if let Some(c) = entity.resolve_char_ref().map_err(malformed)? {
        return Ok(c.to_string());
    }
    resolve_predefined_entity(entity)
        .map(str::to_owned)
        .ok_or_else(|| unknown_entity(entity))
}

fn unknown_entity(name: &str) -> Error {
    Error::Entity {
        name: name.chars().take(64).collect(),
    }
}

/// Whether XML 1.0 can carry `c` and gives it back unchanged.
///
/// Carriage return is legal in XML but read back as a line feed, so it counts as illegal here.
fn is_legal(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{20}'..='\u{FFFD}' | '\u{10000}'..)
}

/// Checks a one-line text: not empty, no control characters, at most `limit` bytes.
///
/// Line feeds and tabs are refused too: attribute values would come back with spaces instead.
pub(crate) fn line(field: &'static str, text: &str, limit: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::field(field, "is empty"));
    }
    if text.len() > limit {
        let bytes = text.len();
        return Err(Error::field(
            field,
            format!("has {bytes} bytes; at most {limit} are allowed"),
        ));
    }
    match text.chars().find(|&c| !is_legal(c) || c.is_control()) {
        Some(c) => Err(Error::field(
            field,
            format!("contains {c:?}; it must be one line of text"),
        )),
        None => Ok(()),
    }
}

/// Checks a text of several lines: what XML carries and gives back unchanged.
pub(crate) fn lines(field: &'static str, text: &str, limit: usize) -> Result<(), Error> {
    if text.len() > limit {
        let bytes = text.len();
        return Err(Error::field(
            field,
            format!("has {bytes} bytes; at most {limit} are allowed"),
        ));
    }
    match text.chars().find(|&c| !is_legal(c)) {
        Some(c) => Err(Error::field(
            field,
            format!("contains {c:?}, which XML can't carry"),
        )),
        None => Ok(()),
    }
}

/// An element whose only content is one attribute, for example `<model type='virtio'/>`.
macro_rules! attribute_element {
    ($($(#[$doc:meta])* $name:ident($rename:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub(crate) struct $name<T = String> {
            #[serde(rename = $rename)]
            pub(crate) value: T,
        }

        impl<T> From<T> for $name<T> {
            fn from(value: T) -> Self {
                Self { value }
            }
        }
    )*};
}

attribute_element! {
    /// `<… type='…'/>`
    Typed("@type");
    /// `<… model='…'/>`
    Modelled("@model");
    /// `<… offset='…'/>`
    Offset("@offset");
    /// `<… address='…'/>`
    Addressed("@address");
    /// `<… network='…'/>`
    Networked("@network");
    /// `<… order='…'/>`
    Ordered("@order");
    /// `<… period='…'/>`
    Period("@period");
}

/// A quantity with its unit, for example `<memory unit='KiB'>262144</memory>`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Amount {
    #[serde(rename = "@unit", default)]
    unit: Option<String>,
    #[serde(rename = "$text")]
    value: u64,
}

impl Amount {
    pub(crate) fn mib(value: u64) -> Self {
        Self {
            unit: Some("MiB".into()),
            value,
        }
    }

    pub(crate) fn of(value: u64, unit: &str) -> Self {
        Self {
            unit: Some(unit.into()),
            value,
        }
    }

    pub(crate) fn bytes(value: u64) -> Self {
        Self {
            unit: Some("bytes".into()),
            value,
        }
    }

    /// In bytes; `default` is the unit when none is written.
    pub(crate) fn to_bytes(&self, default: &str) -> Result<u64, Error> {
        let factor = match self.unit.as_deref().unwrap_or(default) {
            "b" | "bytes" => 1,
            "KiB" | "k" | "K" => 1 << 10,
            "KB" => 1_000,
            "MiB" | "M" => 1 << 20,
            "MB" => 1_000_000,
            "GiB" | "G" => 1 << 30,
            "TiB" | "T" => 1 << 40,
            other => return Err(Error::malformed(format!("unknown unit {other:?}"))),
        };
        self.value
            .checked_mul(factor)
            .ok_or_else(|| Error::malformed("an amount overflows"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAULTS 3: a DOCTYPE, an external entity or an entity bomb is refused before any reading.
    #[test]
    fn dtds_and_entities_are_refused() {
        let bomb = "<!DOCTYPE d [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;'>]><d>&b;</d>";
        let external = "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/shadow'>]><d>&x;</d>";
        for text in [bomb, external, "<!DOCTYPE d><d/>", "<d/><!DOCTYPE d>"] {
            assert_eq!(guard(text), Err(Error::Doctype), "{text}");
            assert_eq!(read::<String>(text), Err(Error::Doctype), "{text}");
        }
        for text in ["<d>&x;</d>", "<d a='&x;'/>", "<d a='&amp;&x;'>t</d>"] {
            assert_eq!(
                guard(text),
                Err(Error::Entity { name: "x".into() }),
                "{text}"
            );
        }
        assert_eq!(
            guard("<d a='&lt;&#65;'>&amp;&#x42;&gt;&quot;&apos;</d>"),
            Ok(())
        );
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let large = format!("<d>{}</d>", "x".repeat(MAX_BYTES));
        assert_eq!(guard(&large), Err(Error::TooLarge { bytes: large.len() }));
        assert_eq!(guard(&"<d>".repeat(MAX_DEPTH + 1)), Err(Error::TooDeep));
        assert!(matches!(guard("<d><e>"), Err(Error::Malformed { .. })));
    }

    #[test]
    fn control_characters_are_named() {
        for text in ["a\0b", "a\u{1b}", "a\nb", "a\u{FFFE}", ""] {
            assert!(matches!(
                line("title", text, 100),
                Err(Error::Field { field: "title", .. })
            ));
        }
        assert_eq!(line("title", "市政云 <&\">", 100), Ok(()));
    }

    #[test]
    fn amounts_know_their_unit() {
        let amount = |unit: &str, value| {
            Amount {
                unit: Some(unit.into()),
                value,
            }
            .to_bytes("b")
        };
        assert_eq!(amount("KiB", 2), Ok(2048));
        assert!(amount("GiB", u64::MAX).is_err());
        assert!(amount("pound", 1).is_err());
    }

    proptest::proptest! {
        /// No text can make the guard panic or run away.
        #[test]
        fn the_guard_takes_anything(text in "[<>&;'\"!a-z\\[\\]/ =#\\x00-\\x1f]{0,200}") {
            let _ = guard(&text);
        }
    }
}
