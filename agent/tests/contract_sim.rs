//! The contract suites over the simulator.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use kapok_agent::driver::{
    contract::{self, Subject, TestImage},
    sim::{Host, Shape},
};
use kapok_types::{
    Digest, Equipment, NodeId,
    equipment::{Cell, PageSize},
    instance::DiskFormat,
};
use uuid::Uuid;

fn subject() -> (Subject, Arc<Host>, tempfile::TempDir) {
    subject_with(Equipment::default())
}

fn subject_with(equipment: Equipment) -> (Subject, Arc<Host>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image");
    fs::write(&file, b"a small image").unwrap();
    let host = Host::new(Shape {
        has_all_images: false,
        equipment: Arc::new(equipment),
        ..Shape::default()
    });
    let subject = Subject {
        driver: host.driver(),
        node: NodeId(Uuid::from_u128(1)),
        image: TestImage {
            file,
            digest: Digest::of(b"a small image"),
            format: DiskFormat::Raw,
            bytes: 13,
            root_bytes: 1 << 20,
        },
        guests_run: true,
        bound: Duration::from_secs(10),
    };
    (subject, host, dir)
}

#[tokio::test]
async fn compute() {
    let (subject, _host, _dir) = subject();
    contract::compute(&subject).await;
}

#[tokio::test]
async fn disowned() {
    let (subject, host, _dir) = subject();
    let version = |id, change: fn(u32) -> u32| {
        host.outsider_changes_record(id, |record| record.version = change(record.version));
    };
    contract::disowned(
        &subject,
        |id| version(id, |version| version + 1),
        |id| version(id, |version| version - 1),
    )
    .await;
}

#[tokio::test]
async fn resize() {
    let (subject, _host, _dir) = subject();
    contract::resize(&subject).await;
}

#[tokio::test]
async fn storage() {
    let (subject, _host, _dir) = subject();
    contract::storage(&subject).await;
}

#[tokio::test]
async fn console() {
    let (subject, _host, _dir) = subject();
    contract::console(&subject).await;
}

#[tokio::test]
async fn equipment() {
    let cell = |id: u16, dedicated: &[u16]| Cell {
        id,
        dedicated: dedicated.to_vec(),
        pages: BTreeMap::from([(PageSize::Mib2, 64)]),
    };
    let (subject, host, _dir) = subject_with(Equipment {
        cells: vec![cell(0, &[]), cell(1, &[8, 9])],
        ..Equipment::default()
    });
    let facts = subject.driver.compute.facts().await.unwrap();
    let shape = host.shape();
    // What is set aside is none of the shared amounts.
    assert_eq!(facts.cpus, shape.cpus - 2);
    assert_eq!(facts.memory.get(), shape.memory.get() - 256);
    contract::equipment(&subject).await;
}
