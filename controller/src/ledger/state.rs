//! What the ledger holds in memory: the durable fabric, and what is staged on top of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use kapok_store::{
    Chain, Head, Read, Store,
    log::{BATCH_OVERHEAD_BYTES, ENTRY_OVERHEAD_BYTES},
};
use kapok_types::{Epoch, Seq, Timestamp};

use super::{Fatal, Snapshot};
use crate::{
    fabric::{
        Event, Fabric,
        checkpoint::{self, Key},
    },
    log::Record,
};

/// Batches that one read of the log asks for.
const READ_BATCHES: usize = 64;

/// The fabric as of the log's head.
#[derive(Debug)]
pub(super) struct State {
    pub(super) fabric: Fabric,
    pub(super) chain: Chain,
    pub(super) dirty: BTreeSet<Key>,
    pub(super) checkpointed: Seq,
}

/// What is decided but not yet durable.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) fabric: Fabric,
    pub(super) dirty: BTreeSet<Key>,
    pub(super) payloads: Vec<Bytes>,
    pub(super) bytes: u64,
}

/// What an entry takes of a batch.
pub(super) fn entry_bytes(payload: &Bytes) -> u64 {
    u64::try_from(payload.len())
        .unwrap_or(u64::MAX)
        .saturating_add(ENTRY_OVERHEAD_BYTES)
}

impl Staged {
    /// Nothing yet, on top of what is durable.
    pub(super) fn on(fabric: &Fabric) -> Self {
        Self {
            fabric: fabric.clone(),
            dirty: BTreeSet::new(),
            payloads: Vec::new(),
            bytes: BATCH_OVERHEAD_BYTES,
        }
    }

    /// Takes an entry and its facts in.
    pub(super) fn put(&mut self, payload: Bytes, at: Timestamp, events: &[Event]) {
        self.bytes += entry_bytes(&payload);
        self.payloads.push(payload);
        self.fabric.begin_entry(at);
        for event in events {
            checkpoint::touched(&self.fabric, event, &mut self.dirty);
            self.fabric.apply(event);
        }
    }
}

impl State {
    /// The fabric as of the log's head: the checkpoint, and the entries after it.
    pub(super) async fn load<S: Store>(store: &S) -> Result<Self, Fatal> {
        let (mut fabric, mut chain) = match store.load_checkpoint().await? {
            None => (Fabric::default(), Chain::default()),
            Some(loaded) => {
                let objects = loaded
                    .objects
                    .iter()
                    .map(|(key, value)| (key.as_str(), &value[..]));
                let head = Head {
                    seq: loaded.seq,
                    hash: loaded.hash,
                };
                (checkpoint::load(objects)?, Chain::at(head))
            }
        };
        let checkpointed = chain.head_seq;
        let mut dirty = BTreeSet::new();
        loop {
            let batches = match store.read(chain.head_seq.next(), READ_BATCHES).await? {
                Read::Batches(batches) if batches.is_empty() => break,
                Read::Batches(batches) => batches,
                Read::Trimmed { first } => return Err(Fatal::Gap { first }),
            };
            for batch in batches {
                let before = chain.head_seq;
                if batch
                    .entries()
                    .first()
                    .is_some_and(|first| first.seq == before.next())
                {
                    chain.advance(&batch).map_err(Fatal::Chain)?;
                } else if let Some(last) = batch.entries().last() {
                    // The batch that the checkpoint ends in: its tail is new.
                    chain = Chain {
                        head_seq: last.seq,
                        head_hash: last.hash,
                    };
                }
                for entry in batch.entries().iter().filter(|entry| entry.seq > before) {
                    let record = Record::decode(&entry.payload).map_err(|source| Fatal::Entry {
                        seq: entry.seq,
                        source,
                    })?;
                    fabric.begin_entry(record.at);
                    for event in &record.events {
                        checkpoint::touched(&fabric, event, &mut dirty);
                        fabric.apply(event);
                    }
                }
            }
        }
        Ok(Self {
            fabric,
            chain,
            dirty,
            checkpointed,
        })
    }

    /// What is published of it.
    pub(super) fn snapshot(&self, epoch: Epoch) -> Snapshot {
        Snapshot {
            fabric: self.fabric.clone(),
            head: self.chain.head(),
            epoch,
        }
    }
}
