//! One trace from the command to the hypervisor: its id in all that serves it, and its spans where
//! somebody collects them.

use std::fs;

use kapok_lab::{
    fabric::{Kapok, Settings, text},
    loopback::{Loopback, Nodes},
};
use kapok_proto::fabric::v1::{
    ListOperationsRequest, operation_service_client::OperationServiceClient,
};
use kapok_tests::{
    collector::{Collector, Span},
    real,
};
use tokio::runtime::Runtime;
use tonic::{Request, metadata::MetadataValue};

use crate::world::SOON;

/// What a command finds in its environment, and the trace's id in it.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn fabric(settings: &Settings) -> Loopback {
    let nodes = Nodes {
        count: 1,
        ..Nodes::default()
    };
    let fabric = real::processes(nodes, settings);
    let image = fabric.folder().join("image.raw");
    fs::write(&image, "kapok".repeat(1 << 18)).unwrap();
    let image = image.display().to_string();
    let import = ["image", "import", &image, "--name", "disk"];
    fabric.kapok().run(&import).unwrap();
    fabric
}

/// Creates an instance, and gives the operation's trace as the command shows it.
fn create(kapok: &Kapok, name: &str) -> String {
    let create = ["instance", "create", name, "--image", "disk", "--memory"];
    let line = [&create[..], &["64MiB", "--wait"]].concat();
    let operation = kapok.value(&line).unwrap();
    let shown = kapok
        .value(&["op", "show", text(&operation, "id")])
        .unwrap();
    text(&shown, "trace_id").to_owned()
}

/// The lines of a log that a trace's id is on, and that say this.
fn says(log: &str, trace: &str, what: &str) -> bool {
    let mut lines = log.lines();
    lines.any(|line| line.contains(trace) && line.contains(what))
}

/// No export: the id is with the operation, and in the logs of the controller and of the agent.
#[test]
fn a_trace_goes_from_the_command_to_the_agent() {
    let fabric = fabric(&Settings::default());
    let kapok = fabric.kapok().with_variable("TRACEPARENT", PARENT);
    assert_eq!(create(&kapok, "web"), TRACE);
    assert!(says(&fabric.controller_log(), TRACE, "accepted"));
    for action in ["define", "create root disk", "start"] {
        let log = fabric.simulator_log();
        assert!(says(&log, TRACE, &format!("action=\"{action}\"")), "{log}");
    }

    // Another command is another trace, also where what it finds is none.
    let long = "0".repeat(10_240);
    for (number, hostile) in ["garbage", &long].into_iter().enumerate() {
        let kapok = fabric.kapok().with_variable("TRACEPARENT", hostile);
        let trace = create(&kapok, &format!("db-{number}"));
        assert!(trace.len() == 32 && trace != TRACE, "{trace}");
        assert!(says(&fabric.simulator_log(), &trace, "action=\"start\""));
    }
    // What another command does to the same instance is no part of the first one's.
    fabric
        .kapok()
        .run(&["instance", "stop", "web", "--wait"])
        .unwrap();
    let log = fabric.simulator_log();
    assert!(says(&log, "trace_id", "action=\"shutdown\""), "{log}");
    assert!(!says(&log, TRACE, "action=\"shutdown\""), "{log}");

    // Whoever speaks to the controller without the command may send what they like.
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = OperationServiceClient::new(real::channel(fabric.kapok()).unwrap());
        for hostile in [&b"\xff\xfe"[..], b"00-0-0-0", &[b'a'; 10_240]] {
            let mut request = Request::new(ListOperationsRequest::default());
            let value = MetadataValue::try_from(hostile).unwrap();
            request.metadata_mut().insert("traceparent", value);
            let answer = client.list_operations(request).await.unwrap();
            assert_eq!(answer.into_inner().operations.len(), 4);
        }
    });

    // An error says which trace to look for; so does the command if it is asked.
    let refused = kapok.output(&["op", "cancel", "00000000-0000-7000-8000-000000000000"]);
    let said = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(said.ends_with(&format!("\ntrace: {TRACE}\n")), "{said}");
    let asked = kapok.output(&["instance", "ls", "--trace"]).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&asked.stderr),
        format!("trace: {TRACE}\n")
    );
    fabric.end().unwrap();
}

/// With a collector: the spans of three programs are one tree.
#[test]
fn the_spans_of_three_programs_are_one_tree() {
    let runtime = Runtime::new().unwrap();
    let collector = runtime.block_on(Collector::start());
    let settings = Settings {
        otlp_endpoint: Some(collector.endpoint()),
        ..Settings::default()
    };
    let fabric = fabric(&settings);
    let kapok = fabric.kapok();
    let kapok = kapok.with_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let trace = create(&kapok, "web");
    // Programs that end send what waits.
    fabric.end().unwrap();

    let started = |spans: &Vec<Span>| {
        let mut ours = spans.iter().filter(|span| span.trace == trace);
        ours.any(|span| span.name == "action start")
    };
    let spans = runtime.block_on(collector.until(SOON, started));
    let ours: Vec<&Span> = spans.iter().filter(|span| span.trace == trace).collect();
    let above = |span: &Span| ours.iter().find(|one| one.id == span.parent).copied();
    let action = ours
        .iter()
        .find(|span| span.name == "action start")
        .unwrap();
    let mut path = vec![*action];
    while let Some(parent) = above(path[path.len() - 1]) {
        path.push(parent);
    }
    let path: Vec<_> = path
        .iter()
        .map(|span| (span.service.as_str(), span.name.as_str()))
        .collect();
    assert_eq!(
        path,
        [
            ("kapok-sim", "action start"),
            ("kapok-sim", "kapok.agent.v1.NodeService/ApplyInstance"),
            ("kapok-controller", "push apply_instance"),
            (
                "kapok-controller",
                "kapok.fabric.v1.InstanceService/CreateInstance"
            ),
            ("kapok", "command instance create"),
        ]
    );
    // One root, and nobody is left without their parent.
    for span in &ours {
        let rooted = span.parent.is_empty() == (span.service == "kapok");
        assert!(
            rooted && (span.parent.is_empty() || above(span).is_some()),
            "{ours:#?}"
        );
    }
}
