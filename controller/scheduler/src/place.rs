//! The decision: which node takes a request.
//!
//! At present every node is looked at. Only [`Fleet::nodes`] and the loop here know that: an
//! index ordered by free capacity can replace the scan without a change of the API, which
//! promises the best node and the rejections of the nodes *considered*, not of all.

use std::fmt;

use kapok_types::{MemoryMib, Name, NodeId, Vcpus};
use serde::{Deserialize, Serialize};

use crate::{
    filter::{Filter, Rejection},
    fleet::Fleet,
    node::NodeView,
    rejections::Rejections,
    request::{Policy, Request},
};

/// How many further nodes a [`Placement`] names.
pub const RUNNERS_UP: usize = 3;

/// Where a request goes, and what else was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// What it would be left with.
    pub score: Score,
    /// How many nodes were looked at, this one included.
    pub considered: usize,
    /// The next best nodes, best first; at most [`RUNNERS_UP`].
    pub runners_up: Vec<Candidate>,
    /// Why others of those looked at can't take it.
    pub rejections: Rejections,
}

/// A node that fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// What it would be left with.
    pub score: Score,
}

/// What a node would have free after the placement; a [`Policy`] ranks nodes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Free vCPUs.
    pub vcpus_left: Vcpus,
    /// Free memory in MiB.
    pub memory_left: MemoryMib,
}

/// Chooses a node for `request`: of those that pass every filter, the one that `policy` ranks
/// best, and of equals the one with the lowest id.
///
/// Decides only; the claim is made by applying it to the fleet.
///
/// # Errors
///
/// Why no node fits, for every node.
pub fn place(fleet: &Fleet, request: &Request, policy: &Policy) -> Result<Placement, Rejections> {
    let mut best: Vec<(u128, NodeView<'_>, Score)> = Vec::with_capacity(RUNNERS_UP + 2);
    let mut rejections = Rejections::default();
    let mut considered = 0;
    for view in fleet.nodes() {
        considered += 1;
        match assess(view, request) {
            Ok(score) => {
                let rank = policy.rank(&score);
                // Nodes come ordered by id, so an equal one goes behind.
                let at = best.partition_point(|(other, ..)| *other <= rank);
                if at <= RUNNERS_UP {
                    best.insert(at, (rank, view, score));
                    best.truncate(RUNNERS_UP + 1);
                }
            }
            Err(rejection) => {
                let node = view.node();
                rejections.push(node.id, node.name.clone(), rejection);
            }
        }
    }
    let mut best = best
        .into_iter()
        .map(|(_, view, score)| Candidate::new(view, score));
    match best.next() {
        Some(Candidate { node, name, score }) => Ok(Placement {
            node,
            name,
            score,
            considered,
            runners_up: best.collect(),
            rejections,
        }),
        None => Err(rejections),
    }
}

/// What one node would be left with, or why it can't take the request.
pub(crate) fn assess(view: NodeView<'_>, request: &Request) -> Result<Score, Rejection> {
    Filter::check_all(view, request)?;
    let claim = request.claim();
    Ok(Score {
        // The filters have passed, so both are there.
        vcpus_left: view.vcpus_after(&claim).unwrap_or_default(),
        memory_left: view.memory_after(&claim).unwrap_or_default(),
    })
}

impl Candidate {
    fn new(view: NodeView<'_>, score: Score) -> Self {
        let node = view.node();
        Self {
            node: node.id,
            name: node.name.clone(),
            score,
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.vcpus_left == Vcpus(1) { "" } else { "s" };
        write!(
            f,
            "leaves {} vCPU{plural} and {} free",
            self.vcpus_left, self.memory_left
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{claim, claimed, node, node_id, put, request};

    /// Nodes 1 to 6, of which 2 and 4 hold as many vCPUs and 4 holds more memory; 6 is cordoned.
    fn fleet() -> Fleet {
        let mut closed = node(6);
        closed.cordoned = true;
        Fleet::default()
            .with((1..6).map(|number| put(node(number))))
            .with([
                put(closed),
                claimed(2, 1, claim(8, 1024)),
                claimed(4, 2, claim(8, 2048)),
            ])
    }

    #[test]
    fn packing_fills_the_fullest_node() {
        let placed = place(&fleet(), &request(2, 1024), &Policy::PACK).unwrap();
        assert_eq!((placed.node, placed.name.as_str()), (node_id(4), "node-04"));
        assert_eq!(placed.score.vcpus_left, Vcpus(16 - 8 - 2));
        let taken = claim(8, 2048).memory.total().get() + claim(2, 1024).memory.total().get();
        assert_eq!(placed.score.memory_left, MemoryMib(64 * 1024 - taken));
        let next: Vec<_> = placed.runners_up.iter().map(|other| other.node).collect();
        assert_eq!(next, [2, 1, 3].map(node_id));
        assert_eq!(
            (placed.considered, placed.rejections.summary().as_str()),
            (6, "1 is cordoned")
        );
    }

    #[test]
    fn spreading_takes_the_emptiest_and_of_equals_the_lowest_id() {
        let placed = place(&fleet(), &request(2, 1024), &Policy::SPREAD).unwrap();
        assert_eq!(placed.node, node_id(1));
        let next: Vec<_> = placed.runners_up.iter().map(|other| other.node).collect();
        assert_eq!(next, [3, 5, 2].map(node_id));
    }

    #[test]
    fn a_node_that_would_be_exactly_full_is_best() {
        let placed = place(&fleet(), &request(8, 1024), &Policy::PACK).unwrap();
        assert_eq!(
            (placed.node, placed.score.vcpus_left),
            (node_id(4), Vcpus(0))
        );
        assert!(
            placed.score.to_string().starts_with("leaves 0 vCPUs and "),
            "{}",
            placed.score
        );
        let over = place(&fleet(), &request(9, 1024), &Policy::PACK).unwrap();
        assert_eq!(over.node, node_id(1));
    }
}
