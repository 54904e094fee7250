//! Sizes that change, beside guests that have what they were started with.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kapok_scheduler::{
    Claim, Delta, Filter, Fleet, Node, Policy, Rejection, Request, explain, place, resize,
};
use kapok_types::{
    Assignment, Equipment, IncarnationId, MemoryMib, Vcpus, instance::MemoryClaim, phase::Size,
};
use proptest::prelude::*;

use self::model::{
    Model, any_node,
    equipment::{Named, any_equipment, any_needs},
    incarnation_id, node_id,
};

mod model;

/// One guest, and what its agent knows of it.
#[derive(Debug, Clone)]
struct Guest {
    request: Request,
    /// What it was started with.
    runs: (Size, Option<Assignment>),
    /// What any start gives it.
    next: (Size, Option<Assignment>),
}

/// What happens to the guests on one node.
#[derive(Debug, Clone)]
enum Step {
    /// One is placed.
    Place(Box<Request>),
    /// One is to be of another size.
    Resize(usize, u32, u64),
    /// The agent takes the newest intent.
    Define(usize),
    /// It is started (again).
    Start(usize),
    /// The agent tells what it sees.
    Tell(usize),
    /// One is gone.
    Remove(usize),
    /// The node has other things from now on.
    Equip(Box<Equipment>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = || 0_usize..6;
    let size = || (1_u32..=8, 1_u64..=8);
    prop_oneof![
        3 => (any_needs(), size()).prop_map(|(needs, (vcpus, gib))| {
            let vcpus = Vcpus(vcpus);
            let memory = MemoryClaim::of(MemoryMib(gib * 1024), vcpus);
            let arch = kapok_types::instance::Arch::X86_64;
            Step::Place(Box::new(Request { needs, ..Request::new(arch, vcpus, memory) }))
        }),
        6 => (which(), size()).prop_map(|(one, (vcpus, gib))| Step::Resize(one, vcpus, gib)),
        3 => which().prop_map(Step::Define),
        3 => which().prop_map(Step::Start),
        4 => which().prop_map(Step::Tell),
        1 => which().prop_map(Step::Remove),
        1 => any_equipment().prop_map(|equipment| Step::Equip(Box::new(equipment))),
    ]
}

/// A node that takes whatever fits it.
fn any_open_node() -> impl Strategy<Value = Node> {
    (any_node(1), any_equipment()).prop_map(|(node, equipment)| Node {
        arch: kapok_types::instance::Arch::X86_64,
        cordoned: false,
        quarantined: false,
        reachable: true,
        resyncing: false,
        distrust: None,
        isolation: None,
        equipment: Arc::new(equipment),
        ..node
    })
}

/// What one guest has of a node for itself, whole: nothing that is named twice, nothing absent.
fn has(claim: &Claim, own: &Assignment) -> bool {
    let all: Vec<_> = claim.owned().collect();
    let shares = || all.iter().flat_map(|own| &own.cells);
    let threads: BTreeSet<_> = shares().flat_map(|share| &share.threads).collect();
    let devices: BTreeSet<_> = all.iter().flat_map(|own| &own.devices).collect();
    own.devices.iter().all(|one| devices.contains(one))
        && own.cells.iter().all(|share| {
            let here = shares().filter(|one| one.cell == share.cell);
            let memory: u64 = here.map(|one| one.memory.get()).sum();
            share.threads.iter().all(|one| threads.contains(one))
                && (own.huge_pages.is_none() || share.memory.get() <= memory)
        })
}

fn own(claim: &Claim) -> Option<Assignment> {
    claim.assignment.as_deref().cloned()
}

fn size_of(request: &Request) -> Size {
    Size {
        vcpus: request.vcpus,
        memory: request.memory.guest,
    }
}

struct World {
    fleet: Fleet,
    model: Model,
    guests: BTreeMap<IncarnationId, Guest>,
    /// Whether nothing was ever taken out of the node.
    whole: bool,
}

impl World {
    fn apply(&mut self, delta: Delta) {
        self.fleet.apply(delta.clone());
        self.model.apply(delta);
    }

    fn claim(&self, one: IncarnationId) -> Claim {
        self.fleet.claim_of(node_id(1), one).unwrap().clone()
    }

    fn claimed(&mut self, incarnation: IncarnationId, claim: Claim) {
        self.apply(Delta::Claimed {
            node: node_id(1),
            incarnation,
            claim,
        });
    }

    fn guest(&self, number: usize) -> Option<(IncarnationId, Guest)> {
        let at = number.checked_rem(self.guests.len())?;
        let (one, guest) = self.guests.iter().nth(at)?;
        Some((*one, guest.clone()))
    }

    /// What the claims name above what there is.
    fn excess(&self) -> (u64, [u64; 2], u64) {
        let node = &self.model.nodes[&node_id(1)];
        self.model.named(node.id).excess(&node.equipment)
    }

    fn step(&mut self, number: usize, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Place(request) => {
                let wrong = request.needs.check(request.vcpus, request.memory.guest);
                let Ok(placed) = place(&self.fleet, &request, &Policy::PACK) else {
                    return Ok(());
                };
                if !wrong.is_empty() {
                    return Ok(());
                }
                let has = (size_of(&request), own(&placed.claim));
                let guest = Guest {
                    request: *request,
                    runs: has.clone(),
                    next: has,
                };
                let one = incarnation_id(u64::try_from(number).unwrap());
                self.guests.insert(one, guest);
                self.claimed(one, placed.claim);
            }
            Step::Resize(which, vcpus, gib) => {
                let Some((one, guest)) = self.guest(which) else {
                    return Ok(());
                };
                let vcpus = Vcpus(vcpus);
                let request = Request {
                    vcpus,
                    memory: MemoryClaim::of(MemoryMib(gib * 1024), vcpus),
                    ..guest.request
                };
                if request.needs.check(vcpus, request.memory.guest).is_empty() {
                    self.resize(one, request)?;
                }
            }
            Step::Define(which) => {
                if let Some((one, guest)) = self.guest(which) {
                    let next = (size_of(&guest.request), own(&self.claim(one)));
                    self.guests.get_mut(&one).unwrap().next = next;
                }
            }
            Step::Start(which) => {
                if let Some((one, guest)) = self.guest(which) {
                    self.guests.get_mut(&one).unwrap().runs = guest.next;
                }
            }
            Step::Tell(which) => {
                let Some((one, guest)) = self.guest(which) else {
                    return Ok(());
                };
                // Of size, it tells what it sees once it has written the intent.
                let asked = size_of(&guest.request);
                if guest.next.0 == asked {
                    let same = guest.runs.1 == guest.next.1;
                    let told = guest.runs.1.as_ref().filter(|_| same);
                    let settled = self.claim(one).settled(asked, guest.runs.0, told);
                    self.claimed(one, settled);
                }
            }
            Step::Remove(which) => {
                if let Some((incarnation, _)) = self.guest(which) {
                    self.guests.remove(&incarnation);
                    let node = node_id(1);
                    self.apply(Delta::Released { node, incarnation });
                }
            }
            Step::Equip(equipment) => {
                self.whole = false;
                let mut node = self.model.nodes[&node_id(1)].clone();
                node.equipment = Arc::new(*equipment);
                self.apply(Delta::NodePut(node));
            }
        }
        Ok(())
    }

    fn resize(&mut self, one: IncarnationId, request: Request) -> Result<(), TestCaseError> {
        let (node, before) = (node_id(1), self.claim(one));
        let answer = resize(&self.fleet, node, one, &request, &Policy::PACK);
        let again = resize(&self.fleet, node, one, &request, &Policy::PACK);
        prop_assert_eq!(&answer, &again);
        let without = Delta::Released {
            node,
            incarnation: one,
        };
        let without = self.fleet.with([without]);
        let excess = self.excess();
        let claim = match answer {
            Ok(claim) => claim,
            Err(why) => return agrees(&without, &before, &request, &why),
        };
        prop_assert!(claim.vcpus >= request.vcpus.max(before.vcpus));
        prop_assert!(claim.memory.guest >= request.memory.guest.max(before.memory.guest));
        if request.needs.is_bound() {
            let own = own(&claim).unwrap();
            let exact = Claim {
                vcpus: request.vcpus,
                memory: request.memory,
                surplus: None,
                ..claim.clone()
            };
            if !has(&before, &own) {
                // Chosen anew, as a placement would.
                let there = without.node(node).unwrap().node().clone();
                let others = without.node(node).unwrap();
                let others = others.claims().map(|(_, claim)| claim);
                Named::by(others).check(&there, &request, &exact);
            }
        } else {
            prop_assert_eq!(
                (&claim.assignment, &claim.surplus),
                (&before.assignment, &None)
            );
        }
        self.claimed(one, claim);
        self.guests.get_mut(&one).unwrap().request = request;
        let after = self.excess();
        prop_assert!(
            after.0 <= excess.0 && after.1[0] <= excess.1[0] && after.1[1] <= excess.1[1],
            "{excess:?} {after:?}"
        );
        prop_assert!(after.2 <= excess.2, "{excess:?} {after:?}");
        Ok(())
    }

    /// What no step may break.
    fn check(&self) -> Result<(), TestCaseError> {
        for (one, guest) in &self.guests {
            let claim = self.claim(*one);
            for (size, own) in [&guest.runs, &guest.next] {
                prop_assert!(
                    own.iter().all(|own| has(&claim, own)),
                    "{guest:?} {claim:?}"
                );
                prop_assert!(claim.vcpus >= size.vcpus && claim.memory.guest >= size.memory);
            }
            prop_assert!(claim.vcpus >= guest.request.vcpus);
        }
        if self.whole {
            prop_assert_eq!(self.excess(), (0, [0, 0], 0));
        }
        let anew = Fleet::default()
            .with(self.model.nodes.values().cloned().map(Delta::NodePut))
            .with(self.guests.keys().map(|one| Delta::Claimed {
                node: node_id(1),
                incarnation: *one,
                claim: self.claim(*one),
            }));
        prop_assert_eq!(&self.fleet, &anew);
        Ok(())
    }
}

/// What a resize is refused for, a placement of the larger of both sizes is refused for as well.
fn agrees(
    without: &Fleet,
    held: &Claim,
    request: &Request,
    why: &Rejection,
) -> Result<(), TestCaseError> {
    let shared = matches!(why.filter(), Filter::Vcpus | Filter::Memory);
    let mut request = request.clone();
    if shared {
        request.vcpus = request.vcpus.max(held.vcpus);
        let guest = request.memory.guest.max(held.memory.guest);
        request.memory = MemoryClaim::of(guest, request.vcpus);
    }
    // What it was placed by isn't asked again.
    (request.needs.pool, request.needs.network) = (None, None);
    request.needs.cpu_features.clear();
    request.needs.labels.clear();
    let explained = explain(without, &request, &Policy::PACK).rejections();
    prop_assert_eq!(&explained.per_node[0].2, why);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// After any steps a claim covers what its guest has and what any start may give it, nothing
    /// is given twice, and what stands in the way is what would stand in a placement's.
    #[test]
    fn a_claim_covers_what_runs_and_nothing_has_two_owners(
        node in any_open_node(),
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let mut world = World {
            fleet: Fleet::default(),
            model: Model::default(),
            guests: BTreeMap::new(),
            whole: true,
        };
        world.apply(Delta::NodePut(node));
        for (number, step) in steps.into_iter().enumerate() {
            world.step(number, step)?;
            world.check()?;
        }
    }
}
