//! Random fabrics, and the same questions answered without any cleverness.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each suite uses a part of it, and nothing else is there"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kapok_scheduler::{
    Capacity, Claim, Delta, Distrust, Domain, Fleet, Goal, Group, Headroom, Node, Policy, Request,
    headroom::BLOCK,
};
use kapok_types::{
    IncarnationId, MemoryMib, Name, NodeId, Vcpus,
    instance::{Arch, MemoryClaim},
};
use proptest::prelude::*;

use self::equipment::{
    Named, any_assignment, any_equipment, any_isolation, any_needs, asked, shared,
};

pub mod equipment;

// ------------------------------------------------------------------ the naive model

/// Nodes and claims without any sum.
#[derive(Debug, Default)]
pub struct Model {
    pub nodes: BTreeMap<NodeId, Node>,
    pub claims: BTreeMap<(NodeId, IncarnationId), Claim>,
}

impl Model {
    pub fn apply(&mut self, delta: Delta) {
        match delta {
            Delta::NodePut(node) => {
                self.nodes.insert(node.id, node);
            }
            Delta::NodeRemoved(id) => {
                self.nodes.remove(&id);
            }
            Delta::Claimed {
                node,
                incarnation,
                claim,
            } => {
                self.claims.insert((node, incarnation), claim);
            }
            Delta::Released { node, incarnation } => {
                self.claims.remove(&(node, incarnation));
            }
        }
    }

    /// Shared vCPUs and MiB that are claimed of a node.
    pub fn used(&self, id: NodeId) -> (u128, u128) {
        self.claims_of(id).fold((0, 0), |sum, claim| {
            let shared = shared(claim);
            (sum.0 + shared.0, sum.1 + shared.1)
        })
    }

    fn claims_of(&self, id: NodeId) -> impl Iterator<Item = &Claim> {
        let of_node = self.claims.iter().filter(move |((node, _), _)| *node == id);
        of_node.map(|(_, claim)| claim)
    }

    /// What is some incarnation's own on a node.
    pub fn named(&self, id: NodeId) -> Named {
        Named::by(self.claims_of(id))
    }

    /// What a node has free, negative where it is overcommitted.
    fn left(&self, node: &Node) -> (i128, i128) {
        let (used_vcpus, used_mib) = self.used(node.id);
        let (limit_vcpus, limit_mib) = limit(node);
        let signed = |amount: u128| i128::try_from(amount).unwrap();
        (
            signed(limit_vcpus) - signed(used_vcpus),
            signed(limit_mib) - signed(used_mib),
        )
    }

    /// The node that a scan of all of them chooses.
    pub fn choice(&self, request: &Request, policy: Policy) -> Option<NodeId> {
        let fitting = self.nodes.values().filter_map(|node| {
            let (vcpus, mib) = self.left(node);
            let asked = asked(request);
            let after = (
                vcpus - i128::try_from(asked.0).unwrap(),
                mib - i128::try_from(asked.1).unwrap(),
            );
            let (strict, soft) = self.unmet(node, request);
            (node.is_open()
                && node.arch == request.arch
                && equipment::has_sorts(node, request)
                && self.named(node.id).leaves_room(&node.equipment, request)
                && !request.avoid.contains(&node.id)
                && strict == 0
                && after.0 >= 0
                && after.1 >= 0
                && self.keeps_headroom(node, request, policy.headroom))
            .then_some((node.tier, soft, after, self.age(node.id), node.id))
        });
        let best = fitting.min_by_key(|(tier, soft, after, age, id)| {
            let (vcpus, mib) = *after;
            let by_goal = match policy.goal {
                Goal::Pack => (vcpus, mib),
                Goal::Spread => (-vcpus, -mib),
            };
            (*tier, *soft, by_goal, *age, *id)
        });
        best.map(|(.., id)| id)
    }

    /// Its oldest claim; nodes that hold none come last.
    fn age(&self, id: NodeId) -> (bool, Option<IncarnationId>) {
        let mut claims = self.claims.keys().filter(|(node, _)| *node == id);
        let oldest = claims.next().map(|(_, incarnation)| *incarnation);
        (oldest.is_none(), oldest)
    }

    /// How many groups aren't as they ask on a node: strict ones, and others.
    fn unmet(&self, node: &Node, request: &Request) -> (usize, usize) {
        let unmet = |groups: &[Group], strict: bool, apart: bool| {
            let groups = groups.iter().filter(|group| group.strict == strict);
            groups
                .filter(|group| {
                    let mut members = group
                        .with
                        .iter()
                        .filter_map(|id| self.nodes.get(id))
                        .peekable();
                    members.peek().is_some()
                        && members.any(|other| shares(group.domain, node, other)) == apart
                })
                .count()
        };
        let both =
            |strict| unmet(&request.apart, strict, true) + unmet(&request.together, strict, false);
        (both(true), both(false))
    }

    /// The bound of the headroom, with all sums made anew.
    fn keeps_headroom(&self, node: &Node, request: &Request, level: Headroom) -> bool {
        if level == Headroom::None {
            return true;
        }
        let (Some(class), Some(before)) = (class(asked(request)), self.blocks(node)) else {
            return false;
        };
        let (vcpus, mib) = self.left(node);
        let after = blocks(
            vcpus - i128::try_from(asked(request).0).unwrap(),
            mib - i128::try_from(asked(request).1).unwrap(),
        );
        let pool = || {
            let others = self.nodes.values();
            let of = (node.arch, &node.isolation);
            others.filter(move |other| (other.arch, &other.isolation) == of)
        };
        let mut domains: BTreeMap<_, Vec<&Node>> = BTreeMap::new();
        for other in pool() {
            domains
                .entry((Some(other.id), None))
                .or_default()
                .push(other);
            if let (Headroom::Rack, Some(rack)) = (level, &other.rack) {
                domains
                    .entry((None, Some((&other.room, rack))))
                    .or_default()
                    .push(other);
            }
        }
        (0..=12).all(|k| {
            let slots = |other: &Node| self.blocks(other).unwrap_or(0) >> k;
            let all: u128 = pool().map(slots).sum();
            let sums = || {
                domains.values().map(|nodes| {
                    let load: Option<u128> = nodes.iter().map(|other| self.load(other.id, k)).sum();
                    let slots: u128 = nodes.iter().map(|other| slots(other)).sum();
                    (load != Some(0), load.map_or(u128::MAX, |load| load + slots))
                })
            };
            let coverable = k > class || {
                let most = sums().map(|(_, sum)| sum).max().unwrap_or(0);
                most.saturating_add(1 << (class - k)) <= all
            };
            let loss = (before >> k) - (after >> k);
            coverable && sums().all(|(loaded, sum)| !loaded || sum.saturating_add(loss) <= all)
        })
    }

    fn blocks(&self, node: &Node) -> Option<u128> {
        let (vcpus, mib) = self.left(node);
        (node.is_open() && vcpus >= 0 && mib >= 0).then(|| blocks(vcpus, mib))
    }

    /// The blocks of a node's guests of class `k` and above, in 2^k; nothing if one is too large.
    fn load(&self, id: NodeId, k: u32) -> Option<u128> {
        let parts = self.claims_of(id).map(|claim| {
            class(shared(claim)).map(|class| if class >= k { 1_u128 << (class - k) } else { 0 })
        });
        parts.sum()
    }
}

fn shares(domain: Domain, one: &Node, other: &Node) -> bool {
    match domain {
        Domain::Node => one.id == other.id,
        Domain::Rack => (&one.room, &one.rack) == (&other.room, &other.rack),
        Domain::Room => one.room == other.room,
    }
}

fn blocks(vcpus: i128, mib: i128) -> u128 {
    vcpus.min(mib / i128::from(BLOCK.get())).try_into().unwrap()
}

/// The smallest power of two blocks that hold so many vCPUs and MiB.
fn class((vcpus, mib): (u128, u128)) -> Option<u32> {
    (0..=12).find(|k| {
        let blocks = 1_u128 << k;
        vcpus <= blocks && mib <= blocks * u128::from(BLOCK.get())
    })
}

pub fn limit(node: &Node) -> (u128, u128) {
    let Capacity {
        vcpus,
        memory,
        foreign_memory,
        foreign_vcpus,
    } = node.capacity;
    let handed_out = u128::from(vcpus.get()) * u128::from(node.vcpu_overcommit_permille) / 1000;
    (
        handed_out.saturating_sub(foreign_vcpus.get().into()),
        memory.get().saturating_sub(foreign_memory.get()).into(),
    )
}

pub fn total_mib(claim: MemoryClaim) -> u128 {
    let MemoryClaim {
        guest,
        tables,
        vcpus,
        fixed,
    } = claim;
    [guest, tables, vcpus, fixed]
        .iter()
        .map(|part| u128::from(part.get()))
        .sum()
}

pub fn vcpus(amount: u128) -> Vcpus {
    Vcpus(amount.try_into().unwrap_or(u32::MAX))
}

pub fn memory(amount: u128) -> MemoryMib {
    MemoryMib(amount.try_into().unwrap_or(u64::MAX))
}

// ------------------------------------------------------------------ generators

pub fn node_id(number: u8) -> NodeId {
    format!("00000000-0000-7000-8000-0000000000{number:02x}")
        .parse()
        .unwrap()
}

pub fn incarnation_id(number: impl Into<u64>) -> IncarnationId {
    format!("00000000-0000-7000-9000-{:012x}", number.into())
        .parse()
        .unwrap()
}

/// Mostly usual sizes, at times a hostile one.
pub fn any_claim() -> impl Strategy<Value = Claim> {
    let usual = usual_claim();
    let hostile = (
        any::<u32>(),
        any::<[u64; 4]>(),
        any::<bool>(),
        any_assignment(),
    )
        .prop_map(|(vcpus, parts, most, assignment)| {
            let [guest, tables, for_vcpus, fixed] =
                parts.map(|part| MemoryMib(if most { u64::MAX } else { part }));
            Claim {
                vcpus: Vcpus(if most { u32::MAX } else { vcpus }),
                memory: MemoryClaim {
                    guest,
                    tables,
                    vcpus: for_vcpus,
                    fixed,
                },
                assignment,
                surplus: None,
            }
        });
    prop_oneof![5 => usual, 1 => hostile]
}

pub fn usual_claim() -> impl Strategy<Value = Claim> {
    (usual_size(), any_assignment()).prop_map(|((vcpus, memory), assignment)| Claim {
        vcpus,
        memory,
        assignment,
        surplus: None,
    })
}

fn usual_size() -> impl Strategy<Value = (Vcpus, MemoryClaim)> {
    (1_u32..=8, 1_u64..=16).prop_map(|(vcpus, gib)| {
        let vcpus = Vcpus(vcpus);
        (vcpus, MemoryClaim::of(MemoryMib(gib * 1024), vcpus))
    })
}

fn any_arch() -> impl Strategy<Value = Arch> {
    prop_oneof![4 => Just(Arch::X86_64), 1 => Just(Arch::Aarch64)]
}

/// A node of this number: few sizes, so that equal ranks are frequent.
pub fn any_node(number: u8) -> impl Strategy<Value = Node> {
    let rarely = || prop::bool::weighted(0.1);
    let capacity = (
        prop_oneof![Just(2_u32), Just(4), Just(8)],
        prop_oneof![Just(16_u64), Just(32), Just(64)],
        prop_oneof![4 => Just((0_u32, 0_u64)), 1 => (0_u32..12, 0_u64..80)],
    );
    let flags = (rarely(), rarely(), rarely(), rarely(), rarely());
    let ratio = prop_oneof![Just(1000_u32), Just(1500), Just(4000)];
    let tier = prop_oneof![3 => Just(0_u8), 1 => 0_u8..3];
    let labels = prop_oneof![3 => Just(None), 1 => Just(Some("nvme")), 1 => Just(Some("sata"))];
    let soft = (
        tier,
        any_site("a", "b"),
        any_site("east", "west"),
        labels,
        any_isolation(),
        any_equipment(),
    );
    (capacity, ratio, any_arch(), flags, soft).prop_map(
        move |((threads, gib, (foreign_vcpus, foreign_gib)), ratio, arch, flags, soft)| Node {
            id: node_id(number),
            name: format!("node-{number:02}").parse().unwrap(),
            arch,
            capacity: Capacity {
                vcpus: Vcpus(threads),
                memory: MemoryMib(gib * 1024),
                foreign_memory: MemoryMib(foreign_gib * 1024),
                foreign_vcpus: Vcpus(foreign_vcpus),
            },
            vcpu_overcommit_permille: ratio,
            cordoned: flags.0,
            quarantined: flags.4,
            reachable: !flags.1,
            resyncing: flags.2,
            distrust: flags.3.then_some(Distrust::FingerprintChanged),
            tier: soft.0,
            rack: soft.1,
            room: soft.2,
            labels: soft
                .3
                .map(|disk| (disk_label(), disk.to_owned()))
                .into_iter()
                .collect(),
            isolation: soft.4,
            equipment: Arc::new(soft.5),
        },
    )
}

pub fn any_delta(claim: impl Strategy<Value = Claim>) -> impl Strategy<Value = Delta> {
    prop_oneof![
        3 => (0_u8..6).prop_flat_map(any_node).prop_map(Delta::NodePut),
        1 => (0_u8..6).prop_map(|node| Delta::NodeRemoved(node_id(node))),
        5 => (0_u8..6, 0_u8..6, claim).prop_map(|(node, incarnation, claim)| Delta::Claimed {
            node: node_id(node),
            incarnation: incarnation_id(incarnation),
            claim,
        }),
        3 => (0_u8..6, 0_u8..6).prop_map(|(node, incarnation)| Delta::Released {
            node: node_id(node),
            incarnation: incarnation_id(incarnation),
        }),
    ]
}

/// A request with any groups and needs.
pub fn any_request() -> impl Strategy<Value = Request> {
    let groups = || prop::collection::vec(any_group(), 0..3);
    let avoid = prop::collection::btree_set(0_u8..12, 0..3);
    (lone_request(), avoid, groups(), groups()).prop_map(|(request, avoid, apart, together)| {
        Request {
            avoid: avoid.into_iter().map(node_id).collect(),
            apart,
            together,
            ..request
        }
    })
}

/// A request without groups.
pub fn lone_request() -> impl Strategy<Value = Request> {
    (any_arch(), usual_size(), any_needs(), any_isolation()).prop_map(
        |(arch, (vcpus, memory), needs, isolation)| Request {
            needs,
            isolation,
            ..Request::new(arch, vcpus, memory)
        },
    )
}

/// Mostly soft, so that most requests fit somewhere. Node 12 isn't known.
fn any_group() -> impl Strategy<Value = Group> {
    let domain = prop_oneof![Just(Domain::Node), Just(Domain::Rack), Just(Domain::Room)];
    let with = prop::collection::btree_set(0_u8..13, 0..4);
    (domain, prop::bool::weighted(0.25), with).prop_map(|(domain, strict, with)| Group {
        called: None,
        domain,
        strict,
        with: with.into_iter().map(node_id).collect(),
    })
}

fn any_site(one: &'static str, other: &'static str) -> impl Strategy<Value = Option<Name>> {
    let site = prop_oneof![Just(None), Just(Some(one)), Just(Some(other))];
    site.prop_map(|site| site.map(|site| site.parse().unwrap()))
}

fn disk_label() -> Name {
    "disk".parse().unwrap()
}

pub fn any_policy() -> impl Strategy<Value = Policy> {
    let headroom = prop_oneof![
        2 => Just(Headroom::None),
        1 => Just(Headroom::Node),
        1 => Just(Headroom::Rack),
    ];
    (any::<bool>(), headroom).prop_map(|(pack, headroom)| Policy {
        goal: if pack { Goal::Pack } else { Goal::Spread },
        headroom,
    })
}

/// A dozen nodes, and claims of which most fit their node.
pub fn any_fabric() -> impl Strategy<Value = Vec<Delta>> {
    let nodes: Vec<_> = (0..12)
        .map(|number| any_node(number).prop_map(Delta::NodePut))
        .collect();
    let claims = prop::collection::vec((0_u8..12, 0_u8..40, usual_claim()), 0..24);
    (nodes, claims).prop_map(|(mut deltas, claims)| {
        let mut taken = BTreeSet::new();
        for (node, incarnation, claim) in claims {
            if taken.insert(incarnation) {
                let (node, incarnation) = (node_id(node), incarnation_id(incarnation));
                deltas.push(Delta::Claimed {
                    node,
                    incarnation,
                    claim,
                });
            }
        }
        deltas
    })
}

pub fn both(deltas: Vec<Delta>) -> (Fleet, Model) {
    let (mut fleet, mut model) = (Fleet::default(), Model::default());
    for delta in deltas {
        fleet.apply(delta.clone());
        model.apply(delta);
    }
    (fleet, model)
}
