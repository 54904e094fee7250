//! `/healthz` and `/metrics`: who may read them, and what they say.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::{fs, sync::Arc, time::Duration};

use common::{
    Node, apply_when_listed,
    fabric::{Fabric, user},
    resync,
    server::{Server, WAIT, nameless, node_id, pages},
    until,
};
use kapok_agent::{
    config::{Access, Http},
    driver::sim::{Fault, Shape},
    metrics::names,
    trust::Trust,
};
use kapok_metrics::Format;
use kapok_proto::{agent::v1::GetUsageRequest, common::v1::Phase};
use kapok_trust::{Credentials, Subject};
use kapok_types::{IncarnationId, NodeId, Timestamp};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use uuid::Uuid;

/// What a page answers: its status, and all of it.
async fn read(
    server: &Server,
    client: &Arc<ClientConfig>,
    path: &str,
    bearer: Option<&str>,
) -> (u16, String) {
    let exchange = async {
        let tcp = TcpStream::connect(server.https).await.unwrap();
        let name = ServerName::try_from(server.dns()).unwrap();
        let tls = TlsConnector::from(Arc::clone(client)).connect(name, tcp);
        let mut tls = tls.await.unwrap();
        let bearer = bearer.map_or_else(String::new, |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{bearer}\r\n");
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Without a goodbye at the end: the status and the length say that it is whole.
        let _ended = tls.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let answer = timeout(WAIT, exchange).await.unwrap();
    let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, answer)
}

fn access(healthz: Access, metrics: Access) -> Http {
    Http {
        healthz,
        metrics,
        ..pages()
    }
}

async fn serve(fabric: &Fabric, http: Http) -> Server {
    let trust = Trust::in_memory(fabric.node(node_id()));
    Server::with(fabric, trust, http).await
}

/// Reads a page until it says 200, for the hypervisor has to be heard of first.
async fn healthy(server: &Server, client: &Arc<ClientConfig>) -> String {
    let reads = async {
        loop {
            if let (200, page) = read(server, client, "/healthz", None).await {
                return page;
            }
        }
    };
    timeout(WAIT, reads).await.unwrap()
}

/// FAULTS 20: by default /healthz alone is open; /metrics wants a certificate, and not anybody's.
#[tokio::test]
async fn each_page_has_its_readers() {
    let fabric = Fabric::new("kapok");
    let server = serve(&fabric, pages()).await;
    let nobody = nameless(&fabric);
    let page = healthy(&server, &nobody).await;
    for word in [
        "\"joined\":true",
        "\"hypervisor_up\":true",
        "\"certificate_expired\":false",
    ] {
        assert!(page.contains(word), "{page}");
    }
    assert_eq!(read(&server, &nobody, "/metrics", None).await.0, 401);
    assert_eq!(read(&server, &nobody, "/metrics", Some("x")).await.0, 401);
    assert_eq!(read(&server, &nobody, "/", None).await.0, 404);
    let readers: [(Credentials, u16); 5] = [
        (fabric.controller(), 200),
        (
            fabric.somebody(Subject::Machine("prometheus".parse().unwrap())),
            200,
        ),
        (fabric.node(node_id()), 200),
        (fabric.node(NodeId(Uuid::from_u128(0xB0))), 403),
        (fabric.somebody(user("alice")), 403),
    ];
    for (who, status) in readers {
        let (said, page) = read(&server, &who.client_config(), "/metrics", None).await;
        assert_eq!(said, status, "{}: {page}", who.certificate().subject());
    }
    server.stop().await;

    let server = serve(&fabric, access(Access::Off, Access::Open)).await;
    assert_eq!(read(&server, &nobody, "/healthz", None).await.0, 404);
    assert_eq!(read(&server, &nobody, "/metrics", None).await.0, 200);
    // gRPC isn't reached by this door.
    let (status, _) = read(
        &server,
        &nobody,
        "/kapok.agent.v1.NodeService/GetNode",
        None,
    )
    .await;
    assert_eq!(status, 404);
    server.stop().await;
}

/// A bearer token, read anew each time, so that it is changed without a restart.
#[tokio::test]
async fn a_token_opens_a_page() {
    let fabric = Fabric::new("kapok");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let http = Http {
        token_file: Some(file.clone()),
        ..access(Access::Token, Access::Token)
    };
    let server = serve(&fabric, http).await;
    let nobody = nameless(&fabric);
    let status = async |token| read(&server, &nobody, "/metrics", token).await.0;
    let (first, second) = ("the-first-token-of-all", "the-second-token-of-all");
    assert_eq!(status(Some(first)).await, 401, "there is no file");
    fs::write(&file, "\n").unwrap();
    assert_eq!(status(Some("")).await, 401, "an empty token is none");
    fs::write(&file, "short\n").unwrap();
    assert_eq!(status(Some("short")).await, 401, "nor is a short one");
    fs::write(&file, format!("{first}\n")).unwrap();
    assert_eq!(status(Some(first)).await, 200);
    assert_eq!(status(Some(second)).await, 401);
    assert_eq!(status(None).await, 401);
    fs::write(&file, second).unwrap();
    assert_eq!(status(Some(second)).await, 200);
    assert_eq!(status(Some(first)).await, 401);
    server.stop().await;
}

#[tokio::test]
async fn metrics_name_the_certificate_and_the_refused() {
    let fabric = Fabric::new("kapok");
    let server = serve(&fabric, access(Access::Open, Access::Open)).await;
    let mut plain = TcpStream::connect(server.grpc).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ended = timeout(WAIT, plain.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
    let (_, page) = read(&server, &nameless(&fabric), "/metrics", None).await;
    assert!(page.contains(Format::Classic.content_type()), "{page}");
    let end = server.trust.certificate().unwrap().not_after.get() / 1000;
    for line in [
        format!(
            "{}{{subject=\"node/{}\"}} {end}",
            names::CERTIFICATE_EXPIRY.name,
            node_id()
        ),
        format!(
            "{}_total{{reason=\"plaintext\"}} 1",
            names::TLS_REFUSALS.name
        ),
        format!("{}_total{{reason=\"expired\"}} 0", names::TLS_REFUSALS.name),
        format!(
            "{}_info{{version=\"{}\"}} 1",
            names::BUILD.name,
            env!("CARGO_PKG_VERSION")
        ),
    ] {
        assert!(page.contains(&line), "{line} isn't in {page}");
    }
    server.stop().await;
}

/// FAULTS 41 and 62: a domain's name can't write metrics, and a QEMU that doesn't answer is flagged
/// while the numbers of others stay fresh.
#[tokio::test]
async fn metrics_show_domains_whatever_they_are_called() {
    let fabric = Fabric::new("kapok");
    let server = serve(&fabric, access(Access::Open, Access::Open)).await;
    let nobody = nameless(&fabric);
    let (evil, stuck) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let name = "x\"} 1\nkapok_evil 1\n\u{2028}kapok_evil 2";
    server.host.put_foreign(evil, name, true);
    server.host.put_foreign(stuck, "stuck", true);
    let page = async |line: &str| {
        let reads = async {
            loop {
                let (_, page) = read(&server, &nobody, "/metrics", None).await;
                if page.lines().any(|it| it.starts_with(line)) {
                    return page;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(WAIT, reads)
            .await
            .unwrap_or_else(|_| panic!("never came: {line}"))
    };
    let first = page(&format!("kapok_domain_state{{uuid=\"{evil}\"")).await;
    let lines = first.split(['\n', '\r', '\u{2028}']);
    assert!(
        lines.into_iter().all(|it| !it.starts_with("kapok_evil")),
        "{first}"
    );

    let frozen = Fault::Freeze {
        incarnation: IncarnationId(stuck),
    };
    server.host.inject(frozen);
    let flag = |uuid, flag| format!("kapok_domain_stuck{{uuid=\"{uuid}\",name=\"stuck\"}} {flag}");
    page(&flag(stuck, 0)).await;
    let flagged = page(&flag(stuck, 1)).await;
    let others = format!("kapok_domain_stuck{{uuid=\"{evil}\"");
    let others = flagged.lines().find(|it| it.starts_with(&others)).unwrap();
    assert!(others.ends_with(" 0"), "{others}");
    server.host.release();
    page(&flag(stuck, 0)).await;
    server.stop().await;
}

/// What was done to domains, and what the hypervisor told by itself, is counted (FAULTS 61).
#[tokio::test]
async fn metrics_count_what_was_done_and_heard() {
    let fabric = Fabric::new("kapok");
    let server = serve(&fabric, access(Access::Open, Access::Open)).await;
    let mut client = server.client(&fabric.controller()).await;
    resync(&mut client, 1, &[]).await.unwrap();
    let intent = Node::new(Shape::default()).apply(1);
    apply_when_listed(&mut client, intent).await;
    until(&mut client, 1, Phase::Running).await;
    let line = |page: &str, begin: &str| {
        let found = page.lines().find(|line| line.starts_with(begin));
        let value = found.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("{begin} isn't in {page}"))
    };
    let nobody = nameless(&fabric);
    let (_, page) = read(&server, &nobody, "/metrics", None).await;
    for (begin, least) in [
        (
            "kapok_agent_actions_total{action=\"observe\",outcome=\"done\"} ",
            1.0,
        ),
        (
            "kapok_agent_actions_total{action=\"define\",outcome=\"done\"} ",
            1.0,
        ),
        (
            "kapok_agent_actions_total{action=\"start\",outcome=\"done\"} ",
            1.0,
        ),
        ("kapok_hypervisor_events_total ", 1.0),
        ("kapok_hypervisor_hints_total ", 1.0),
    ] {
        assert!(line(&page, begin) >= least, "{begin}\n{page}");
    }
    for begin in [
        "kapok_hypervisor_events_dropped_total ",
        "kapok_agent_console_bytes_total ",
        "kapok_agent_console_dropped_bytes_total ",
    ] {
        assert!(line(&page, begin).abs() < f64::EPSILON, "{begin}\n{page}");
    }
    server.stop().await;
}

/// A certificate that ran out is said where people look, and so is a hypervisor that is away.
#[tokio::test]
async fn healthz_says_what_is_wrong() {
    let fabric = Fabric::new("kapok");
    let server = serve(&fabric, pages()).await;
    let nobody = nameless(&fabric);
    healthy(&server, &nobody).await;
    server.host.set_up(false);
    let (status, page) = read(&server, &nobody, "/healthz", None).await;
    assert_eq!(status, 503);
    assert!(page.contains("\"hypervisor_up\":false"), "{page}");
    server.stop().await;

    let soon = Duration::from_secs(2);
    let expires = fabric.material(Subject::Node(node_id()), fabric.env.now(), soon);
    let trust = Trust::in_memory(fabric.credentials(expires));
    let server = Server::with(&fabric, trust.clone(), pages()).await;
    let end = trust.certificate().unwrap().not_after;
    common::server::comes("it runs out", || fabric.env.now() > Timestamp(end.get())).await;
    // Its clients still get an answer if they don't look at the date.
    let client = without_dates(&fabric, end);
    let (status, page) = read(&server, &client, "/healthz", None).await;
    assert_eq!(status, 503);
    assert!(page.contains("\"certificate_expired\":true"), "{page}");
    server.stop().await;
}

/// A client whose clock stands still.
fn without_dates(fabric: &Fabric, at: Timestamp) -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct Stopped(Timestamp);

    impl rustls::time_provider::TimeProvider for Stopped {
        fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
            let since = Duration::from_millis(self.0.get());
            Some(rustls::pki_types::UnixTime::since_unix_epoch(since))
        }
    }

    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(fabric.bundle().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(Stopped(at)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// What instances used comes from what the sampler has, with the run that it is of: a new one after a
/// restart, whose counter begins again.
#[tokio::test]
async fn usage_is_told_by_run() {
    let fabric = Fabric::new("kapok");
    let server = serve(&fabric, pages()).await;
    let mut client = server.client(&fabric.controller()).await;
    resync(&mut client, 1, &[]).await.unwrap();
    let mut intent = Node::new(Shape::default()).apply(1);
    let id = common::id(1);
    apply_when_listed(&mut client, intent.clone()).await;
    until(&mut client, 1, Phase::Running).await;
    let read = async |client: &mut common::Client, wanted: &dyn Fn(&str, u64) -> bool| {
        let reads = async {
            loop {
                let usage = client.get_usage(GetUsageRequest {}).await.unwrap();
                let usage = usage.into_inner();
                let its = usage
                    .usages
                    .iter()
                    .find(|one| one.incarnation_id == id.to_string());
                if let Some(one) = its
                    && wanted(&one.run, one.cpu_time_ms)
                {
                    return (usage.boot_id.clone(), one.run.clone());
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(WAIT, reads).await.unwrap()
    };
    let (boot, first) = read(&mut client, &|_, cpu_ms| cpu_ms > 0).await;
    assert!(boot.parse::<Uuid>().is_ok(), "{boot}");
    intent.generation = 2;
    let counters = intent.counters.get_or_insert_default();
    counters.restarts += 1;
    apply_when_listed(&mut client, intent).await;
    let (same, _) = read(&mut client, &|run, _| run != first).await;
    assert_eq!(same, boot);
}
