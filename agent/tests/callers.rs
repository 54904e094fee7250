//! Who reaches a node, and who is let do anything there: FAULTS 20, 21, 22, on real sockets with
//! real certificates.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::time::Duration;

use common::{
    fabric::{Fabric, controller, user},
    reason,
    server::{Server, WAIT, beats, comes, nameless, node_id},
};
use kapok_proto::{
    DESCRIPTORS,
    agent::v1::{GetNodeRequest, HeartbeatRequest, InstallTrustRequest},
};
use kapok_trust::{
    Acceptor, Alert, ClientAuth, Credentials, Limits, Reason, Subject, TlsFailure, connector, dns,
};
use kapok_types::{NodeId, Timestamp};
use prost::Message as _;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_prost::ProstCodec;
use uuid::Uuid;

const HOUR: Duration = Duration::from_hours(1);

/// Every method of every service that a listener of ours could serve.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut methods = vec![
        "/grpc.health.v1.Health/Check".to_owned(),
        "/grpc.health.v1.Health/Watch".to_owned(),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(),
    ];
    for file in set.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    methods
}

/// Calls a method with an empty message and gives what became of it.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec: ProstCodec<(), ()> = ProstCodec::default();
    let answer = client.server_streaming(Request::new(()), path.parse().unwrap(), codec);
    let mut answers = timeout(WAIT, answer).await.unwrap()?.into_inner();
    timeout(WAIT, answers.message()).await.unwrap().map(drop)
}

/// FAULTS 22: no method, of no service, answers anybody but a controller of this fabric; not even
/// this node's own certificate.
#[tokio::test]
async fn only_controllers_may_call_anything() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let methods = methods();
    assert!(
        methods
            .iter()
            .any(|path| path.ends_with("NodeService/InstallTrust"))
    );
    assert!(methods.len() > 40, "{}", methods.len());
    let others = [
        Subject::Node(NodeId(Uuid::from_u128(0xB0))),
        Subject::Node(node_id()),
        user("alice"),
        Subject::Machine("ci".parse().unwrap()),
    ];
    for subject in others {
        let channel = server
            .dial(&fabric.somebody(subject.clone()))
            .await
            .unwrap();
        for path in &methods {
            let refused = call(&channel, path).await.unwrap_err();
            assert_eq!(
                (refused.code(), reason(&refused)),
                (Code::PermissionDenied, "FORBIDDEN".into()),
                "{subject} at {path}"
            );
        }
    }
    // A controller gets another answer, so the test can fail.
    let channel = server.dial(&fabric.controller()).await.unwrap();
    for path in [
        "/grpc.health.v1.Health/Check",
        "/kapok.agent.v1.NodeService/ListInstances",
    ] {
        if let Err(status) = call(&channel, path).await {
            assert_ne!(status.code(), Code::PermissionDenied, "{path}");
        }
    }
    server.stop().await;
}

/// The alert that a TLS record from the server carries, if it is one.
fn is_alert(answer: &[u8]) -> bool {
    answer.first() == Some(&21)
}

/// FAULTS 20: whoever speaks plaintext, or shows no certificate, gets nothing said, and is counted.
#[tokio::test]
async fn plaintext_and_the_nameless_are_refused_at_the_handshake() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    for hello in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut plain = TcpStream::connect(server.grpc).await.unwrap();
        plain.write_all(hello).await.unwrap();
        let mut answer = Vec::new();
        // Closed, by a reset or in order.
        let _ended = timeout(WAIT, plain.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty() || is_alert(&answer), "{answer:?}");
    }
    comes("plaintext is counted", || {
        server.serving.refusals.get(Reason::Plaintext) == 2
    })
    .await;

    // A client that trusts the right authority, dials the right name, and shows nothing.
    let tcp = TcpStream::connect(server.grpc).await.unwrap();
    let name = ServerName::try_from(server.dns()).unwrap();
    let tls = TlsConnector::from(nameless(&fabric)).connect(name, tcp);
    let mut tls = timeout(WAIT, tls).await.unwrap().unwrap();
    // In TLS 1.3 the client is done before the server has looked: the answer tells.
    let _broken = tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let mut said = Vec::new();
    let answer = tls.read_to_end(&mut said);
    timeout(WAIT, answer).await.unwrap().unwrap_err();
    comes("the nameless are counted", || {
        server.serving.refusals.get(Reason::NoCertificate) == 1
    })
    .await;
    assert!(beats(&mut server.client(&fabric.controller()).await).await);
    server.stop().await;
}

/// Credentials whose certificate the fabric's authority, or another one of its name, has made.
fn dated(fabric: &Fabric, from: Timestamp, life: Duration) -> Credentials {
    fabric.credentials(fabric.material(controller(), from, life))
}

/// FAULTS 21: expired, not yet valid, foreign and revoked certificates, and ones that are only for
/// servers of another kind, are refused at the handshake, told apart by whoever dials, and counted.
#[tokio::test]
async fn wrong_certificates_are_refused_and_counted() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let now = fabric.env.now();
    let ago = Timestamp(now.get() - 3 * 3_600_000);
    let ahead = Timestamp(now.get() + 3 * 3_600_000);
    let foreign = Fabric::new("kapok");
    let mut stranger = foreign.material(controller(), now, HOUR);
    // It knows whom to trust, so that it is the server who refuses.
    stranger.bundle_pem += &fabric.bundle();
    let revoked = fabric.controller();
    let change = InstallTrustRequest {
        epoch: 1,
        bundle_pem: fabric.bundle(),
        crl_pem: fabric.revoked(&[revoked.certificate().serial]),
        ..Default::default()
    };
    let mut client = server.client(&fabric.controller()).await;
    client.install_trust(change).await.unwrap();

    let cases = [
        (dated(&fabric, ago, HOUR), Alert::Expired, Reason::Expired),
        (
            dated(&fabric, ahead, HOUR),
            Alert::Expired,
            Reason::NotYetValid,
        ),
        (
            fabric.credentials(stranger),
            Alert::UnknownIssuer,
            Reason::UnknownIssuer,
        ),
        (revoked, Alert::Revoked, Reason::Revoked),
    ];
    for (who, alert, counted) in cases {
        let refused = server.dial(&who).await.unwrap_err();
        assert_eq!(
            connector::failure(&refused),
            Some(TlsFailure::PeerRefusedUs(alert)),
            "{counted}: {refused:?}"
        );
        let refusals = server.serving.refusals.clone();
        comes("it is counted", || refusals.get(counted) == 1).await;
    }
    assert!(beats(&mut client).await, "nobody else was disturbed");
    server.stop().await;
}

/// FAULTS 21, on open connections: a revocation ends them within seconds, both ways.
#[tokio::test]
async fn a_revocation_ends_open_connections() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let (stays, goes) = (fabric.controller(), fabric.controller());
    let mut thief = server.client(&goes).await;
    let stream = thief.heartbeat(HeartbeatRequest { interval_ms: 100 });
    let mut stream = stream.await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let mut client = server.client(&stays).await;
    let change = InstallTrustRequest {
        epoch: 1,
        bundle_pem: fabric.bundle(),
        crl_pem: fabric.revoked(&[goes.certificate().serial]),
        ..Default::default()
    };
    client.install_trust(change).await.unwrap();
    let ends = async { while let Ok(Some(_)) = stream.message().await {} };
    timeout(WAIT, ends).await.unwrap();
    assert!(!beats(&mut thief).await, "nor can it come back");
    assert!(beats(&mut client).await);
    server.stop().await;
}

/// FAULTS 22, from the controller's side: another node at this node's address isn't this node.
#[tokio::test]
async fn another_node_cannot_stand_in() {
    let fabric = Fabric::new("kapok");
    let other = fabric.node(NodeId(Uuid::from_u128(0xB0)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = Acceptor::new(other, ClientAuth::Required, Limits::default());
    let _incoming = acceptor.incoming(listener);
    let dns = dns::node(&fabric.name, node_id());
    let caller = fabric.controller();
    let dial = connector::connect(&caller, &address, &dns, |endpoint| endpoint);
    let refused = timeout(WAIT, dial).await.unwrap().unwrap_err();
    assert_eq!(connector::failure(&refused), Some(TlsFailure::WrongName));
}

/// A node says what it is made of and what it believes.
#[tokio::test]
async fn facts_name_the_trust() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let mut client = server.client(&fabric.controller()).await;
    let facts = timeout(WAIT, async {
        loop {
            match client.get_node(GetNodeRequest {}).await {
                Ok(facts) => return facts.into_inner().node.unwrap(),
                Err(early) => assert_eq!(early.code(), Code::Unavailable),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let digest = facts.await.unwrap().trust_digest;
    assert_eq!(digest, server.trust.digest().hex());
    assert_eq!(digest.len(), 64);
    server.stop().await;
}
