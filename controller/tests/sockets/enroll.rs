//! The way in: tokens are worth one certificate each, and can't be guessed. FAULTS 22: what a node's
//! certificate doesn't open.

use std::collections::BTreeSet;

use kapok_controller::fabric::TokenSubject;
use kapok_proto::{
    agent::v1::{ReadBlobRequest, peer_service_client::PeerServiceClient},
    fabric::v1::{
        CreateTokenRequest, CreateUserRequest, Grant, JoinNodeRequest, JoinNodeResponse,
        ListNodesRequest, LoginRequest, LoginResponse, Role, login_request::Proof,
    },
    refusal,
};
use kapok_trust::{Credentials, Key, Material, Subject, Token};
use kapok_types::{Digest, Epoch, NodeId};
use tonic::{Code, Status};

use crate::world::{World, request};

/// A token for somebody, as an administrator makes it.
pub(crate) async fn token(world: &World, by: &Credentials, subject: &str) -> Token {
    let made = world
        .tokens(by)
        .create_token(CreateTokenRequest {
            subject: subject.into(),
            life_seconds: 0,
            request_id: String::new(),
        })
        .await
        .unwrap();
    made.into_inner().text.parse().unwrap()
}

/// A server joins with a token.
pub(crate) async fn join(
    world: &World,
    token: &Token,
    id: NodeId,
    address: &str,
    serial: &str,
) -> Result<(Key, JoinNodeResponse), Status> {
    let (key, csr_pem) = request();
    let mut enroll = world.enroll(&token.pin()).await;
    let answer = enroll
        .join_node(JoinNodeRequest {
            token: token.reveal().to_string(),
            csr_pem,
            node_id: id.to_string(),
            address: address.into(),
            fingerprint: [("board_serial".to_owned(), serial.to_owned())].into(),
        })
        .await?;
    Ok((key, answer.into_inner()))
}

/// What a joined node holds.
pub(crate) fn material(key: &Key, answer: JoinNodeResponse) -> Material {
    let credential = answer.credential.unwrap();
    Material {
        chain_pem: credential.chain_pem,
        key_pem: key.to_pem().as_str().to_owned(),
        bundle_pem: credential.bundle_pem,
        crl_pem: credential.crl_pem,
    }
}

pub(crate) fn node(n: u128) -> NodeId {
    NodeId(uuid::Uuid::from_u128(n))
}

async fn login(world: &World, token: &Token) -> Result<(Key, LoginResponse), Status> {
    let (key, csr_pem) = request();
    let mut enroll = world.enroll(&token.pin()).await;
    let answer = enroll
        .login(LoginRequest {
            csr_pem,
            proof: Some(Proof::Token(token.reveal().to_string())),
            oidc_nonce: String::new(),
            life_seconds: 0,
        })
        .await?;
    Ok((key, answer.into_inner()))
}

#[tokio::test]
async fn a_server_becomes_a_node_once_with_each_token() {
    let world = World::new("").await;
    let system = world.person("system-administrator");
    let first = token(&world, &system, "node/node-1").await;
    let (key, answer) = join(&world, &first, node(1), ":7701", "b-1").await.unwrap();
    assert_eq!(answer.name, "node-1");
    let own = Credentials::new(material(&key, answer), world.env.clone()).unwrap();
    assert_eq!(*own.certificate().subject(), Subject::Node(node(1)));
    let snapshot = world.api.ledger.snapshot();
    let joined = snapshot.fabric.node("node-1").unwrap();
    assert_eq!(joined.address, "127.0.0.1:7701");
    assert_eq!(joined.vcpu_overcommit_permille, 4000);
    // The secret is nowhere in the log; its hash is.
    let kept = format!("{:?}", snapshot.fabric.tokens);
    assert!(!kept.contains(first.reveal().rsplit('.').next().unwrap()));

    let refused = |answer: Result<(Key, JoinNodeResponse), Status>| {
        let status = answer.unwrap_err();
        (status.code(), refusal::reason(&status).unwrap())
    };
    // Used up; of nobody; with another secret: all the same from outside.
    let used = join(&world, &first, node(1), ":7701", "b-1").await;
    let said = refused(used);
    assert_eq!(said, (Code::Unauthenticated, "TOKEN_REFUSED".into()));
    let unknown = Token::new(first.fabric().clone(), first.authority(), &*world.env);
    assert_eq!(
        refused(join(&world, &unknown, node(2), ":7701", "b-2").await),
        said
    );
    // The name is another node's.
    let second = token(&world, &system, "node/node-1").await;
    let other = join(&world, &second, node(2), ":7701", "b-2").await;
    assert_eq!(refused(other).1, "WRONG_NODE");
    // The same disk in another server is named, and the token is good for when that is settled.
    let changed = join(&world, &second, node(1), ":7701", "b-9").await;
    assert_eq!(refused(changed).1, "FINGERPRINT_CHANGED");
    let back = join(&world, &second, node(1), "10.0.0.9:7701", "b-1")
        .await
        .unwrap();
    assert_eq!(back.1.name, "node-1");
    // Two at once with one token: one wins.
    let third = token(&world, &system, "node/node-3").await;
    let race = tokio::join!(
        join(&world, &third, node(3), ":7703", "b-3"),
        join(&world, &third, node(3), ":7703", "b-3")
    );
    let won = [race.0.is_ok(), race.1.is_ok()];
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    world.stop().await;
}

#[tokio::test]
async fn people_and_machines_log_in_with_tokens_that_cannot_be_guessed() {
    let world = World::new("[trust]\nperson_life = \"1h\"\n").await;
    let security = world.person("security-administrator");
    for subject in ["user/li", "machine/ci"] {
        world
            .users(&security)
            .create_user(CreateUserRequest {
                subject: subject.into(),
                grants: vec![Grant {
                    role: Role::SystemAdministrator.into(),
                    tenant: String::new(),
                }],
                ..CreateUserRequest::default()
            })
            .await
            .unwrap();
    }
    let person = token(&world, &security, "user/li").await;
    let (key, answer) = login(&world, &person).await.unwrap();
    let credential = answer.credential.unwrap();
    assert_eq!(credential.subject, "user/li");
    let material = Material {
        chain_pem: credential.chain_pem,
        key_pem: key.to_pem().as_str().to_owned(),
        bundle_pem: credential.bundle_pem,
        crl_pem: String::new(),
    };
    let li = Credentials::new(material, world.env.clone()).unwrap();
    let left = li.certificate().not_after.millis_since(world.now());
    assert!((3_500_000..=3_600_000).contains(&left), "{left} ms");
    world
        .nodes(&li)
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap();
    assert_eq!(
        login(&world, &person).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    // A program's token works again and again.
    let machine = token(&world, &security, "machine/ci").await;
    for _ in 0..3 {
        login(&world, &machine).await.unwrap();
    }

    // Whoever guesses is slowed down, and so is everybody at their address; the way back is told.
    let mut codes = BTreeSet::new();
    for _ in 0..40 {
        let guess = Token::new(machine.fabric().clone(), machine.authority(), &*world.env);
        let refused = login(&world, &guess).await.unwrap_err();
        codes.insert(refusal::reason(&refused).unwrap());
    }
    let expected = ["TOKEN_REFUSED", "TOO_FAST"].map(str::to_owned);
    assert_eq!(codes, BTreeSet::from(expected));
    let slowed = login(&world, &machine).await.unwrap_err();
    assert_eq!(slowed.code(), Code::ResourceExhausted);
    assert!(world.api.audit.refusals.total() >= 20);
    world.stop().await;
}

/// FAULTS 22 and 23: a node's certificate opens nothing of people's, and of blobs those alone that a
/// controller gave that very node a ticket for.
#[tokio::test]
async fn a_nodes_certificate_opens_what_is_its_own() {
    let world = World::new("").await;
    let system = world.person("system-administrator");
    let mut nodes = Vec::new();
    for n in 1..=2 {
        let token = token(&world, &system, &format!("node/node-{n}")).await;
        assert!(matches!(
            world.api.ledger.snapshot().fabric.tokens[&token.id()].subject,
            TokenSubject::Node(_)
        ));
        let address = format!("127.0.0.1:{n}");
        let (key, answer) = join(&world, &token, node(n), &address, "b").await.unwrap();
        let own = material(&key, answer);
        nodes.push(Credentials::new(own, world.env.clone()).unwrap());
    }
    let refused = world
        .nodes(&nodes[0])
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let (digest, other) = (Digest::of(b"blob"), Digest::of(b"other"));
    let ticket = |n| {
        world
            .api
            .trust
            .ticket(node(n), digest, Epoch(1))
            .unwrap()
            .bytes
    };
    let read = async |by: &Credentials, digest: Digest, ticket: Vec<u8>| {
        let mut peer = PeerServiceClient::new(world.channel(by));
        let request = ReadBlobRequest {
            digest: digest.to_string(),
            offset: 0,
            ticket: ticket.into(),
        };
        let refused = peer.read_blob(request).await.unwrap_err();
        (refused.code(), refusal::reason(&refused).unwrap())
    };
    let no = (Code::PermissionDenied, "TICKET_REFUSED".to_owned());
    assert_eq!(read(&nodes[0], digest, ticket(2)).await, no);
    assert_eq!(read(&nodes[1], digest, ticket(1)).await, no);
    assert_eq!(read(&nodes[0], other, ticket(1)).await, no);
    assert_eq!(read(&nodes[0], digest, Vec::new()).await, no);
    assert_eq!(
        read(&system, digest, ticket(1)).await.0,
        Code::PermissionDenied
    );
    // Its own ticket is good: there is no such blob, and that is what it is told.
    assert_eq!(read(&nodes[0], digest, ticket(1)).await.0, Code::NotFound);
    world.stop().await;
}
