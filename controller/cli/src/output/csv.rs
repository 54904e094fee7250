//! Comma-separated values, as RFC 4180 has them: a line of names, then a line for each thing.
//!
//! They are made of what programs read as JSON, keys in the same order; a list within a thing is
//! JSON in its field. Text that a spreadsheet would take for a formula gets an apostrophe in front:
//! names are people's.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// What begins a formula in some spreadsheet.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// One thing: its keys and values, in order.
struct Line(Vec<(String, Value)>);

/// What is printed: one thing, or many.
struct Lines(Vec<Line>);

impl<'d> Deserialize<'d> for Line {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        let Lines(lines) = deserializer.deserialize_map(Either)?;
        let fields = lines.into_iter().flat_map(|Line(fields)| fields);
        Ok(Self(fields.collect()))
    }
}

impl<'d> Deserialize<'d> for Lines {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

struct Either;

impl<'d> Visitor<'d> for Either {
    type Value = Lines;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or a list of objects")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Lines, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Lines(vec![Line(fields)]))
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut seq: A) -> Result<Lines, A::Error> {
        let mut lines = Vec::new();
        while let Some(line) = seq.next_element()? {
            lines.push(line);
        }
        Ok(Lines(lines))
    }
}

/// The text for a thing or a list of things; nothing for an empty list.
///
/// # Errors
///
/// It is neither.
pub(super) fn text<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let Lines(lines) = serde_json::from_str(&serde_json::to_string(value)?)?;
    let mut text = String::new();
    if let Some(Line(first)) = lines.first() {
        put(&mut text, first.iter().map(|(key, _)| key.clone()));
    }
    for Line(fields) in &lines {
        put(&mut text, fields.iter().map(|(_, value)| cell(value)));
    }
    Ok(text)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.starts_with(FORMULA) => format!("'{text}"),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn put(text: &mut String, cells: impl Iterator<Item = String>) {
    let quoted = cells.map(|cell| {
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    });
    let cells: Vec<_> = quoted.collect();
    text.push_str(&cells.join(","));
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        name: &'static str,
        count: Option<u32>,
        also: Vec<u32>,
    }

    #[test]
    fn fields_keep_their_order_and_their_quotes() {
        let thing = |name, count| Thing {
            name,
            count,
            also: vec![1, 2],
        };
        let all = [thing("水务, \"A\"", Some(3)), thing("b", None)];
        assert_eq!(
            text(&all[..]).unwrap(),
            "name,count,also\r\n\"水务, \"\"A\"\"\",3,\"[1,2]\"\r\nb,,\"[1,2]\"\r\n"
        );
        assert_eq!(
            text(&all[1]).unwrap(),
            "name,count,also\r\nb,,\"[1,2]\"\r\n"
        );
        assert_eq!(
            text(&thing("=1+1", Some(1))).unwrap(),
            "name,count,also\r\n'=1+1,1,\"[1,2]\"\r\n"
        );
        assert_eq!(text::<[Thing]>(&[]).unwrap(), "");
        assert!(text(&3).is_err());
    }
}
