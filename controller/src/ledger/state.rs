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
        let mut state = Self::checkpointed(store).await?;
        while let Some(first) = state.catch_up(store).await? {
            // Whoever leads may have written a checkpoint meanwhile, and trimmed behind it.
            let newer = Self::checkpointed(store).await?;
            if newer.checkpointed <= state.checkpointed {
                return Err(Fatal::Gap { first });
            }
            state = newer;
        }
        Ok(state)
    }

    /// The fabric as of the checkpoint.
    async fn checkpointed<S: Store>(store: &S) -> Result<Self, Fatal> {
        let (fabric, chain) = match store.load_checkpoint().await? {
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
        Ok(Self {
            checkpointed: chain.head_seq,
            fabric,
            chain,
            dirty: BTreeSet::new(),
        })
    }

    /// Takes in what the log holds beyond it. If that was trimmed away, nothing more is taken in and
    /// the log's first position is given.
    pub(super) async fn catch_up<S: Store>(&mut self, store: &S) -> Result<Option<Seq>, Fatal> {
        loop {
            match store.read(self.chain.head_seq.next(), READ_BATCHES).await? {
                Read::Batches(batches) if batches.is_empty() => return Ok(None),
                Read::Batches(batches) => {
                    for batch in batches {
                        self.take(&batch)?;
                    }
                }
                Read::Trimmed { first } => return Ok(Some(first)),
            }
        }
    }

    /// Takes in the next batch; also one of which the beginning was taken in before.
    pub(super) fn take(&mut self, batch: &kapok_store::Batch) -> Result<(), Fatal> {
        let before = self.chain.head_seq;
        let (first, last) = (batch.entries().first(), batch.entries().last());
        if let (Some(first), Some(last)) = (first, last)
            && (first.seq > before.next() || last.seq <= before)
        {
            // Not the one behind what is folded.
            return Err(Fatal::Gap { first: first.seq });
        }
        if batch
            .entries()
            .first()
            .is_some_and(|first| first.seq == before.next())
        {
            self.chain.advance(batch).map_err(Fatal::Chain)?;
        } else if let Some(last) = batch.entries().last() {
            // The batch that the checkpoint ends in: its tail is new.
            self.chain = Chain {
                head_seq: last.seq,
                head_hash: last.hash,
            };
        }
        for entry in batch.entries().iter().filter(|entry| entry.seq > before) {
            let record = Record::decode(&entry.payload).map_err(|source| Fatal::Entry {
                seq: entry.seq,
                source,
            })?;
            self.fabric.begin_entry(record.at);
            for event in &record.events {
                checkpoint::touched(&self.fabric, event, &mut self.dirty);
                self.fabric.apply(event);
            }
        }
        Ok(())
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
