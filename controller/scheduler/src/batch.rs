//! Several requests in one decision: all of them, or none.

use std::{borrow::Cow, collections::BTreeMap};

use kapok_types::NodeId;

use crate::{
    fleet::Fleet,
    groups::Group,
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

/// How often the first of a group that is to be together is tried elsewhere.
const ATTEMPTS: usize = 8;

/// A batch doesn't fit, as it was tried.
struct Failed {
    no_batch: NoBatch,
    /// The one that decided where the group of the one that finds no node is, and its node.
    anchor: Option<(usize, NodeId)>,
}

/// Chooses a node for each of `requests`, each beside the ones before it.
///
/// Places the largest first (by vCPUs, then by memory, then in the caller's order), because small
/// ones fit where large ones left gaps; answers in the caller's order. A batch that would fit only
/// in another order is refused. Requests whose groups are called alike are members of one group to
/// each other; where the first of those that must be together went where the others have no room,
/// it is tried elsewhere, a few times.
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
    let Failed {
        no_batch,
        mut anchor,
    } = match attempt(fleet, requests, *policy) {
        Ok(placed) => return Ok(placed),
        Err(failed) => failed,
    };
    let mut requests = requests.to_vec();
    for _ in 0..ATTEMPTS {
        let Some((number, node)) = anchor else { break };
        if let Some(first) = requests.get_mut(number) {
            first.avoid.insert(node);
        }
        match attempt(fleet, &requests, *policy) {
            Ok(placed) => return Ok(placed),
            Err(failed) => anchor = failed.anchor,
        }
    }
    // The reasons of the first attempt: nothing was to be avoided that the caller didn't name.
    Err(no_batch)
}

fn attempt(fleet: &Fleet, requests: &[Request], policy: Policy) -> Result<Vec<Placement>, Failed> {
    let mut order: Vec<_> = requests.iter().enumerate().collect();
    order.sort_by_key(|(_, request)| std::cmp::Reverse((request.vcpus, request.memory.total())));
    let mut overlay = fleet.clone();
    let mut members = Members::default();
    let mut placed = Vec::with_capacity(requests.len());
    for (number, request) in order {
        let beside = members.beside(request);
        let placement = place(&overlay, &beside, &policy).map_err(|no_fit| Failed {
            no_batch: NoBatch {
                request: number,
                requests: requests.len(),
                no_fit,
            },
            anchor: members.anchor(request),
        })?;
        overlay.reserve(placement.node, placed.len(), &placement.claim);
        members.take(number, request, placement.node);
        placed.push((number, placement));
    }
    placed.sort_by_key(|(number, _)| *number);
    Ok(placed.into_iter().map(|(_, placement)| placement).collect())
}

/// Requests of the batch that are placed, by what their groups are called; in their order.
#[derive(Default)]
struct Members<'a>(BTreeMap<&'a str, Vec<(usize, NodeId)>>);

impl<'a> Members<'a> {
    fn take(&mut self, number: usize, request: &'a Request, node: NodeId) {
        let groups = request.apart.iter().chain(&request.together);
        for called in groups.filter_map(|group| group.called.as_deref()) {
            self.0.entry(called).or_default().push((number, node));
        }
    }

    fn of(&self, group: &Group) -> &[(usize, NodeId)] {
        let called = group.called.as_deref();
        let placed = called.and_then(|called| self.0.get(called));
        placed.map_or(&[], Vec::as_slice)
    }

    /// The request with the nodes of those members that are placed.
    fn beside<'r>(&self, request: &'r Request) -> Cow<'r, Request> {
        let mut groups = request.apart.iter().chain(&request.together);
        if groups.all(|group| self.of(group).is_empty()) {
            return Cow::Borrowed(request);
        }
        let mut request = request.clone();
        let groups = request.apart.iter_mut().chain(&mut request.together);
        for group in groups {
            let nodes = self.of(group).iter().map(|(_, node)| *node);
            group.with.extend(nodes);
        }
        Cow::Owned(request)
    }

    /// Who of the batch decided where the members of a request's groups are that must be together.
    fn anchor(&self, request: &Request) -> Option<(usize, NodeId)> {
        let mut own = request.together.iter();
        let own = own.find(|group| group.strict && group.with.is_empty());
        self.of(own?).first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::{
        fixture::{node, node_id, put, request},
        groups::Domain,
    };

    fn in_group(together: bool, vcpus: u32) -> Request {
        let group = Group {
            called: Some("water/web".into()),
            domain: Domain::Node,
            strict: true,
            with: BTreeSet::new(),
        };
        let mut request = request(vcpus, 1024);
        let groups = if together {
            &mut request.together
        } else {
            &mut request.apart
        };
        groups.push(group);
        request
    }

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

    #[test]
    fn members_of_a_batch_keep_apart() {
        let pair = [in_group(false, 1), in_group(false, 1)];
        let placed = place_all(&fleet(), &pair, &Policy::PACK).unwrap();
        assert_ne!(placed[0].node, placed[1].node);
        let three = [1, 1, 1].map(|vcpus| in_group(false, vcpus));
        let refused = place_all(&fleet(), &three, &Policy::PACK).unwrap_err();
        assert_eq!(refused.request, 2);
        // Without a name that they share, they are strangers.
        let mut strangers = three;
        for one in &mut strangers {
            one.apart[0].called = None;
        }
        let placed = place_all(&fleet(), &strangers, &Policy::PACK).unwrap();
        assert_eq!(placed[0].node, placed[2].node);
    }

    /// The fullest node has room for one of them only; so both go to the other one.
    #[test]
    fn members_of_a_batch_stay_together_where_all_have_room() {
        let fleet = fleet().with([crate::fixture::claimed(
            1,
            1,
            crate::fixture::claim(10, 1024),
        )]);
        let pair = [in_group(true, 6), in_group(true, 6)];
        let placed = place_all(&fleet, &pair, &Policy::PACK).unwrap();
        let nodes: Vec<_> = placed.iter().map(|placed| placed.node).collect();
        assert_eq!(nodes, [2, 2].map(node_id));
        let three = [6, 6, 6].map(|vcpus| in_group(true, vcpus));
        let refused = place_all(&fleet, &three, &Policy::PACK).unwrap_err();
        assert_eq!(refused.request, 1);
    }
}
