//! Which text a reader wants, from what its request says.

use http::{
    HeaderMap,
    header::{ACCEPT, ACCEPT_ENCODING, AsHeaderName},
};

/// Items of a header that are looked at.
const ITEMS: usize = 64;

/// A form of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Classic,
}

impl Format {
    /// The form that a request asks for. The classic one, unless it wants the other more: what
    /// says nothing, or takes anything, is an old reader or a person.
    ///
    /// Source: RFC 9110, 12.5.1.
    pub fn wanted(headers: &HeaderMap) -> Self {
        let mut open = Wish::default();
        let mut classic = Wish::default();
        for item in items(headers, ACCEPT) {
            let version = item.parameter("version");
            match item.value.as_str() {
                "application/openmetrics-text" if version.is_none_or(|it| it == "1.0.0") => {
                    open.take(3, item.weight);
                }
                "application/*" => open.take(2, item.weight),
                "text/plain" if version.is_none_or(|it| it == "0.0.4") => {
                    classic.take(3, item.weight);
                }
                "text/*" => classic.take(2, item.weight),
                "*/*" => {
                    open.take(1, item.weight);
                    classic.take(1, item.weight);
                }
                _ => {}
            }
        }
        // Equally welcome: the newer one only if it was named.
        let named = open.rank == 3 && open.weight == classic.weight && open.weight > 0;
        if open.weight > classic.weight || named {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// How the page is marked.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Whether a request takes gzip, and not less gladly than plain bytes.
///
/// Source: RFC 9110, 12.5.3.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut plain) = (Wish::default(), Wish::default());
    for item in items(headers, ACCEPT_ENCODING) {
        match item.value.as_str() {
            "gzip" | "x-gzip" => gzip.take(2, item.weight),
            "identity" => plain.take(2, item.weight),
            "*" => gzip.take(1, item.weight),
            _ => {}
        }
    }
    gzip.weight > 0 && gzip.weight >= plain.weight
}

/// How much something is wanted: by the most exact item that names it, of equals the last.
#[derive(Debug, Default)]
struct Wish {
    rank: u8,
    weight: u16,
}

impl Wish {
    fn take(&mut self, rank: u8, weight: u16) {
        if rank > self.rank || (rank == self.rank && weight > self.weight) {
            *self = Self { rank, weight };
        }
    }
}

/// One item of a list with weights.
struct Item {
    value: String,
    parameters: Vec<(String, String)>,
    /// In thousandths.
    weight: u16,
}

impl Item {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let value = parts.next().filter(|value| !value.is_empty())?;
        let mut item = Self {
            value: value.to_ascii_lowercase(),
            parameters: Vec::new(),
            weight: 1000,
        };
        for part in parts {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                item.weight = weight(value)?;
            } else {
                let name = name.to_ascii_lowercase();
                item.parameters.push((name, value.to_owned()));
            }
        }
        Some(item)
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// `0.75` in thousandths.
fn weight(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let sound = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let whole: u16 = whole.parse().ok().filter(|whole| *whole <= 1)?;
    let thousandths: u16 = format!("{part:0<3}").parse().ok()?;
    sound.then(|| (whole * 1000 + thousandths).min(1000))
}

fn items(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = Item> {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .take(ITEMS)
        .filter_map(Item::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[track_caller]
    fn check(accept: &str, wanted: Format) {
        assert_eq!(Format::wanted(&headers(ACCEPT, accept)), wanted, "{accept}");
    }

    #[test]
    fn the_form_is_the_one_that_is_wanted_most() {
        use Format::{Classic, OpenMetrics};
        assert_eq!(Format::wanted(&HeaderMap::new()), Classic);
        check("*/*", Classic);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Classic);
        check("application/openmetrics-text", OpenMetrics);
        check("application/openmetrics-text;version=0.0.1", Classic);
        // What Prometheus sent over the years.
        check(
            "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Classic,
        );
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OpenMetrics,
        );
        check("text/plain, application/openmetrics-text", OpenMetrics);
        check("text/plain, application/openmetrics-text;q=0.9", Classic);
        check("application/openmetrics-text;q=0, */*", Classic);
        check(
            "application/openmetrics-text;q=7, text/plain;q=0.1",
            Classic,
        );
        check(",,;;=,q=,", Classic);
    }

    #[test]
    fn gzip_only_for_those_who_take_it() {
        let takes = |value| takes_gzip(&headers(ACCEPT_ENCODING, value));
        assert!(!takes_gzip(&HeaderMap::new()));
        assert!(takes("gzip") && takes("deflate, GZIP;q=0.5") && takes("*"));
        assert!(!takes("identity") && !takes("gzip;q=0") && !takes("gzip;q=0, *"));
        assert!(!takes("gzip;q=0.5, identity;q=1") && !takes("br"));
    }
}
