//! A strict parser of both text forms: no more than their grammars allow.
//!
//! Source: the `OpenMetrics` 1.0.0 specification and Prometheus' exposition formats page.

use std::collections::{BTreeMap, BTreeSet};

use kapok_metrics::Format;

/// A page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) families: BTreeMap<String, Family>,
    pub(crate) samples: Vec<Sample>,
}

/// What the lines with `#` say of a family.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
}

/// One line without `#`.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// Parses a whole page, or says at which line it is wrong.
pub(crate) fn parse(text: &str, format: Format) -> Result<Page, String> {
    let mut page = Page::default();
    let mut seen = BTreeSet::new();
    let mut present: Option<String> = None;
    let body = match format {
        Format::OpenMetrics => text.strip_suffix("# EOF\n").ok_or("no end")?,
        Format::Classic => text,
    };
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("the last line doesn't end".into());
    }
    // Every line end that some reader knows counts as one.
    let lines = body.split_terminator([
        '\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}',
    ]);
    for line in lines {
        let wrong = |what: &str| Err(format!("{what}: {line:?}"));
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (word, name) = (words.next(), words.next().unwrap_or_default());
            let rest = words.next().unwrap_or_default();
            if !is_name(name) {
                return wrong("no name");
            }
            match word {
                Some("HELP") if !page.families.contains_key(name) => {
                    page.families.insert(name.into(), Family::default());
                    present = Some(name.into());
                }
                Some("TYPE") if present.as_deref() == Some(name) => {
                    page.families.entry(name.into()).or_default().kind = rest.into();
                }
                _ => return wrong("a comment that says nothing, or twice"),
            }
            continue;
        }
        let Some(sample) = sample(line) else {
            return wrong("no sample");
        };
        let family = present.clone().ok_or("a sample before all families")?;
        let suffix = sample.name.strip_prefix(&family);
        let kind = page.families[&family].kind.as_str();
        let sound = match (kind, format) {
            ("counter", Format::OpenMetrics) => suffix == Some("_total"),
            ("info", Format::OpenMetrics) => suffix == Some("_info"),
            ("counter", Format::Classic) => family.ends_with("_total") && suffix == Some(""),
            ("gauge", _) => suffix == Some(""),
            ("histogram", _) => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
            _ => false,
        };
        if !sound {
            return wrong("a sample outside of its family");
        }
        if !seen.insert((sample.name.clone(), sample.labels.clone())) {
            return wrong("a series twice");
        }
        page.samples.push(sample);
    }
    Ok(page)
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            if !is_name(key) || labels.insert(key.to_owned(), value).is_some() {
                return None;
            }
            rest = match after.strip_prefix(',') {
                Some(after) if !after.starts_with('}') => after,
                Some(_) => return None,
                None => after,
            };
        }
    }
    let value = rest.strip_prefix(' ')?;
    let number = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    (is_name(name) && number).then_some(())?;
    Some(Sample {
        name: name.into(),
        labels,
        value: value.parse().ok()?,
    })
}

/// A value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                quoted @ ('"' | '\\') => quoted,
                _ => return None,
            }),
            character => value.push(character),
        }
    }
    None
}
