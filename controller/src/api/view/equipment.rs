//! What nodes have beyond amounts, and what of it is taken.

use std::collections::{BTreeMap, BTreeSet};

use kapok_proto::{common::v1 as common, fabric::v1 as wire};
use kapok_scheduler::NodeView;
use kapok_types::{Assignment, equipment::PageSize};

use super::View;
use crate::fabric::{self, Incarnation};

/// What is an incarnation's own on its node, if anything is.
pub(in crate::api) fn assignment(one: &Incarnation) -> Option<common::Assignment> {
    one.claim.assignment.as_deref().map(Into::into)
}

/// What is taken of one cell.
#[derive(Default)]
struct Taken {
    threads: BTreeSet<u16>,
    pages: BTreeMap<PageSize, u64>,
}

impl View<'_> {
    /// A node with what it has beyond amounts: too much to say of each in a list.
    pub(in crate::api) fn whole_node(self, node: &fabric::Node) -> wire::Node {
        let view = self.fabric.fleet.node(node.id);
        let claims = view.into_iter().flat_map(NodeView::claims);
        let own = claims.flat_map(|(_, claim)| claim.owned());
        wire::Node {
            equipment: Some(node.equipment.as_ref().into()),
            equipment_use: Some(in_use(own)),
            ..self.node(node)
        }
    }
}

fn in_use<'a>(own: impl Iterator<Item = &'a Assignment>) -> wire::EquipmentUse {
    let mut cells = BTreeMap::<u16, Taken>::new();
    let mut devices = BTreeSet::new();
    for one in own {
        devices.extend(&one.devices);
        for share in &one.cells {
            let taken = cells.entry(share.cell).or_default();
            taken.threads.extend(&share.threads);
            if let Some(size) = one.huge_pages {
                let pages = taken.pages.entry(size).or_default();
                *pages = pages.saturating_add(share.memory.get().div_ceil(size.mib()));
            }
        }
    }
    let cell = |(cell, taken): (u16, Taken)| wire::CellUse {
        cell: cell.into(),
        threads: taken.threads.into_iter().map(u32::from).collect(),
        pages: (taken.pages.into_iter())
            .map(|(size, count)| common::CellPages {
                size: size.as_str().into(),
                count,
            })
            .collect(),
    };
    wire::EquipmentUse {
        cells: cells.into_iter().map(cell).collect(),
        devices: devices.into_iter().map(ToString::to_string).collect(),
    }
}
