//! A request under a policy, prepared for one fleet: the same for decisions and explanations.
//!
//! [`Question::best`] finds the node by the index, [`Question::answer`] asks one node by all
//! filters. That both come to the same is what the property tests hold.

use std::collections::BTreeSet;

use kapok_types::NodeId;

use crate::{
    assign::{assign, is_exact},
    filter::{Filter, Rejection},
    fleet::Fleet,
    groups::Resolved,
    headroom::Bar,
    held::{Age, Amounts, Claim, Usage},
    index::{self, At, Judgement},
    node::NodeView,
    place::{Placement, Score},
    request::{Goal, Policy, Request},
};

/// A request, prepared.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) request: &'a Request,
    /// What it asks of the shared amounts.
    pub(crate) asked: Usage,
    pub(crate) groups: Vec<Resolved<'a>>,
    pub(crate) bar: Option<Bar>,
    fleet: &'a Fleet,
    goal: Goal,
}

/// A node's place in the order of preference; the lowest is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    tier: u8,
    unmet: usize,
    by_goal: (u64, u64),
    age: Age,
    id: NodeId,
}

impl<'a> Question<'a> {
    pub(crate) fn new(fleet: &'a Fleet, request: &'a Request, policy: Policy) -> Self {
        let asked = Usage::asked(request);
        Self {
            request,
            groups: Resolved::all(fleet, request),
            bar: Bar::new(&fleet.pools, policy.headroom, request, asked),
            asked,
            fleet,
            goal: policy.goal,
        }
    }

    /// What one node would be left with and how it ranks, or why it can't take the request.
    pub(crate) fn answer(&self, view: NodeView<'_>) -> Result<(Rank, Score), Rejection> {
        Filter::check_all(view, self)?;
        let score = self.score(view);
        let node = view.node();
        let preferences = self.groups.iter().filter(|group| !group.strict);
        let unmet = preferences.filter(|group| !group.is_met(node)).count();
        let free = view.free().unwrap_or_default();
        let rank = self.rank(node.tier, unmet, free, view.held.age(), node.id);
        Ok((rank, score))
    }

    /// The placement onto a node that passes every filter.
    pub(crate) fn placement(&self, view: NodeView<'_>) -> Placement {
        let node = view.node();
        Placement {
            node: node.id,
            name: node.name.clone(),
            claim: Claim {
                vcpus: self.request.vcpus,
                memory: self.request.memory,
                assignment: assign(view, self.request).map(Box::new),
                surplus: None,
            },
            score: self.score(view),
        }
    }

    pub(crate) fn score(&self, view: NodeView<'_>) -> Score {
        Score {
            // The filters have passed, so all of it is there.
            vcpus_left: view.vcpus_after(self.asked).unwrap_or_default(),
            memory_left: view.memory_after(self.asked).unwrap_or_default(),
        }
    }

    /// The best of the nodes that can take the request.
    pub(crate) fn best(&self) -> Option<NodeView<'a>> {
        let asked = self.asked.amounts()?;
        if self.bar.as_ref().is_some_and(|bar| bar.refused().is_some()) {
            return None;
        }
        let mut near = self.request.avoid.clone();
        for group in &self.groups {
            group.add_near(&self.fleet.sites, &mut near);
        }
        let best_near = (near.iter())
            .filter_map(|id| self.answer(self.fleet.node(*id)?).ok())
            .map(|(rank, _)| rank)
            .min();
        let best = best_near
            .into_iter()
            .chain(self.best_afar(asked, &near))
            .min();
        best.and_then(|rank| self.fleet.node(rank.id))
    }

    /// The best of the nodes that are near none of a group's members.
    fn best_afar(&self, asked: Amounts, near: &BTreeSet<NodeId>) -> Option<Rank> {
        let unmet = |strict| {
            let these = self.groups.iter().filter(|group| group.strict == strict);
            these.filter(|group| !group.is_met_afar()).count()
        };
        if unmet(true) > 0 {
            return None;
        }
        let is_exact = is_exact(self.request);
        let can_give = |id: NodeId| {
            let view = self.fleet.node(id);
            view.is_some_and(|view| assign(view, self.request).is_some())
        };
        let judge = |id: NodeId, free: Amounts| {
            if near.contains(&id) {
                return Judgement::Pass;
            }
            match &self.bar {
                Some(bar) if bar.check(free).is_err() => Judgement::PassAll(bar.alike(free)),
                _ if is_exact && !can_give(id) => Judgement::Pass,
                _ => Judgement::Take,
            }
        };
        let kinds = self.fleet.index.serving(self.request);
        let keys = kinds.filter_map(|nodes| index::best(nodes, self.goal, asked, judge));
        keys.filter_map(|key| match key.at {
            At::Node(age, id) => Some(self.rank(key.tier, unmet(false), key.free, age, id)),
            At::First | At::Last => None,
        })
        .min()
    }

    fn rank(&self, tier: u8, unmet: usize, free: Amounts, age: Age, id: NodeId) -> Rank {
        // What a node has free ranks as what it would be left with: all give the same.
        let by_goal = match self.goal {
            Goal::Pack => (free.vcpus, free.memory_mib),
            Goal::Spread => (u64::MAX - free.vcpus, u64::MAX - free.memory_mib),
        };
        Rank {
            tier,
            unmet,
            by_goal,
            age,
            id,
        }
    }
}
