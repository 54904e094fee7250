//! What still fits: by flavor or stated size, for the fabric or for a tenant, and what would survive
//! a loss.
//!
//! The scheduler counts and audits; here its numbers meet quotas, and those are left out that the
//! caller may not see: how full the nodes are is for those who run them, as with
//! [`explain`](super::explain).

use std::{collections::BTreeSet, sync::Arc};

use kapok_proto::{
    common::v1::Arch as WireArch,
    fabric::v1::{self as wire, GetCapacityRequest, capacity_service_server::CapacityService},
};
use kapok_scheduler::{
    Audit, Domain, Fits, Free, Headroom, NodeView, Outcome, Policy, Remaining, Request as Shape,
    audit, capacity,
};
use kapok_types::{
    MemoryMib, Name, Needs, Vcpus,
    instance::{Arch, MemoryClaim},
};
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, optional},
    status, view,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{Amounts, Fabric, Scope, city, room::Room, tenant::isolation},
    ledger::Snapshot,
};

/// Stated sizes, and flavors, that are counted at most.
const MOST_SHAPES: usize = 16;
const MOST_FLAVORS: usize = 64;
/// vCPUs and memory, in MiB, of a size at most: an instance's limits.
const MOST_VCPUS: u32 = 512;
const MOST_MEMORY_MIB: u64 = 16_777_216;
const LEAST_MEMORY_MIB: u64 = 16;
/// Steps of all searches of one audit together.
const AUDIT_STEPS: u32 = 20_000;
/// Names that an audit gives.
const MOST_NAMED: usize = 32;

/// A size that is counted.
#[derive(Debug, Clone)]
struct Size {
    flavor: Option<Name>,
    vcpus: Vcpus,
    memory: MemoryMib,
    root_disk_bytes: u64,
    needs: Needs,
}

/// Everything that an answer is counted from.
struct Question {
    snapshot: Arc<Snapshot>,
    tenant: Option<Name>,
    sizes: Vec<Size>,
    policy: Policy,
    /// Whether the nodes' own numbers are shown.
    nodes_are_shown: bool,
    /// Of the tenants on the way to the root, those that the caller reaches.
    reached: BTreeSet<Name>,
}

#[tonic::async_trait]
impl CapacityService for Api {
    async fn get_capacity(
        &self,
        request: Request<GetCapacityRequest>,
    ) -> Result<Response<wire::Capacity>, Status> {
        let caller = self.caller(&request)?;
        let GetCapacityRequest { tenant, shapes } = request.into_inner();
        let snapshot = self.ledger.snapshot();
        let tenant = self.counted_for(&caller, &snapshot.fabric, &tenant)?;
        let sizes = if shapes.is_empty() {
            self.flavors(&caller, &snapshot.fabric, tenant.as_ref())
        } else {
            stated(&shapes)?
        };
        let path = tenant.iter().flat_map(|one| snapshot.fabric.upwards(one));
        let reached = path.filter(|one| caller.scope.covers(&snapshot.fabric, one));
        let question = Question {
            reached: reached.cloned().collect(),
            tenant,
            sizes,
            policy: self.ledger.rules().placement,
            nodes_are_shown: self.may(&caller, Action::NodeList, &Object::Fabric),
            snapshot,
        };
        let answer = self.ponder(move || question.answer()).await?;
        Ok(Response::new(answer))
    }
}

impl Api {
    /// The tenant that is counted for; none for the fabric.
    fn counted_for(
        &self,
        caller: &Caller,
        fabric: &Fabric,
        which: &str,
    ) -> Result<Option<Name>, Status> {
        let named = optional::<Name>("tenant", which)?;
        let is_a_tenants = matches!(&caller.scope, Scope::Tenants(named) if !named.is_empty());
        let tenant = match named {
            Some(named) => named,
            None if is_a_tenants && !self.may(caller, Action::CapacityGet, &Object::Fabric) => {
                if caller.home == city() {
                    let reason = "must be stated: you are in several";
                    return Err(status::bad_field("tenant", reason));
                }
                caller.home.clone()
            }
            None => {
                self.authorize(caller, Action::CapacityGet, &Object::Fabric, "")?;
                return Ok(None);
            }
        };
        let which = tenant.as_str();
        self.authorize(caller, Action::QuotaGet, &about::tenant(&tenant), which)?;
        if fabric.tenants.contains_key(&tenant) {
            Ok(Some(tenant))
        } else {
            Err(absent("tenant", which))
        }
    }

    /// The flavors that count: those that may be used there, and that the caller may see.
    fn flavors(&self, caller: &Caller, fabric: &Fabric, tenant: Option<&Name>) -> Vec<Size> {
        let usable = fabric.flavors.values().filter(|flavor| {
            tenant.is_none_or(|tenant| fabric.flavor(&flavor.name, tenant).is_some())
                && self.may(caller, Action::FlavorGet, &about::flavor(flavor))
        });
        let sizes = usable.take(MOST_FLAVORS).map(|flavor| Size {
            flavor: Some(flavor.name.clone()),
            vcpus: flavor.vcpus,
            memory: flavor.memory,
            root_disk_bytes: flavor.root_disk.unwrap_or_default().get(),
            needs: flavor.needs.clone(),
        });
        sizes.collect()
    }
}

fn stated(shapes: &[wire::CapacityShape]) -> Result<Vec<Size>, Status> {
    if shapes.len() > MOST_SHAPES {
        let reason = format!("are {}; at most {MOST_SHAPES} are counted", shapes.len());
        return Err(status::bad_field("shapes", reason));
    }
    let size = |(number, shape): (usize, &wire::CapacityShape)| {
        let wrong = |field: &str, reason: String| {
            Err(status::bad_field(
                &format!("shapes[{number}].{field}"),
                reason,
            ))
        };
        if !(1..=MOST_VCPUS).contains(&shape.vcpus) {
            let reason = format!("is {}; must be 1 to {MOST_VCPUS}", shape.vcpus);
            return wrong("vcpus", reason);
        }
        if !(LEAST_MEMORY_MIB..=MOST_MEMORY_MIB).contains(&shape.memory_mib) {
            let memory = shape.memory_mib;
            let reason = format!("is {memory}; must be {LEAST_MEMORY_MIB} to {MOST_MEMORY_MIB}");
            return wrong("memory_mib", reason);
        }
        Ok(Size {
            flavor: None,
            vcpus: Vcpus(shape.vcpus),
            memory: MemoryMib(shape.memory_mib),
            root_disk_bytes: shape.root_disk_bytes,
            needs: Needs::default(),
        })
    };
    shapes.iter().enumerate().map(size).collect()
}

impl Size {
    /// What one of it counts for in quotas.
    fn amounts(&self) -> Amounts {
        Amounts {
            vcpus: self.vcpus.get().into(),
            memory_mib: self.memory.get(),
            instances: 1,
            volumes: 1,
            volume_bytes: self.root_disk_bytes,
            addresses: 1,
            gpus: self.needs.gpus().into(),
        }
    }
}

impl Question {
    fn answer(&self) -> wire::Capacity {
        let fabric = &self.snapshot.fabric;
        let fleet = &fabric.fleet;
        let arches: BTreeSet<Arch> = fleet.nodes().map(|view| view.node().arch).collect();
        let class = self.tenant.as_ref();
        let class = class.and_then(|tenant| isolation(&fabric.tenants, tenant));
        let each: Vec<_> = (self.sizes.iter())
            .flat_map(|size| arches.iter().map(move |arch| (size, *arch)))
            .collect();
        let shapes: Vec<_> = (each.iter())
            .map(|(size, arch)| Shape {
                needs: size.needs.clone(),
                isolation: class.cloned(),
                ..Shape::new(*arch, size.vcpus, MemoryClaim::of(size.memory, size.vcpus))
            })
            .collect();
        let with = |headroom| {
            capacity(
                fleet,
                &shapes,
                &Policy {
                    headroom,
                    ..self.policy
                },
            )
        };
        let has_racks = fleet.nodes().any(|view| view.node().rack.is_some());
        let wanted = |level, shown| self.policy.headroom == level || shown;
        let plain = with(Headroom::None);
        let node = wanted(Headroom::Node, self.nodes_are_shown).then(|| with(Headroom::Node));
        let rack =
            wanted(Headroom::Rack, self.nodes_are_shown && has_racks).then(|| with(Headroom::Rack));
        let counted = |remaining: &Option<Remaining>, at: usize| {
            let fits: Option<&Fits> = remaining.as_ref().and_then(|one| one.fits.get(at));
            fits.and_then(|fits| fits.within_headroom)
        };
        let fits = each.iter().zip(&plain.fits).enumerate();
        let fits = fits.map(|(at, ((size, arch), fits))| {
            let (node, rack) = (counted(&node, at), counted(&rack, at));
            self.fits(size, *arch, fits.in_all, node, rack)
        });
        let shown = self.nodes_are_shown;
        wire::Capacity {
            tenant: self
                .tenant
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            fits: fits.collect(),
            fabric: shown.then(|| self.fabric(&plain, has_racks)),
        }
    }

    /// One size's numbers, and what keeps the next one out.
    fn fits(
        &self,
        size: &Size,
        arch: Arch,
        nodes: u64,
        node: Option<u64>,
        rack: Option<u64>,
    ) -> wire::CapacityFits {
        let fabric = &self.snapshot.fabric;
        let spared = match self.policy.headroom {
            Headroom::None => None,
            Headroom::Node => node,
            Headroom::Rack => rack,
        };
        let room = (self.tenant.as_ref()).map_or(Room::Unlimited, |tenant| {
            fabric.quota_room(tenant, size.amounts())
        });
        let mut shown = wire::CapacityFits {
            flavor: size
                .flavor
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            vcpus: size.vcpus.get(),
            memory_mib: size.memory.get(),
            arch: WireArch::from(arch).into(),
            count: spared.unwrap_or(nodes),
            bound: match spared {
                Some(spared) if spared < nodes => wire::CapacityBound::Headroom,
                _ => wire::CapacityBound::Nodes,
            }
            .into(),
            ..wire::CapacityFits::default()
        };
        if self.nodes_are_shown {
            shown.nodes = Some(nodes);
            shown.with_node_spare = node;
            shown.with_rack_spare = rack;
        }
        if let Room::Only {
            count,
            tenant,
            dimensions,
        } = room
        {
            shown.quota = Some(count);
            if count < shown.count {
                shown.count = count;
                shown.bound = wire::CapacityBound::Quota.into();
                let reached = self.reached.contains(&tenant);
                shown.bound_tenant = if reached {
                    tenant.to_string()
                } else {
                    String::new()
                };
                let dimensions = dimensions.into_iter().map(view::dimension);
                shown.bound_dimensions = dimensions.map(Into::into).collect();
            }
        }
        let closed = (self.tenant.as_ref()).and_then(|tenant| fabric.closed_tenant(tenant));
        if let Some(closed) = closed {
            shown.count = 0;
            shown.bound = wire::CapacityBound::Tenant.into();
            let reached = self.reached.contains(closed);
            shown.bound_tenant = if reached {
                closed.to_string()
            } else {
                String::new()
            };
            shown.bound_dimensions.clear();
        }
        shown
    }

    /// What the nodes have, and would survive.
    fn fabric(&self, remaining: &Remaining, has_racks: bool) -> wire::FabricCapacity {
        let fleet = &self.snapshot.fabric.fleet;
        let audited = |level| {
            let domains = u32::try_from(fleet.len().max(1)).unwrap_or(u32::MAX);
            spare(&audit(fleet, level, AUDIT_STEPS / domains))
        };
        let over = fleet.nodes().filter_map(|view| {
            let overcommitted = view::overcommitted(view);
            (!overcommitted.is_empty()).then(|| wire::OvercommittedNode {
                node: NodeView::node(view).name.to_string(),
                overcommitted,
            })
        });
        wire::FabricCapacity {
            free: Some(free(&remaining.free)),
            stranded: Some(free(&remaining.stranded)),
            node_spare: Some(audited(Headroom::Node)),
            rack_spare: has_racks.then(|| audited(Headroom::Rack)),
            headroom: match self.policy.headroom {
                Headroom::None => "none",
                Headroom::Node => "node",
                Headroom::Rack => "rack",
            }
            .into(),
            overcommitted_nodes: over.collect(),
        }
    }
}

fn free(free: &Free) -> wire::FreeCapacity {
    wire::FreeCapacity {
        nodes: free.nodes,
        vcpus: free.vcpus,
        memory_mib: free.memory.get(),
    }
}

fn spare(audits: &[Audit]) -> wire::SpareAudit {
    let named = |outcome| {
        let these = audits.iter().filter(move |one| one.outcome == outcome);
        these.map(|one| match (&one.room, one.domain) {
            (Some(room), Domain::Rack) => format!("{room}/{}", one.name),
            _ => one.name.to_string(),
        })
    };
    let worst = audits.iter().map(|one| one.outcome).max();
    wire::SpareAudit {
        outcome: match worst.unwrap_or(Outcome::Survives) {
            Outcome::Survives => wire::SpareOutcome::Holds,
            Outcome::Undecided => wire::SpareOutcome::Undecided,
            Outcome::Lost => wire::SpareOutcome::Fails,
        }
        .into(),
        audited: u32::try_from(audits.len()).unwrap_or(u32::MAX),
        lost: named(Outcome::Lost).take(MOST_NAMED).collect(),
        undecided: named(Outcome::Undecided).take(MOST_NAMED).collect(),
    }
}
