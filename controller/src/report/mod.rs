//! What the records say of the fabric as a whole: the pooling report.
//!
//! A function of the fabric, which is a fold of the log, and the time. Nothing is estimated: how each
//! figure comes about is in [`METHOD`], which is part of every answer.

use std::{collections::BTreeMap, fmt};

use kapok_types::{MemoryMib, Name, Timestamp, Vcpus};
use serde::Serialize;

use crate::fabric::{
    Fabric,
    accounting::{Moment, Month, Peak, Sums},
};

mod pack;
#[cfg(test)]
mod tests;

pub use pack::{Packed, pack};

/// How the figures come about.
pub const METHOD: &str = "\
All figures are folds of the log's entries and their times; months are UTC's. An instance counts from \
the entry that creates it to the entry that removes it, running or not. Peaks: the moments of the \
period at which the most vCPUs and the most memory (with QEMU's own) were held, each with the sizes of \
the instances that held them. Nodes: these sizes, largest first, are placed one by one by the fabric's \
own scheduler (best fit) on empty nodes of the size stated; another node is opened when none fits; the \
more demanding of both moments counts, and one node more for the loss of a node (N+1). Bureaus alone and \
the pool are packed in the same way; their peaks may be at different moments, which is what pooling \
gains from. Affinity, devices, huge pages and dedicated processors aren't considered. Nodes in use: the \
most that really carried something at one moment. Deployment: from a system's request time to its live \
time as recorded; nearest-rank percentiles. Availability: up / (up + down) of instances that are meant \
to run, by what agents said, from when each was first seen to run; what nobody could see (node \
unreachable, no controller) is listed as unseen and counts as neither. Changes shorter than 10 s aren't \
recorded.";

/// What a node has in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NodeShape {
    /// vCPUs that it carries, overcommit included.
    pub vcpus: Vcpus,
    /// Memory for instances, in MiB.
    pub memory: MemoryMib,
}

/// What is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question {
    /// The first month; none means the first that is known.
    pub from: Option<Month>,
    /// The last month; none means the present one.
    pub to: Option<Month>,
    /// vCPUs of a node; none means the fabric's most frequent size.
    pub vcpus: Option<Vcpus>,
    /// Memory of a node, likewise.
    pub memory: Option<MemoryMib>,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pooling {
    /// The first month.
    pub from: Month,
    /// The last month.
    pub to: Month,
    /// From when on anything is known.
    pub known_since: Timestamp,
    /// When it was made.
    pub at: Timestamp,
    /// The size of nodes.
    pub node: NodeShape,
    /// Each bureau, by name.
    pub bureaus: Vec<Bureau>,
    /// All together; its name is none.
    pub pool: Bureau,
    /// Nodes of the bureaus alone, in sum.
    pub nodes_alone: u64,
    /// Share of nodes that pooling saves, in permille, rounded down.
    pub saved_permille: u32,
    /// Most nodes that really carried something at one moment.
    pub most_nodes_in_use: u32,
    /// Systems, by tenant and name.
    pub systems: Vec<SystemRecord>,
    /// How long deployments took.
    pub deployment: Deployment,
}

/// What one bureau, or all together, held at the most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bureau {
    /// Its name; none for all together.
    pub name: Option<Name>,
    /// Most vCPUs.
    pub vcpus: u64,
    /// When.
    pub vcpus_at: Timestamp,
    /// Most memory, in MiB.
    pub memory_mib: u64,
    /// When.
    pub memory_at: Timestamp,
    /// Instances at the moment with the most vCPUs.
    pub instances: u64,
    /// Nodes for the more demanding moment.
    pub packed: u32,
    /// The same and one more; 0 for who held nothing.
    pub nodes: u32,
    /// Instances that fit on no such node: not counted.
    pub misfits: u32,
}

/// What the records say of one system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SystemRecord {
    /// Its tenant.
    pub tenant: Name,
    /// Its name.
    pub system: Name,
    /// When it was asked for.
    pub requested_at: Option<Timestamp>,
    /// When it went live.
    pub live_at: Option<Timestamp>,
    /// Instances × seconds up.
    pub up_s: u64,
    /// Instances × seconds down.
    pub down_s: u64,
    /// Instances × seconds that nobody could see.
    pub unseen_s: u64,
    /// Up ÷ (up + down), in millionths.
    pub availability_ppm: Option<u32>,
}

/// How long deployments took, from the request to going live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Deployment {
    /// Systems of which both times are known.
    pub systems: u32,
    /// The median, in seconds.
    pub median_s: u64,
    /// What 90 % of them don't exceed, in seconds.
    pub p90_s: u64,
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first month is after the last.
    #[error("the first month, {from}, is after the last, {to}")]
    Months {
        /// The first.
        from: Month,
        /// The last.
        to: Month,
    },
    /// There is no node to take the size from.
    #[error("the fabric has no node whose size could be taken; state one")]
    NoNode,
}

/// Makes the report.
///
/// # Errors
///
/// [`Error`].
pub fn pooling(fabric: &Fabric, now: Timestamp, question: Question) -> Result<Pooling, Error> {
    let accounting = &fabric.accounting;
    let since = accounting.since();
    let from = question.from.unwrap_or_else(|| Month::of(since));
    let to = question.to.unwrap_or_else(|| Month::of(now));
    if from > to {
        return Err(Error::Months { from, to });
    }
    let node = node(fabric, question)?;
    let peaks = |peaks: &crate::fabric::accounting::Peaks| peaks.within(since, now, from..=to);
    let mut bureaus = Vec::new();
    for (name, its) in &accounting.bureaus {
        let one = bureau(Some(name.clone()), &peaks(its), node);
        if one.instances > 0 || one.memory_mib > 0 {
            bureaus.push(one);
        }
    }
    let pool = bureau(None, &peaks(&accounting.pool), node);
    let nodes_alone = bureaus.iter().map(|one| u64::from(one.nodes)).sum();
    let systems = systems(fabric, now, from, to);
    Ok(Pooling {
        from,
        to,
        known_since: since,
        at: now,
        node,
        nodes_alone,
        saved_permille: saved(nodes_alone, pool.nodes.into()),
        most_nodes_in_use: accounting.most_nodes(from..=to, now),
        deployment: deployment(&systems, from, to),
        bureaus,
        pool,
        systems,
    })
}

/// The size that is stated, or the fabric's most frequent; of equally frequent ones the largest.
fn node(fabric: &Fabric, question: Question) -> Result<NodeShape, Error> {
    if let (Some(vcpus), Some(memory)) = (question.vcpus, question.memory) {
        return Ok(NodeShape { vcpus, memory });
    }
    let mut counts: BTreeMap<NodeShape, u32> = BTreeMap::new();
    for node in fabric.nodes.values() {
        if let Some(capacity) = node.capacity {
            let vcpus = u64::from(capacity.cpus) * u64::from(node.vcpu_overcommit_permille) / 1000;
            let shape = NodeShape {
                vcpus: Vcpus(u32::try_from(vcpus).unwrap_or(u32::MAX)),
                memory: capacity.memory,
            };
            *counts.entry(shape).or_default() += 1;
        }
    }
    let most = counts
        .into_iter()
        .max_by_key(|(shape, count)| (*count, *shape));
    let (usual, _) = most.ok_or(Error::NoNode)?;
    Ok(NodeShape {
        vcpus: question.vcpus.unwrap_or(usual.vcpus),
        memory: question.memory.unwrap_or(usual.memory),
    })
}

fn bureau(name: Option<Name>, peaks: &[Peak], node: NodeShape) -> Bureau {
    let nothing = Moment::default();
    // Of equal ones the first.
    let most = |of: fn(&Moment) -> u64, which: fn(&Peak) -> &Moment| {
        let moments = peaks.iter().rev().map(which);
        moments.max_by_key(|moment| of(moment)).unwrap_or(&nothing)
    };
    let by_vcpus = most(|moment| moment.vcpus, |peak| &peak.vcpus);
    let by_memory = most(|moment| moment.memory_mib, Peak::by_memory);
    let mut packed = pack(&by_vcpus.shapes, node);
    if by_memory.shapes != by_vcpus.shapes {
        packed = packed.max(pack(&by_memory.shapes, node));
    }
    Bureau {
        name,
        vcpus: by_vcpus.vcpus,
        vcpus_at: by_vcpus.at,
        memory_mib: by_memory.memory_mib,
        memory_at: by_memory.at,
        instances: by_vcpus
            .shapes
            .values()
            .map(|count| u64::from(*count))
            .sum(),
        packed: packed.nodes,
        nodes: packed.nodes + u32::from(packed.nodes > 0),
        misfits: packed.misfits,
    }
}

fn saved(alone: u64, pooled: u64) -> u32 {
    let saved = alone.saturating_sub(pooled) * 1000;
    u32::try_from(saved.checked_div(alone).unwrap_or(0)).unwrap_or(0)
}

fn systems(fabric: &Fabric, now: Timestamp, from: Month, to: Month) -> Vec<SystemRecord> {
    let called = fabric.accounting.accounts.keys();
    let record = |called: &(Name, Name)| {
        let account = fabric.accounting.account(fabric, called, now)?;
        let months = account.months.range(from..=to).map(|(_, sums)| sums);
        let sums = months.fold(Sums::default(), Sums::plus);
        let seconds = |ms: u128| u64::try_from(ms / 1000).unwrap_or(u64::MAX);
        let seen = sums.up_ms + sums.down_ms;
        let ppm = (sums.up_ms * 1_000_000).checked_div(seen);
        Some(SystemRecord {
            tenant: called.0.clone(),
            system: called.1.clone(),
            requested_at: account.requested_at,
            live_at: account.live_at,
            up_s: seconds(sums.up_ms),
            down_s: seconds(sums.down_ms),
            unseen_s: seconds(sums.unseen_ms),
            availability_ppm: ppm.and_then(|ppm| u32::try_from(ppm).ok()),
        })
    };
    called.filter_map(record).collect()
}

/// Of the systems that went live in these months.
fn deployment(systems: &[SystemRecord], from: Month, to: Month) -> Deployment {
    let took = systems.iter().filter_map(|system| {
        let (requested, live) = system.requested_at.zip(system.live_at)?;
        let month = Month::of(live);
        (from <= month && month <= to).then(|| live.millis_since(requested) / 1000)
    });
    let mut took: Vec<u64> = took.collect();
    took.sort_unstable();
    let at = |permille: usize| {
        let rank = (took.len() * permille).div_ceil(1000);
        took.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    Deployment {
        systems: u32::try_from(took.len()).unwrap_or(u32::MAX),
        median_s: at(500),
        p90_s: at(900),
    }
}

impl fmt::Display for Pooling {
    /// For people, without the lists.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeShape { vcpus, memory } = self.node;
        writeln!(f, "months            {} to {}", self.from, self.to)?;
        writeln!(f, "node              {vcpus} vCPU, {memory}")?;
        writeln!(f, "bureaus           {}", self.bureaus.len())?;
        writeln!(f, "nodes alone       {} (N+1 for each)", self.nodes_alone)?;
        writeln!(f, "nodes pooled      {} (N+1)", self.pool.nodes)?;
        let (whole, tenth) = (self.saved_permille / 10, self.saved_permille % 10);
        writeln!(f, "saved             {whole}.{tenth} %")?;
        writeln!(f, "most nodes in use {}", self.most_nodes_in_use)?;
        let Deployment {
            systems,
            median_s,
            p90_s,
        } = self.deployment;
        writeln!(
            f,
            "deployment        {systems} systems, median {median_s} s, p90 {p90_s} s"
        )?;
        write!(f, "method            {METHOD}")
    }
}
