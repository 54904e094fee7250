//! Plans: which instances would move where, one after the other, and what that would free.
//!
//! ```text
//!   Fleet, Guests ──▶ greedy: largest first, by place() on an overlay ──┐
//!                └──▶ a small integer program, carried out the same way ┴─▶ the better ──▶ Plan
//! ```
//!
//! A plan is a list and no more: whoever carries it out decides each move anew, and nothing here
//! changes the fleet.
//!
//! **Invariant:** a move is what [`place`](crate::place()) would allow at that moment, so every
//! prefix of a plan keeps capacities, groups, equipment and the policy's headroom. While a move
//! runs, both claims count: its node has the room before the source is freed.
//!
//! **Invariant:** an instance moves at most once, and none goes to a node that the plan empties or
//! to one that is closed. A strict group is never broken further, also among those that move; what
//! a plan does for economy breaks no preference of a group that is met.
//!
//! **Bounds:** each search asks for [`Effort::placements`] placements at most, and the integer program
//! has [`Effort::choices`] choices and [`Effort::branches`] branches at most. These are numbers and
//! not times, so that equal fleets have equal plans: an answer takes as long as it takes, and no
//! clock decides what it is.
//!
//! Absent on purpose: moving an instance out of the way of another one, and moving several at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kapok_types::{IncarnationId, MemoryMib, NodeId, Timestamp, Vcpus};

use crate::{
    filter::Rejection,
    fleet::{Delta, Fleet},
    groups::Domain,
    held::Claim,
    node::{Distrust, NodeView},
    place::NoFit,
    rejections::Rejections,
    request::{Policy, Request},
};

mod greedy;
mod improve;
mod overlay;

use self::{
    greedy::{Found, Search},
    overlay::Overlay,
};

/// What a plan is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is left on this node.
    Drain(NodeId),
    /// As many nodes as possible carry nothing.
    Consolidate,
    /// The most pressed nodes carry less: those of the highest tier first, then the fullest.
    Rebalance,
}

/// An incarnation that a plan could move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Which.
    pub incarnation: IncarnationId,
    /// Where it is.
    pub node: NodeId,
    /// What its placement asks. Groups and nodes to avoid are the plan's to state.
    pub request: Request,
    /// Since when it is there.
    pub since: Timestamp,
    /// Why it can't move, if something that the fleet doesn't show is in the way.
    pub busy: Option<String>,
}

/// Incarnations that are to be apart from each other, or together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, for people.
    pub called: Option<String>,
    /// What they are to share, or not to share.
    pub domain: Domain,
    /// Whether it must be so.
    pub strict: bool,
    /// Whether they are to be apart.
    pub apart: bool,
    /// Who, and where each of them is.
    pub members: BTreeMap<IncarnationId, NodeId>,
}

/// Who could move, and what they are to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guests {
    /// Those that a plan could move. An incarnation that isn't named stays.
    pub guests: Vec<Guest>,
    /// Their groups.
    pub groups: Vec<Group>,
}

/// How far a plan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Moves at most.
    pub moves: usize,
    /// Memory, in MiB, that all of them may move; none means no limit.
    pub memory: Option<MemoryMib>,
    /// Who came to its node less than this long ago stays, in milliseconds.
    pub cool_down_ms: u64,
    /// How much is tried.
    pub effort: Effort,
}

/// How much is tried, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Placements that are asked for.
    pub placements: u32,
    /// Pairs of an instance and a node that the integer program chooses from; 0 leaves it out.
    pub choices: usize,
    /// Branches of its search.
    pub branches: u64,
}

/// An ordered list of moves and what they come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be made.
    pub moves: Vec<Move>,
    /// Who should have moved and stays: all of them for a drain; else the first one on each node
    /// that could not be emptied, at most [`MOST_STAYS`].
    pub stays: Vec<Stay>,
    /// Nodes that carried something and will carry nothing, not even domains that Kapok did not make.
    pub freed: Vec<NodeId>,
    /// How it was found.
    pub method: Method,
    /// How things stand.
    pub before: Figures,
    /// How they will stand.
    pub after: Figures,
}

/// One move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Who moves. What it becomes on the other node is another incarnation.
    pub incarnation: IncarnationId,
    /// From where.
    pub from: NodeId,
    /// To where.
    pub to: NodeId,
    /// What it is to claim there.
    pub claim: Claim,
    /// What for.
    pub why: Why,
}

/// What a move is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its node is drained.
    Drained,
    /// Its node is emptied: this many move from there.
    Emptied {
        /// So many.
        moves: usize,
    },
    /// Its node's server isn't well, and the other one's is better.
    Pressed {
        /// The node's tier.
        tier: u8,
        /// The other node's.
        better: u8,
    },
    /// Its node is full, and the other one isn't. In permille of what may be claimed, of the scarcer
    /// of vCPUs and memory.
    Full {
        /// The node before the move.
        before: u64,
        /// The node after it.
        after: u64,
        /// The other node after it.
        other: u64,
    },
}

/// Who stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// Who.
    pub incarnation: IncarnationId,
    /// Where.
    pub node: NodeId,
    /// Why.
    pub reason: Reason,
}

/// Why an incarnation stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is known of it but its claim.
    Unknown,
    /// Something is in the way, in the caller's words.
    Busy(String),
    /// Nothing can be moved away from its node.
    Source(Rejection),
    /// It came there a moment ago.
    Cooling {
        /// When it may move.
        until: Timestamp,
    },
    /// The plan has as many moves as it may.
    Moves,
    /// The plan moves as much memory as it may.
    Memory,
    /// As many placements were tried as may be.
    Effort,
    /// No node takes it.
    NoFit(NoFit),
    /// The node that was chosen for it doesn't take it.
    Refused(Rejection),
}

/// How a plan was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Largest first, each where a placement would go.
    Greedy,
    /// By an integer program over the nodes that matter most, and greedily from there.
    Solver,
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Nodes that carry something.
    pub nodes_in_use: usize,
    /// vCPUs free in one piece: the most on one open node.
    pub largest_vcpus: Vcpus,
    /// Memory, in MiB, free in one piece.
    pub largest_memory: MemoryMib,
    /// How full the fullest node is, in permille of what may be claimed.
    pub highest_permille: u64,
}

/// Stays that a plan names at most, other than of a drain.
pub const MOST_STAYS: usize = 32;

impl Default for Effort {
    /// What 500 nodes need in well under a second.
    fn default() -> Self {
        Self {
            placements: 20_000,
            choices: 400,
            branches: 50,
        }
    }
}

/// Plans moves for `kind`, as of `now`.
///
/// Decides only. A drain of a node that isn't known has nothing to move.
pub fn plan(
    fleet: &Fleet,
    guests: &Guests,
    kind: Kind,
    limits: &Limits,
    policy: &Policy,
    now: Timestamp,
) -> Plan {
    let start = Overlay::new(fleet, guests, kind, limits, *policy, now);
    let mut search = Search::new(kind, limits.effort.placements);
    let greedy = search.run(start.clone());
    let mut search = Search::new(kind, limits.effort.placements);
    let solved = improve::run(&mut search, &start, kind, limits.effort);
    let (found, method) = match solved {
        Some(solved) if solved.worth(fleet, kind) > greedy.worth(fleet, kind) => {
            (solved, Method::Solver)
        }
        _ => (greedy, Method::Greedy),
    };
    let Found { overlay, stays } = found;
    let mut plan = Plan {
        moves: overlay.moves,
        stays,
        freed: Vec::new(),
        method,
        before: Figures::of(fleet),
        after: Figures::of(fleet),
    };
    let after = plan.apply(fleet);
    plan.after = Figures::of(&after);
    plan.freed = freed(fleet, &after).collect();
    plan
}

/// Nodes that carried something and carry nothing any more.
fn freed<'f>(before: &'f Fleet, after: &'f Fleet) -> impl Iterator<Item = NodeId> + use<'f> {
    let used = before.nodes().filter(|view| view.claims().len() > 0);
    used.map(|view| view.node().id).filter(|id| {
        let view = after.node(*id);
        view.is_some_and(|view| view.claims().len() == 0 && !has_foreign(view))
    })
}

/// Whether domains run there that Kapok did not make: such a node is never empty.
fn has_foreign(view: NodeView<'_>) -> bool {
    let capacity = &view.node().capacity;
    capacity.foreign_vcpus > Vcpus(0) || capacity.foreign_memory > MemoryMib(0)
}

/// How full a node is, in permille of what may be claimed, of the scarcer of vCPUs and memory.
fn permille(view: NodeView<'_>) -> u64 {
    let of = |part: u64, all: u64| match (part, all) {
        (0, _) => 0,
        (_, 0) => u64::MAX,
        (part, all) => {
            let permille = u128::from(part) * 1000 / u128::from(all);
            u64::try_from(permille).unwrap_or(u64::MAX)
        }
    };
    let vcpus = of(
        view.claimed_vcpus().get().into(),
        view.vcpu_limit().get().into(),
    );
    let memory = of(view.claimed_memory().get(), view.memory_limit().get());
    vcpus.max(memory)
}

impl Plan {
    /// What the fleet would be after the moves.
    #[must_use]
    pub fn apply(&self, fleet: &Fleet) -> Fleet {
        fleet.with(self.moves.iter().flat_map(Move::deltas))
    }

    /// The memory, in MiB, that all of it moves.
    pub fn memory(&self) -> MemoryMib {
        let each = self.moves.iter().map(|one| one.claim.memory.total());
        each.fold(MemoryMib(0), MemoryMib::saturating_add)
    }
}

impl Move {
    /// What it changes, in order: the other node is claimed before this one is freed.
    pub fn deltas(&self) -> [Delta; 2] {
        let incarnation = self.incarnation;
        [
            Delta::Claimed {
                node: self.to,
                incarnation,
                claim: self.claim.clone(),
            },
            Delta::Released {
                node: self.from,
                incarnation,
            },
        ]
    }
}

impl Figures {
    fn of(fleet: &Fleet) -> Self {
        let open = || fleet.nodes().filter(|view| view.node().is_open());
        Self {
            nodes_in_use: fleet.nodes().filter(|view| view.claims().len() > 0).count(),
            largest_vcpus: open().map(NodeView::free_vcpus).max().unwrap_or_default(),
            largest_memory: open().map(NodeView::free_memory).max().unwrap_or_default(),
            highest_permille: fleet.nodes().map(permille).max().unwrap_or_default(),
        }
    }
}

impl Method {
    /// The method in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Solver => "solver",
        }
    }
}

/// Whether nothing can be asked of the agent of a node: then nothing moves away from it.
fn unusable(view: NodeView<'_>) -> Option<Rejection> {
    let node = view.node();
    match node.distrust {
        Some(why @ (Distrust::FingerprintChanged | Distrust::Revoked)) => {
            Some(Rejection::Distrusted { why })
        }
        None if !node.reachable => Some(Rejection::Unreachable),
        None if node.resyncing => Some(Rejection::NeedsResync),
        None => None,
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained => f.write_str("its node is drained"),
            Self::Emptied { moves: 1 } => f.write_str("its node is emptied by this move"),
            Self::Emptied { moves } => write!(f, "its node is emptied by {moves} moves"),
            Self::Pressed { tier, better } => {
                write!(f, "its node is of tier {tier}, the other one of {better}")
            }
            Self::Full {
                before,
                after,
                other,
            } => write!(
                f,
                "its node goes from {} to {} full, the other one to {}",
                Percent(*before),
                Percent(*after),
                Percent(*other)
            ),
        }
    }
}

/// Permille as people read it.
struct Percent(u64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 / 10)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("nothing is known of it but its claim"),
            Self::Busy(why) => f.write_str(why),
            Self::Source(rejection) => write!(f, "its node: {rejection}"),
            Self::Cooling { until } => write!(f, "it came there lately and may move from {until}"),
            Self::Moves => f.write_str("the plan has as many moves as it may"),
            Self::Memory => f.write_str("the plan moves as much memory as it may"),
            Self::Effort => f.write_str("too many placements were tried"),
            Self::NoFit(no_fit) => no_fit.fmt(f),
            Self::Refused(rejection) => rejection.fmt(f),
        }
    }
}

impl fmt::Display for Stay {
    /// Why, in a sentence. What its own node says is left out: it was to leave that one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reason::NoFit(no_fit) = &self.reason else {
            return self.reason.fmt(f);
        };
        let mut others = Rejections::default();
        for (node, name, rejection) in &no_fit.rejections().per_node {
            if *node != self.node {
                others.push(*node, name.clone(), rejection.clone());
            }
        }
        if others.is_empty() {
            return f.write_str("there is no other node");
        }
        others.fmt(f)
    }
}

/// Guests by incarnation, with the groups of each.
type Known<'a> = BTreeMap<IncarnationId, (&'a Guest, Vec<&'a Group>)>;

fn known(guests: &Guests) -> Known<'_> {
    let mut known: Known<'_> = (guests.guests.iter())
        .map(|guest| (guest.incarnation, (guest, Vec::new())))
        .collect();
    for group in &guests.groups {
        for member in group.members.keys() {
            if let Some((_, groups)) = known.get_mut(member) {
                groups.push(group);
            }
        }
    }
    known
}

/// Nodes that nothing may go to.
type Avoided = BTreeSet<NodeId>;

#[cfg(test)]
mod tests;
