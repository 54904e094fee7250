//! FAULTS 37, the store's part: the process is killed while it appends.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kapok_store::{Batch, Chain, Read, Redb, Store};
use kapok_types::Seq;

const CHILD: &str = "KAPOK_STORE_TEST_CHILD";

/// Not a test: what [`killed_while_appending`] kills. Appends and says what was acknowledged.
#[test]
#[ignore = "the child of killed_while_appending"]
fn child_appends() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Redb::open(path).await.unwrap();
        let token = store.campaign("child").await.unwrap().token;
        let mut chain = Chain::at(store.head().await.unwrap());
        loop {
            let size = usize::try_from(chain.head_seq.get() % 5 + 1).unwrap();
            let batch = chain.seal(vec![Bytes::from(vec![7; 2_000]); size]);
            store.append(&token, chain.head_seq, &batch).await.unwrap();
            chain.advance(&batch).unwrap();
            println!("\nacknowledged {} {}", chain.head_seq, chain.head_hash);
        }
    });
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// FAULTS 37, the store's part: kill -9 while appending loses nothing that was acknowledged, and
/// what is there is a whole chain.
#[tokio::test]
async fn killed_while_appending() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.redb");
    let mut known = 0;
    for round in 1..=6 {
        let started = Instant::now();
        let mut child = Killed(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_appends", "--ignored", "--nocapture"])
                .env(CHILD, &path)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        let mut acknowledged = Vec::new();
        for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            assert!(
                started.elapsed() < Duration::from_mins(1),
                "the child doesn't get on"
            );
            if let Some((seq, hash)) = line
                .strip_prefix("acknowledged ")
                .and_then(|said| said.split_once(' '))
            {
                acknowledged.push((Seq(seq.parse().unwrap()), hash.to_owned()));
            }
            if acknowledged.len() == round * 7 {
                // It goes on appending until the signal reaches it.
                child.0.kill().unwrap();
            }
        }
        drop(child);
        assert!(acknowledged.len() >= round * 7, "the child ended by itself");

        let store = Redb::open(&path).await.unwrap();
        let Read::Batches(batches) = store.read(Seq(1), usize::MAX).await.unwrap() else {
            panic!("nothing was trimmed");
        };
        let mut chain = Chain::default();
        for batch in &batches {
            chain.advance(batch).unwrap();
        }
        assert_eq!(store.head().await.unwrap(), chain.head());
        for (seq, hash) in acknowledged {
            let entry = batches.iter().find_map(|batch: &Batch| batch.entry(seq));
            let entry = entry.unwrap_or_else(|| panic!("acknowledged entry {seq} is lost"));
            assert_eq!(entry.hash.to_string(), hash);
        }
        assert!(
            chain.head_seq.get() > known,
            "the log goes on from where it was"
        );
        known = chain.head_seq.get();
    }
}
