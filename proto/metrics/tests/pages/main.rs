//! Pages as readers take them: the strict parser of this test, and promtool.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, which says why it skips"
)]

mod parser;

use std::{
    collections::BTreeSet,
    fmt,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use flate2::read::GzDecoder;
use http::{HeaderMap, header};
use kapok_metrics::{Cap, Format, Name, Writer, label, respond};
use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, metrics::histogram::Histogram,
    registry::Registry,
};
use proptest::prelude::*;

use self::parser::{Page, Sample, parse};

const BUILD: Name = Name::info("kapok_build", "What runs here");
const STATE: Name = Name::gauge(
    "kapok_domain_state",
    "The state, \"quoted\" and \\ as it comes",
);
const READ: Name = Name::counter("kapok_domain_read_bytes", "Bytes read");
const CALLS: Name = Name::histogram("kapok_call_duration_seconds", "How long calls took");
const DROPPED: Name = Name::counter("kapok_metrics_dropped_series", "Series left out");

/// Names that somebody chose, under a cap.
#[derive(Debug)]
struct Domains {
    names: Vec<String>,
    cap: Cap,
    calls: Histogram,
}

impl Collector for Domains {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut budget = self.cap.budget();
        let shown: Vec<_> = self.names.iter().filter(|_| budget.take(2)).collect();
        let mut writer = Writer::new(encoder);
        writer.family(&BUILD, |series| series.put(&[("version", "1")], true))?;
        writer.family(&STATE, |series| {
            shown
                .iter()
                .try_for_each(|name| series.put(&[("name", label(name))], 1_u64))
        })?;
        writer.family(&READ, |series| {
            shown
                .iter()
                .try_for_each(|name| series.put(&[("name", label(name))], 0.5))
        })?;
        writer.family(&CALLS, |series| {
            series.histogram(&[("lane", "query")], &self.calls)
        })?;
        writer.single(&DROPPED, self.cap.dropped())
    }
}

fn registry(names: &[String], most: usize) -> Registry {
    let calls = Histogram::new([0.001, 0.1]);
    calls.observe(0.01);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Domains {
        names: names.to_vec(),
        cap: Cap::new(most),
        calls,
    }));
    registry
}

fn page(names: &[String], most: usize, format: Format) -> Page {
    let text = format.write(&registry(names, most)).unwrap();
    parse(&text, format).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn named<'a>(page: &'a Page, name: &'a str) -> impl Iterator<Item = &'a Sample> {
    page.samples
        .iter()
        .filter(move |sample| sample.name == name)
}

proptest! {
    /// FAULTS 62: whatever the names are, the page holds exactly the series that it should, and
    /// each has a name of its own.
    #[test]
    fn no_name_breaks_the_page(texts in prop::collection::btree_set(hostile(), 0..12)) {
        let names: Vec<_> = texts.into_iter().collect();
        for format in [Format::OpenMetrics, Format::Classic] {
            let page = page(&names, usize::MAX, format);
            for family in ["kapok_domain_state", "kapok_domain_read_bytes_total"] {
                let seen: BTreeSet<_> = named(&page, family)
                    .map(|sample| sample.labels["name"].clone())
                    .collect();
                let wanted: BTreeSet<_> = names.iter().map(|name| label(name).into_owned()).collect();
                prop_assert_eq!(seen.len(), names.len());
                prop_assert_eq!(seen, wanted);
            }
            prop_assert_eq!(page.samples.len(), 2 * names.len() + 7);
        }
    }

    /// FAULTS 62: however many there are, no more are shown than the cap allows, and the rest is
    /// counted.
    #[test]
    fn series_are_capped(count in 0_usize..200, most in 0_usize..200) {
        let names: Vec<_> = (0..count).map(|number| format!("domain-{number}")).collect();
        let page = page(&names, most, Format::Classic);
        let shown = named(&page, "kapok_domain_state").count();
        prop_assert_eq!(shown, count.min(most / 2));
        let dropped = named(&page, "kapok_metrics_dropped_series_total").next().unwrap().value;
        let missing = u32::try_from(2 * (count - shown)).unwrap();
        prop_assert!((dropped - f64::from(missing)).abs() < f64::EPSILON);
    }
}

/// Any text, and often the texts that break pages.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "\"",
        "\\",
        "\n",
        "\r",
        "}",
        "{",
        "} 1\n",
        "\"} 1\nkapok_evil 1\n",
        "# EOF\n",
        "\u{2028}",
        "\u{85}",
        "\0",
        ",a=\"b\"",
        "\\\"",
        "中",
        "\u{1b}[0m",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat()),
        "[a-z]{100,300}",
    ]
}

/// Histograms come in another order.
fn sorted(page: &Page) -> Vec<String> {
    let mut lines: Vec<_> = page.samples.iter().map(|it| format!("{it:?}")).collect();
    lines.sort();
    lines
}

#[test]
fn both_forms_say_the_same() {
    let names = ["a".to_owned(), "b\nc".to_owned()];
    let open = page(&names, 100, Format::OpenMetrics);
    let classic = page(&names, 100, Format::Classic);
    assert_eq!(sorted(&open), sorted(&classic));
    assert_eq!(open.families["kapok_build"].kind, "info");
    assert_eq!(classic.families["kapok_build_info"].kind, "gauge");
    assert_eq!(open.families["kapok_domain_read_bytes"].kind, "counter");
    assert_eq!(
        classic.families["kapok_domain_read_bytes_total"].kind,
        "counter"
    );
}

#[test]
fn compressed_for_those_who_take_it() {
    let registry = registry(&["a".into()], 10);
    let mut request = HeaderMap::new();
    request.insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
    request.insert(
        header::ACCEPT,
        "application/openmetrics-text".parse().unwrap(),
    );
    let response = respond(&registry, &request).unwrap();
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        Format::OpenMetrics.content_type()
    );
    let mut text = String::new();
    GzDecoder::new(response.body().as_slice())
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, Format::OpenMetrics.write(&registry).unwrap());
    let plain = respond(&registry, &HeaderMap::new()).unwrap();
    assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
    assert_eq!(
        plain.headers()[header::CONTENT_TYPE],
        Format::Classic.content_type()
    );
}

/// promtool, Prometheus' own reader, finds nothing to say, whatever the names are.
#[test]
fn promtool_is_content() {
    let names: Vec<_> = ["a", "\"} 1\nkapok_evil 1\n", "\\", "中\r\0"]
        .map(str::to_owned)
        .to_vec();
    let text = Format::Classic.write(&registry(&names, 100)).unwrap();
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        println!("SKIP promtool_is_content: promtool (Debian's prometheus) isn't installed");
        return;
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn a_cap_is_shared_by_its_clones() {
    let cap = Cap::new(3);
    let mut budget = cap.clone().budget();
    assert!(budget.take(2) && !budget.take(2) && budget.take(1));
    assert_eq!(cap.dropped(), 2);
}
