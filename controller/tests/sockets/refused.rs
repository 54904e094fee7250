//! FAULTS 20 and 21: who is refused at the handshake, and counted.

use std::time::Duration;

use kapok_proto::fabric::v1::{
    GetFabricRequest, ListNodesRequest, RevokeCertificateRequest,
    node_service_client::NodeServiceClient,
};
use kapok_trust::{Authority, Key, Material, Reason, Serial, Subject, authority};
use kapok_types::Timestamp;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;

use crate::{
    raw::{get, is_let_in},
    world::{BOUND, World, fabric, until},
};

const HOUR: Duration = Duration::from_hours(1);

/// FAULTS 20: nobody speaks to either port without TLS, nor to the port for commands without a
/// certificate. Of the other port only what the configuration opens can be reached so.
#[tokio::test]
async fn plaintext_and_strangers_are_refused() {
    let world = World::new("").await;
    for (address, refusals) in [
        (&world.main, &world.main_refusals),
        (&world.open, &world.open_refusals),
    ] {
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = timeout(BOUND, plain.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(!answer.starts_with(b"HTTP") && !answer.starts_with(&[0, 0]));
        until("counted", async || refusals.get(Reason::Plaintext) == 1).await;
    }
    let bundle = world.material("auditor").bundle_pem.clone();
    assert!(!is_let_in(&world.main, &bundle, None).await);
    until("counted", async || {
        world.main_refusals.get(Reason::NoCertificate) == 1
    })
    .await;
    assert!(is_let_in(&world.open, &bundle, None).await);
    let auditor = world.material("auditor");
    let own = Some((auditor.chain_pem.as_str(), auditor.key_pem.as_str()));
    assert!(is_let_in(&world.main, &bundle, own).await);

    // The open port has the two pages and the way in; no service of the other one.
    let page =
        async |own, path, header| get(&world.open, &bundle, own, path, header).await.unwrap();
    assert_eq!(page(None, "/healthz", "").await.0, 200);
    assert_eq!(page(None, "/metrics", "").await.0, 403);
    assert_eq!(page(None, "/", "").await.0, 404);
    let (status, text) = page(own, "/metrics", "").await;
    assert_eq!(status, 200);
    for line in [
        "kapok_build_info{version=",
        "kapok_certificate_expiry_timestamp_seconds{subject=\"controller/a\"}",
        "kapok_certificate_expiry_timestamp_seconds{subject=\"authority/",
        "kapok_tls_refusals_total{port=\"grpc\",reason=\"no_certificate\"} 1",
        "kapok_tls_refusals_total{port=\"https\",reason=\"plaintext\"} 1",
        "kapok_requests_refused_total 1",
        "kapok_audit_head_sequence ",
        "kapok_connections ",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    // Where agents have theirs is told to the same readers.
    let targets = "/discovery/prometheus";
    assert_eq!(page(None, targets, "").await.0, 403);
    let (status, text) = page(own, targets, "").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("application/json") && text.ends_with("[]"),
        "{text}"
    );
    assert_eq!(
        page(own, "/discovery/prometheus?target=name", "").await.0,
        200
    );
    assert_eq!(page(own, "/discovery/prometheus?target=x", "").await.0, 400);
    let mut enroll = world.enroll(&world.pin()).await;
    let said = enroll.get_fabric(GetFabricRequest {}).await.unwrap();
    assert_eq!(said.into_inner().fabric, "city");
    let anonymous = world.anonymous(&world.open, &world.pin()).await.unwrap();
    let refused = NodeServiceClient::new(anonymous)
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    world.stop().await;
}

/// The metrics for a monitoring system that has a token instead of a certificate.
#[tokio::test]
async fn a_token_opens_the_metrics_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    let config = format!(
        "[https]\nhealthz = \"mtls\"\nmetrics = \"token\"\nmetrics_token_file = {file:?}\n"
    );
    let world = World::new(&config).await;
    let bundle = world.material("auditor").bundle_pem.clone();
    let page = async |path: &str, header: &str| {
        let answer = get(&world.open, &bundle, None, path, header).await;
        answer.unwrap().0
    };
    let good = "authorization: Bearer 0123456789abcdef\r\n";
    assert_eq!(page("/metrics", "").await, 401);
    assert_eq!(page("/metrics", good).await, 200);
    assert_eq!(page("/discovery/prometheus", "").await, 401);
    assert_eq!(page("/discovery/prometheus", good).await, 200);
    assert_eq!(page("/healthz", good).await, 403);
    for wrong in ["Bearer 0123456789abcdeg", "Bearer ", "0123456789abcdef"] {
        let header = format!("authorization: {wrong}\r\n");
        assert_eq!(page("/metrics", &header).await, 401);
    }
    world.stop().await;
}

/// FAULTS 21.
#[tokio::test]
async fn a_wrong_certificate_is_refused_and_counted() {
    let world = World::new("").await;
    let authority = world.authority();
    let auditor = || Subject::User("auditor".parse().unwrap());
    let now = world.now().get();
    let hours = |count: u64| count * 3_600_000;
    let foreign = Authority::create(&fabric(), &*world.env, authority::LIFE).unwrap();
    let signed = |by: &Authority, at: u64| world.signed(by, auditor(), Timestamp(at), HOUR);
    let table = [
        (signed(&authority, now - hours(2)), Reason::Expired),
        (signed(&authority, now + hours(48)), Reason::NotYetValid),
        (signed(&foreign, now), Reason::UnknownIssuer),
        (for_servers_only(&world, &authority), Reason::WrongPurpose),
    ];
    for (material, reason) in &table {
        let Material {
            chain_pem,
            key_pem,
            bundle_pem,
            ..
        } = material;
        let own = Some((chain_pem.as_str(), key_pem.as_str()));
        for (address, refusals) in [
            (&world.main, &world.main_refusals),
            (&world.open, &world.open_refusals),
        ] {
            assert!(!is_let_in(address, bundle_pem, own).await, "{reason:?}");
            until("counted", async || refusals.get(*reason) == 1).await;
        }
    }

    // A certificate that was good, and is called off.
    let system = world.person("system-administrator");
    let security = world.person("security-administrator");
    let list = async || {
        let mut nodes = world.nodes(&system);
        nodes.list_nodes(ListNodesRequest::default()).await
    };
    list().await.unwrap();
    world
        .certificates(&security)
        .revoke_certificate(RevokeCertificateRequest {
            serial: system.certificate().serial.to_string(),
            reason: "left".into(),
            request_id: String::new(),
        })
        .await
        .unwrap();
    let material = world.material("system-administrator");
    let own = Some((material.chain_pem.as_str(), material.key_pem.as_str()));
    until("the revocation is in force", async || {
        !is_let_in(&world.main, &material.bundle_pem, own).await
    })
    .await;
    assert!(list().await.is_err());
    assert!(world.main_refusals.get(Reason::Revoked) >= 1);
    world.stop().await;
}

/// A certificate of the authority, good in everything but what it may be used for.
fn for_servers_only(world: &World, authority: &Authority) -> Material {
    let issuer = Issuer::from_ca_cert_pem(
        authority.certificate_pem(),
        KeyPair::from_pem(&authority.key_pem()).unwrap(),
    )
    .unwrap();
    let key = Key::generate().unwrap();
    let pair = KeyPair::from_pem(&key.to_pem()).unwrap();
    let mut params = CertificateParams::default();
    let serial = Serial::new(&*world.env);
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let uri = "spiffe://city/user/auditor".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    Material {
        chain_pem: params.signed_by(&pair, &issuer).unwrap().pem(),
        key_pem: key.to_pem().as_str().to_owned(),
        bundle_pem: world.material("auditor").bundle_pem.clone(),
        crl_pem: String::new(),
    }
}
