//! Servers: how they get in, and how little one of their certificates opens. FAULTS 21, 22, 23.

use futures::stream;
use kapok_agent::trust::join;
use kapok_lab::{
    fabric::{Kapok, Person, text},
    wait::until,
};
use kapok_proto::{
    DESCRIPTORS,
    agent::v1::{
        GetNodeRequest, ListInstancesRequest, ReadBlobRequest,
        node_service_client::NodeServiceClient, peer_service_client::PeerServiceClient,
    },
};
use kapok_tests::{people::reason, real};
use kapok_trust::{Alert, Authority, Credentials, TlsFailure, Token, authority, connector, dns};
use kapok_types::{Digest, NodeId, env::System};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use serde_json::Value;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_prost::ProstCodec;

use crate::world::{SOON, World};

#[test]
fn a_node_gets_in_once_and_speaks_for_itself_alone() {
    let world = World::new(2);
    let operator = world.by(Person::SystemAdministrator);
    let token = world.token(&operator, "node token create stray");
    let (node, joined) = world.join(&token).unwrap();
    let stray = Credentials::new(joined.material, System::new()).unwrap();
    tokens_are_good_once_and_here(&world, &token);
    its_certificate_opens_nothing_of_peoples(&world, &stray);
    it_commands_no_other_node(&world, &stray);
    one_node_is_not_taken_for_another(&world);
    a_revoked_one_is_out_at_once(&world, node, &stray);
    world.end();
}

/// A token that was used, and those of other fabrics.
fn tokens_are_good_once_and_here(world: &World, used: &str) {
    let operator = world.by(Person::SystemAdministrator);
    let again = world.join(used).unwrap_err();
    assert!(matches!(again, join::Error::Token), "{again}");
    // Another authority of a fabric of this name: the server isn't even told the token.
    let env = System::new();
    let ours: Token = used.parse().unwrap();
    let other = Authority::create(ours.fabric(), &*env, authority::LIFE).unwrap();
    let foreign = Token::new(ours.fabric().clone(), other.fingerprint(), &*env);
    let foreign = foreign.reveal();
    world.remember(&foreign[foreign.len() - 22..], "foreign token");
    let refused = world.join(&foreign).unwrap_err();
    assert!(
        matches!(refused, join::Error::WrongAuthority { .. }),
        "{refused}"
    );
    let (_, login) = world.try_log_in("foreign", &foreign, "");
    assert_eq!(login.code, 6, "{login:?}");
    // This authority, and a secret that nobody gave out.
    let guessed = Token::new(ours.fabric().clone(), ours.authority(), &*env).reveal();
    world.remember(&guessed[guessed.len() - 22..], "guessed token");
    let refused = world.join(&guessed).unwrap_err();
    assert!(matches!(refused, join::Error::Token), "{refused}");
    // A node's is none for people.
    let of_a_node = world.token(&operator, "node token create other");
    let (_, login) = world.try_log_in("node", &of_a_node, "");
    assert_eq!(login.code, 9, "{login:?}");
    for reason in ["USED_UP", "UNKNOWN_TOKEN", "TOKEN_OF_A_NODE"] {
        world.recorded("audit ls --refused", reason, |entry| {
            entry.to_string().contains(reason)
        });
    }
}

/// FAULTS 22 and 23: every method that people have, called with a node's certificate.
fn its_certificate_opens_nothing_of_peoples(world: &World, stray: &Credentials) {
    let server = world.fabric.kapok().server();
    let channel = async { real::to_controller(stray, server) };
    let node = world.wait(channel).unwrap();
    let methods = methods();
    assert!(methods.len() > 40, "{methods:?}");
    for method in &methods {
        let status = world.wait(call(&node, method)).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{method}: {status}");
        let expected = if method.contains("FollowerService") {
            "NOT_A_CONTROLLER"
        } else {
            "NOT_A_PERSON"
        };
        assert_eq!(reason(&status), expected, "{method}");
    }
    // The one service that nodes have wants a ticket for this node and this blob.
    let digest = Digest::of(b"an image").to_string();
    let mut peer = PeerServiceClient::new(node);
    let blob = ReadBlobRequest {
        digest,
        ..ReadBlobRequest::default()
    };
    let refused = world.wait(peer.read_blob(blob)).unwrap_err();
    assert_eq!(reason(&refused), "TICKET_REFUSED", "{refused}");
}

/// Every method of people's services on the main port, "kapok.fabric.v1.SERVICE/METHOD".
fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files = set.file.into_iter();
    let files = files.filter(|file| file.package() == "kapok.fabric.v1");
    let services = files.flat_map(|file| file.service);
    let services = services.filter(|service| service.name() != "EnrollService");
    let methods = services.flat_map(|service| {
        let of = service.name().to_owned();
        let methods = service.method.into_iter();
        methods.map(move |method| format!("kapok.fabric.v1.{of}/{}", method.name()))
    });
    methods.collect()
}

/// Calls a method with one empty message, and waits for the first answer.
async fn call(channel: &Channel, method: &str) -> Result<(), Status> {
    let path = format!("/{method}").parse().unwrap();
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = ProstCodec::<(), ()>::default();
    let answer = client.streaming(Request::new(stream::iter([()])), path, codec);
    answer.await?.into_inner().message().await.map(drop)
}

/// Agents take commands, and questions, from controllers alone.
fn it_commands_no_other_node(world: &World, stray: &Credentials) {
    let operator = world.by(Person::SystemAdministrator);
    let other = world.json(&operator, "node show sim-1");
    let (address, id) = (text(&other, "address"), text(&other, "id"));
    let id: NodeId = id.parse().unwrap();
    let name = dns::node(&stray.certificate().identity.fabric, id);
    let person = real::person(&operator.credential()).unwrap();
    for somebody in [stray, &person] {
        let channel = async { connector::channel(somebody, address, &name, |it| it) };
        let mut agent = NodeServiceClient::new(world.wait(channel).unwrap());
        let told = world.wait(agent.get_node(GetNodeRequest::default()));
        let listed = world.wait(agent.list_instances(ListInstancesRequest::default()));
        for refused in [told.unwrap_err(), listed.unwrap_err()] {
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            assert_eq!(reason(&refused), "FORBIDDEN", "{refused}");
        }
    }
    let trust = world.fabric.controller_trust();
    let channel = async { real::agent(&trust, address, id) };
    let mut agent = NodeServiceClient::new(world.wait(channel).unwrap());
    let told = world.wait(agent.get_node(GetNodeRequest::default()));
    assert!(told.is_ok(), "{told:?}");
}

/// FAULTS 22: the address of one node leads to another; what that one says is never taken for the
/// first one's word.
fn one_node_is_not_taken_for_another(world: &World) {
    let operator = world.by(Person::SystemAdministrator);
    let show = |node: &str| world.json(&operator, &format!("node show {node}"));
    let address = |node: &Value| text(node, "address").to_owned();
    let (first, second) = (address(&show("sim-1")), address(&show("sim-2")));
    let set = |address: &str| {
        world.ok(&operator, &format!("node set sim-2 --address {address}"));
    };
    set(&first);
    node_becomes(world, &operator, "sim-2", "an impostor's", |node| {
        text(node, "state") != "ready" && text(node, "detail").contains("another server answers")
    });
    assert_eq!(text(&show("sim-1"), "state"), "ready");
    set(&second);
    node_becomes(world, &operator, "sim-2", "ready", |node| {
        text(node, "state") == "ready"
    });
}

/// FAULTS 21: a revoked certificate ends on the open connection, and opens no other.
fn a_revoked_one_is_out_at_once(world: &World, node: NodeId, stray: &Credentials) {
    let operator = world.by(Person::SystemAdministrator);
    let server = world.fabric.kapok().server();
    let channel = async { real::to_controller(stray, server) };
    let mut peer = PeerServiceClient::new(world.wait(channel).unwrap());
    let mut ask = || {
        let blob = ReadBlobRequest {
            digest: Digest::of(b"an image").to_string(),
            ..ReadBlobRequest::default()
        };
        world.wait(peer.read_blob(blob)).unwrap_err()
    };
    assert_eq!(reason(&ask()), "TICKET_REFUSED");
    world.ok(&operator, "node revoke stray --reason stolen --yes");
    // The same channel: only when its connection has ended does it try another handshake.
    until("the end of its connection", SOON, || {
        let refused = connector::failure(&ask());
        Ok((refused == Some(TlsFailure::PeerRefusedUs(Alert::Revoked))).then_some(()))
    })
    .unwrap();
    node_becomes(world, &operator, "stray", "revoked", |node| {
        text(node, "state") == "revoked"
    });
    let subject = format!("node/{node}");
    world.recorded("audit ls --limit 1000", "the revocation", |entry| {
        let text = entry.to_string();
        text.contains("node.revoked") && (text.contains("stray") || text.contains(&subject))
    });
}

fn node_becomes(world: &World, who: &Kapok, name: &str, what: &str, good: impl Fn(&Value) -> bool) {
    let mut last = Value::Null;
    let waited = until(&format!("{name} to be {what}"), SOON, || {
        last = world.json(who, &format!("node show {name}"));
        Ok(good(&last).then_some(()))
    });
    waited.unwrap_or_else(|error| panic!("{error}; last seen: {last}"));
}
