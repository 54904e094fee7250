//! Answers that are lost on the way: what was asked for has happened once, or nobody knows.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kapok_store::{AppendError, Etcd, EtcdOptions, Part, Store, WriteError};
use kapok_types::Seq;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{append, batch, open, place, whole};

/// Stands between the store and a member. While it is deaf, what the store asks for arrives, and no
/// answer comes back.
struct Relay {
    address: SocketAddr,
    deaf: Arc<AtomicBool>,
    _running: JoinSet<()>,
}

impl Relay {
    async fn to(member: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let deaf = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&deaf);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&member).await.unwrap();
                let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                    (near.into_split(), far.into_split());
                connections.spawn(async move {
                    let _closed = tokio::io::copy(&mut near_in, &mut far_out).await;
                });
                let deaf = Arc::clone(&heard);
                connections.spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = far_in.read(&mut bytes).await {
                        if !deaf.load(Ordering::SeqCst)
                            && near_out.write_all(&bytes[..count]).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            deaf,
            _running: running,
        }
    }
}

/// A place with a relay before its first member.
async fn relayed() -> (Relay, EtcdOptions) {
    let options = place();
    let member = options.endpoints[0]
        .trim_start_matches("http://")
        .to_owned();
    (Relay::to(member).await, options)
}

fn part(value: &'static str) -> Part {
    Part {
        index: 0,
        puts: vec![("k".to_owned(), Bytes::from(value))],
        deletes: vec![],
    }
}

/// Makes `write` with its first answer lost; others can be asked.
async fn unheard<W>(
    relay: &Relay,
    options: &EtcdOptions,
    write: impl AsyncFnOnce(&Etcd) -> W,
) -> W {
    let mut options = options.clone();
    options.endpoints[0] = relay.address.to_string();
    let store = open(&options).await;
    relay.deaf.store(true, Ordering::SeqCst);
    let written = write(&store).await;
    relay.deaf.store(false, Ordering::SeqCst);
    written
}

/// A write whose first answer was lost is looked up at another member, and has happened once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_looked_up() {
    let (relay, options) = relayed().await;
    let store = open(&options).await;
    let token = store.campaign("a").await.unwrap().token;
    let head = append(&store, &token, &["x", "y"]).await;
    let next = batch(head, "z");
    unheard(&relay, &options, async |store| {
        store.append(&token, head.seq, &next).await
    })
    .await
    .unwrap();
    let all = whole(&store).await;
    assert_eq!(all.len(), 3);
    assert_eq!(all[2], next);
    unheard(&relay, &options, async |store| {
        store.stage(&token, part("1")).await
    })
    .await
    .unwrap();
    unheard(&relay, &options, async |store| {
        store.commit(&token, next.head(), 1).await
    })
    .await
    .unwrap();
    let loaded = store.load_checkpoint().await.unwrap().unwrap();
    assert_eq!(
        (loaded.seq, &loaded.objects["k"]),
        (Seq(3), &Bytes::from("1"))
    );
    unheard(&relay, &options, async |store| {
        store.trim(&token, Seq(3)).await
    })
    .await
    .unwrap();
    assert_eq!(store.extent().await.unwrap().first, Seq(3));
}

/// Where nobody else can be asked it is unknown, never failed; and it may well have happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_that_nobody_knows_is_unknown() {
    let (relay, options) = relayed().await;
    let store = open(&options).await;
    let token = store.campaign("a").await.unwrap().token;
    let head = append(&store, &token, &["x"]).await;
    let alone = EtcdOptions {
        endpoints: vec![relay.address.to_string()],
        call_deadline: Duration::from_secs(1),
        ..options.clone()
    };
    let next = batch(head, "z");
    let behind = open(&alone).await;
    relay.deaf.store(true, Ordering::SeqCst);
    let lost = behind.append(&token, head.seq, &next).await;
    assert!(matches!(lost, Err(AppendError::Unknown { .. })), "{lost:?}");
    relay.deaf.store(false, Ordering::SeqCst);
    assert_eq!(store.head().await.unwrap(), next.head());

    let behind = open(&alone).await;
    relay.deaf.store(true, Ordering::SeqCst);
    let lost = behind.stage(&token, part("1")).await;
    assert!(matches!(lost, Err(WriteError::Unknown { .. })), "{lost:?}");
    relay.deaf.store(false, Ordering::SeqCst);
    store.commit(&token, next.head(), 1).await.unwrap();
}
