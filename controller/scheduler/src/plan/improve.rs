//! The integer program: what the greedy search misses because it decides one move at a time.
//!
//! Only over the nodes that matter most, and only in numbers: who may go where is asked of the
//! filters beforehand, shared vCPUs and memory are sums, and a node either gives or takes. What it
//! proposes is carried out move by move as the greedy search does, which then goes on from there;
//! so nothing of it is believed, and what it leaves out (headroom, soft groups, equipment used up
//! by another one of the same plan) costs at most the proposal.
//!
//! **Bounds:** [`Effort::choices`] pairs of an instance and a node, [`Effort::branches`] branches of
//! the search. The solver is given no time limit, so it asks no clock.

use std::collections::{BTreeMap, BTreeSet};

use good_lp::{Constraint, Expression, ProblemVariables, SolverModel as _, Variable, variable};
use kapok_types::{IncarnationId, NodeId};

use super::{
    Effort, Kind, Why,
    greedy::{Found, Search, helps},
    overlay::{Overlay, Target, emptiest_first},
    permille,
};
use crate::{groups::Domain, node::NodeView};

/// Nodes that may be emptied or relieved.
const MOST_SOURCES: usize = 12;
/// Instances of one node that may be relieved.
const MOST_OF_ONE: usize = 8;

/// Who may go where.
#[derive(Debug, Default)]
struct Choices {
    /// Those that move only together, by their node.
    sources: BTreeMap<NodeId, Vec<IncarnationId>>,
    targets: BTreeSet<NodeId>,
    pairs: Vec<(IncarnationId, NodeId)>,
}

/// What the program says: where to, by incarnation.
type Proposal = BTreeMap<IncarnationId, NodeId>;

/// The proposal carried out, and greedily on from there; nothing if there is none.
pub(super) fn run<'a>(
    search: &mut Search,
    start: &Overlay<'a>,
    kind: Kind,
    effort: Effort,
) -> Option<Found<'a>> {
    let choices = Choices::of(search, start, kind, effort.choices);
    if choices.pairs.is_empty() {
        return None;
    }
    let proposal = propose(start, &choices, kind, effort.branches)?;
    let mut overlay = start.clone();
    match kind {
        Kind::Drain(node) => {
            overlay.close(node);
            carry_out(search, &mut overlay, proposal, |_, _, _| Some(Why::Drained));
        }
        Kind::Consolidate => {
            for (node, ids) in &choices.sources {
                if !ids.iter().all(|id| proposal.contains_key(id)) {
                    continue;
                }
                let target = |id| (proposal.get(&id)).map_or(Target::Best, |to| Target::Node(*to));
                if let Ok(emptied) = search.empty(&overlay, *node, target) {
                    overlay = emptied;
                }
            }
        }
        Kind::Rebalance => {
            let ceiling = overlay
                .fleet
                .nodes()
                .map(permille)
                .max()
                .unwrap_or_default();
            carry_out(search, &mut overlay, proposal, |overlay, id, placement| {
                let from = overlay.guest(id)?.node;
                helps(overlay, from, id, placement, ceiling).map(|(_, why)| why)
            });
        }
    }
    Some(search.run(overlay))
}

/// Makes the moves in whichever order they can be made.
fn carry_out<'a>(
    search: &mut Search,
    overlay: &mut Overlay<'a>,
    mut waiting: Proposal,
    why: impl Fn(&Overlay<'a>, IncarnationId, &crate::place::Placement) -> Option<Why>,
) {
    loop {
        let before = waiting.len();
        waiting.retain(|id, to| {
            let Ok(placement) = search.place(overlay, *id, Target::Node(*to)) else {
                return true;
            };
            let Some(why) = why(overlay, *id, &placement) else {
                return true;
            };
            overlay.go(*id, placement, why);
            false
        });
        if waiting.is_empty() || waiting.len() == before {
            return;
        }
    }
}

impl Choices {
    fn of(search: &mut Search, start: &Overlay<'_>, kind: Kind, most: usize) -> Self {
        let mut choices = Self::default();
        let movable = |view: NodeView<'_>| {
            let on = start.on(view).into_iter();
            on.filter(|id| start.fixed(*id).is_none())
        };
        match kind {
            Kind::Drain(node) => {
                if let Some(view) = start.fleet.node(node) {
                    let few = movable(view).take(most / 2);
                    choices.sources.insert(node, few.collect());
                }
            }
            Kind::Consolidate => {
                let mut moves = 0;
                for node in emptiest_first(start).into_iter().take(MOST_SOURCES) {
                    let Some(view) = start.fleet.node(node) else {
                        continue;
                    };
                    let ids: Vec<_> = movable(view).collect();
                    moves += ids.len();
                    if ids.len() == view.claims().len() && moves <= most / 4 {
                        choices.sources.insert(node, ids);
                    }
                }
            }
            Kind::Rebalance => {
                let mut pressed: Vec<_> = (start.fleet.nodes())
                    .filter(|view| view.claims().len() > 0)
                    .collect();
                pressed.sort_by_key(|view| {
                    let node = view.node();
                    std::cmp::Reverse((node.tier, permille(*view), node.id))
                });
                for view in pressed.into_iter().take(MOST_SOURCES / 2) {
                    let few = movable(view).take(MOST_OF_ONE);
                    choices.sources.insert(view.node().id, few.collect());
                }
            }
        }
        choices.pair(search, start, kind, most);
        choices
    }

    /// Finds who may go where, among the nodes with the most room.
    fn pair(&mut self, search: &mut Search, start: &Overlay<'_>, kind: Kind, most: usize) {
        let ids: Vec<_> = self.sources.values().flatten().copied().collect();
        let Some(width) = most.checked_div(ids.len()) else {
            return;
        };
        let gives = |id: NodeId| kind != Kind::Consolidate && self.sources.contains_key(&id);
        let mut roomy: Vec<_> = (start.fleet.nodes())
            .filter(|view| view.node().is_open() && !gives(view.node().id))
            .filter(|view| kind != Kind::Consolidate || view.claims().len() > 0)
            .map(|view| {
                let room = (view.free_vcpus(), view.free_memory());
                (view.node().tier, std::cmp::Reverse(room), view.node().id)
            })
            .collect();
        roomy.sort_unstable();
        for (.., target) in roomy.into_iter().take(width) {
            for id in &ids {
                if search.place(start, *id, Target::Node(target)).is_ok() {
                    self.pairs.push((*id, target));
                    self.targets.insert(target);
                }
            }
        }
    }
}

/// A number of the program.
fn number(amount: impl TryInto<u32>) -> f64 {
    f64::from(amount.try_into().unwrap_or(u32::MAX))
}

/// The program: what it chooses, and what has to hold.
struct Program<'p, 'a> {
    start: &'p Overlay<'a>,
    choices: &'p Choices,
    /// Whether each choice is taken. The first variables.
    takes: Vec<(IncarnationId, NodeId, Variable)>,
    /// Whether a node is emptied, if it is emptied or left alone.
    empties: BTreeMap<NodeId, Variable>,
    /// How full the fullest node is.
    height: Variable,
    holds: Vec<Constraint>,
}

/// Which of the choices to take.
fn propose(start: &Overlay<'_>, choices: &Choices, kind: Kind, branches: u64) -> Option<Proposal> {
    let mut variables = ProblemVariables::new();
    let takes = (choices.pairs.iter())
        .map(|(id, to)| (*id, *to, variables.add(variable().binary())))
        .collect();
    let empties = match kind {
        Kind::Consolidate => (choices.sources.keys())
            .map(|node| (*node, variables.add(variable().binary())))
            .collect(),
        Kind::Drain(_) | Kind::Rebalance => BTreeMap::new(),
    };
    let mut program = Program {
        start,
        choices,
        takes,
        empties,
        height: variables.add(variable().min(0)),
        holds: Vec::new(),
    };
    program.once();
    program.budget();
    program.room();
    program.apart();
    if kind == Kind::Rebalance {
        program.level();
    }
    let count: Expression = program.takes.iter().map(|(.., take)| *take).sum();
    let emptied: Expression = program.empties.values().copied().sum();
    let aim = match kind {
        Kind::Drain(_) => -count,
        // A node more, and a permille less, are worth any number of moves.
        Kind::Consolidate => count - 1000 * emptied,
        Kind::Rebalance => count + 1000 * program.height,
    };
    let mut model = variables.minimise(aim).using(good_lp::microlp);
    for hold in program.holds {
        model.add_constraint(hold);
    }
    let mut options = microlp::SolveOptions::default();
    options.node_limit = Some(branches);
    let solution = model.as_inner().solve_with(options).ok()?;
    let solution = solution.into_solution().ok()?;
    let taken = solution.iter().zip(&program.takes);
    let taken = taken.filter(|((_, value), _)| *value > 0.5);
    Some(taken.map(|(_, (id, to, _))| (*id, *to)).collect())
}

impl Program<'_, '_> {
    /// Each goes to one node, or with all of its own.
    fn once(&mut self) {
        for (node, ids) in &self.choices.sources {
            for id in ids {
                let mine = self.takes.iter().filter(|(who, ..)| who == id);
                let mine: Expression = mine.map(|(.., take)| *take).sum();
                self.holds.push(match self.empties.get(node) {
                    Some(emptied) => (mine - *emptied).eq(0),
                    None => mine.leq(1),
                });
            }
        }
    }

    /// No more moves, and memory, than there may be.
    fn budget(&mut self) {
        let count: Expression = self.takes.iter().map(|(.., take)| *take).sum();
        let moved = self
            .takes
            .iter()
            .map(|(id, _, take)| self.size(*id).1 * *take);
        let moved: Expression = moved.sum();
        let moves = count.leq(number(self.start.moves_left()));
        let memory = moved.leq(number(self.start.memory_left().get()));
        self.holds.extend([moves, memory]);
    }

    /// What is emptied takes nothing, and what takes has the room.
    fn room(&mut self) {
        for target in &self.choices.targets {
            let Some(view) = self.start.fleet.node(*target) else {
                continue;
            };
            let here = || self.takes.iter().filter(|(_, to, _)| to == target);
            let sum = |of: fn((f64, f64)) -> f64| -> Expression {
                let each = here().map(|(id, _, take)| of(self.size(*id)) * *take);
                each.sum()
            };
            let free = |part: f64| match self.empties.get(target) {
                Some(emptied) => part - part * *emptied,
                None => part.into(),
            };
            let holds = [
                sum(|size| size.0).leq(free(number(view.free_vcpus().get()))),
                sum(|size| size.1).leq(free(number(view.free_memory().get()))),
                // Also those of no size.
                sum(|_| 1.0).leq(free(number(here().count()))),
            ];
            self.holds.extend(holds);
        }
    }

    /// Members of a group that are to be apart share no domain.
    fn apart(&mut self) {
        let mut sharing: BTreeMap<_, Vec<Variable>> = BTreeMap::new();
        for (id, to, take) in &self.takes {
            let Some(node) = self.start.fleet.node(*to).map(NodeView::node) else {
                continue;
            };
            for group in self.start.groups(*id).iter().filter(|group| group.apart) {
                let site = match group.domain {
                    Domain::Node => (Some(node.id), None, None),
                    Domain::Rack => (None, node.room.as_ref(), node.rack.as_ref()),
                    Domain::Room => (None, node.room.as_ref(), None),
                };
                // Groups of the same members come to the same.
                let group = (group.members.keys().collect::<Vec<_>>(), group.domain);
                sharing.entry((group, site)).or_default().push(*take);
            }
        }
        let sharing = sharing.into_values().map(|takes| {
            let takes: Expression = takes.into_iter().sum();
            takes.leq(1)
        });
        self.holds.extend(sharing);
    }

    /// No node is fuller than the height.
    fn level(&mut self) {
        let nodes = self.choices.targets.iter();
        let nodes: BTreeSet<_> = nodes.chain(self.choices.sources.keys()).collect();
        for node in nodes {
            let Some(view) = self.start.fleet.node(*node) else {
                continue;
            };
            let from = |id: IncarnationId| self.start.guest(id).map(|guest| guest.node);
            let full = |of: fn((f64, f64)) -> f64, claimed: f64, limit: f64| {
                let changes = self.takes.iter().map(|(id, to, take)| {
                    let size = of(self.size(*id));
                    match () {
                        () if to == node => size * *take,
                        () if from(*id) == Some(*node) => -size * *take,
                        () => 0.0 * *take,
                    }
                });
                let changes: Expression = changes.sum();
                (changes + claimed).leq(limit * self.height)
            };
            let (claimed, limit) = (view.claimed_vcpus().get(), view.vcpu_limit().get());
            let vcpus = full(|size| size.0, number(claimed), number(limit));
            let (claimed, limit) = (view.claimed_memory().get(), view.memory_limit().get());
            let memory = full(|size| size.1, number(claimed), number(limit));
            self.holds.extend([vcpus, memory]);
        }
    }

    /// What an instance asks for: vCPUs, and memory in MiB.
    fn size(&self, id: IncarnationId) -> (f64, f64) {
        let request = self.start.guest(id).map(|guest| &guest.request);
        request.map_or((0.0, 0.0), |request| {
            let vcpus = number(request.vcpus.get());
            (vcpus, number(request.memory.total().get()))
        })
    }
}
