//! Several requests in one decision: all of them, or none.

use crate::{
    fleet::Fleet,
    place::{NoFit, Placement, place},
    request::{Policy, Request},
};

/// A batch doesn't fit as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("request {} of {requests}: {no_fit}", .request + 1)]
pub struct NoBatch {
    /// The first of the requests, in the order of placement, that finds no node: its place in the
    /// caller's order, from 0.
    pub request: usize,
    /// How many there are.
    pub requests: usize,
    /// Why, with what was placed before it counted as claimed.
    pub no_fit: NoFit,
}

/// Chooses a node for each of `requests`, each beside the ones before it.
///
/// Places the largest first (by vCPUs, then by memory, then in the caller's order), because small
/// ones fit where large ones left gaps; answers in the caller's order. A batch that would fit only
/// in another order is refused. Requests of one batch know nothing of each other: groups name the
/// nodes of members that are placed already.
///
/// Decides only, as [`place`] does.
///
/// # Errors
///
/// Which one finds no node. Then none is placed.
pub fn place_all(
    fleet: &Fleet,
    requests: &[Request],
    policy: &Policy,
) -> Result<Vec<Placement>, NoBatch> {
    let mut order: Vec<_> = requests.iter().enumerate().collect();
    order.sort_by_key(|(_, request)| std::cmp::Reverse((request.vcpus, request.memory.total())));
    let mut overlay = fleet.clone();
    let mut placed = Vec::with_capacity(requests.len());
    for (number, request) in order {
        let placement = place(&overlay, request, policy).map_err(|no_fit| NoBatch {
            request: number,
            requests: requests.len(),
            no_fit,
        })?;
        overlay.reserve(placement.node, placed.len(), &request.claim());
        placed.push((number, placement));
    }
    placed.sort_by_key(|(number, _)| *number);
    Ok(placed.into_iter().map(|(_, placement)| placement).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{node, node_id, put, request};

    fn fleet() -> Fleet {
        Fleet::default().with([put(node(1)), put(node(2))])
    }

    /// In the caller's order the small ones would leave 12 and 16 vCPUs, too few for 2 × 14.
    #[test]
    fn the_largest_go_first_and_answers_keep_the_order() {
        let requests = [2, 14, 2, 14].map(|vcpus| request(vcpus, 1024));
        let placed = place_all(&fleet(), &requests, &Policy::PACK).unwrap();
        let nodes: Vec<_> = placed.iter().map(|placed| placed.node).collect();
        assert_eq!(nodes, [1, 1, 2, 2].map(node_id));
        assert_eq!(place_all(&fleet(), &[], &Policy::PACK), Ok(Vec::new()));
    }

    #[test]
    fn all_or_nothing() {
        let requests = [4, 16, 16].map(|vcpus| request(vcpus, 1024));
        let refused = place_all(&fleet(), &requests, &Policy::PACK).unwrap_err();
        assert_eq!(refused.request, 0);
        assert_eq!(
            refused.to_string(),
            "request 1 of 3: no node fits: 2 lack vCPUs"
        );
    }
}
