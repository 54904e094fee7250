//! Heads of the fabric's log: taken from controllers that sealed them, kept, bounded, given back.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{
    Client,
    fabric::Fabric,
    reason,
    server::{Server, node_id, pages},
};
use kapok_agent::{local::MAX_HEADS, trust::Trust};
use kapok_proto::agent::v1::{KeepHeadRequest, ListHeadsRequest};
use kapok_trust::{Credentials, LogHead, Subject};
use kapok_types::{Digest, Seq, Timestamp};
use tonic::{Code, Status};

fn sealed(by: &Credentials, sequence: u64) -> Vec<u8> {
    sealed_at(by, sequence, by.env().now())
}

fn sealed_at(by: &Credentials, sequence: u64, at: Timestamp) -> Vec<u8> {
    let head = LogHead {
        sequence: Seq(sequence),
        hash: Digest::of(&sequence.to_be_bytes()),
        at,
    };
    head.seal(&by.signer()).unwrap().to_bytes()
}

async fn keep(client: &mut Client, sealed: Vec<u8>) -> Result<(), Status> {
    let sealed_head = sealed.into();
    let kept = client.keep_head(KeepHeadRequest { sealed_head }).await;
    kept.map(drop)
}

async fn kept(client: &mut Client) -> Vec<Vec<u8>> {
    let listed = client.list_heads(ListHeadsRequest {}).await.unwrap();
    let heads = listed.into_inner().sealed_heads;
    heads.iter().map(|head| head.to_vec()).collect()
}

#[tokio::test]
async fn only_heads_that_a_controller_sealed_are_kept() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let controller = fabric.controller();
    let mut client = server.client(&controller).await;
    keep(&mut client, sealed(&controller, 7)).await.unwrap();

    let elsewhere = Fabric::new("kapok").controller();
    let person = fabric.somebody(Subject::User("eve".parse().unwrap()));
    let past = fabric.env.now().get() - 10 * 3_600_000;
    let ended = fabric.material(
        Subject::Controller("a".parse().unwrap()),
        Timestamp(past),
        Duration::from_hours(1),
    );
    let ended = Credentials::new(ended, fabric.env.clone()).unwrap();
    let other = controller.signer().seal("kapok peer ticket 1", &[7; 48]);
    let short = controller.signer().seal(LogHead::PURPOSE, &[7; 47]);
    let mut forged = sealed(&controller, 8);
    forged[9] ^= 1;
    for (what, bad) in [
        ("another fabric's controller", sealed(&elsewhere, 8)),
        ("a person", sealed(&person, 8)),
        ("an ended certificate", sealed(&ended, 8)),
        ("another purpose", other.unwrap().to_bytes()),
        ("no head", short.unwrap().to_bytes()),
        ("a changed payload", forged),
        ("garbage", b"garbage".to_vec()),
        ("nothing", Vec::new()),
        ("too much", vec![1; 17 * 1024]),
    ] {
        let refused = keep(&mut client, bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        assert!(refused.message().starts_with("sealed_head: "), "{refused}");
    }
    assert_eq!(kept(&mut client).await.len(), 1);
    server.stop().await;
}

/// What is kept isn't flushed out by many heads at once, nor by heads of the future.
#[tokio::test]
async fn heads_come_a_while_apart() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let controller = fabric.controller();
    let mut client = server.client(&controller).await;
    let now = fabric.env.now().get();
    let head = |n, at| sealed_at(&controller, n, Timestamp(at));
    let first = head(1, now - 60_000);
    keep(&mut client, first.clone()).await.unwrap();
    for at in [now - 90_000, now - 60_000, now - 30_001] {
        let refused = keep(&mut client, head(2, at)).await.unwrap_err();
        assert_eq!(reason(&refused), "HEAD_TOO_SOON");
    }
    let ahead = keep(&mut client, head(2, now + 600_000)).await;
    assert_eq!(ahead.unwrap_err().code(), Code::InvalidArgument);
    keep(&mut client, first.clone()).await.unwrap();
    let second = head(2, now - 30_000);
    keep(&mut client, second.clone()).await.unwrap();
    assert_eq!(kept(&mut client).await, [first, second]);
    server.stop().await;
}

#[tokio::test]
async fn heads_are_bounded_and_survive_the_agent() {
    let fabric = Fabric::new("kapok");
    let controller = fabric.controller();
    let server = Server::start(&fabric).await;
    let mut client = server.client(&controller).await;
    let most = u64::try_from(MAX_HEADS).unwrap();
    let now = fabric.env.now().get();
    let heads: Vec<_> = (0..most + 3)
        .map(|n| sealed_at(&controller, n, Timestamp(now - (most + 3 - n) * 30_000)))
        .collect();
    for head in &heads {
        keep(&mut client, head.clone()).await.unwrap();
    }
    let writes = server.memory.writes();
    keep(&mut client, heads.last().unwrap().clone())
        .await
        .unwrap();
    assert_eq!(server.memory.writes(), writes, "the same again is no write");
    assert_eq!(kept(&mut client).await, heads[3..]);
    drop(client);
    let (host, memory) = server.stop().await;
    let trust = Trust::in_memory(fabric.node(node_id()));
    let server = Server::over(&fabric, trust, pages(), host, memory).await;
    let mut client = server.client(&controller).await;
    assert_eq!(kept(&mut client).await, heads[3..]);
    server.stop().await;
}
