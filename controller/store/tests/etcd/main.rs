//! The etcd backend on real clusters: the conformance suite, and what a cluster's faults do.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod answers;
mod faults;
mod fencing;
mod leading;
mod moving;
mod paging;
mod quota;
mod settling;
mod space;
mod trust;

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kapok_store::{
    Batch, Chain, Checkpoint, Etcd, EtcdOptions, Head, LeaderToken, Read, Store,
    conformance::Backend, testing::EtcdCluster,
};
use kapok_types::Seq;

/// One cluster for all cases that do it no harm: each has its own prefix.
static CLUSTER: LazyLock<EtcdCluster> = LazyLock::new(|| EtcdCluster::start(3));
static CASES: AtomicU64 = AtomicU64::new(0);

/// A blank place in the shared cluster, and patience: many cases share a small machine.
fn place() -> EtcdOptions {
    let case = CASES.fetch_add(1, Ordering::Relaxed);
    EtcdOptions {
        call_deadline: Duration::from_secs(30),
        ..EtcdOptions::new(CLUSTER.endpoints(), format!("/kapok/case-{case}/"))
    }
}

async fn open(options: &EtcdOptions) -> Etcd {
    Etcd::open(options.clone()).await.unwrap()
}

/// A batch of one entry that continues `after`.
fn batch(after: Head, payload: impl Into<Bytes>) -> Batch {
    Chain::at(after).seal(vec![payload.into()])
}

/// Appends a batch for each payload and gives back the last one's head.
async fn append(store: &impl Store, token: &LeaderToken, payloads: &[&'static str]) -> Head {
    let mut head = store.head().await.unwrap();
    for payload in payloads {
        let batch = batch(head, *payload);
        store.append(token, head.seq, &batch).await.unwrap();
        head = batch.head();
    }
    head
}

fn checkpoint(at: Head, puts: Vec<(String, Bytes)>) -> Checkpoint {
    Checkpoint {
        seq: at.seq,
        hash: at.hash,
        puts,
        deletes: vec![],
    }
}

/// The whole log, its chain verified.
async fn whole(store: &impl Store) -> Vec<Batch> {
    let read = store.read(Seq(1), usize::MAX).await.unwrap();
    let Read::Batches(batches) = read else {
        panic!("{read:?}");
    };
    let mut chain = Chain::default();
    for batch in &batches {
        chain.advance(batch).unwrap();
    }
    batches
}

/// etcd itself, for what the store doesn't do.
async fn bare(options: &EtcdOptions) -> etcd_client::Client {
    etcd_client::Client::connect(&options.endpoints, None)
        .await
        .unwrap()
}

struct Place(EtcdOptions);

impl Backend for Place {
    type Store = Etcd;

    async fn open(&self) -> Etcd {
        open(&self.0).await
    }
}

mod suite {
    kapok_store::conformance_suite!(super::Place(super::place()));
}
