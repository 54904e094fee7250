//! Hard filters: what makes a node impossible for a request, and the numbers that say why.
//!
//! A closed set in a fixed order. Each filter looks at one node for one question; none prefers
//! anything. A node is rejected by the first filter that it fails.

use std::fmt;

use kapok_types::{MemoryMib, Name, Vcpus, instance::Arch};
use serde::{Deserialize, Serialize};

use crate::{
    groups::{Domain, Resolved},
    headroom::Headroom,
    held::{to_memory, wide},
    node::{Distrust, NodeView},
    question::Question,
    request::Request,
};

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
    /// The node has the vCPUs.
    Vcpus,
    /// The node has the memory.
    Memory,
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

impl Filter {
    /// Every filter, in the order in which they are asked.
    pub const ALL: [Self; 13] = [
        Self::Reachable,
        Self::Resync,
        Self::Trusted,
        Self::Cordoned,
        Self::Quarantined,
        Self::Architecture,
        Self::Labels,
        Self::Vcpus,
        Self::Memory,
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
        let Question { request, claim, .. } = question;
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
            Self::Vcpus => view
                .vcpus_after(claim)
                .is_none()
                .then(|| no_vcpus(view, request)),
            Self::Memory => view
                .memory_after(claim)
                .is_none()
                .then(|| no_memory(view, request)),
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
            (Self::Vcpus, false) => "lacks vCPUs",
            (Self::Vcpus, true) => "lack vCPUs",
            (Self::Memory, false) => "lacks memory",
            (Self::Memory, true) => "lack memory",
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
            Self::Vcpus { .. } => Filter::Vcpus,
            Self::Memory { .. } => Filter::Memory,
            Self::Avoided => Filter::Avoided,
            Self::Apart { .. } => Filter::Apart,
            Self::Together { .. } => Filter::Together,
            Self::Headroom { .. } => Filter::Headroom,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = f.alternate();
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::NeedsResync => f.write_str("its agent needs a resync"),
            Self::Distrusted {
                why: Distrust::FingerprintChanged,
            } => f.write_str("its server has changed; rebind it"),
            Self::Distrusted {
                why: Distrust::Revoked,
            } => f.write_str("revoked"),
            Self::Cordoned => f.write_str("cordoned"),
            Self::Quarantined => f.write_str("quarantined"),
            Self::Architecture { asked, node } => {
                write!(
                    f,
                    "architecture {} where {} is asked",
                    node.as_str(),
                    asked.as_str()
                )
            }
            Self::Labels {
                label,
                asked,
                node: Some(node),
            } => write!(f, "label {label} is {node:?} where {asked:?} is asked"),
            Self::Labels {
                label,
                asked,
                node: None,
            } => write!(f, "no label {label} where {asked:?} is asked"),
            Self::Vcpus {
                asked,
                free,
                physical,
                overcommit_permille,
                claimed,
                foreign,
            } => {
                write!(f, "vCPUs {free} free of {asked} asked")?;
                if all {
                    let (whole, rest) = (overcommit_permille / 1000, overcommit_permille % 1000);
                    let rest = format!("{rest:03}");
                    let rest = rest.trim_end_matches('0');
                    let point = if rest.is_empty() { "" } else { "." };
                    write!(
                        f,
                        " ({physical} physical × {whole}{point}{rest}, {claimed} claimed, \
                         {foreign} foreign)"
                    )?;
                }
                Ok(())
            }
            Self::Memory {
                asked,
                guest,
                overhead,
                free,
                capacity,
                claimed,
                foreign,
            } => {
                write!(f, "memory {free} free of {asked} asked")?;
                if all {
                    write!(
                        f,
                        " ({guest} guest + {overhead} overhead; {capacity} capacity, \
                         {claimed} claimed, {foreign} foreign)"
                    )?;
                }
                Ok(())
            }
            Self::Avoided => f.write_str("to be avoided"),
            Self::Apart { domain, site } => {
                write!(
                    f,
                    "another of its group is {}",
                    place(*domain, site.as_ref())
                )
            }
            Self::Together { domain, site } => {
                write!(f, "none of its group is {}", place(*domain, site.as_ref()))
            }
            Self::Headroom {
                level,
                slot,
                needed,
                left,
            } => {
                let lost = match level {
                    Headroom::Rack => "rack",
                    Headroom::None | Headroom::Node => "node",
                };
                write!(
                    f,
                    "headroom for the loss of a {lost}: {left} slots of {slot} vCPUs would be left \
                     of {needed} needed"
                )
            }
        }
    }
}

/// Where something is: "on it", "in rack r7", "in an unnamed room".
fn place(domain: Domain, site: Option<&Name>) -> String {
    match (domain, site) {
        (Domain::Node, _) => "on it".into(),
        (_, Some(site)) => format!("in {} {site}", domain.as_str()),
        (_, None) => format!("in an unnamed {}", domain.as_str()),
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

fn no_vcpus(view: NodeView<'_>, request: &Request) -> Rejection {
    let node = view.node();
    Rejection::Vcpus {
        asked: request.vcpus,
        free: view.free_vcpus(),
        physical: node.capacity.vcpus,
        overcommit_permille: node.vcpu_overcommit_permille,
        claimed: view.claimed_vcpus(),
        foreign: node.capacity.foreign_vcpus,
    }
}

fn no_memory(view: NodeView<'_>, request: &Request) -> Rejection {
    let capacity = &view.node().capacity;
    let guest = request.memory.guest;
    let total = wide(request.memory);
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
