//! The exact check behind the headroom: would what a node or rack carries really find room?
//!
//! Slow: it searches. Decisions never call it; it holds the bound of
//! [`headroom`](crate::headroom) to its word in tests, and tells people how things stand. As the
//! bound, it looks at shared amounts, on nodes of the same architecture and isolation class; what
//! instances have for themselves it counts.

use std::{cmp::Reverse, collections::BTreeMap};

use kapok_types::{
    MemoryMib, Name, NodeId,
    instance::{Arch, MemoryClaim},
};
use serde::{Deserialize, Serialize};

use crate::{
    batch::place_all,
    fleet::Fleet,
    groups::Domain,
    headroom::Headroom,
    held::{Amounts, Usage, to_vcpus},
    node::NodeView,
    request::{Policy, Request},
};

/// What could be lost, and what would become of its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// A node or a rack.
    pub domain: Domain,
    /// Its name.
    pub name: Name,
    /// The room of a rack.
    pub room: Option<Name>,
    /// What would become of its instances, by their shared amounts.
    pub outcome: Outcome,
    /// So many of them have threads, huge pages or devices of their own, of which the outcome says
    /// nothing.
    pub assigned: usize,
}

/// What would become of the instances of a lost domain, by numbers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of them fit elsewhere.
    Survives,
    /// The search ended before it knew.
    Undecided,
    /// Some of them fit nowhere.
    Lost,
}

/// Whether the instances of each node, or rack, would fit onto the others, for those that carry
/// any; ordered by name. `steps` bounds the search for each.
///
/// Nothing is audited where no headroom is kept.
pub fn audit(fleet: &Fleet, level: Headroom, steps: u32) -> Vec<Audit> {
    let mut domains: BTreeMap<_, Vec<NodeView<'_>>> = BTreeMap::new();
    for view in fleet.nodes() {
        let node = view.node();
        let key = match (level, &node.rack) {
            (Headroom::None, _) => continue,
            (Headroom::Rack, Some(rack)) => (rack, Domain::Rack, node.room.as_ref()),
            (Headroom::Rack, None) | (Headroom::Node, _) => (&node.name, Domain::Node, None),
        };
        domains.entry(key).or_default().push(view);
    }
    domains.retain(|_, nodes| nodes.iter().any(|view| view.claims().len() > 0));
    let audits = domains.iter().map(|((name, domain, room), nodes)| Audit {
        domain: *domain,
        name: (*name).clone(),
        room: room.cloned(),
        outcome: outcome(fleet, nodes, steps),
        assigned: (nodes.iter().flat_map(|view| view.claims()))
            .filter(|(_, claim)| claim.own().is_some())
            .count(),
    });
    audits.collect()
}

/// Which nodes an instance could restart on.
type Pool<'a> = (Arch, Option<&'a Name>);

fn pool(view: NodeView<'_>) -> Pool<'_> {
    let node = view.node();
    (node.arch, node.isolation.as_ref())
}

/// The worst outcome of a domain's pools.
fn outcome(fleet: &Fleet, lost: &[NodeView<'_>], steps: u32) -> Outcome {
    let mut guests: BTreeMap<Pool<'_>, Vec<Usage>> = BTreeMap::new();
    for view in lost {
        let claims = view.claims().map(|(_, claim)| Usage::of(claim));
        guests.entry(pool(*view)).or_default().extend(claims);
    }
    let outcomes = guests.iter().map(|(of, guests)| {
        if fit_by_index(fleet, lost, *of, guests) {
            Outcome::Survives
        } else {
            search(fleet, lost, *of, guests, steps)
        }
    });
    outcomes.max().unwrap_or(Outcome::Survives)
}

/// The usual case is found as fast as decisions are.
fn fit_by_index(fleet: &Fleet, lost: &[NodeView<'_>], of: Pool<'_>, guests: &[Usage]) -> bool {
    let requests: Option<Vec<_>> = (guests.iter())
        .map(|guest| {
            let memory = MemoryClaim {
                guest: MemoryMib(guest.amounts()?.memory_mib),
                tables: MemoryMib(0),
                vcpus: MemoryMib(0),
                fixed: MemoryMib(0),
            };
            Some(Request {
                avoid: lost.iter().map(|view| view.node().id).collect(),
                isolation: of.1.cloned(),
                ..Request::new(of.0, to_vcpus(guest.vcpus), memory)
            })
        })
        .collect();
    requests.is_some_and(|requests| place_all(fleet, &requests, &Policy::PACK).is_ok())
}

/// Every way of putting guests onto nodes, until one fits all.
fn search(
    fleet: &Fleet,
    lost: &[NodeView<'_>],
    of: Pool<'_>,
    guests: &[Usage],
    mut steps: u32,
) -> Outcome {
    let is_lost = |id: NodeId| lost.iter().any(|view| view.node().id == id);
    let others = fleet.nodes().filter(|view| {
        let node = view.node();
        node.is_open() && pool(*view) == of && !is_lost(node.id)
    });
    let mut free: Vec<_> = others.filter_map(NodeView::free).collect();
    let guests: Option<Vec<_>> = guests.iter().map(|guest| guest.amounts()).collect();
    let Some(mut guests) = guests else {
        // One of them is larger than any node can be.
        return Outcome::Lost;
    };
    guests.sort_by_key(|guest| Reverse((guest.vcpus, guest.memory_mib)));
    let sum = |amounts: &[Amounts]| {
        amounts.iter().fold((0, 0), |(vcpus, memory_mib), one| {
            (
                vcpus + u128::from(one.vcpus),
                memory_mib + u128::from(one.memory_mib),
            )
        })
    };
    let (needed, there) = (sum(&guests), sum(&free));
    if needed.0 > there.0 || needed.1 > there.1 {
        return Outcome::Lost;
    }
    put(&guests, &mut free, &mut steps)
}

/// Puts the first guest onto each node in turn, fullest first, and the others after it.
fn put(guests: &[Amounts], free: &mut [Amounts], steps: &mut u32) -> Outcome {
    let Some((guest, others)) = guests.split_first() else {
        return Outcome::Survives;
    };
    let fits = |node: &Amounts| node.after(*guest).is_some();
    let mut nodes: Vec<_> = (0..free.len()).filter(|at| fits(&free[*at])).collect();
    nodes.sort_by_key(|at| free[*at]);
    // Equal nodes are one choice.
    nodes.dedup_by_key(|at| free[*at]);
    let mut worst = Outcome::Lost;
    for at in nodes {
        let Some(left) = steps.checked_sub(1) else {
            return Outcome::Undecided;
        };
        *steps = left;
        let before = free[at];
        let Some(after) = before.after(*guest) else {
            continue;
        };
        free[at] = after;
        let outcome = put(others, free, steps);
        free[at] = before;
        match outcome {
            Outcome::Survives => return outcome,
            Outcome::Undecided => worst = outcome,
            Outcome::Lost => {}
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{claim, claimed, node, put as node_put};

    fn outcomes(fleet: &Fleet, level: Headroom, steps: u32) -> Vec<(String, Outcome)> {
        let audits = audit(fleet, level, steps).into_iter();
        audits
            .map(|one| (one.name.to_string(), one.outcome))
            .collect()
    }

    /// Two gaps of 9 and 7 vCPUs take 5 + 4 and 4 + 3, which placing the largest into the fullest
    /// first doesn't find.
    #[test]
    fn the_search_finds_what_the_greedy_way_misses() {
        let fleet = Fleet::default().with([
            node_put(node(1)),
            node_put(node(2)),
            node_put(node(3)),
            claimed(1, 1, claim(5, 64)),
            claimed(1, 2, claim(4, 64)),
            claimed(1, 3, claim(4, 64)),
            claimed(1, 4, claim(3, 64)),
            claimed(2, 5, claim(16 - 9, 64)),
            claimed(3, 6, claim(16 - 7, 64)),
        ]);
        let found = outcomes(&fleet, Headroom::Node, 1000);
        assert_eq!(found[0], ("node-01".into(), Outcome::Survives));
        let given_up = outcomes(&fleet, Headroom::Node, 3);
        assert_eq!(given_up[0], ("node-01".into(), Outcome::Undecided));
        // With one vCPU less there is no way.
        let full = fleet.with([claimed(2, 7, claim(1, 64))]);
        let lost = outcomes(&full, Headroom::Node, 1000);
        assert_eq!(lost[0], ("node-01".into(), Outcome::Lost));
    }

    #[test]
    fn a_rack_is_lost_as_a_whole_and_closed_nodes_take_nothing() {
        let racked = |number: u8, rack: &str| {
            let mut racked = node(number);
            racked.rack = Some(rack.parse().unwrap());
            racked
        };
        let mut fleet = Fleet::default().with([
            node_put(racked(1, "a")),
            node_put(racked(2, "a")),
            node_put(node(3)),
            claimed(1, 1, claim(10, 64)),
            claimed(2, 2, claim(6, 64)),
        ]);
        let survives = |name: &str| vec![(name.to_owned(), Outcome::Survives)];
        assert_eq!(outcomes(&fleet, Headroom::Rack, 100), survives("a"));
        assert_eq!(outcomes(&fleet, Headroom::None, 100), []);
        let mut closed = node(3);
        closed.cordoned = true;
        fleet.apply(node_put(closed));
        let lost = outcomes(&fleet, Headroom::Rack, 100);
        assert_eq!(lost, [("a".into(), Outcome::Lost)]);
    }

    /// Shared amounts alone are audited, on nodes of the same class; what is somebody's own is
    /// counted.
    #[test]
    fn what_is_somebodys_own_is_outside_and_classes_stay_apart() {
        use kapok_types::{Assignment, Vcpus, equipment::CellShare};
        let own = |threads: &[u16]| {
            let mut own = claim(8, 1024);
            own.assignment = Some(Box::new(Assignment {
                cells: vec![CellShare {
                    cell: 0,
                    vcpus: Vcpus(8),
                    threads: threads.to_vec(),
                    memory: own.memory.guest,
                }],
                ..Assignment::default()
            }));
            own
        };
        let mut fleet = Fleet::default().with([
            node_put(node(1)),
            node_put(node(2)),
            claimed(1, 1, own(&[0, 1, 2, 3, 4, 5, 6, 7])),
            claimed(2, 2, claim(16, 1024)),
            claimed(1, 3, own(&[])),
        ]);
        let audits = |fleet: &Fleet| {
            let audits = audit(fleet, Headroom::Node, 100).into_iter();
            audits
                .map(|one| (one.outcome, one.assigned))
                .collect::<Vec<_>>()
        };
        // Eight shared vCPUs and sixteen can't change places.
        assert_eq!(audits(&fleet), [(Outcome::Lost, 2), (Outcome::Lost, 0)]);
        fleet.apply(crate::fixture::released(1, 3));
        assert_eq!(
            audits(&fleet),
            [(Outcome::Survives, 1), (Outcome::Survives, 0)]
        );
        let mut secret = node(2);
        secret.isolation = Some("secret".parse().unwrap());
        fleet.apply(node_put(secret));
        assert_eq!(audits(&fleet), [(Outcome::Lost, 1), (Outcome::Lost, 0)]);
    }
}
