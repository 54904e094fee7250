//! The greedy search: each move where a placement would go.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use kapok_types::{IncarnationId, MemoryMib, NodeId};

use super::{
    Kind, MOST_STAYS, Reason, Stay, Why, freed,
    overlay::{Overlay, Target, emptiest_first},
    permille,
};
use crate::{
    fleet::{Delta, Fleet},
    place::Placement,
};

/// A move from a full node is worth it if the other one stays this much emptier than the full one
/// was, in permille: less would move things to and fro.
const MARGIN: u64 = 50;
/// Instances of a node that are considered for one move, the largest ones.
const MOST_CONSIDERED: usize = 32;

/// One search; counts what it tries.
#[derive(Debug)]
pub(super) struct Search {
    kind: Kind,
    placements: u32,
}

/// What a search comes to.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) overlay: Overlay<'a>,
    pub(super) stays: Vec<Stay>,
}

/// How good a plan is; more is better. The last ones are what it costs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    reached: (usize, Reverse<u128>, Reverse<Vec<u64>>),
    moves: Reverse<usize>,
    memory: Reverse<MemoryMib>,
}

impl Search {
    pub(super) fn new(kind: Kind, placements: u32) -> Self {
        Self { kind, placements }
    }

    /// Goes on from an overlay.
    pub(super) fn run<'a>(&mut self, start: Overlay<'a>) -> Found<'a> {
        match self.kind {
            Kind::Drain(node) => self.drain(start, node),
            Kind::Consolidate => self.consolidate(start),
            Kind::Rebalance => self.rebalance(start),
        }
    }

    /// Asks for a placement, if there may be another one.
    pub(super) fn place(
        &mut self,
        overlay: &Overlay<'_>,
        id: IncarnationId,
        target: Target,
    ) -> Result<Placement, Reason> {
        // What can't move at all costs nothing.
        if let Some(reason) = overlay.fixed(id) {
            return Err(reason);
        }
        self.placements = self.placements.checked_sub(1).ok_or(Reason::Effort)?;
        overlay.place(id, target)
    }

    fn drain<'a>(&mut self, mut overlay: Overlay<'a>, node: NodeId) -> Found<'a> {
        overlay.close(node);
        let view = overlay.fleet.node(node);
        let mut waiting = view.map(|view| overlay.on(view)).unwrap_or_default();
        let mut stays = Vec::new();
        loop {
            let before = waiting.len();
            stays.clear();
            // Who found no place may find one where others of its group went.
            waiting.retain(|id| match self.place(&overlay, *id, Target::Best) {
                Ok(placement) => {
                    overlay.go(*id, placement, Why::Drained);
                    false
                }
                Err(reason) => {
                    stays.push(stay(*id, node, reason));
                    true
                }
            });
            if waiting.is_empty() || waiting.len() == before {
                return Found { overlay, stays };
            }
        }
    }

    fn consolidate<'a>(&mut self, mut overlay: Overlay<'a>) -> Found<'a> {
        let mut stays = Vec::new();
        for node in emptiest_first(&overlay) {
            if overlay.moves_left() == 0 || self.placements == 0 {
                break;
            }
            match self.empty(&overlay, node, |_| Target::Best) {
                Ok(emptied) => overlay = emptied,
                Err(Some(stay)) if stays.len() < MOST_STAYS => stays.push(stay),
                Err(_) => {}
            }
        }
        Found { overlay, stays }
    }

    /// Empties a node, or says who is in the way; nobody if something was moved there.
    pub(super) fn empty<'a>(
        &mut self,
        overlay: &Overlay<'a>,
        node: NodeId,
        target: impl Fn(IncarnationId) -> Target,
    ) -> Result<Overlay<'a>, Option<Stay>> {
        let view = overlay.fleet.node(node).ok_or(None)?;
        if overlay.received.contains(&node) || view.claims().len() == 0 {
            return Err(None);
        }
        let on = overlay.on(view);
        if let Some((id, reason)) = (on.iter()).find_map(|id| Some((*id, overlay.fixed(*id)?))) {
            return Err(Some(stay(id, node, reason)));
        }
        if on.len() > overlay.moves_left() {
            return Err(on.first().map(|id| stay(*id, node, Reason::Moves)));
        }
        let mut emptied = overlay.clone();
        emptied.close(node);
        let moves = on.len();
        for id in on {
            let placement = self
                .place(&emptied, id, target(id))
                .map_err(|reason| Some(stay(id, node, reason)))?;
            emptied.go(id, placement, Why::Emptied { moves });
        }
        Ok(emptied)
    }

    fn rebalance<'a>(&mut self, mut overlay: Overlay<'a>) -> Found<'a> {
        let ceiling = overlay
            .fleet
            .nodes()
            .map(permille)
            .max()
            .unwrap_or_default();
        let mut done = BTreeSet::new();
        while overlay.moves_left() > 0 && self.placements > 0 {
            let open = overlay
                .fleet
                .nodes()
                .filter(|view| view.claims().len() > 0 && !done.contains(&view.node().id));
            let worst = open.max_by_key(|view| {
                let node = view.node();
                (node.tier, permille(*view), Reverse(node.id))
            });
            let Some(worst) = worst.map(|view| view.node().id) else {
                break;
            };
            match self.relief(&overlay, worst, ceiling) {
                Some((id, placement, why)) => overlay.go(id, placement, why),
                None => {
                    done.insert(worst);
                }
            }
        }
        Found {
            overlay,
            stays: Vec::new(),
        }
    }

    /// The move that helps a node most.
    fn relief(
        &mut self,
        overlay: &Overlay<'_>,
        node: NodeId,
        ceiling: u64,
    ) -> Option<(IncarnationId, Placement, Why)> {
        let on = overlay.on(overlay.fleet.node(node)?);
        let movable = on.into_iter().filter(|id| overlay.fixed(*id).is_none());
        let mut best = BTreeMap::new();
        for id in movable.take(MOST_CONSIDERED) {
            let Ok(placement) = self.place(overlay, id, Target::Emptiest) else {
                continue;
            };
            if let Some((rank, why)) = helps(overlay, node, id, &placement, ceiling) {
                best.insert((rank, placement.claim.memory.total(), id), (placement, why));
            }
        }
        let ((.., id), (placement, why)) = best.pop_first()?;
        Some((id, placement, why))
    }
}

/// How full the fuller of both nodes would be, and what the move is for, if it is worth it.
pub(super) fn helps(
    overlay: &Overlay<'_>,
    from: NodeId,
    id: IncarnationId,
    placement: &Placement,
    ceiling: u64,
) -> Option<(u64, Why)> {
    let (source, target) = (
        overlay.fleet.node(from)?,
        overlay.fleet.node(placement.node)?,
    );
    let after = overlay.fleet.with([
        Delta::Claimed {
            node: placement.node,
            incarnation: id,
            claim: placement.claim.clone(),
        },
        Delta::Released {
            node: from,
            incarnation: id,
        },
    ]);
    let full = |id| after.node(id).map(permille).unwrap_or_default();
    let (before, after, other) = (permille(source), full(from), full(placement.node));
    let (tier, better) = (source.node().tier, target.node().tier);
    let why = if better < tier && other <= ceiling {
        Why::Pressed { tier, better }
    } else if better == tier && other.saturating_add(MARGIN) <= before {
        Why::Full {
            before,
            after,
            other,
        }
    } else {
        return None;
    };
    Some((after.max(other), why))
}

impl Found<'_> {
    /// How good it is, for a fleet as it was.
    pub(super) fn worth(&self, before: &Fleet, kind: Kind) -> Worth {
        let Overlay { fleet, moves, .. } = &self.overlay;
        let reached = match kind {
            Kind::Drain(_) => (moves.len(), Reverse(0), Reverse(Vec::new())),
            Kind::Consolidate => (
                freed(before, fleet).count(),
                Reverse(0),
                Reverse(Vec::new()),
            ),
            Kind::Rebalance => {
                let pressed = fleet.nodes().map(|view| {
                    u128::from(view.node().tier) * u128::from(view.claimed_memory().get())
                });
                let mut full: Vec<_> = fleet.nodes().map(permille).collect();
                full.sort_unstable_by_key(|permille| Reverse(*permille));
                (0, Reverse(pressed.sum()), Reverse(full))
            }
        };
        let memory = moves.iter().map(|one| one.claim.memory.total());
        let (cost, memory) = match kind {
            // More moves are the aim.
            Kind::Drain(_) => (0, MemoryMib(0)),
            Kind::Consolidate | Kind::Rebalance => (
                moves.len(),
                memory.fold(MemoryMib(0), MemoryMib::saturating_add),
            ),
        };
        Worth {
            reached,
            moves: Reverse(cost),
            memory: Reverse(memory),
        }
    }
}

pub(super) fn stay(incarnation: IncarnationId, node: NodeId, reason: Reason) -> Stay {
    Stay {
        incarnation,
        node,
        reason,
    }
}
