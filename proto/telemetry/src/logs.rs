//! Where lines and spans go: set up once in a process.

use std::{io::IsTerminal as _, sync::Arc};

use kapok_types::Env;
use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt as _, registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::{Export, TARGET, journal::Journal};

/// Chooses the form of lines: "json", or "text".
const FORMAT: &str = "KAPOK_LOG_FORMAT";

/// Which lines are written to the standard error, or to the journal where that is connected to it.
#[derive(Debug, Clone, Copy)]
pub struct Logs {
    /// The environment variable with the filter: "LEVEL", or "CRATE=LEVEL,OTHER=LEVEL".
    pub variable: &'static str,
    /// The filter without it.
    pub usual: &'static str,
}

/// Ends the export of spans when it is dropped: what waits is sent within a bounded time.
#[derive(Debug)]
#[must_use = "what waits for export is lost without it"]
pub struct Guard {
    #[cfg(feature = "otlp")]
    _exporter: Option<crate::export::Exporter>,
}

/// Sets up lines and spans for the whole process. `program` is what the collector calls it.
///
/// Legal once a process; a later call changes nothing. Needs no runtime.
pub fn init(
    program: &'static str,
    logs: Option<Logs>,
    export: Option<&Export>,
    env: &Arc<dyn Env>,
) -> Guard {
    let subscriber = tracing_subscriber::registry().with(logs.map(|logs| lines(program, logs)));
    #[cfg(feature = "otlp")]
    {
        let started = export.map(|export| crate::export::start(program, export, env));
        let (exporter, failed) = match started.transpose() {
            Ok(exporter) => (exporter, None),
            Err(error) => (None, Some(error)),
        };
        let layer = exporter.as_ref().map(crate::export::Exporter::layer);
        let _ = subscriber.with(layer).try_init();
        if let Some(error) = failed {
            tracing::warn!(%error, "no spans are exported");
        }
        Guard {
            _exporter: exporter,
        }
    }
    #[cfg(not(feature = "otlp"))]
    {
        let _ = env;
        let _ = subscriber.try_init();
        if export.is_some() {
            tracing::warn!("no spans are exported: this program was built without OTLP");
        }
        Guard {}
    }
}

/// Lines as people read them, or as programs do.
fn lines(program: &'static str, logs: Logs) -> Box<dyn Layer<Registry> + Send + Sync> {
    let given = std::env::var(logs.variable).ok();
    let filter = filter(given.as_deref(), logs.usual);
    let json = std::env::var_os(FORMAT).is_some_and(|form| form == "json");
    if !json && let Some(journal) = Journal::of_stderr(program) {
        return under(journal, filter);
    }
    // The journal has its own time.
    let timed = std::env::var_os("JOURNAL_STREAM").is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match (json, timed) {
        (true, true) => under(lines.json(), filter),
        (true, false) => under(lines.json().without_time(), filter),
        (false, true) => under(lines, filter),
        (false, false) => under(lines.without_time(), filter),
    }
}

fn under<S>(lines: impl Layer<S> + Send + Sync, filter: Targets) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    lines.with_filter(filter).boxed()
}

/// What was asked for, or the usual; and spans of traces always, for their ids.
fn filter(given: Option<&str>, usual: &str) -> Targets {
    let parse = |text: &str| text.parse::<Targets>().ok();
    let asked = given.filter(|text| !text.trim().is_empty()).and_then(parse);
    let targets = asked.or_else(|| parse(usual));
    targets
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
        .with_target(TARGET, Level::ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_as_it_always_was() {
        let enabled = |given: Option<&str>, target: &str, level| {
            filter(given, "info").would_enable(target, &level)
        };
        assert!(enabled(None, "kapok_agent::server", Level::INFO));
        assert!(!enabled(None, "kapok_agent::server", Level::DEBUG));
        assert!(enabled(Some("debug"), "h2", Level::DEBUG));
        let some = Some("kapok_agent=trace,warn");
        assert!(enabled(some, "kapok_agent::local", Level::TRACE));
        assert!(!enabled(some, "kapok_trust", Level::INFO));
        // What can't be read is as good as nothing.
        for bad in ["", " ", "kapok_agent=loud"] {
            assert!(enabled(Some(bad), "kapok_agent", Level::INFO), "{bad:?}");
        }
        assert!(enabled(Some("off"), TARGET, Level::ERROR));
    }
}
