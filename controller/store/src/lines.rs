//! Entries as text, one JSON line each: what the audit's export is made of.
//!
//! ```json
//! {"sequence":7,"previous_hash":"…","hash":"…","entry":{"version":1,…}}
//! ```
//!
//! `entry` stands there byte for byte as in the log, so each line can be verified on its own:
//! `hash = SHA-256(previous_hash ‖ sequence, 8 bytes big-endian ‖ entry)`. A tool that formats the
//! text anew breaks that.

use std::fmt;

use bytes::Bytes;
use kapok_types::Seq;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Entry, Hash};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<T> {
    sequence: u64,
    previous_hash: Hash,
    hash: Hash,
    entry: T,
}

/// Why an entry can't be a line, or a line no entry. Says what is wrong and where in the line.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    reason: String,
}

fn wrong(reason: impl fmt::Display) -> Error {
    Error {
        reason: format!("{reason}"),
    }
}

/// An entry as a line, with its line feed.
///
/// # Errors
/// When the payload is no JSON text on one line.
pub fn write(entry: &Entry) -> Result<String, Error> {
    let payload = std::str::from_utf8(&entry.payload).map_err(wrong)?;
    let line = Line {
        sequence: entry.seq.get(),
        previous_hash: entry.prev,
        hash: entry.hash,
        entry: serde_json::from_str::<&RawValue>(payload).map_err(wrong)?,
    };
    let mut text = serde_json::to_string(&line).map_err(wrong)?;
    if text.contains('\n') {
        return Err(wrong("the entry has several lines"));
    }
    text.push('\n');
    Ok(text)
}

/// The entry of a line without its line feed. Its hash is not checked here.
///
/// # Errors
/// When the line is not as [`write()`] makes it.
pub fn read(line: &str) -> Result<Entry, Error> {
    // What surrounds the object was not written by `write`.
    if !line.starts_with('{') || !line.ends_with('}') {
        return Err(wrong("it is no JSON object on one line"));
    }
    let read: Line<&RawValue> = serde_json::from_str(line).map_err(wrong)?;
    Ok(Entry {
        seq: Seq(read.sequence),
        prev: read.previous_hash,
        hash: read.hash,
        payload: Bytes::copy_from_slice(read.entry.get().as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Chain;

    fn entry(payload: &'static str) -> Entry {
        let mut batch = Chain::default().seal(vec![payload.into()]).into_iter();
        batch.next().unwrap()
    }

    #[test]
    fn every_byte_of_an_entry_survives() {
        for payload in [
            r#"{"a":1.0,"b":"城 \u4eac","c" : [ ]}"#,
            "[]",
            "null",
            r#""\n""#,
        ] {
            let entry = entry(payload);
            let line = write(&entry).unwrap();
            let line = line.strip_suffix('\n').unwrap();
            assert_eq!(read(line).unwrap(), entry, "{line}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let line = write(&entry("{}")).unwrap();
        let line = line.trim_end();
        for bad in [
            String::new(),
            format!(" {line}"),
            format!("{line} "),
            line.replace("entry", "Entry"),
            line.replace("\"hash\"", "\"more\":1,\"hash\""),
            line.replace("{}", "{"),
            line.to_uppercase(),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
        for payload in ["", "{", "{}\n{}", "{\n}"] {
            assert!(write(&entry(payload)).is_err(), "{payload:?}");
        }
    }
}
