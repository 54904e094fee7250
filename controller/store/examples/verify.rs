//! How long it takes to verify a log of 100,000 entries: in segments and store, and as an exported
//! file. `cargo run --release -p kapok-store --example verify`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement, for people to read"
)]

use std::{fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use kapok_store::{
    Archive, Chain, Checkpoint, Entry, Hash, Head, Redb, Store,
    archive::Policy,
    lines,
    segments::Directory,
    verify::{self, Expected, FaultKind},
};
use kapok_types::{Env, Seq, env::System};

const ENTRIES: u64 = 100_000;
/// Entries of a batch, as a ledger under load makes them.
const BATCH: u64 = 20;
/// About what a created instance takes, with its placement, its operation and its request.
const PAYLOAD_BYTES: usize = 1400;
/// A head a minute for a day, as every node keeps them.
const HEADS: u64 = 1440;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let env = System::new();
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Redb::open(folder.path().join("log.redb")).await.unwrap());
    let segments = Arc::new(Directory::open(folder.path().join("segments")).unwrap());
    let archive = Archive::new(Arc::clone(&store), segments);
    let token = store.campaign("bench").await.unwrap().token;

    let (mut chain, mut entries): (Chain, Vec<Entry>) = (Chain::default(), Vec::new());
    while chain.head_seq.get() < ENTRIES {
        let payloads = (0..BATCH).map(|n| payload(chain.head_seq.get() + n));
        let batch = chain.seal(payloads.collect());
        store.append(&token, chain.head_seq, &batch).await.unwrap();
        chain.advance(&batch).unwrap();
        entries.extend(batch);
    }
    let Head { seq, hash } = chain.head();
    let checkpoint = Checkpoint {
        seq,
        hash,
        puts: vec![],
        deletes: vec![],
    };
    store.checkpoint(&token, checkpoint).await.unwrap();
    let policy = Policy {
        keep_entries: ENTRIES / 5,
        ..Policy::default()
    };
    let mut recorded = Vec::new();
    while let Some(sealed) = archive.seal_next(&policy).await.unwrap() {
        archive.trim(&token, &sealed.segment).await.unwrap();
        recorded.push(sealed.segment);
    }
    let every = ENTRIES / HEADS;
    let kept = entries.iter().filter(|entry| entry.seq.get() % every == 0);
    let expected: Vec<Expected> = kept.map(expected).collect();
    let mut file = String::new();
    for entry in &entries {
        file.push_str(&lines::write(entry).unwrap());
    }

    println!(
        "{ENTRIES} entries of {PAYLOAD_BYTES} bytes, {} of them in {} segments; {} heads; {} MiB as lines",
        recorded.last().map_or(0, |segment| segment.last.get()),
        recorded.len(),
        expected.len(),
        file.len() / 1024 / 1024,
    );
    let (mut whole, mut text) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let start = env.monotonic();
        let checked = verify::archive(&archive, &recorded, expected.clone()).await;
        whole = whole.min(env.monotonic().saturating_sub(start));
        let report = checked.unwrap();
        assert!(report.is_sound() && report.entries == ENTRIES, "{report:?}");

        let start = env.monotonic();
        let checked = verify::lines(file.as_bytes(), expected.clone());
        text = text.min(env.monotonic().saturating_sub(start));
        let report = checked.unwrap();
        assert!(report.is_sound() && report.entries == ENTRIES, "{report:?}");
    }
    println!("audit verify, segments and store: {} ms", whole.as_millis());
    println!("audit verify, exported file:      {} ms", text.as_millis());

    // What was measured finds a single flipped byte.
    let mut bytes = file.into_bytes();
    let at = bytes.len() / 2;
    let line = bytes[..at].split(|byte| *byte == b'\n').count();
    bytes[at] ^= 1;
    let report = verify::lines(&bytes[..], []).unwrap();
    let fault = report.faults.first().unwrap();
    assert!(matches!(
        fault.kind,
        FaultKind::Edited | FaultKind::Unreadable
    ));
    assert_eq!(fault.seq, Seq(u64::try_from(line).unwrap()));
    println!(
        "a flipped byte in line {line}: {} at {}",
        fault.kind, fault.seq
    );
}

fn expected(entry: &Entry) -> Expected {
    let head = Head {
        seq: entry.seq,
        hash: entry.hash,
    };
    Expected {
        head,
        by: "node-1".to_owned(),
    }
}

/// Text that doesn't repeat itself, as ids and hashes don't.
fn payload(seq: u64) -> Bytes {
    let mut text = format!("{{\"version\":1,\"sequence\":{seq},\"events\":[");
    let mut hash = Hash::ZERO;
    while text.len() < PAYLOAD_BYTES - 70 {
        hash = Hash::link(hash, Seq(seq), b"payload");
        write!(text, "\"{hash}\",").unwrap();
    }
    text.push_str("0]}");
    text.into()
}
