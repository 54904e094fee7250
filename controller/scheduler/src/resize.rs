//! Whether an incarnation can hold more of the node that it is on.

use kapok_types::{IncarnationId, NodeId};

use crate::{
    filter::{Filter, Rejection},
    fleet::{Delta, Fleet},
    place::Score,
    question::Question,
    request::{Policy, Request},
};

/// What stands against growth where an incarnation is: amounts, and a node whose numbers, or whose
/// server, can't be relied on. Nothing new comes to the node, so a cordon doesn't, and what the
/// incarnation was placed by isn't asked again.
const FILTERS: [Filter; 7] = [
    Filter::Reachable,
    Filter::Resync,
    Filter::Trusted,
    Filter::Quarantined,
    Filter::Vcpus,
    Filter::Memory,
    Filter::Headroom,
];

/// What a node would have left if an incarnation there held as much as `request` asks, in place of
/// what it holds.
///
/// # Errors
///
/// Why the node can't give it. One that isn't known is unreachable.
pub fn grow(
    fleet: &Fleet,
    node: NodeId,
    incarnation: IncarnationId,
    request: &Request,
    policy: &Policy,
) -> Result<Score, Rejection> {
    let without = fleet.with([Delta::Released { node, incarnation }]);
    let view = without.node(node).ok_or(Rejection::Unreachable)?;
    let question = Question::new(&without, request, *policy);
    FILTERS
        .into_iter()
        .try_for_each(|filter| filter.check(view, &question))?;
    Ok(question.score(view))
}

#[cfg(test)]
mod tests {
    use kapok_types::Vcpus;

    use super::*;
    use crate::{
        Headroom,
        fixture::{claim, claimed, incarnation_id, node, node_id, put, request},
    };

    /// A node of 16 vCPUs and 64 GiB, of which one incarnation holds 4 and another 8.
    fn fleet() -> Fleet {
        Fleet::default().with([
            put(node(1)),
            claimed(1, 1, claim(4, 1024)),
            claimed(1, 2, claim(8, 1024)),
        ])
    }

    fn asked(fleet: &Fleet, vcpus: u32, memory: u64) -> Result<Score, Rejection> {
        let policy = Policy::default();
        let request = request(vcpus, memory);
        grow(fleet, node_id(1), incarnation_id(1), &request, &policy)
    }

    #[test]
    fn what_it_holds_counts_as_free_for_itself() {
        assert_eq!(asked(&fleet(), 8, 1024).unwrap().vcpus_left, Vcpus(0));
        let refused = asked(&fleet(), 9, 1024).unwrap_err();
        let (asked_vcpus, free_vcpus) = match refused {
            Rejection::Vcpus { asked, free, .. } => (asked, free),
            other => panic!("{other:?}"),
        };
        assert_eq!((asked_vcpus, free_vcpus), (Vcpus(9), Vcpus(8)));
        let refused = asked(&fleet(), 4, 64 * 1024).unwrap_err();
        assert_eq!(refused.filter(), Filter::Memory);
    }

    #[test]
    fn a_node_that_cannot_be_relied_on_gives_nothing_and_a_cordon_changes_nothing() {
        let mut cordoned = node(1);
        cordoned.cordoned = true;
        assert!(asked(&fleet().with([put(cordoned)]), 8, 1024).is_ok());
        let mut silent = node(1);
        silent.reachable = false;
        let refused = asked(&fleet().with([put(silent)]), 5, 1024).unwrap_err();
        assert_eq!(refused, Rejection::Unreachable);
        let mut sick = node(1);
        sick.quarantined = true;
        let refused = asked(&fleet().with([put(sick)]), 5, 1024).unwrap_err();
        assert_eq!(refused, Rejection::Quarantined);
        assert_eq!(asked(&Fleet::default(), 1, 64), Err(Rejection::Unreachable));
    }

    #[test]
    fn headroom_is_not_grown_into() {
        let policy = Policy {
            headroom: Headroom::Node,
            ..Policy::default()
        };
        let fleet = Fleet::default().with([
            put(node(1)),
            put(node(2)),
            claimed(1, 1, claim(2, 1024)),
            claimed(2, 2, claim(8, 1024)),
        ]);
        let ask = |vcpus| {
            let request = request(vcpus, 1024);
            grow(&fleet, node_id(1), incarnation_id(1), &request, &policy)
        };
        assert!(ask(4).is_ok());
        // Neither node could take both any more, though this one has room.
        assert_eq!(ask(9).unwrap_err().filter(), Filter::Headroom);
        assert_eq!(ask(17).unwrap_err().filter(), Filter::Vcpus);
    }
}
