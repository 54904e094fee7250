//! Hard filters: what makes a node impossible for a request, and the numbers that say why.
//!
//! A closed set in a fixed order. Each filter looks at one node for one question; none prefers
//! anything. A node is rejected by the first filter that it fails.

use kapok_types::{
    MemoryMib, Name, Vcpus,
    equipment::{Feature, PageSize},
    instance::Arch,
};
use serde::{Deserialize, Serialize};

use crate::{
    assign,
    groups::{Domain, Resolved},
    headroom::Headroom,
    held::{Usage, to_memory, to_vcpus},
    node::{Distrust, NodeView},
    question::Question,
    request::Request,
};

mod words;

/// The filters in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The node's agent answers.
    Reachable,
    /// The node's agent has its intent.
    Resync,
    /// The node is the server that the fabric knows.
    Trusted,
    /// People let new instances onto the node.
    Cordoned,
    /// The health of the node's server lets new instances onto it.
    Quarantined,
    /// The node runs the image's architecture.
    Architecture,
    /// The node has the labels.
    Labels,
    /// The node is for the isolation class.
    Isolation,
    /// The node's processors have the features.
    CpuFeatures,
    /// The node reaches the storage pool.
    Pool,
    /// The node reaches the network.
    Network,
    /// The node has the vCPUs.
    Vcpus,
    /// The node has the memory.
    Memory,
    /// The node has threads for the dedicated CPUs, in as few cells as are asked.
    DedicatedCpus,
    /// The node has the huge pages, in as few cells as are asked.
    HugePages,
    /// The node has both in the same cells.
    Cells,
    /// The node has the devices.
    Devices,
    /// The request lets the node be used.
    Avoided,
    /// The node shares no domain with a member to be apart from.
    Apart,
    /// The node shares a domain with a member to be together with.
    Together,
    /// What a loss of nodes needs is left free.
    Headroom,
}

/// Why a node can't take a request, with the numbers at that moment.
///
/// `Display` gives the short form for a list, the alternate form (`{:#}`) all numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Rejection {
    /// Its agent doesn't answer. What runs there runs on.
    Unreachable,
    /// Its agent has lost its store and waits for the full intent.
    NeedsResync,
    /// Its word isn't taken.
    Distrusted {
        /// Why.
        why: Distrust,
    },
    /// People keep new instances away from it.
    Cordoned,
    /// Its server's verdicts keep new instances away from it.
    Quarantined,
    /// It has other processors.
    Architecture {
        /// What the image was built for.
        asked: Arch,
        /// What the node has.
        node: Arch,
    },
    /// It lacks a label, or has another value of it.
    Labels {
        /// The label.
        label: Name,
        /// The value asked for.
        asked: String,
        /// The node's value.
        node: Option<String>,
    },
    /// It is for another isolation class.
    Isolation {
        /// The tenant's; none for most.
        asked: Option<Name>,
        /// The node's; none for most.
        node: Option<Name>,
    },
    /// Its processors lack features.
    CpuFeatures {
        /// Which, of those asked for.
        missing: Vec<Feature>,
    },
    /// It doesn't reach the storage pool.
    Pool {
        /// Which.
        pool: Name,
    },
    /// It doesn't reach the network.
    Network {
        /// Which.
        network: Name,
    },
    /// Too few vCPUs are free.
    Vcpus {
        /// Asked for.
        asked: Vcpus,
        /// Left of the limit.
        free: Vcpus,
        /// Physical threads.
        physical: Vcpus,
        /// vCPUs handed out per physical one, in permille.
        overcommit_permille: u32,
        /// Held by incarnations.
        claimed: Vcpus,
        /// Held by domains that Kapok did not make.
        foreign: Vcpus,
    },
    /// Too little memory is free. All in MiB.
    Memory {
        /// Asked for: guest + overhead.
        asked: MemoryMib,
        /// What the guest would see.
        guest: MemoryMib,
        /// What QEMU would take beside it.
        overhead: MemoryMib,
        /// Left of the limit.
        free: MemoryMib,
        /// The node's memory without the host's reserve.
        capacity: MemoryMib,
        /// Held by incarnations, overhead included.
        claimed: MemoryMib,
        /// Held by domains that Kapok did not make.
        foreign: MemoryMib,
    },
    /// Too few threads for dedicated CPUs are free.
    DedicatedCpus {
        /// Asked for.
        asked: Vcpus,
        /// Over at most so many cells, evenly.
        cells: u8,
        /// What each cell has free.
        free: Vec<CellFree>,
        /// So many are claimed above what there is; while there are any, no more are given out.
        over: Vcpus,
    },
    /// Too few huge pages are free.
    HugePages {
        /// Of this size.
        size: PageSize,
        /// Memory in MiB that is asked for.
        asked: MemoryMib,
        /// Over at most so many cells, evenly.
        cells: u8,
        /// What each cell has free.
        free: Vec<CellFree>,
        /// So much memory, in MiB, is claimed above what there is; while there is any, no more is
        /// given out.
        over: MemoryMib,
    },
    /// Threads and huge pages aren't free in the same cells.
    Cells {
        /// Dedicated CPUs that are asked for.
        vcpus: Vcpus,
        /// The size of the huge pages.
        size: PageSize,
        /// Memory in MiB that is asked for in them.
        memory: MemoryMib,
        /// Over at most so many cells, evenly.
        cells: u8,
        /// What each cell has free.
        free: Vec<CellFree>,
    },
    /// Too few devices of a class are free.
    Devices {
        /// The class.
        class: Name,
        /// Asked for.
        asked: u32,
        /// That are nobody's.
        free: u32,
        /// All that the node has.
        there: u32,
        /// So many devices are claimed above what there is; while there are any, no more are given
        /// out.
        over: u32,
    },
    /// The request names it as one to avoid.
    Avoided,
    /// Another member of the group is in its domain.
    Apart {
        /// Which they would share.
        domain: Domain,
        /// Its rack or room; none for a node, or if it isn't named.
        site: Option<Name>,
    },
    /// No other member of the group is in its domain.
    Together {
        /// Which they wouldn't share.
        domain: Domain,
        /// Its rack or room; none for a node, or if it isn't named.
        site: Option<Name>,
    },
    /// Too little would be left free for the loss of a node or rack.
    Headroom {
        /// Of which.
        level: Headroom,
        /// The size of a slot: so many vCPUs, each with [`BLOCK`](crate::headroom::BLOCK).
        slot: Vcpus,
        /// So many slots are needed: what the largest carries and has free itself.
        needed: u64,
        /// So many would be left, of all nodes.
        left: u64,
    },
}

/// What one NUMA cell of a node has free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellFree {
    /// The host's number for it.
    pub cell: u16,
    /// Threads for dedicated CPUs.
    pub vcpus: Vcpus,
    /// Memory in MiB in huge pages of the asked size.
    pub memory: MemoryMib,
}

impl Filter {
    /// Every filter, in the order in which they are asked.
    pub const ALL: [Self; 21] = [
        Self::Reachable,
        Self::Resync,
        Self::Trusted,
        Self::Cordoned,
        Self::Quarantined,
        Self::Architecture,
        Self::Labels,
        Self::Isolation,
        Self::CpuFeatures,
        Self::Pool,
        Self::Network,
        Self::Vcpus,
        Self::Memory,
        Self::DedicatedCpus,
        Self::HugePages,
        Self::Cells,
        Self::Devices,
        Self::Avoided,
        Self::Apart,
        Self::Together,
        Self::Headroom,
    ];

    /// The first filter's rejection that the node meets, in the order of [`Filter::ALL`].
    ///
    /// # Errors
    ///
    /// Why the node can't take the request.
    pub(crate) fn check_all(node: NodeView<'_>, question: &Question<'_>) -> Result<(), Rejection> {
        Self::ALL
            .into_iter()
            .try_for_each(|filter| filter.check(node, question))
    }

    /// Asks this filter alone.
    ///
    /// # Errors
    ///
    /// Why the node can't take the request.
    pub(crate) fn check(
        self,
        view: NodeView<'_>,
        question: &Question<'_>,
    ) -> Result<(), Rejection> {
        let node = view.node();
        let Question { request, asked, .. } = question;
        let (needs, equipment) = (&request.needs, &node.equipment);
        let rejected = match self {
            Self::Reachable => (!node.reachable).then_some(Rejection::Unreachable),
            Self::Resync => node.resyncing.then_some(Rejection::NeedsResync),
            Self::Trusted => node.distrust.map(|why| Rejection::Distrusted { why }),
            Self::Cordoned => node.cordoned.then_some(Rejection::Cordoned),
            Self::Quarantined => node.quarantined.then_some(Rejection::Quarantined),
            Self::Architecture => (node.arch != request.arch).then_some(Rejection::Architecture {
                asked: request.arch,
                node: node.arch,
            }),
            Self::Labels => {
                request
                    .missing_label(&node.labels)
                    .map(|(label, asked)| Rejection::Labels {
                        label: label.clone(),
                        asked: asked.clone(),
                        node: node.labels.get(label).cloned(),
                    })
            }
            Self::Isolation => {
                (node.isolation != request.isolation).then(|| Rejection::Isolation {
                    asked: request.isolation.clone(),
                    node: node.isolation.clone(),
                })
            }
            Self::CpuFeatures => missing_features(view, request),
            Self::Pool => {
                let pool = needs.pool.as_ref();
                pool.filter(|pool| !equipment.pools.contains(pool))
                    .map(|pool| Rejection::Pool { pool: pool.clone() })
            }
            Self::Network => {
                let network = needs.network.as_ref();
                let away = network.filter(|network| !equipment.networks.contains(network));
                away.map(|network| Rejection::Network {
                    network: network.clone(),
                })
            }
            Self::Vcpus => (view.vcpus_after(*asked).is_none()).then(|| no_vcpus(view, *asked)),
            Self::Memory => {
                (view.memory_after(*asked).is_none()).then(|| no_memory(view, request, *asked))
            }
            Self::DedicatedCpus => assign::lacks_cpus(view, request),
            Self::HugePages => assign::lacks_pages(view, request),
            Self::Cells => assign::lacks_cells(view, request),
            Self::Devices => assign::lacks_devices(view, request),
            Self::Avoided => request
                .avoid
                .contains(&node.id)
                .then_some(Rejection::Avoided),
            Self::Apart => broken(question, view, true),
            Self::Together => broken(question, view, false),
            Self::Headroom => {
                let bar = question.bar.as_ref().zip(view.free());
                bar.and_then(|(bar, free)| bar.check(free).err())
            }
        };
        rejected.map_or(Ok(()), Err)
    }

    /// What so many nodes have in common, as in "2 lack memory".
    pub(crate) const fn predicate(self, many: bool) -> &'static str {
        match (self, many) {
            (Self::Reachable, false) => "is unreachable",
            (Self::Reachable, true) => "are unreachable",
            (Self::Resync, false) => "needs a resync",
            (Self::Resync, true) => "need a resync",
            (Self::Trusted, false) => "isn't trusted",
            (Self::Trusted, true) => "aren't trusted",
            (Self::Cordoned, false) => "is cordoned",
            (Self::Cordoned, true) => "are cordoned",
            (Self::Quarantined, false) => "is quarantined",
            (Self::Quarantined, true) => "are quarantined",
            (Self::Architecture, false) => "has another architecture",
            (Self::Architecture, true) => "have another architecture",
            (Self::Labels, false) => "lacks a label",
            (Self::Labels, true) => "lack a label",
            (Self::Isolation, false) => "is for another isolation class",
            (Self::Isolation, true) => "are for another isolation class",
            (Self::CpuFeatures, false) => "lacks CPU features",
            (Self::CpuFeatures, true) => "lack CPU features",
            (Self::Pool, false) => "doesn't reach the pool",
            (Self::Pool, true) => "don't reach the pool",
            (Self::Network, false) => "doesn't reach the network",
            (Self::Network, true) => "don't reach the network",
            (Self::Vcpus, false) => "lacks vCPUs",
            (Self::Vcpus, true) => "lack vCPUs",
            (Self::Memory, false) => "lacks memory",
            (Self::Memory, true) => "lack memory",
            (Self::DedicatedCpus, false) => "lacks dedicated CPUs",
            (Self::DedicatedCpus, true) => "lack dedicated CPUs",
            (Self::HugePages, false) => "lacks huge pages",
            (Self::HugePages, true) => "lack huge pages",
            (Self::Cells, false) => "lacks a cell with both",
            (Self::Cells, true) => "lack a cell with both",
            (Self::Devices, false) => "lacks devices",
            (Self::Devices, true) => "lack devices",
            (Self::Avoided, false) => "is to be avoided",
            (Self::Avoided, true) => "are to be avoided",
            (Self::Apart, false) => "is too near to its group",
            (Self::Apart, true) => "are too near to its group",
            (Self::Together, false) => "is too far from its group",
            (Self::Together, true) => "are too far from its group",
            (Self::Headroom, false) => "is needed as headroom",
            (Self::Headroom, true) => "are needed as headroom",
        }
    }
}

impl Rejection {
    /// The filter that it comes from.
    pub const fn filter(&self) -> Filter {
        match self {
            Self::Unreachable => Filter::Reachable,
            Self::NeedsResync => Filter::Resync,
            Self::Distrusted { .. } => Filter::Trusted,
            Self::Cordoned => Filter::Cordoned,
            Self::Quarantined => Filter::Quarantined,
            Self::Architecture { .. } => Filter::Architecture,
            Self::Labels { .. } => Filter::Labels,
            Self::Isolation { .. } => Filter::Isolation,
            Self::CpuFeatures { .. } => Filter::CpuFeatures,
            Self::Pool { .. } => Filter::Pool,
            Self::Network { .. } => Filter::Network,
            Self::Vcpus { .. } => Filter::Vcpus,
            Self::Memory { .. } => Filter::Memory,
            Self::DedicatedCpus { .. } => Filter::DedicatedCpus,
            Self::HugePages { .. } => Filter::HugePages,
            Self::Cells { .. } => Filter::Cells,
            Self::Devices { .. } => Filter::Devices,
            Self::Avoided => Filter::Avoided,
            Self::Apart { .. } => Filter::Apart,
            Self::Together { .. } => Filter::Together,
            Self::Headroom { .. } => Filter::Headroom,
        }
    }
}

/// The first strict group of one sort that the node breaks.
fn broken(question: &Question<'_>, view: NodeView<'_>, apart: bool) -> Option<Rejection> {
    let node = view.node();
    let strict = (question.groups.iter()).filter(|group| group.strict && group.apart == apart);
    let Resolved { domain, .. } = strict.into_iter().find(|group| !group.is_met(node))?;
    let (domain, site) = (*domain, domain.name(node).cloned());
    Some(if apart {
        Rejection::Apart { domain, site }
    } else {
        Rejection::Together { domain, site }
    })
}

fn missing_features(view: NodeView<'_>, request: &Request) -> Option<Rejection> {
    let there = &view.node().equipment.cpu_features;
    let missing = request.needs.cpu_features.difference(there);
    let missing: Vec<_> = missing.cloned().collect();
    (!missing.is_empty()).then_some(Rejection::CpuFeatures { missing })
}

fn no_vcpus(view: NodeView<'_>, asked: Usage) -> Rejection {
    let node = view.node();
    Rejection::Vcpus {
        asked: to_vcpus(asked.vcpus),
        free: view.free_vcpus(),
        physical: node.capacity.vcpus,
        overcommit_permille: node.vcpu_overcommit_permille,
        claimed: view.claimed_vcpus(),
        foreign: node.capacity.foreign_vcpus,
    }
}

fn no_memory(view: NodeView<'_>, request: &Request, asked: Usage) -> Rejection {
    let capacity = &view.node().capacity;
    let guest = if request.needs.huge_pages.is_some() {
        MemoryMib(0)
    } else {
        request.memory.guest
    };
    let total = asked.memory_mib;
    Rejection::Memory {
        asked: to_memory(total),
        guest,
        overhead: to_memory(total.saturating_sub(u128::from(guest.get()))),
        free: view.free_memory(),
        capacity: capacity.memory,
        claimed: view.claimed_memory(),
        foreign: capacity.foreign_memory,
    }
}

#[cfg(test)]
mod tests;
