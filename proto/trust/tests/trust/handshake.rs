//! FAULTS 20 and 21: who is refused before the first word, by either end, and counted.

use std::{sync::Arc, time::Duration};

use kapok_trust::{
    Acceptor, Alert, ClientAuth, Credentials, Limits, Material, Reason, TlsFailure, connector,
};
use kapok_types::{Env as _, Timestamp, env::Seeded};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, SerialNumber};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{ServerName, UnixTime},
    time_provider::TimeProvider,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::support::{BOUND, City, DAY, Echo, NODE, OTHER_NODE, echoes, node_dns};

/// The city's clock, for those who come with rustls alone.
#[derive(Debug)]
struct Clock(Arc<Seeded>);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_millis(self.0.now().get());
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// A client without a certificate of its own, which does trust the city.
fn bare_client(city: &City) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let pem = city.authority.certificate_pem();
    let root = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_details(provider, Arc::new(Clock(city.env.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A leaf of the city's that its authority would never sign: `shape` says in what way.
fn forged(city: &City, shape: impl FnOnce(&mut CertificateParams)) -> Material {
    let ca = KeyPair::from_pem(&city.authority.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(city.authority.certificate_pem(), ca).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let serial = city.serial();
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let uri = format!("spiffe://city/{NODE}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    shape(&mut params);
    Material {
        chain_pem: params.signed_by(&key, &issuer).unwrap().pem(),
        key_pem: key.serialize_pem(),
        bundle_pem: city.authority.certificate_pem().to_owned(),
        crl_pem: String::new(),
    }
}

/// Dials with rustls alone, showing `material` whatever it is; true if the server took it.
async fn taken(server: &Echo, city: &City, material: &Material) -> bool {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let roots = bare_client(city);
    let chain = CertificateDer::from_pem_slice(material.chain_pem.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(material.key_pem.as_bytes()).unwrap();
    let mut config = roots.clone();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let shown = rustls::sign::CertifiedKey::from_der(vec![chain], key, &provider).unwrap();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from(node_dns()).unwrap();
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await;
    let mut tls = tls.expect("the server is in order");
    let _ = tls.write_all(b"ping").await;
    let mut answer = [0; 4];
    let read = timeout(BOUND, tls.read_exact(&mut answer)).await.unwrap();
    read.is_ok()
}

#[tokio::test]
async fn members_get_in_and_know_each_other() {
    let city = City::new(1);
    let mut server = Echo::start(&city.credentials(NODE)).await;
    for subject in ["controller/a", OTHER_NODE, "user/alice", "machine/ci"] {
        let client = city.credentials(subject);
        let mut connection = server.dial(&client).await.unwrap();
        assert!(echoes(&mut connection).await);
        assert_eq!(connection.peer().subject().unwrap().to_string(), NODE);
        assert_eq!(
            connection.tls().protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
    }
    let subjects: Vec<_> = server
        .peers_are(4)
        .await
        .iter()
        .map(|peer| peer.subject().unwrap().to_string())
        .collect();
    assert_eq!(
        subjects,
        ["controller/a", OTHER_NODE, "user/alice", "machine/ci"]
    );
    server.refused_nobody();
}

/// FAULTS 20.
#[tokio::test]
async fn plaintext_is_refused_at_the_handshake() {
    let city = City::new(2);
    let server = Echo::start(&city.credentials(NODE)).await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = timeout(BOUND, plain.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.len() <= 7, "at most an alert: {answer:?}");
    server.refused(Reason::Plaintext, 1).await;
    assert!(server.peers().is_empty());
}

/// FAULTS 20.
#[tokio::test]
async fn no_client_certificate_is_refused_at_the_handshake() {
    let city = City::new(3);
    let server = Echo::start(&city.credentials(NODE)).await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from(node_dns()).unwrap();
    let tls = TlsConnector::from(Arc::new(bare_client(&city))).connect(name, tcp);
    let mut tls = tls.await.unwrap();
    let refused = timeout(BOUND, tls.read(&mut [0; 1])).await.unwrap();
    let failure = connector::failure(&refused.unwrap_err());
    assert_eq!(
        failure,
        Some(TlsFailure::PeerRefusedUs(Alert::NoCertificate))
    );
    server.refused(Reason::NoCertificate, 1).await;
    assert!(server.peers().is_empty());
}

/// Where the certificate is optional, none is nobody, and a wrong one is still refused.
#[tokio::test]
async fn an_optional_certificate_is_none_or_right() {
    let city = City::new(4);
    let limits = Limits::default();
    let acceptor = Acceptor::new(city.credentials(NODE), ClientAuth::Optional, limits);
    let mut server = Echo::serve(acceptor).await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from(node_dns()).unwrap();
    let tls = TlsConnector::from(Arc::new(bare_client(&city))).connect(name, tcp);
    let _tls = tls.await.unwrap();
    let peer = server.peers_are(1).await.remove(0);
    assert!(peer.subject().is_none() && peer.address().is_some());

    let foreign = City::new(40).material("user/mallory");
    assert!(!taken(&server, &city, &foreign).await);
    server.refused(Reason::UnknownIssuer, 1).await;
}

/// The bytes of a TLS 1.2 client's first message: no `supported_versions`.
fn tls12_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17, // supported_groups: secp256r1
        0x00, 0x0b, 0x00, 0x02, 0x01, 0x00, // ec_point_formats: uncompressed
        0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04,
        0x03, // signature_algorithms: P-256, SHA-256
    ];
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.extend([0x00, 0x00, 0x02, 0xc0, 0x2b, 0x01, 0x00]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![0x01, 0x00];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_12_is_refused() {
    let city = City::new(5);
    let server = Echo::start(&city.credentials(NODE)).await;
    let mut old = TcpStream::connect(server.address).await.unwrap();
    old.write_all(&tls12_hello()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(BOUND, old.read_to_end(&mut answer)).await.unwrap();
    // A fatal alert: protocol_version (RFC 8446, 6.2).
    assert_eq!(answer.get(5..), Some(&[2, 70][..]), "{answer:?}");
    server.refused(Reason::Protocol, 1).await;
}

/// FAULTS 21: the server's half. Each is refused, counted by its reason, and told why.
#[tokio::test]
async fn wrong_client_certificates_are_refused_and_counted() {
    let city = City::new(6);
    let hour = Duration::from_hours(1);
    // The client's clock stands still: it finds its certificate good.
    let clients_clock = Seeded::new(60);
    let client = |material| Credentials::new(material, clients_clock.clone()).unwrap();
    let mut material = city.material(NODE);
    let expired = client(city.material_from("user/alice", city.env.now(), hour));
    city.env.advance(2 * hour);
    let tomorrow = Timestamp(city.env.now().get() + 24 * 3_600_000);
    let early = client(city.material_from("user/alice", tomorrow, DAY));
    let revoked = client(city.material("user/alice"));
    let stranger = City::new(61);
    let mut foreign = stranger.material("user/alice");
    foreign.bundle_pem += city.authority.certificate_pem();
    let foreign = client(foreign);

    material.crl_pem = city.crl(&[revoked.certificate().serial]);
    let credentials = city.take(material);
    for (client, reason, alert) in [
        (expired, Reason::Expired, Alert::Expired),
        (early, Reason::NotYetValid, Alert::Expired),
        (revoked, Reason::Revoked, Alert::Revoked),
        (foreign, Reason::UnknownIssuer, Alert::UnknownIssuer),
    ] {
        let server = Echo::start(&credentials).await;
        let told = server.refusal(&client).await;
        assert_eq!(told, Some(TlsFailure::PeerRefusedUs(alert)), "{reason}");
        server.refused(reason, 1).await;
        assert!(server.peers().is_empty(), "{reason}");
    }
}

/// FAULTS 21: what our own authority would never sign is refused, too.
#[tokio::test]
async fn misshapen_client_certificates_are_refused_and_counted() {
    let city = City::new(7);
    let credentials = city.credentials(NODE);
    let uri = |text: &str| SanType::URI(text.to_owned().try_into().unwrap());
    let fine = forged(&city, |_| {});
    let server = Echo::start(&credentials).await;
    assert!(
        taken(&server, &city, &fine).await,
        "the mould itself is in order"
    );

    let server_only = forged(&city, |it| {
        it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let no_name = forged(&city, |it| it.subject_alt_names.clear());
    let other_fabric = forged(&city, |it| {
        it.subject_alt_names = vec![uri("spiffe://town/user/a")];
    });
    let two_names = forged(&city, |it| {
        it.subject_alt_names.push(uri("spiffe://city/user/a"));
    });
    for (material, reason) in [
        (server_only, Reason::WrongPurpose),
        (no_name, Reason::NoIdentity),
        (other_fabric, Reason::NoIdentity),
        (two_names, Reason::NoIdentity),
    ] {
        let server = Echo::start(&credentials).await;
        assert!(!taken(&server, &city, &material).await, "{reason}");
        server.refused(reason, 1).await;
        assert!(server.peers().is_empty(), "{reason}");
    }
}

/// FAULTS 21: the client's half. Nobody but the dialled node can pass for it.
#[tokio::test]
async fn wrong_servers_are_refused_and_named() {
    let city = City::new(8);
    let hour = Duration::from_hours(1);
    let servers_clock = Seeded::new(80);
    let server = |material| Credentials::new(material, servers_clock.clone()).unwrap();
    let expired = server(city.material_from(NODE, city.env.now(), hour));
    city.env.advance(2 * hour);
    let tomorrow = Timestamp(city.env.now().get() + 24 * 3_600_000);
    let early = server(city.material_from(NODE, tomorrow, DAY));
    let revoked = server(city.material(NODE));
    let mut foreign = City::new(81).material(NODE);
    foreign.bundle_pem += city.authority.certificate_pem();

    let mut material = city.material("controller/a");
    material.crl_pem = city.crl(&[revoked.certificate().serial]);
    let client = city.take(material);
    for (credentials, failure) in [
        (expired, TlsFailure::Expired),
        (early, TlsFailure::NotYetValid),
        (revoked, TlsFailure::Revoked),
        (server(foreign), TlsFailure::UnknownIssuer),
        (city.credentials(OTHER_NODE), TlsFailure::WrongName),
        (city.credentials("user/alice"), TlsFailure::WrongPurpose),
    ] {
        let server = Echo::start(&credentials).await;
        assert_eq!(server.refusal(&client).await, Some(failure));
        assert!(server.peers().is_empty());
    }
}

/// A dead server is no certificate's trouble, and a plaintext server is.
#[tokio::test]
async fn failures_that_are_not_of_certificates_are_told_apart() {
    let city = City::new(9);
    let (client, dns) = (city.credentials("controller/a"), node_dns());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let refused = connector::stream(&client, &address, &dns)
        .await
        .unwrap_err();
    let failure = connector::failure(&refused);
    assert_eq!(failure, Some(TlsFailure::NotTls));
    plain.await.unwrap();
    // The listener went with the task.
    let refused = connector::stream(&client, &address, &dns)
        .await
        .unwrap_err();
    assert_eq!(connector::failure(&refused), None, "{refused}");
}

/// A session can't be resumed: it would bring a certificate along that nobody looks at.
#[tokio::test]
async fn every_handshake_is_a_full_one() {
    let city = City::new(10);
    let limits = Limits::default();
    let acceptor = Acceptor::new(city.credentials(NODE), ClientAuth::Optional, limits);
    let server = Echo::serve(acceptor).await;
    let config = Arc::new(bare_client(&city));
    for _ in 0..2 {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from(node_dns()).unwrap();
        let mut tls = TlsConnector::from(config.clone())
            .connect(name, tcp)
            .await
            .unwrap();
        tls.write_all(b"ping").await.unwrap();
        tls.read_exact(&mut [0; 4]).await.unwrap();
        let facts = tls.get_ref().1;
        assert!(facts.tls13_tickets_received() > 0, "it did get a ticket");
        assert_eq!(facts.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
