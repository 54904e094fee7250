//! The fleet as it would be after the moves that were planned so far.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use kapok_types::{IncarnationId, MemoryMib, NodeId, Timestamp};

use super::{
    Avoided, Group, Guest, Guests, Kind, Known, Limits, Move, Reason, Why, known, unusable,
};
use crate::{
    fleet::{Delta, Fleet},
    groups::{Domain, Group as Near},
    node::{Node, NodeView},
    place::{Placement, place, place_on},
    request::{Goal, Policy, Request},
};

/// A what-if. Clones share what stays the same.
#[derive(Debug, Clone)]
pub(super) struct Overlay<'a> {
    /// Nodes that are to be emptied are closed in it.
    pub(super) fleet: Fleet,
    pub(super) moves: Vec<Move>,
    /// Nodes that something was moved to.
    pub(super) received: BTreeSet<NodeId>,
    frame: Arc<Frame<'a>>,
    /// Where those are that were moved.
    moved: OrdMap<IncarnationId, NodeId>,
    memory: MemoryMib,
}

/// What stays the same whatever moves.
#[derive(Debug)]
struct Frame<'a> {
    known: Known<'a>,
    limits: &'a Limits,
    policy: Policy,
    now: Timestamp,
    /// Whether it is for economy: then preferences that are met are kept.
    voluntary: bool,
    /// Nodes without anything on them: what consolidates puts nothing there.
    unused: Avoided,
}

/// Where something is to go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// To the best node.
    Best,
    /// To the best node if the policy was to spread.
    Emptiest,
    /// To this one.
    Node(NodeId),
}

impl<'a> Overlay<'a> {
    pub(super) fn new(
        fleet: &Fleet,
        guests: &'a Guests,
        kind: Kind,
        limits: &'a Limits,
        policy: Policy,
        now: Timestamp,
    ) -> Self {
        let unused = fleet.nodes().filter(|view| view.claims().len() == 0);
        let frame = Frame {
            known: known(guests),
            limits,
            policy,
            now,
            voluntary: !matches!(kind, Kind::Drain(_)),
            unused: if kind == Kind::Consolidate {
                unused.map(|view| view.node().id).collect()
            } else {
                BTreeSet::new()
            },
        };
        Self {
            fleet: fleet.clone(),
            moves: Vec::new(),
            received: BTreeSet::new(),
            frame: Arc::new(frame),
            moved: OrdMap::new(),
            memory: MemoryMib(0),
        }
    }

    /// Moves that are left.
    pub(super) fn moves_left(&self) -> usize {
        self.frame.limits.moves.saturating_sub(self.moves.len())
    }

    /// Memory, in MiB, that may still move.
    pub(super) fn memory_left(&self) -> MemoryMib {
        let most = self.frame.limits.memory.unwrap_or(MemoryMib(u64::MAX));
        most.saturating_sub(self.memory)
    }

    /// Keeps everything off a node from here on.
    pub(super) fn close(&mut self, id: NodeId) {
        if let Some(view) = self.fleet.node(id) {
            let mut node = view.node().clone();
            node.cordoned = true;
            self.fleet.apply(Delta::NodePut(node));
        }
    }

    /// Who is on a node and was there from the start, largest first.
    pub(super) fn on(&self, view: NodeView<'_>) -> Vec<IncarnationId> {
        let mut on: Vec<_> = view
            .claims()
            .filter(|(id, _)| !self.moved.contains_key(id))
            .map(|(id, claim)| (claim.vcpus, claim.memory.total(), id))
            .collect();
        on.sort_by_key(|(vcpus, memory, id)| (std::cmp::Reverse((*vcpus, *memory)), *id));
        on.into_iter().map(|(.., id)| id).collect()
    }

    pub(super) fn guest(&self, id: IncarnationId) -> Option<&'a Guest> {
        self.frame.known.get(&id).map(|(guest, _)| *guest)
    }

    pub(super) fn groups(&self, id: IncarnationId) -> &[&'a Group] {
        let known = self.frame.known.get(&id);
        known.map_or(&[], |(_, groups)| groups)
    }

    /// Why an incarnation can't move at all, wherever to.
    pub(super) fn fixed(&self, id: IncarnationId) -> Option<Reason> {
        let Some(guest) = self.guest(id) else {
            return Some(Reason::Unknown);
        };
        if let Some(why) = &guest.busy {
            return Some(Reason::Busy(why.clone()));
        }
        let Some(view) = self.fleet.node(guest.node) else {
            return Some(Reason::Unknown);
        };
        if let Some(rejection) = unusable(view) {
            return Some(Reason::Source(rejection));
        }
        let until = Timestamp(guest.since.0.saturating_add(self.frame.limits.cool_down_ms));
        (self.frame.now < until).then_some(Reason::Cooling { until })
    }

    /// Where an incarnation would go as of now.
    ///
    /// # Errors
    ///
    /// Why it stays.
    pub(super) fn place(&self, id: IncarnationId, target: Target) -> Result<Placement, Reason> {
        if let Some(reason) = self.fixed(id) {
            return Err(reason);
        }
        let guest = self.guest(id).ok_or(Reason::Unknown)?;
        if self.moves_left() == 0 {
            return Err(Reason::Moves);
        }
        if guest.request.memory.total() > self.memory_left() {
            return Err(Reason::Memory);
        }
        // Its own claim frees nothing that it could use, since it leaves the node; but the headroom
        // is to be there after the move.
        let without = self.fleet.with([Delta::Released {
            node: guest.node,
            incarnation: id,
        }]);
        let request = self.request(guest);
        let policy = match target {
            Target::Emptiest => Policy {
                goal: Goal::Spread,
                ..self.frame.policy
            },
            Target::Best | Target::Node(_) => self.frame.policy,
        };
        match target {
            Target::Best | Target::Emptiest => {
                place(&without, &request, &policy).map_err(Reason::NoFit)
            }
            Target::Node(node) => {
                let view = without.node(node).ok_or(Reason::Unknown)?;
                place_on(view, &without, &request, policy).map_err(Reason::Refused)
            }
        }
    }

    /// Plans a move.
    pub(super) fn go(&mut self, id: IncarnationId, placement: Placement, why: Why) {
        let Some(guest) = self.guest(id) else {
            return;
        };
        let moved = Move {
            incarnation: id,
            from: guest.node,
            to: placement.node,
            claim: placement.claim,
            why,
        };
        moved
            .deltas()
            .into_iter()
            .for_each(|delta| self.fleet.apply(delta));
        self.memory = self.memory.saturating_add(moved.claim.memory.total());
        self.moved.insert(id, moved.to);
        self.received.insert(moved.to);
        self.moves.push(moved);
    }

    /// The question for an incarnation, with its groups as they are by now.
    fn request(&self, guest: &Guest) -> Request {
        let mut request = guest.request.clone();
        request.avoid.extend(&self.frame.unused);
        request.avoid.insert(guest.node);
        for group in self.groups(guest.incarnation) {
            self.state(group, guest, &mut request);
        }
        request
    }

    /// States one group of a guest's for where its other members are.
    fn state(&self, group: &Group, guest: &Guest, request: &mut Request) {
        let here = |id: &IncarnationId, node: &NodeId| *self.moved.get(id).unwrap_or(node);
        let others = (group.members.iter())
            .filter(|(id, _)| **id != guest.incarnation)
            .map(|(id, node)| here(id, node));
        let others: BTreeSet<NodeId> = others.collect();
        let beside: BTreeSet<NodeId> = (others.iter().copied())
            .filter(|other| self.share(group.domain, *other, guest.node))
            .collect();
        let is_met = beside.is_empty() == group.apart;
        let near = Near {
            called: group.called.clone(),
            domain: group.domain,
            // What goes for economy keeps to what is met.
            strict: group.strict || (self.frame.voluntary && is_met),
            // Nobody leaves those that it is together with: they would be left behind.
            with: if group.apart || beside.is_empty() {
                others
            } else {
                beside
            },
        };
        if group.apart {
            request.apart.push(near);
        } else {
            request.together.push(near);
        }
    }

    fn share(&self, domain: Domain, one: NodeId, other: NodeId) -> bool {
        let node = |id| self.fleet.node(id).map(NodeView::node);
        let site = |node: &Node| (node.room.clone(), node.rack.clone());
        match (domain, node(one), node(other)) {
            (Domain::Node, ..) => one == other,
            (Domain::Rack, Some(one), Some(other)) => site(one) == site(other),
            (Domain::Room, Some(one), Some(other)) => one.room == other.room,
            // A node that isn't known is near nothing.
            (Domain::Rack | Domain::Room, ..) => false,
        }
    }
}

/// Nodes by how many there are and how much they carry: what is emptied with the fewest moves comes
/// first.
pub(super) fn emptiest_first(overlay: &Overlay<'_>) -> Vec<NodeId> {
    let used = overlay
        .fleet
        .nodes()
        .filter(|view| view.claims().len() > 0 && !super::has_foreign(*view));
    let mut nodes: BTreeMap<_, NodeId> = BTreeMap::new();
    for view in used {
        let id = view.node().id;
        nodes.insert((view.claims().len(), view.claimed_memory(), id), id);
    }
    nodes.into_values().collect()
}
