//! FAULTS 19: connections that take all they can get. The others' heartbeats are still served.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::time::Duration;

use common::{
    Client,
    fabric::{Fabric, user},
    server::{Server, WAIT, comes},
};
use h2::{Reason, client::SendRequest};
use kapok_proto::agent::v1::{HeartbeatRequest, HeartbeatResponse};
use kapok_trust::{Credentials, connector};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Streaming, codegen::http};

/// Streams opened in all by who opens many.
const STREAMS: usize = 10_000;

/// Life signs of a controller that does no harm.
struct Beats {
    stream: Streaming<HeartbeatResponse>,
    client: Client,
}

impl Beats {
    async fn begin(server: &Server, fabric: &Fabric) -> Self {
        let mut client = server.client(&fabric.controller()).await;
        let beats = client.heartbeat(HeartbeatRequest { interval_ms: 100 });
        let stream = beats.await.unwrap().into_inner();
        Self { stream, client }
    }

    /// The open stream goes on, and a new one begins on a connection that is there.
    async fn go_on(&mut self) {
        for _ in 0..3 {
            let beat = timeout(WAIT, self.stream.message()).await;
            beat.unwrap().unwrap().unwrap();
        }
        let more = self.client.heartbeat(HeartbeatRequest::default());
        let mut more = timeout(WAIT, more).await.unwrap().unwrap().into_inner();
        timeout(WAIT, more.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// One raw HTTP/2 connection, and how it ended.
struct Raw {
    requests: SendRequest<bytes::Bytes>,
    ended: AbortOnDropHandle<Result<(), h2::Error>>,
}

impl Raw {
    async fn open(server: &Server, who: &Credentials) -> Self {
        let (address, dns) = (server.grpc.to_string(), server.dns());
        let tls = connector::stream(who, &address, &dns).await.unwrap();
        let (requests, connection) = h2::client::Builder::new()
            .initial_max_send_streams(STREAMS)
            // Nothing is ever read: whoever answers must not wait for us.
            .initial_window_size(0)
            .max_concurrent_reset_streams(STREAMS)
            .handshake(tls)
            .await
            .unwrap();
        let ended = AbortOnDropHandle::new(tokio::spawn(connection));
        let requests = timeout(WAIT, requests.ready()).await.unwrap().unwrap();
        Self { requests, ended }
    }

    fn request() -> http::Request<()> {
        http::Request::post("http://node/kapok.agent.v1.NodeService/Heartbeat")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap()
    }
}

/// Streams that are opened and reset at once, without end: the connection that does so is closed,
/// and the others don't notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_close_their_connection() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let mut beats = Beats::begin(&server, &fabric).await;
    for who in [fabric.somebody(user("mallory")), fabric.controller()] {
        let mut raw = Raw::open(&server, &who).await;
        let floods = async {
            loop {
                let Ok(mut ready) = raw.requests.clone().ready().await else {
                    return;
                };
                // Enough in one breath that the server sees resets of what it never looked at.
                for _ in 0..200 {
                    match ready.send_request(Raw::request(), false) {
                        Ok((_answer, mut stream)) => stream.send_reset(Reason::CANCEL),
                        Err(_) => break,
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        let (ended, ()) = tokio::join!(timeout(WAIT, floods), beats.go_on());
        ended.expect("the flood goes on");
        let error = timeout(WAIT, &mut raw.ended).await.unwrap().unwrap();
        let error = error.expect_err("closed without a word");
        // The goodbye may be lost on a connection that is closed while we write.
        let calmed = error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
        assert!(calmed || error.is_io(), "{error:?}");
    }
    beats.go_on().await;
    server.stop().await;
}

/// Ten thousand streams that are opened and never ended, by somebody who may do nothing, and by a
/// controller that reads nothing of what it asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_and_slow_readers_hold_up_nobody() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let mut beats = Beats::begin(&server, &fabric).await;
    let hello = heartbeat_message();
    for who in [fabric.somebody(user("mallory")), fabric.controller()] {
        let (mut connections, mut kept, mut opened) = (Vec::new(), Vec::new(), 0);
        while opened < STREAMS {
            let mut raw = Raw::open(&server, &who).await;
            // As many as the server lets be open on one connection.
            let mut here = 0;
            while opened < STREAMS
                && let Ok(Ok(mut ready)) =
                    timeout(Duration::from_millis(200), raw.requests.clone().ready()).await
            {
                let Ok((answer, mut stream)) = ready.send_request(Raw::request(), false) else {
                    break;
                };
                let _refused = stream.send_data(hello.clone(), false);
                kept.push((answer, stream));
                (opened, here) = (opened + 1, here + 1);
                raw.requests = ready;
            }
            assert!(here > 0, "nothing can be opened");
            connections.push(raw);
        }
        let connections_open = || server.trust.credentials().unwrap().connections().open();
        assert!(connections_open() >= connections.len(), "they were closed");
        beats.go_on().await;
        drop((kept, connections));
        comes("their connections are given up", || connections_open() <= 2).await;
    }
    beats.go_on().await;
    server.stop().await;
}

/// One gRPC message that asks for life signs as often as may be.
fn heartbeat_message() -> bytes::Bytes {
    // Not compressed, two bytes: field 1, the number 100.
    bytes::Bytes::from_static(&[0, 0, 0, 0, 2, 0x08, 100])
}

/// Connections that say nothing at all, at the handshake, are bounded and given up; controllers
/// come in beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_handshakes_hold_up_nobody() {
    let fabric = Fabric::new("kapok");
    let server = Server::start(&fabric).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(server.grpc).await.unwrap());
    }
    let mut beats = Beats::begin(&server, &fabric).await;
    beats.go_on().await;
    let refusals = server.serving.refusals.clone();
    comes("they are given up", || {
        refusals.get(kapok_trust::Reason::Timeout) == 100
    })
    .await;
    server.stop().await;
}
