//! Nodes as they are dialled: a certificate that isn't good is said as such, and is never a silence.

use std::time::Duration;

use kapok_proto::fabric::v1::{GetNodeRequest, NodeState, RevokeNodeRequest};
use kapok_trust::{Acceptor, ClientAuth, Credentials, Limits, Material, Subject, TlsFailure};
use kapok_types::{Name, Timestamp};
use tokio::net::TcpListener;

use crate::{
    enroll::{join, material, node, token},
    world::{World, until},
};

/// Something that listens with a certificate, and says nothing after the handshake.
fn listening(listener: TcpListener, material: Material, world: &World) -> impl Sized + use<> {
    let credentials = Credentials::new(material, world.env.clone()).unwrap();
    Acceptor::new(credentials, ClientAuth::Required, Limits::default()).incoming(listener)
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_said_as_such() {
    let world = World::new("").await;
    let system = world.person("system-administrator");
    let refused = |name: &Name| {
        let seen = world.api.observed.node(name);
        seen.and_then(|seen| seen.reported.refused)
    };
    let state = async |name: &Name| {
        let node = name.to_string();
        let got = world.nodes(&system).get_node(GetNodeRequest { node }).await;
        got.unwrap().into_inner()
    };

    // Its certificate has ended.
    let (socket, address) = listener().await;
    let hour = Duration::from_hours(1);
    let long_ago = Timestamp(world.now().get() - 7_200_000);
    let ended = world.signed(&world.authority(), Subject::Node(node(1)), long_ago, hour);
    let _ended = listening(socket, ended, &world);
    let name: Name = "node-1".parse().unwrap();
    let shown = token(&world, &system, "node/node-1").await;
    join(&world, &shown, node(1), &address, "b").await.unwrap();
    until("its end is seen", async || {
        refused(&name) == Some(TlsFailure::Expired)
    })
    .await;
    let seen = state(&name).await;
    assert_eq!(seen.state(), NodeState::CertificateExpired);
    assert!(
        seen.detail.contains("kapok node token create"),
        "{}",
        seen.detail
    );

    // Another node answers at the address. FAULTS 22: it can't pass for this one.
    let (socket, address) = listener().await;
    let shown = token(&world, &system, "node/node-2").await;
    let (key, answer) = join(&world, &shown, node(2), "127.0.0.1:1", "b")
        .await
        .unwrap();
    let _other = listening(socket, material(&key, answer), &world);
    let name: Name = "node-3".parse().unwrap();
    let shown = token(&world, &system, "node/node-3").await;
    join(&world, &shown, node(3), &address, "b").await.unwrap();
    until("the other name is seen", async || {
        refused(&name) == Some(TlsFailure::WrongName)
    })
    .await;
    assert!(state(&name).await.detail.contains("another server answers"));

    // Nobody listens: that is a silence, and no matter of certificates.
    let name: Name = "node-2".parse().unwrap();
    until("the silence is seen", async || {
        let seen = world.api.observed.node(&name);
        seen.is_some_and(|seen| seen.reported.trouble.contains("can't reach the agent"))
    })
    .await;
    assert_eq!(refused(&name), None);

    // A revoked node is not talked to, and says so.
    let request = RevokeNodeRequest {
        node: "node-2".into(),
        reason: "stolen".into(),
        request_id: String::new(),
    };
    world.nodes(&system).revoke_node(request).await.unwrap();
    assert_eq!(state(&name).await.state(), NodeState::Revoked);
    assert!(world.api.links.client(node(2)).is_none());
    world.stop().await;
}
