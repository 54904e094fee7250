//! Another size for an incarnation, on the node that it is on.
//!
//! ```text
//!               held            claimed while it waits              held
//!   resize   ┌────────┐   ┌──────────────┬─────────┐  settled   ┌────────────┐
//!  ────────▶ │   own  │ ▶ │  assignment  │ surplus │ ─────────▶ │ assignment │
//!            └────────┘   └──────────────┴─────────┘            └────────────┘
//!                          from the next    what the guest
//!                          start on         may have till then
//! ```
//!
//! Amounts are claimed as the larger of both sizes, part by part: a guest that gains vCPUs and loses
//! memory may hold the larger part of each. Host threads, huge pages and devices are claimed one by
//! one, as `assign/change.rs` chooses them.
//!
//! **Invariant:** a claim is never less than what the guest may really hold, and what it grows by
//! is nobody else's.

use kapok_types::{
    Assignment, IncarnationId, MemoryMib, NodeId, Vcpus, instance::MemoryClaim, phase::Size,
};

use crate::{
    assign::change,
    filter::{Filter, Rejection},
    fleet::{Delta, Fleet},
    held::Claim,
    node::NodeView,
    question::Question,
    request::{Policy, Request},
};

/// What stands against growth where an incarnation is: amounts, and a node whose numbers, or whose
/// server, can't be relied on. Nothing new comes to the node, so a cordon doesn't, and what the
/// incarnation was placed by isn't asked again.
const AMOUNTS: [Filter; 7] = [
    Filter::Reachable,
    Filter::Resync,
    Filter::Trusted,
    Filter::Quarantined,
    Filter::Vcpus,
    Filter::Memory,
    Filter::Headroom,
];

/// And against other threads, pages and devices than it has.
const EQUIPMENT: [Filter; 4] = [
    Filter::DedicatedCpus,
    Filter::HugePages,
    Filter::Cells,
    Filter::Devices,
];

/// What an incarnation is to hold of its node while it may be of the size that it is of and of the
/// requested one. Nothing of the node is asked for what it holds already.
///
/// # Errors
///
/// Why the node can't give what there is to be more. One that isn't known is unreachable, and so is
/// an incarnation that holds nothing of it.
pub fn resize(
    fleet: &Fleet,
    node: NodeId,
    incarnation: IncarnationId,
    request: &Request,
    policy: &Policy,
) -> Result<Claim, Rejection> {
    let held = fleet.claim_of(node, incarnation);
    let held = held.ok_or(Rejection::Unreachable)?;
    let larger = held.larger(request);
    let is_bound = request.needs.is_bound();
    if !is_bound && larger == *held {
        return Ok(larger);
    }
    let without = fleet.with([Delta::Released { node, incarnation }]);
    let view = without.node(node).ok_or(Rejection::Unreachable)?;
    let kept = is_bound.then(|| change::within(view, request, held));
    let kept = kept.flatten();
    if larger != *held || is_bound && kept.is_none() {
        let both = Request {
            vcpus: larger.vcpus,
            memory: larger.memory,
            ..request.clone()
        };
        check(&AMOUNTS, view, &Question::new(&without, &both, *policy))?;
    }
    if !is_bound {
        return Ok(larger);
    }
    let own = match kept {
        Some(own) => own,
        None => chosen(&without, view, request, held, *policy)?,
    };
    Ok(Claim {
        surplus: change::surplus(held, &own),
        assignment: Some(Box::new(own)),
        ..larger
    })
}

fn chosen(
    fleet: &Fleet,
    view: NodeView<'_>,
    request: &Request,
    held: &Claim,
    policy: Policy,
) -> Result<Assignment, Rejection> {
    check(&EQUIPMENT, view, &Question::new(fleet, request, policy))?;
    // It exists if none of the filters objects.
    change::anew(view, request, held).ok_or_else(|| Rejection::DedicatedCpus {
        asked: request.vcpus,
        cells: request.needs.most_cells(),
        free: Vec::new(),
        over: Vcpus::ZERO,
    })
}

fn check(filters: &[Filter], view: NodeView<'_>, question: &Question<'_>) -> Result<(), Rejection> {
    let mut filters = filters.iter();
    filters.try_for_each(|filter| filter.check(view, question))
}

impl Claim {
    /// What is to be claimed once the guest is seen to be of a size: enough for that and for what
    /// the intent asks, and no more than it is.
    ///
    /// `own` is what the guest has for itself now and after any start, if its agent can tell: unless
    /// that is the assignment, nothing is given back of an incarnation that is bound to cells.
    #[must_use]
    pub fn settled(&self, asked: Size, seen: Size, own: Option<&Assignment>) -> Self {
        let assignment = self.assignment.as_deref();
        let is_bound = assignment.is_some_and(|own| !own.cells.is_empty());
        if is_bound && own != assignment {
            return self.clone();
        }
        let needed = most(
            MemoryClaim::of(asked.memory, asked.vcpus),
            MemoryClaim::of(seen.memory, seen.vcpus),
            MemoryMib::max,
        );
        Self {
            vcpus: asked.vcpus.max(seen.vcpus).min(self.vcpus),
            memory: most(needed, self.memory, MemoryMib::min),
            assignment: self.assignment.clone(),
            surplus: None,
        }
    }

    /// It with the larger of both amounts.
    fn larger(&self, request: &Request) -> Self {
        Self {
            vcpus: self.vcpus.max(request.vcpus),
            memory: most(self.memory, request.memory, MemoryMib::max),
            ..self.clone()
        }
    }
}

/// Part by part.
fn most(
    one: MemoryClaim,
    other: MemoryClaim,
    of: fn(MemoryMib, MemoryMib) -> MemoryMib,
) -> MemoryClaim {
    MemoryClaim {
        guest: of(one.guest, other.guest),
        tables: of(one.tables, other.tables),
        vcpus: of(one.vcpus, other.vcpus),
        fixed: of(one.fixed, other.fixed),
    }
}

#[cfg(test)]
mod tests {
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

    fn asked(fleet: &Fleet, vcpus: u32, memory: u64) -> Result<Claim, Rejection> {
        let policy = Policy::default();
        let request = request(vcpus, memory);
        resize(fleet, node_id(1), incarnation_id(1), &request, &policy)
    }

    #[test]
    fn what_it_holds_counts_as_free_for_itself() {
        assert_eq!(asked(&fleet(), 8, 1024).unwrap(), claim(8, 1024));
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
        // What it holds is asked of nobody.
        let mut silent = node(1);
        silent.reachable = false;
        let shrunk = asked(&fleet().with([put(silent)]), 2, 512);
        assert_eq!(shrunk, Ok(claim(4, 1024)));
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
            resize(&fleet, node_id(1), incarnation_id(1), &request, &policy)
        };
        assert!(ask(4).is_ok());
        // Neither node could take both any more, though this one has room.
        assert_eq!(ask(9).unwrap_err().filter(), Filter::Headroom);
        assert_eq!(ask(17).unwrap_err().filter(), Filter::Vcpus);
    }
}
