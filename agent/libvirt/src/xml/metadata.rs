//! Kapok's own element in a domain's metadata: versioned JSON text that libvirt keeps for us.
//!
//! The content is opaque here. It must be such that XML gives it back byte for byte, because the
//! agent compares it. Any local user can read it through libvirt's read-only socket: no secrets.

use quick_xml::{NsReader, events::Event, name::ResolveResult};
use serde::Serialize;

use super::Error;

/// The namespace of Kapok's element. Its number counts incompatible changes of the element, not
/// of the JSON inside.
pub const NAMESPACE: &str = "urn:kapok:instance:1";
/// The prefix that libvirt writes the element with.
pub const PREFIX: &str = "kapok";
/// The element's local name.
pub const ELEMENT: &str = "instance";
/// Most content, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Content that is safe to keep: at most [`MAX_BYTES`], and only characters that XML gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata(String);

impl Metadata {
    /// Checks `content`.
    ///
    /// # Errors
    ///
    /// [`Error::Field`] for more than [`MAX_BYTES`], for NUL, carriage returns and control
    /// characters other than line feed and tab (JSON can escape them all), and for content that
    /// begins or ends with white space, which readers of XML are free to drop.
    pub fn new(content: impl Into<String>) -> Result<Self, Error> {
        let content = content.into();
        super::lines("metadata", &content, MAX_BYTES)?;
        if content.is_empty() || content.trim().len() != content.len() {
            return Err(Error::field(
                "metadata",
                "is empty, or begins or ends with white space",
            ));
        }
        Ok(Self(content))
    }

    /// The content.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The content, taken out.
    pub fn into_string(self) -> String {
        self.0
    }

    /// The bare element as `virDomainSetMetadata` takes it; libvirt adds the namespace itself.
    pub(crate) fn element(&self) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Element<'a> {
            #[serde(rename = "$text")]
            content: &'a str,
        }
        super::write(ELEMENT, &Element { content: &self.0 })
    }

    /// Reads the bare element as `virDomainGetMetadata` gives it.
    pub(crate) fn parse_element(text: &str) -> Result<Self, Error> {
        super::guard(text)?;
        let content = content_of(text, |_, local| local == ELEMENT)?;
        Self::new(content.ok_or_else(|| Error::malformed("no metadata element"))?)
    }

    /// Finds Kapok's element in a whole domain document.
    pub(crate) fn find(text: &str) -> Result<Option<Self>, Error> {
        super::guard(text)?;
        content_of(text, |space, local| {
            space == Some(NAMESPACE) && local == ELEMENT
        })?
        .map(Self::new)
        .transpose()
    }
}

/// The character data of the first element that `wanted(namespace, local name)` accepts.
fn content_of(
    text: &str,
    wanted: impl Fn(Option<&str>, &str) -> bool,
) -> Result<Option<String>, Error> {
    let mut reader = NsReader::from_str(text);
    let mut found: Option<String> = None;
    loop {
        let (space, event) = reader.read_resolved_event().map_err(super::malformed)?;
        let space = match &space {
            ResolveResult::Bound(space) => Some(space.as_ref()),
            ResolveResult::Unbound | ResolveResult::Unknown(_) => None,
        };
        match (event, &mut found) {
            (Event::Start(element), None) if wanted(space, element.local_name().as_ref()) => {
                found = Some(String::new());
            }
            (Event::Empty(element), None) if wanted(space, element.local_name().as_ref()) => {
                return Ok(Some(String::new()));
            }
            (Event::Eof, None) => return Ok(None),
            (Event::Text(part), Some(content)) => content.push_str(&part.xml10_content()),
            (Event::CData(part), Some(content)) => content.push_str(&part.xml10_content()),
            (Event::GeneralRef(part), Some(content)) => content.push_str(&super::resolve(&part)?),
            (Event::End(_), Some(_)) => return Ok(found),
            (Event::Start(_) | Event::Empty(_), Some(_)) => {
                return Err(Error::malformed("the metadata element has elements inside"));
            }
            (Event::Eof, Some(_)) => return Err(Error::malformed("it ends inside an element")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// FAULTS 2: content that XML would lose or change is refused.
    #[test]
    fn unsafe_content_is_refused() {
        let long = "x".repeat(MAX_BYTES + 1);
        for content in [
            "a\0b",
            "a\u{1}b",
            "a\rb",
            "a\u{FFFF}b",
            "",
            " a",
            "a\n",
            &long,
        ] {
            assert!(Metadata::new(content).is_err(), "{:?}", content.get(..10));
        }
        assert!(Metadata::new("x".repeat(MAX_BYTES)).is_ok());
    }

    #[test]
    fn the_end_of_a_section_is_just_text() {
        let metadata = Metadata::new("{\"a\":\"]]></instance><x>&amp;&#0;\"}").unwrap();
        let element = metadata.element().unwrap();
        assert!(!element.contains("]]>"), "{element}");
        assert_eq!(Metadata::parse_element(&element), Ok(metadata));
    }

    #[test]
    fn only_our_namespace_counts() {
        let document = "<domain><metadata><a:instance xmlns:a='urn:other'>no</a:instance>\
             <b:instance xmlns:b='urn:kapok:instance:1'>{&quot;v&quot;:1}</b:instance></metadata></domain>";
        assert_eq!(
            Metadata::find(document).unwrap().unwrap().as_str(),
            "{\"v\":1}"
        );
        assert_eq!(
            Metadata::find("<domain><instance>no</instance></domain>"),
            Ok(None)
        );
    }

    proptest! {
        /// FAULTS 2: whatever is accepted comes back byte for byte; the rest is refused.
        #[test]
        fn accepted_content_round_trips(content in "(?s).{0,60}") {
            if let Ok(metadata) = Metadata::new(content) {
                let element = metadata.element().unwrap();
                prop_assert_eq!(Metadata::parse_element(&element), Ok(metadata));
            }
        }

        /// The same, with more of the characters that matter.
        #[test]
        fn markup_round_trips(content in "[\\]\\[<>&;'\"/!#x0-9a-z \n\t\r\0\u{1b}\u{85}\u{2028}]{1,30}") {
            if let Ok(metadata) = Metadata::new(content) {
                let element = metadata.element().unwrap();
                prop_assert_eq!(Metadata::parse_element(&element), Ok(metadata));
            }
        }
    }
}
