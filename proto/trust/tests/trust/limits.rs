//! FAULTS 19: one peer can't keep the others out.

use std::time::Duration;

use kapok_trust::{Acceptor, ClientAuth, Limits, Reason};
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::support::{BOUND, City, Echo, NODE, echoes, ends, tcp_from};

/// FAULTS 19: handshakes that never come to an end.
#[tokio::test]
async fn slow_handshakes_of_one_peer_keep_nobody_out() {
    let city = City::new(1);
    let limits = Limits {
        handshakes: 8,
        handshakes_per_peer: 4,
        ..Limits::default()
    };
    let server = Echo::serve(Acceptor::new(
        city.credentials(NODE),
        ClientAuth::Required,
        limits,
    ))
    .await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(tcp_from("127.0.0.2", server.address).await);
    }
    server.refused(Reason::TooMany, 36).await;
    // They hold what places they can get; the others' are free.
    let client = city.credentials("controller/a");
    let mut connections = Vec::new();
    for _ in 0..8 {
        let mut connection = server.dial(&client).await.unwrap();
        assert!(echoes(&mut connection).await);
        connections.push(connection);
    }
}

/// FAULTS 19: a handshake has a deadline, and its place comes back.
#[tokio::test]
async fn a_handshake_has_a_deadline() {
    let city = City::new(2);
    let limits = Limits {
        handshakes_per_peer: 1,
        handshake_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Echo::serve(Acceptor::new(
        city.credentials(NODE),
        ClientAuth::Required,
        limits,
    ))
    .await;
    for n in 1..=2 {
        let mut silent = tcp_from("127.0.0.2", server.address).await;
        let read = timeout(BOUND, silent.read(&mut [0; 1])).await;
        assert!(!matches!(read.unwrap(), Ok(1..)));
        server.refused(Reason::Timeout, n).await;
    }
}

/// FAULTS 19: idle connections of one peer.
#[tokio::test]
async fn connections_of_one_peer_are_bounded() {
    let city = City::new(3);
    let limits = Limits {
        connections: 5,
        connections_per_peer: 3,
        ..Limits::default()
    };
    let server = Echo::serve(Acceptor::new(
        city.credentials(NODE),
        ClientAuth::Required,
        limits,
    ))
    .await;
    let client = city.credentials("controller/a");
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(server.dial(&client).await.unwrap());
    }
    let refused = server.dial(&client).await.unwrap_err();
    let failure = kapok_trust::connector::failure(&refused);
    assert_eq!(failure, None, "being full is no certificate's trouble");
    server.refused(Reason::TooMany, 1).await;
    // Another address still gets as far as a handshake.
    let _other = tcp_from("127.0.0.2", server.address).await;
    for connection in &mut open {
        assert!(echoes(connection).await);
    }
    // A place that is given back is free.
    let mut first = open.remove(0);
    tokio::io::AsyncWriteExt::shutdown(&mut first)
        .await
        .unwrap();
    ends(&mut first).await;
    drop(first);
    let again = async {
        loop {
            if let Ok(connection) = server.dial(&client).await {
                break connection;
            }
        }
    };
    let mut again = timeout(BOUND, again).await.unwrap();
    assert!(echoes(&mut again).await);
}
