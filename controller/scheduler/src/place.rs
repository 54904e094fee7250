//! The decision: which node takes a request.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use kapok_types::{MemoryMib, Name, NodeId, Vcpus};
use serde::{Deserialize, Serialize};

use crate::{
    explain::explain,
    filter::Rejection,
    fleet::Fleet,
    held::Claim,
    node::NodeView,
    question::Question,
    rejections::Rejections,
    request::{Policy, Request},
};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Name,
    /// What an incarnation placed there is to claim.
    pub claim: Claim,
    /// What it would be left with.
    pub score: Score,
}

/// What a node would have free after the placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Free vCPUs.
    pub vcpus_left: Vcpus,
    /// Free memory in MiB.
    pub memory_left: MemoryMib,
}

/// No node takes a request.
///
/// Cheap to make and to clone: it keeps the question and the fleet that was asked. Why each node
/// refuses is found out when somebody wants to know, once, by whoever that is: decisions don't
/// wait for it, and the reasons are those of the moment of the decision.
#[derive(Clone)]
pub struct NoFit(Arc<Refused>);

struct Refused {
    fleet: Fleet,
    request: Request,
    policy: Policy,
    rejections: OnceLock<Rejections>,
}

/// Chooses a node for `request`: of those that pass every filter, the best by `policy`.
///
/// Decides only; the claim is made by applying it to the fleet.
///
/// # Errors
///
/// No node fits.
pub fn place(fleet: &Fleet, request: &Request, policy: &Policy) -> Result<Placement, NoFit> {
    let question = Question::new(fleet, request, *policy);
    let best = question.best();
    best.map(|view| question.placement(view))
        .ok_or_else(|| NoFit::new(fleet, request, *policy))
}

/// The placement onto one node, if that passes every filter.
///
/// # Errors
///
/// Why the node can't take the request.
pub(crate) fn place_on(
    view: NodeView<'_>,
    fleet: &Fleet,
    request: &Request,
    policy: Policy,
) -> Result<Placement, Rejection> {
    let question = Question::new(fleet, request, policy);
    question.answer(view)?;
    Ok(question.placement(view))
}

impl NoFit {
    fn new(fleet: &Fleet, request: &Request, policy: Policy) -> Self {
        Self(Arc::new(Refused {
            fleet: fleet.clone(),
            request: request.clone(),
            policy,
            rejections: OnceLock::new(),
        }))
    }

    /// Why each node refuses. The first call looks at every node.
    pub fn rejections(&self) -> &Rejections {
        let Refused {
            fleet,
            request,
            policy,
            rejections,
        } = &*self.0;
        rejections.get_or_init(|| explain(fleet, request, policy).rejections())
    }
}

impl PartialEq for NoFit {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (&*self.0, &*other.0);
        (&one.request, &one.policy, &one.fleet) == (&other.request, &other.policy, &other.fleet)
    }
}

impl Eq for NoFit {}

impl fmt::Debug for NoFit {
    /// The question: who debugs doesn't want to read a fleet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoFit")
            .field("request", &self.0.request)
            .field("policy", &self.0.policy)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for NoFit {
    /// What [`NoFit::rejections`] shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rejections().fmt(f)
    }
}

impl std::error::Error for NoFit {}

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
    use crate::{
        Delta,
        fixture::{claim, claimed, node, node_id, put, request},
    };

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
    fn packing_fills_the_node_with_the_fewest_vcpus() {
        let placed = place(&fleet(), &request(2, 1024), &Policy::PACK).unwrap();
        // Of equal vCPUs, better with less memory.
        assert_eq!((placed.node, placed.name.as_str()), (node_id(4), "node-04"));
        assert_eq!(placed.claim, claim(2, 1024));
        assert_eq!(placed.score.vcpus_left, Vcpus(16 - 8 - 2));
        let taken = claim(8, 2048).memory.total().get() + claim(2, 1024).memory.total().get();
        assert_eq!(placed.score.memory_left, MemoryMib(64 * 1024 - taken));
    }

    #[test]
    fn of_equals_the_one_in_use_for_longest_comes_first_and_an_unused_one_last() {
        let mut small = node(9);
        small.capacity.vcpus = Vcpus(2);
        small.capacity.memory = MemoryMib(64 * 1024 - claim(8, 1024).memory.total().get());
        let fleet = Fleet::default().with([
            put(small),
            put(node(2)),
            put(node(3)),
            claimed(2, 7, claim(8, 1024)),
            claimed(3, 5, claim(8, 1024)),
        ]);
        let mut left = fleet.clone();
        for expected in [3, 2, 9] {
            for policy in [Policy::PACK, Policy::SPREAD] {
                let asked = request(2, 1024);
                let placed = place(&left, &asked, &policy).unwrap();
                assert_eq!(placed.node, node_id(expected));
                let explained = explain(&left, &asked, &policy);
                assert_eq!(explained.chosen().unwrap().node, node_id(expected));
            }
            left.apply(Delta::NodeRemoved(node_id(expected)));
        }
    }

    #[test]
    fn spreading_takes_the_emptiest_and_of_equals_the_lowest_id() {
        let mut fleet = fleet();
        for (incarnation, number) in (10..).zip([1, 3, 5]) {
            let placed = place(&fleet, &request(2, 1024), &Policy::SPREAD).unwrap();
            assert_eq!(placed.node, node_id(number));
            fleet.apply(claimed(number, incarnation, claim(16, 2048)));
        }
        // Nodes 2 and 4 are left, and 2 has more memory.
        let placed = place(&fleet, &request(2, 1024), &Policy::SPREAD).unwrap();
        assert_eq!(placed.node, node_id(2));
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

    #[test]
    fn a_lower_tier_comes_before_any_amount() {
        let mut pressed = node(4);
        pressed.tier = 1;
        let fleet = fleet().with([put(pressed)]);
        let packed = place(&fleet, &request(8, 1024), &Policy::PACK).unwrap();
        assert_eq!(packed.node, node_id(2));
        let full = (1..6).filter(|number| *number != 4);
        let fleet = fleet.with(full.map(|number| claimed(number, 90, claim(16, 1024))));
        for policy in [Policy::PACK, Policy::SPREAD] {
            let last = place(&fleet, &request(2, 1024), &policy).unwrap();
            assert_eq!(last.node, node_id(4));
        }
    }

    /// The reasons are those of the fleet that was asked, whatever became of it since.
    #[test]
    fn a_refusal_remembers_what_it_saw() {
        let mut fleet = Fleet::default().with([put(node(1))]);
        let refused = place(&fleet, &request(17, 1024), &Policy::PACK).unwrap_err();
        fleet.apply(put(node(2)));
        assert_eq!(refused.to_string(), "no node fits: 1 lacks vCPUs");
        assert_eq!(refused, refused.clone());
        let later = place(&fleet, &request(17, 1024), &Policy::PACK).unwrap_err();
        assert_ne!(refused, later);
        assert_eq!(later.rejections().per_node.len(), 2);
    }
}
