//! What is an incarnation's own once it is of another size, on the node that it is on.
//!
//! What it holds is enough if it can be: then nothing is asked of anybody, and who asks for the old
//! size again is given what the guest has, but where its cells were given up for one that holds all.
//! Else all is chosen anew, as a placement would, but for an order of preference: the cells that it
//! is in come first, and in each cell the threads that are its own already. So a guest that grows
//! keeps what it has wherever it stays.
//!
//! The node is looked at as it is without the incarnation: what it holds alone is free for it.

use std::cmp::Reverse;

use kapok_types::{
    Assignment, MemoryMib, Vcpus,
    equipment::{Cell, CellShare, PciAddress},
};

use super::{Ask, devices, left, near};
use crate::{held::Claim, in_use::devices_left, node::NodeView, request::Request};

/// All that a claim names, cell by cell: those of its assignment come first, and in each the
/// threads of the assignment.
struct Holding {
    cells: Vec<CellShare>,
    devices: Vec<PciAddress>,
}

/// Enough of what it holds, as far as the node still has it and nobody else does.
pub(crate) fn within(view: NodeView<'_>, request: &Request, claim: &Claim) -> Option<Assignment> {
    let holding = Holding::of(claim);
    let left = left(view);
    let kept = holding.cells.iter().filter_map(|share| {
        let there = left.iter().find(|cell| cell.id == share.cell)?;
        let is_there = |thread: &&u16| there.dedicated.contains(thread);
        let pages = (there.pages.iter())
            .map(|(size, pages)| (*size, share.memory.get().div_ceil(size.mib()).min(*pages)));
        Some(Cell {
            id: there.id,
            dedicated: share.threads.iter().filter(is_there).copied().collect(),
            pages: pages.collect(),
        })
    });
    let kept: Vec<_> = kept.collect();
    let cells = Ask::of(request).shares(&kept, |_| ())?;
    let mut free = devices_left(&view.node().equipment, view.held.in_use());
    free.retain(|device| holding.devices.contains(&device.address));
    Some(Assignment {
        devices: devices(&free, request, &cells, |_| true)?,
        cells,
        huge_pages: request.needs.huge_pages,
    })
}

/// A new choice from all that is left; nothing where a placement finds none either.
pub(crate) fn anew(view: NodeView<'_>, request: &Request, claim: &Claim) -> Option<Assignment> {
    let holding = Holding::of(claim);
    let mut left = left(view);
    for cell in &mut left {
        let own = holding.share(cell.id).map_or(&[][..], |own| &own.threads);
        let place = |thread: &u16| own.iter().position(|one| one == thread);
        (cell.dedicated).sort_by_key(|thread| place(thread).unwrap_or(usize::MAX));
    }
    let free = devices_left(&view.node().equipment, view.held.in_use());
    let place = |cell: &Cell| holding.cells.iter().position(|one| one.cell == cell.id);
    let cells = Ask::of(request).shares(&left, |cell| {
        let place = place(cell).unwrap_or(usize::MAX);
        (Reverse(place), near(cell, &free, request))
    })?;
    let is_own = |address| holding.devices.contains(&address);
    Some(Assignment {
        devices: devices(&free, request, &cells, is_own)?,
        cells,
        huge_pages: request.needs.huge_pages,
    })
}

/// What a claim names and an assignment doesn't. Of the pages of a cell a guest has those of one
/// assignment or those of the other, never both.
pub(crate) fn surplus(claim: &Claim, assignment: &Assignment) -> Option<Box<Assignment>> {
    let holding = Holding::of(claim);
    let shares = &assignment.cells;
    let is_named = |thread: &u16| shares.iter().any(|share| share.threads.contains(thread));
    let beyond = holding.cells.into_iter().map(|mut share| {
        let named = shares.iter().find(|one| one.cell == share.cell);
        let named = named.map_or(MemoryMib::ZERO, |one| one.memory);
        share.threads.retain(|thread| !is_named(thread));
        share.vcpus = Vcpus(u32::try_from(share.threads.len()).unwrap_or(u32::MAX));
        share.memory = match assignment.huge_pages {
            Some(_) => share.memory.saturating_sub(named),
            None => MemoryMib::ZERO,
        };
        share
    });
    let mut devices = holding.devices;
    devices.retain(|address| !assignment.devices.contains(address));
    let beyond = Assignment {
        cells: beyond
            .filter(|share| !share.threads.is_empty() || share.memory > MemoryMib::ZERO)
            .collect(),
        huge_pages: assignment.huge_pages,
        devices,
    };
    (!beyond.is_none()).then(|| Box::new(beyond))
}

impl Holding {
    fn of(claim: &Claim) -> Self {
        let mut all = Self {
            cells: Vec::new(),
            devices: Vec::new(),
        };
        for own in claim.owned() {
            for share in &own.cells {
                match all.cells.iter_mut().find(|one| one.cell == share.cell) {
                    Some(known) => {
                        known.threads.extend(&share.threads);
                        known.memory = known.memory.saturating_add(share.memory);
                    }
                    None => all.cells.push(share.clone()),
                }
            }
            all.devices.extend(&own.devices);
        }
        all
    }

    fn share(&self, cell: u16) -> Option<&CellShare> {
        self.cells.iter().find(|share| share.cell == cell)
    }
}

#[cfg(test)]
mod tests;
