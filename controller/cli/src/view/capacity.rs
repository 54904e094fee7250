//! What still fits.

use kapok_proto::{common::v1::Arch, fabric::v1 as wire};
use kapok_types::MemoryMib;
use serde::Serialize;

use super::{node::Overcommitted, some, word};
use crate::{
    human::{dash, or_dash, plain},
    output::{columns, pairs},
};

/// An answer to `capacity`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Capacity {
    /// Null for the fabric.
    tenant: Option<String>,
    fits: Vec<Fits>,
    /// Null for whoever doesn't run nodes.
    fabric: Option<Fabric>,
}

/// How many of one size.
#[derive(Debug, Clone, Serialize)]
struct Fits {
    flavor: Option<String>,
    vcpus: u32,
    memory_mib: u64,
    arch: String,
    count: u64,
    bound: String,
    bound_tenant: Option<String>,
    bound_dimensions: Vec<String>,
    quota: Option<u64>,
    nodes: Option<u64>,
    with_node_spare: Option<u64>,
    with_rack_spare: Option<u64>,
}

/// What the nodes have.
#[derive(Debug, Clone, Serialize)]
struct Fabric {
    free: Free,
    stranded: Free,
    node_spare: Option<Spare>,
    rack_spare: Option<Spare>,
    headroom: String,
    overcommitted_nodes: Vec<OvercommittedNode>,
}

/// An amount of every dimension.
#[derive(Debug, Clone, Serialize)]
struct Free {
    nodes: u64,
    vcpus: u64,
    memory_mib: u64,
}

/// Whether any one could be lost.
#[derive(Debug, Clone, Serialize)]
struct Spare {
    outcome: String,
    audited: u32,
    lost: Vec<String>,
    undecided: Vec<String>,
}

/// A node whose claims exceed what it has.
#[derive(Debug, Clone, Serialize)]
struct OvercommittedNode {
    node: String,
    overcommitted: Vec<Overcommitted>,
}

impl From<wire::Capacity> for Capacity {
    fn from(capacity: wire::Capacity) -> Self {
        Self {
            tenant: some(capacity.tenant),
            fits: capacity.fits.into_iter().map(Fits::from).collect(),
            fabric: capacity.fabric.map(Fabric::from),
        }
    }
}

impl From<wire::CapacityFits> for Fits {
    fn from(fits: wire::CapacityFits) -> Self {
        let dimensions = fits.bound_dimensions.iter();
        Self {
            bound_dimensions: dimensions
                .map(|one| word!(wire::Dimension, "DIMENSION_", *one))
                .collect(),
            flavor: some(fits.flavor),
            vcpus: fits.vcpus,
            memory_mib: fits.memory_mib,
            arch: word!(Arch, "ARCH_", fits.arch),
            count: fits.count,
            bound: word!(wire::CapacityBound, "CAPACITY_BOUND_", fits.bound),
            bound_tenant: some(fits.bound_tenant),
            quota: fits.quota,
            nodes: fits.nodes,
            with_node_spare: fits.with_node_spare,
            with_rack_spare: fits.with_rack_spare,
        }
    }
}

impl From<wire::FabricCapacity> for Fabric {
    fn from(fabric: wire::FabricCapacity) -> Self {
        let free = |free: Option<wire::FreeCapacity>| {
            let wire::FreeCapacity {
                nodes,
                vcpus,
                memory_mib,
            } = free.unwrap_or_default();
            Free {
                nodes,
                vcpus,
                memory_mib,
            }
        };
        let over = fabric.overcommitted_nodes.into_iter();
        Self {
            free: free(fabric.free),
            stranded: free(fabric.stranded),
            node_spare: fabric.node_spare.map(Spare::from),
            rack_spare: fabric.rack_spare.map(Spare::from),
            headroom: fabric.headroom,
            overcommitted_nodes: over
                .map(|one| OvercommittedNode {
                    node: one.node,
                    overcommitted: (one.overcommitted.into_iter())
                        .map(Overcommitted::from)
                        .collect(),
                })
                .collect(),
        }
    }
}

impl From<wire::SpareAudit> for Spare {
    fn from(audit: wire::SpareAudit) -> Self {
        Self {
            outcome: word!(wire::SpareOutcome, "SPARE_OUTCOME_", audit.outcome),
            audited: audit.audited,
            lost: audit.lost,
            undecided: audit.undecided,
        }
    }
}

impl Capacity {
    /// The answer for people.
    pub(crate) fn text(&self) -> String {
        let mut headers = vec![
            "FLAVOR", "VCPUS", "MEMORY", "ARCH", "FITS", "BOUND", "QUOTA",
        ];
        let racks = self.fits.iter().any(|one| one.with_rack_spare.is_some());
        if self.fabric.is_some() {
            headers.extend(["NODES", "NODE SPARE"]);
            headers.extend(racks.then_some("RACK SPARE"));
        }
        let rows = self
            .fits
            .iter()
            .map(|one| one.row(self.fabric.is_some(), racks));
        let table = if self.fits.is_empty() {
            "no flavors; state a size: kapok capacity --vcpus 2 --memory 4GiB\n".to_owned()
        } else {
            columns(&headers, rows)
        };
        match &self.fabric {
            Some(fabric) => format!("{table}\n{}", fabric.text()),
            None => table,
        }
    }
}

impl Fits {
    fn row(&self, with_nodes: bool, with_racks: bool) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or_else(dash, |number| number.to_string());
        let mut row = vec![
            or_dash(self.flavor.as_deref().unwrap_or_default()),
            self.vcpus.to_string(),
            MemoryMib(self.memory_mib).to_string(),
            self.arch.clone(),
            self.count.to_string(),
            self.bound(),
            number(self.quota),
        ];
        if with_nodes {
            row.extend([number(self.nodes), number(self.with_node_spare)]);
        }
        if with_racks {
            row.push(number(self.with_rack_spare));
        }
        row
    }

    /// What keeps the next one out: "nodes", "quota of water (vcpus)".
    fn bound(&self) -> String {
        let of = self.bound_tenant.as_ref().map_or_else(
            || match self.bound.as_str() {
                "quota" => " above".to_owned(),
                _ => String::new(),
            },
            |tenant| match self.bound.as_str() {
                "quota" => format!(" of {}", plain(tenant)),
                _ => format!(" {}", plain(tenant)),
            },
        );
        let dimensions = if self.bound_dimensions.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.bound_dimensions.join(", "))
        };
        format!("{}{of}{dimensions}", self.bound)
    }
}

impl Fabric {
    fn text(&self) -> String {
        let amount = |free: &Free| {
            format!(
                "{} vCPUs, {} of memory, on {} nodes",
                free.vcpus,
                MemoryMib(free.memory_mib),
                free.nodes
            )
        };
        let spare = |spare: &Option<Spare>| spare.as_ref().map_or_else(dash, Spare::text);
        let over = self.overcommitted_nodes.iter().map(|one| {
            let each = one.overcommitted.iter().map(ToString::to_string);
            format!(
                "{} by {}",
                plain(&one.node),
                each.collect::<Vec<_>>().join(" and ")
            )
        });
        pairs(&[
            ("Free", amount(&self.free)),
            ("Stranded", amount(&self.stranded)),
            ("Headroom kept", plain(&self.headroom)),
            ("Loss of any node", spare(&self.node_spare)),
            ("Loss of any rack", spare(&self.rack_spare)),
            (
                "Overcommitted",
                or_dash(&over.collect::<Vec<_>>().join(", ")),
            ),
        ])
    }
}

impl Spare {
    fn text(&self) -> String {
        let names = |names: &[String]| plain(&names.join(", "));
        match self.outcome.as_str() {
            "holds" => format!("holds ({} checked)", self.audited),
            "fails" => format!("doesn't hold for {}", names(&self.lost)),
            "undecided" => format!(
                "not found within bounds for {}; nothing is known to fail",
                names(&self.undecided)
            ),
            other => other.to_owned(),
        }
    }
}
