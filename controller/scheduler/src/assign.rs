//! Which host threads, huge pages and devices of a node become an instance's own.
//!
//! An instance with dedicated CPUs or huge pages is bound to cells: to one if it fits, else to as
//! few as it fits when split evenly, up to what it allows. What an even split leaves over goes to
//! the first of its cells. The tightest cell is taken that holds its part: the one with the fewest
//! threads left, then with the fewest pages; but before that, one near to the asked devices.
//! Threads are taken in the order of the cell, in which siblings stand together. Devices near to
//! the instance's cells come first, then low addresses. Only what a node has beyond amounts is
//! looked at here.
//!
//! **Invariant:** the choice is a function of the node and of the request alone, and exists exactly
//! if each of [`lacks_cpus`], [`lacks_pages`], [`lacks_cells`] and [`lacks_devices`] says no.

use std::cmp::Reverse;

use kapok_types::{
    Assignment, MemoryMib, Name, Vcpus,
    equipment::{Cell, CellShare, Device, PageSize, PciAddress},
};

use crate::{
    filter::{CellFree, Rejection},
    held::{to_memory, to_vcpus},
    in_use::{Excess, cells_left, devices_left},
    node::NodeView,
    request::Request,
};

pub(crate) mod change;

/// What is asked of cells.
#[derive(Debug, Clone, Copy)]
struct Ask {
    vcpus: u32,
    memory: MemoryMib,
    dedicated: bool,
    pages: Option<PageSize>,
    most_cells: u8,
}

/// What is asked of one cell.
#[derive(Debug, Clone, Copy)]
struct Part {
    vcpus: u32,
    memory: MemoryMib,
}

/// Whether something of the node would be the instance's own.
pub(crate) fn is_exact(request: &Request) -> bool {
    request.needs.is_bound() || !request.needs.devices.is_empty()
}

/// What would be the instance's own on this node; nothing if it needs nothing of the kind, or if
/// the node can't give it.
pub(crate) fn assign(view: NodeView<'_>, request: &Request) -> Option<Assignment> {
    if !is_exact(request) || !may_fit(view, request) {
        return None;
    }
    let lacks = [lacks_cpus, lacks_pages, lacks_cells, lacks_devices];
    if lacks.iter().any(|lacks| lacks(view, request).is_some()) {
        return None;
    }
    let free = devices_left(&view.node().equipment, view.held.in_use());
    let mut cells = Vec::new();
    if request.needs.is_bound() {
        let left = left(view);
        cells = Ask::of(request).shares(&left, |cell| near(cell, &free, request))?;
    }
    let devices = devices(&free, request, &cells, |_| false)?;
    Some(Assignment {
        cells,
        huge_pages: request.needs.huge_pages,
        devices,
    })
}

/// The devices that it is given with these cells: of each class preferred ones first, then near
/// ones, then those of low addresses. Nothing if there are too few.
fn devices(
    free: &[&Device],
    request: &Request,
    cells: &[CellShare],
    is_preferred: impl Fn(PciAddress) -> bool,
) -> Option<Vec<PciAddress>> {
    let is_near = |device: &Device| cells.iter().any(|share| device.cell == Some(share.cell));
    let mut devices = Vec::new();
    for (class, count) in &request.needs.devices {
        let mut of_class: Vec<_> = free.iter().filter(|one| one.class == *class).collect();
        of_class.sort_by_key(|one| (!is_preferred(one.address), !is_near(one), one.address));
        let chosen = of_class.get(..usize::try_from(*count).ok()?)?;
        devices.extend(chosen.iter().map(|one| one.address));
    }
    devices.sort_unstable();
    Some(devices)
}

/// A look at the sums, for the many nodes of which everything is taken. Where something is claimed
/// that isn't there, they say too little is left: rightly, as no more is given out then.
fn may_fit(view: NodeView<'_>, request: &Request) -> bool {
    let (needs, equipment) = (&request.needs, &view.node().equipment);
    let Some(in_use) = view.held.in_use() else {
        return true;
    };
    let threads = || {
        let cells = equipment.cells.iter();
        let there: usize = cells.map(|cell| cell.dedicated.len()).sum();
        let left = there.saturating_sub(in_use.threads());
        u64::try_from(left).is_ok_and(|left| left >= request.vcpus.get().into())
    };
    let pages = |size: PageSize| {
        let cells = equipment.cells.iter();
        let there = cells.filter_map(|cell| cell.pages.get(&size));
        let there: u128 = there.map(|pages| u128::from(*pages)).sum();
        let asked = request.memory.guest.get().div_ceil(size.mib());
        there.saturating_sub(in_use.pages(size)) >= u128::from(asked)
    };
    let devices = || {
        let left = (equipment.devices.len()).saturating_sub(in_use.devices());
        let asked = needs.devices.values().map(|count| u64::from(*count)).sum();
        u64::try_from(left).is_ok_and(|left| left >= asked)
    };
    (!needs.dedicated_cpus || threads()) && needs.huge_pages.is_none_or(pages) && devices()
}

/// Whether too few threads are left for dedicated vCPUs.
pub(crate) fn lacks_cpus(view: NodeView<'_>, request: &Request) -> Option<Rejection> {
    if !request.needs.dedicated_cpus {
        return None;
    }
    let only = Ask {
        pages: None,
        ..Ask::of(request)
    };
    let over = excess(view).threads;
    let left = left(view);
    (over > 0 || !only.fits(&left)).then(|| Rejection::DedicatedCpus {
        asked: request.vcpus,
        cells: only.most_cells,
        free: only.free(&left),
        over: to_vcpus(over),
    })
}

/// Whether too few huge pages are left.
pub(crate) fn lacks_pages(view: NodeView<'_>, request: &Request) -> Option<Rejection> {
    let size = request.needs.huge_pages?;
    let only = Ask {
        dedicated: false,
        ..Ask::of(request)
    };
    let over = excess(view).of(size);
    let left = left(view);
    (over > 0 || !only.fits(&left)).then(|| Rejection::HugePages {
        size,
        asked: only.memory,
        cells: only.most_cells,
        free: only.free(&left),
        over: to_memory(over.saturating_mul(size.mib().into())),
    })
}

/// Whether threads and huge pages aren't left in the same cells.
pub(crate) fn lacks_cells(view: NodeView<'_>, request: &Request) -> Option<Rejection> {
    let size = (request.needs.huge_pages).filter(|_| request.needs.dedicated_cpus)?;
    let both = Ask::of(request);
    let left = left(view);
    (!both.fits(&left)).then(|| Rejection::Cells {
        vcpus: request.vcpus,
        size,
        memory: both.memory,
        cells: both.most_cells,
        free: both.free(&left),
    })
}

/// The first class of which too few devices are left.
pub(crate) fn lacks_devices(view: NodeView<'_>, request: &Request) -> Option<Rejection> {
    let needs = &request.needs;
    let (first, _) = needs.devices.first_key_value()?;
    let (equipment, in_use) = (&view.node().equipment, view.held.in_use());
    let over = excess(view).devices;
    let left = devices_left(equipment, in_use);
    let free = |class: &Name| count(left.iter().filter(|one| one.class == *class));
    let lacking = || {
        let mut classes = needs.devices.iter();
        classes.find(|(class, asked)| free(class) < **asked)
    };
    let class = if over > 0 { first } else { lacking()?.0 };
    let all = devices_left(equipment, None);
    Some(Rejection::Devices {
        class: class.clone(),
        asked: needs.devices.get(class).copied().unwrap_or_default(),
        free: free(class),
        there: count(all.iter().filter(|one| one.class == *class)),
        over: u32::try_from(over).unwrap_or(u32::MAX),
    })
}

impl Ask {
    fn of(request: &Request) -> Self {
        let needs = &request.needs;
        Self {
            vcpus: request.vcpus.get(),
            memory: request.memory.guest,
            dedicated: needs.dedicated_cpus,
            pages: needs.huge_pages,
            most_cells: needs.most_cells(),
        }
    }

    /// What it has of each of the cells that it goes to.
    fn shares<N: Ord>(&self, cells: &[Cell], near: impl Fn(&Cell) -> N) -> Option<Vec<CellShare>> {
        let each = self.split(cells, near)?.into_iter();
        Some(each.map(|(cell, part)| self.share(cell, part)).collect())
    }

    /// The cells that it goes to and its part in each, as few as possible. Of equal ones the first
    /// comes first.
    fn split<'c, N: Ord>(
        &self,
        cells: &'c [Cell],
        near: impl Fn(&Cell) -> N,
    ) -> Option<Vec<(&'c Cell, Part)>> {
        let mut by_preference: Vec<_> = cells.iter().collect();
        by_preference.sort_by_key(|cell| {
            let threads = if self.dedicated {
                cell.dedicated.len()
            } else {
                0
            };
            (Reverse(near(cell)), threads, self.pages_in(cell))
        });
        // No cell without a vCPU, and none without memory.
        let units = u32::try_from(self.units()).unwrap_or(u32::MAX);
        let most = u32::from(self.most_cells).min(self.vcpus).min(units).max(1);
        (1..=most).find_map(|parts| {
            let mut left = by_preference.clone();
            // The first parts are the largest in every quantity, so a cell that holds one of them
            // holds all later ones: whichever it takes, they find another if there is a way at all.
            let each = self.parts(parts).map(|part| {
                let at = left.iter().position(|cell| self.is_held(part, cell))?;
                Some((left.remove(at), part))
            });
            each.collect()
        })
    }

    fn fits(&self, cells: &[Cell]) -> bool {
        self.split(cells, |_| ()).is_some()
    }

    /// What memory is given out in, in MiB.
    fn unit(&self) -> u64 {
        self.pages.map_or(1, PageSize::mib)
    }

    /// How many of those it takes.
    fn units(&self) -> u64 {
        self.memory.get().div_ceil(self.unit())
    }

    /// It, split evenly: whole vCPUs, and whole pages if it has any.
    fn parts(self, parts: u32) -> impl Iterator<Item = Part> {
        let unit = self.unit();
        let (whole, many) = (self.units(), u64::from(parts));
        let mut rest = self.memory.get();
        (0..parts).map(move |part| {
            let units = whole / many + u64::from(u64::from(part) < whole % many);
            let memory = units.saturating_mul(unit).min(rest);
            rest -= memory;
            Part {
                vcpus: self.vcpus / parts + u32::from(part < self.vcpus % parts),
                memory: MemoryMib(memory),
            }
        })
    }

    fn is_held(&self, part: Part, cell: &Cell) -> bool {
        let threads = u64::try_from(cell.dedicated.len()).unwrap_or(u64::MAX);
        let unit = self.unit();
        (!self.dedicated || u64::from(part.vcpus) <= threads)
            && (self.pages.is_none() || part.memory.get().div_ceil(unit) <= self.pages_in(cell))
    }

    /// Pages of the asked size.
    fn pages_in(&self, cell: &Cell) -> u64 {
        let pages = self.pages.and_then(|size| cell.pages.get(&size));
        pages.copied().unwrap_or(0)
    }

    fn share(&self, cell: &Cell, part: Part) -> CellShare {
        let threads = cell.dedicated.iter().copied();
        let own = if self.dedicated { part.vcpus } else { 0 };
        CellShare {
            cell: cell.id,
            vcpus: Vcpus(part.vcpus),
            threads: threads
                .take(usize::try_from(own).unwrap_or(usize::MAX))
                .collect(),
            memory: part.memory,
        }
    }

    /// What cells have free, for people.
    fn free(&self, cells: &[Cell]) -> Vec<CellFree> {
        let unit = self.pages.map_or(0, PageSize::mib);
        let each = cells.iter().map(|cell| CellFree {
            cell: cell.id,
            vcpus: Vcpus(count(cell.dedicated.iter())),
            memory: MemoryMib(self.pages_in(cell).saturating_mul(unit)),
        });
        each.collect()
    }
}

/// Cells with what is left in them, by id.
fn left(view: NodeView<'_>) -> Vec<Cell> {
    let mut left = cells_left(&view.node().equipment, view.held.in_use());
    left.sort_by_key(|cell| cell.id);
    left
}

fn excess(view: NodeView<'_>) -> Excess {
    let in_use = view.held.in_use();
    in_use.map_or_else(Excess::default, |in_use| {
        in_use.excess(&view.node().equipment)
    })
}

/// How many of the asked devices a cell could have near to it.
fn near(cell: &Cell, free: &[&Device], request: &Request) -> u32 {
    let classes = request.needs.devices.iter();
    let each = classes.map(|(class, asked)| {
        let here = |one: &&&Device| one.class == *class && one.cell == Some(cell.id);
        count(free.iter().filter(here)).min(*asked)
    });
    each.fold(0, u32::saturating_add)
}

fn count<T>(of: impl Iterator<Item = T>) -> u32 {
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
