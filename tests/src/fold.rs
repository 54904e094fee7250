//! The log as a test reads it: from the store itself, checked entry by entry.

use bytes::Bytes;
use kapok_controller::{
    fabric::{Event, Fabric, Node},
    log::Record,
};
use kapok_store::{Chain, Read, Redb, Store as _};
use kapok_types::{Epoch, NodeId, Seq};

/// The fold of the log so far, and what was wrong on the way.
#[derive(Debug, Default)]
pub struct Fold {
    /// The intent.
    pub fabric: Fabric,
    /// Every entry's bytes, in order.
    pub payloads: Vec<Bytes>,
    /// Every entry, in order.
    pub records: Vec<Record>,
    /// Broken invariants, in words.
    pub violations: Vec<String>,
    chain: Chain,
    epoch: Epoch,
}

impl Fold {
    /// Reads on to the log's end. The chain is verified, and each fact is checked as it is
    /// folded in.
    pub async fn advance(&mut self, store: &Redb) {
        loop {
            let batches = match store.read(self.chain.head_seq.next(), 64).await.unwrap() {
                Read::Batches(batches) if batches.is_empty() => return,
                Read::Batches(batches) => batches,
                Read::Trimmed { first } => panic!("the log begins at {first}"),
            };
            for batch in batches {
                if let Err(broken) = self.chain.advance(&batch) {
                    self.violations
                        .push(format!("the chain is broken: {broken:?}"));
                    return;
                }
                for entry in batch.entries() {
                    self.take(entry.seq, entry.payload.clone());
                }
            }
        }
    }

    /// The last entry.
    pub fn head(&self) -> Seq {
        self.chain.head_seq
    }

    fn take(&mut self, seq: Seq, payload: Bytes) {
        let record = match Record::decode(&payload) {
            Ok(record) => record,
            Err(error) => {
                self.violations
                    .push(format!("entry {seq} can't be read: {error}"));
                return;
            }
        };
        self.fabric.begin_entry(record.at);
        for event in &record.events {
            if let Event::LeaderElected { epoch } = event {
                if *epoch <= self.epoch {
                    self.violations
                        .push(format!("epoch {epoch} after {} at {seq}", self.epoch));
                }
                self.epoch = *epoch;
            }
            let grows = self.grows_on(event);
            self.fabric.apply(event);
            if let Some(node) = grows.and_then(|node| self.fabric.node_by_id(node).cloned()) {
                self.check_capacity(seq, &node);
            }
            if let Event::IncarnationPlaced {
                instance,
                incarnation,
            } = event
            {
                let node = self.fabric.node_by_id(incarnation.node).cloned();
                let placed = self
                    .fabric
                    .instances
                    .get(instance)
                    .map(|one| one.incarnations.len());
                if placed != Some(1) {
                    self.violations
                        .push(format!("{instance} has {placed:?} incarnations at {seq}"));
                }
                match node {
                    Some(node) => {
                        self.check_capacity(seq, &node);
                        self.check_open(seq, &node);
                    }
                    None => self
                        .violations
                        .push(format!("{instance} is on no node at {seq}")),
                }
            }
        }
        self.payloads.push(payload);
        self.records.push(record);
    }

    /// The node of which an incarnation holds more after a change of its claim.
    fn grows_on(&self, event: &Event) -> Option<NodeId> {
        let Event::ClaimChanged {
            incarnation,
            node,
            claim,
            ..
        } = event
        else {
            return None;
        };
        let held = self.fabric.fleet.claim_of(*node, *incarnation)?;
        let more = claim.vcpus > held.vcpus || claim.memory.total() > held.memory.total();
        more.then_some(*node)
    }

    /// No decision may raise the sum of claims above what the node has.
    fn check_capacity(&mut self, seq: Seq, node: &Node) {
        let Some(capacity) = &node.capacity else {
            self.violations
                .push(format!("{} never said what it is at {seq}", node.name));
            return;
        };
        let (mut vcpus, mut memory) = (0_u64, 0_u64);
        for (id, instance) in self.fabric.on_node.get(&node.id).into_iter().flatten() {
            let instance = &self.fabric.instances[instance];
            for one in instance.incarnations.iter().filter(|one| one.id == *id) {
                vcpus += u64::from(one.claim.vcpus.get());
                memory += one.claim.memory.total().get();
            }
        }
        let threads = u64::from(capacity.cpus) * u64::from(node.vcpu_overcommit_permille) / 1000;
        let vcpus_there = threads.saturating_sub(u64::from(capacity.foreign_vcpus.get()));
        let memory_there = capacity
            .memory
            .saturating_sub(capacity.foreign_memory)
            .get();
        if vcpus > vcpus_there || memory > memory_there {
            self.violations.push(format!(
                "{} holds {vcpus} of {vcpus_there} vCPUs and {memory} of {memory_there} MiB at {seq}",
                node.name
            ));
        }
    }

    fn check_open(&mut self, seq: Seq, node: &Node) {
        if node.cordoned.is_some() || node.is_quarantined() || !node.reachable {
            self.violations.push(format!(
                "{} took an instance while it should not at {seq}",
                node.name
            ));
        }
    }
}
