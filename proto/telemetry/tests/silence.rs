//! A collector that isn't there, or that takes everything and says nothing, disturbs nobody.
#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{net::TcpListener, sync::Arc};

use kapok_telemetry::{Export, join, traced};
use kapok_types::{Env, env::Seeded};

/// More spans than may wait, all begun and ended while nothing can be sent: each `drop` returns at
/// once, and so does the end, within its bound.
#[test]
fn spans_that_nobody_takes_are_dropped_and_nothing_waits_for_them() {
    // It listens and never reads: connections come about, and nothing is ever answered.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let env: Arc<dyn Env> = Seeded::new(5);
    let export = Export::to(endpoint).unwrap();
    let guard = kapok_telemetry::init("kapok-test", None, Some(&export), &env);
    for number in 0..10_000 {
        let span = traced!("request", call = "/a/B", number);
        assert!(join(&span, None, &*env).sampled);
    }
    drop(guard);
}
