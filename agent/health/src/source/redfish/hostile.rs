//! Controllers that don't behave: each is unreadable, with a reason, and in bounds.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A controller that gives one answer to all questions; it ends with the test.
async fn controller(
    version: &'static SupportedProtocolVersion,
    answer: Vec<u8>,
) -> (Redfish, JoinSet<()>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut running = JoinSet::new();
    running.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut question = [0; 2048];
            if tls.read(&mut question).await.is_ok() {
                // Whoever asked may have heard enough.
                let _ = tls.write_all(&answer).await;
                let _ = tls.shutdown().await;
            }
        }
    });
    let settings = Settings {
        address: format!("127.0.0.1:{port}"),
        user: None,
        password_file: None,
        ca_file: None,
        fingerprint: None,
        insecure: true,
    };
    (Redfish::new(Some(settings)), running)
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let bytes = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {bytes}\r\n\r\n{body}").into_bytes()
}

async fn reason(answer: Vec<u8>) -> String {
    let (source, _running) = controller(&TLS13, answer).await;
    match source.read(&Host::new("/")).await {
        Err(Failure::Unreadable(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

/// FAULTS 63.
#[tokio::test]
async fn answers_that_are_none_are_unreadable() {
    let away = r#"{"Chassis":{"@odata.id":"//elsewhere/redfish/v1"}}"#;
    let endless = r#"{"Chassis":{"@odata.id":"/redfish/v1/"},"Members":[{"@odata.id":"/redfish/v1/"}],
        "Systems":{"@odata.id":"/redfish/v1/"},"Managers":{"@odata.id":"/redfish/v1/"}}"#;
    for (answer, expected) in [
        (http("200 OK", "hello"), "not JSON"),
        (http("200 OK", "{}"), "tells nothing"),
        (http("200 OK", away), "leads away"),
        (http("200 OK", endless), "tells nothing"),
        (http("302 Found", ""), "302"),
        (http("404 Not Found", ""), "no Redfish service"),
        (
            http("200 OK", &"[".repeat(5 << 20)),
            "length limit exceeded",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec(),
            "/redfish/v1/: ",
        ),
        (b"\x00\x01\x02".to_vec(), "/redfish/v1/: "),
        (Vec::new(), "/redfish/v1/: "),
    ] {
        let reason = reason(answer).await;
        assert!(reason.contains(expected), "{reason} instead of {expected}");
    }
}

/// Many controllers know nothing newer.
#[tokio::test]
async fn tls_of_yesterday_is_spoken() {
    let answer = http("200 OK", "hello");
    let (source, _running) = controller(&TLS12, answer).await;
    let failure = source.read(&Host::new("/")).await.unwrap_err();
    assert!(failure.to_string().contains("not JSON"), "{failure}");
}

/// FAULTS 63: one that takes the connection and says nothing. Time is paused: it passes as soon as
/// everything waits.
#[tokio::test(start_paused = true)]
async fn a_silent_controller_is_given_up() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let settings = format!("address = {address:?}\ninsecure = true");
    let source = Redfish::new(Some(toml::from_str(&settings).unwrap()));
    let failure = source.read(&Host::new("/")).await.unwrap_err();
    assert!(
        failure.to_string().contains("no answer within 10s"),
        "{failure}"
    );
}
