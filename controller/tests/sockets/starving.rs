//! FAULTS 19: whoever resets streams without end, opens them without end, or never reads, loses their
//! own connection at most. Others are served. Whoever only asks too often doesn't even lose that.

use std::future::poll_fn;

use bytes::Bytes;
use kapok_proto::fabric::v1::{
    ListNodesRequest, WatchEventsRequest, event_service_client::EventServiceClient,
};
use kapok_trust::{Credentials, connector, dns};
use kapok_types::Name;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
    time::timeout,
};
use tonic::codegen::http::{Method, Request};

use crate::world::{BOUND, World, fabric, until};

/// A connection without a client's good manners.
async fn open(
    world: &World,
    who: &Credentials,
) -> (
    h2::client::SendRequest<Bytes>,
    JoinHandle<Option<h2::Reason>>,
) {
    let stream = connector::stream(who, &world.main, &dns::controller(&fabric()))
        .await
        .unwrap();
    let (send, connection) = h2::client::Builder::new().handshake(stream).await.unwrap();
    let ended = tokio::spawn(async move {
        let ended = connection.await;
        ended.err().and_then(|error| error.reason())
    });
    (send, ended)
}

fn call(path: &str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("https://controller{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What a client says first, with no settings of its own.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a request that has a body to come.
fn opened(stream: u32) -> Vec<u8> {
    let text = |index: &[u8], value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        [index, &[length], value.as_bytes()].concat()
    };
    // POST, https; path, authority, content-type by their indices; te by its name.
    let head = [
        vec![0x83, 0x87],
        text(&[0x04], "/kapok.fabric.v1.NodeService/ListNodes"),
        text(&[0x01], "controller"),
        text(&[0x0f, 0x10], "application/grpc"),
        text(b"\x00\x02te", "trailers"),
    ]
    .concat();
    frame(HEADERS, END_HEADERS, stream, &head)
}

/// A request and its reset in one piece, as a client would send them that wants work done and no
/// answer.
fn opened_and_reset(stream: u32) -> Vec<u8> {
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    [opened(stream), frame(RST_STREAM, 0, stream, &CANCEL)].concat()
}

/// A frame's kind, flags and payload; nothing once the connection has ended.
async fn next_frame(reader: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, ..] = head;
    let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, payload))
}

/// Reads until the server says why it ends the connection; its code.
async fn goodbye(reader: &mut (impl AsyncRead + Unpin)) -> Option<u32> {
    loop {
        let (kind, _, payload) = next_frame(reader).await?;
        if kind == GO_AWAY {
            return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
}

/// Reads until it is enough, told the kind of each frame and how many answers have ended, or until
/// the connection ends; how many answers ended.
async fn answers_until(
    reader: &mut (impl AsyncRead + Unpin),
    mut enough: impl FnMut(u8, usize) -> bool,
) -> usize {
    let mut ended = 0;
    while let Some((kind, flags, _)) = next_frame(reader).await {
        let ends = matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0;
        ended += usize::from(ends);
        if kind == GO_AWAY || enough(kind, ended) {
            break;
        }
    }
    ended
}

#[tokio::test]
async fn a_client_that_resets_without_end_loses_its_connection() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    let world = World::new("").await;
    let (bad, good) = (
        world.person("auditor"),
        world.person("system-administrator"),
    );
    let mut nodes = world.nodes(&good);
    nodes.list_nodes(ListNodesRequest::default()).await.unwrap();
    let stream = connector::stream(&bad, &world.main, &dns::controller(&fabric()))
        .await
        .unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let flood = async {
        writer.write_all(HELLO).await.ok()?;
        for burst in 0..1000_u32 {
            let pairs = (0..100).map(|n| opened_and_reset((burst * 100 + n) * 2 + 1));
            let pairs: Vec<u8> = pairs.flatten().collect();
            writer.write_all(&pairs).await.ok()?;
        }
        Some(())
    };
    let (flooded, code) = timeout(BOUND, async { tokio::join!(flood, goodbye(&mut reader)) })
        .await
        .expect("it is cut off");
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert_eq!(flooded, None, "it could go on to the end");
    nodes.list_nodes(ListNodesRequest::default()).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_so_and_keeps_the_connection() {
    const AT_ONCE: u32 = 200;
    const NOTHING: [u8; 5] = [0; 5];
    let world = World::new("[limits]\nrequests_per_second = 1\n").await;
    let hasty = world.person("system-administrator");
    let stream = connector::stream(&hasty, &world.main, &dns::controller(&fabric()))
        .await
        .unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(HELLO).await.unwrap();
    for round in 0..5 {
        let streams = (0..AT_ONCE).map(|n| (round * AT_ONCE + n) * 2 + 1);
        let heads: Vec<u8> = streams.clone().flat_map(opened).collect();
        writer.write_all(&heads).await.unwrap();
        // What is to be said of the heads could be said by now; the bodies are still on their way.
        let mut answered = 0;
        for _ in 0..10 {
            writer.write_all(&frame(PING, 0, 0, &[0; 8])).await.unwrap();
            answered += answers_until(&mut reader, |kind, _| kind == PING).await;
        }
        let bodies = streams.flat_map(|stream| frame(DATA, END_STREAM, stream, &NOTHING));
        let bodies: Vec<u8> = bodies.collect();
        writer.write_all(&bodies).await.unwrap();
        let expected = usize::try_from(AT_ONCE).unwrap();
        let rest = answers_until(&mut reader, |_, ended| answered + ended == expected);
        answered += timeout(BOUND, rest).await.expect("all are answered");
        assert_eq!(answered, expected, "round {round}");
    }
    drop((reader, writer));
    world.stop().await;
}

#[tokio::test]
async fn idle_streams_and_slow_readers_are_bounded() {
    let world = World::new("").await;
    let (bad, good) = (
        world.person("auditor"),
        world.person("system-administrator"),
    );
    // Streams that are opened and never finished: no more than the limit at a time.
    let (send, _ended) = open(&world, &bad).await;
    let mut send = send.ready().await.unwrap();
    until("the settings are known", async || {
        send.current_max_send_streams() == 1024
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..1024 {
        let request = call("/kapok.fabric.v1.ImageService/ImportImage");
        poll_fn(|context| send.poll_ready(context)).await.unwrap();
        held.push(send.send_request(request, false).unwrap());
    }
    // Readers that subscribe and never read, each with a window of its own.
    let mut readers = Vec::new();
    for _ in 0..32 {
        let mut events = EventServiceClient::new(world.channel(&bad));
        let request = WatchEventsRequest::default();
        readers.push(events.watch_events(request).await.unwrap());
    }
    // Much happens meanwhile, and everybody else is served.
    let mut nodes = world.nodes(&good);
    for n in 0..200 {
        let name: Name = format!("tenant-{n}").parse().unwrap();
        let command = kapok_controller::fabric::Command::CreateTenant {
            name,
            display: "x".repeat(200),
            parent: None,
            contacts: Vec::new(),
        };
        let origin = kapok_controller::fabric::Origin::controller();
        let made = world.api.ledger.submit(origin, None, command).await;
        made.unwrap();
        nodes.list_nodes(ListNodesRequest::default()).await.unwrap();
    }
    drop((held, readers));
    world.stop().await;
}
