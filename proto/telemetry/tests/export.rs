//! Export to a collector on loopback: which spans come, with which parents.
#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[allow(unreachable_pub, reason = "it is a module of another crate, too")]
#[path = "../../../tests/src/collector.rs"]
mod collector;

use std::{sync::Arc, time::Duration};

use collector::{Collector, Span};
use kapok_telemetry::{Export, TraceContext, is_traced, join, part, traced};
use kapok_types::{Env, env::Seeded};

/// One test, because a process is set up once.
#[tokio::test]
async fn spans_of_a_trace_come_with_their_parents_and_nothing_else_does() {
    let collector = Collector::start().await;
    let env: Arc<dyn Env> = Seeded::new(11);
    let export = Export::to(collector.endpoint()).unwrap();
    let guard = kapok_telemetry::init("kapok-test", None, Some(&export), &env);

    // A parent that nobody exports: the trace goes on, and this is the first that is seen of it.
    let asked = TraceContext::new(&*env);
    let command = traced!("command", call = "instance create");
    let first = join(&command, Some(asked), &*env);
    assert_eq!(first.trace, asked.trace);
    assert!(first.sampled && first.span != asked.span);

    // Another process' part, and a part of that.
    let request = traced!(
        "request",
        call = "/kapok.fabric.v1.InstanceService/CreateInstance"
    );
    let second = join(&request, Some(first), &*env);
    request.in_scope(|| {
        assert!(is_traced());
        part!("libvirt", call = "start", lane = "change").in_scope(|| tracing::info!("made"));
    });
    // What belongs to no trace isn't exported and has no parts.
    tracing::info_span!("link", node = "rack1-a").in_scope(|| {
        assert!(!is_traced());
        assert!(part!("libvirt", call = "look").is_none());
    });
    drop((command, request));
    // The end sends what waits. It blocks, so not on the runtime that serves the collector.
    let end = tokio::task::spawn_blocking(move || drop(guard));
    end.await.unwrap();

    let enough = |spans: &Vec<Span>| spans.len() >= 3;
    let spans = collector.until(Duration::from_secs(30), enough).await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("{name}: {spans:#?}"))
    };
    let command = named("command instance create");
    let request = named("kapok.fabric.v1.InstanceService/CreateInstance");
    let libvirt = named("libvirt start");
    for span in &spans {
        assert_eq!(span.service, "kapok-test");
        assert_eq!(span.trace, asked.trace.to_string());
    }
    assert_eq!(command.parent, "");
    assert_eq!(command.id, first.span.to_string());
    assert_eq!(request.parent, command.id);
    assert_eq!(request.id, second.span.to_string());
    assert_eq!(libvirt.parent, request.id);
}
