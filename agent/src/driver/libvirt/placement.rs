//! From a record to where its domain is on the host. Pure.
//!
//! Threads that are set aside carry dedicated vCPUs and nothing else: QEMU's own threads and all
//! other vCPUs run on the shared ones.

use kapok_libvirt::xml::{
    placement::{GuestCell, Placement},
    topology::HostCell,
};
use kapok_types::{Intent, ThreadSet};

use super::equipment;

/// Whether the host's cells must be known for it.
pub(super) fn needs_cells(dedicated: &ThreadSet, intent: &Intent) -> bool {
    !dedicated.is_empty() || !intent.assignment.cells.is_empty()
}

/// Where the domain is.
pub(super) fn of(dedicated: &ThreadSet, host: &[HostCell], intent: &Intent) -> Placement {
    let assignment = &intent.assignment;
    let shared = if dedicated.is_empty() {
        ThreadSet::default()
    } else {
        equipment::threads(host).without(dedicated)
    };
    // Its memory is in the cell; its vCPUs stay near it.
    let near = |cell: u16| {
        let cell = host.iter().find(|it| it.id == cell);
        let threads = cell
            .into_iter()
            .flat_map(|cell| cell.threads.iter().copied());
        let near = threads.collect::<ThreadSet>().without(dedicated);
        if near.is_empty() {
            shared.clone()
        } else {
            near
        }
    };
    let mut placement = Placement {
        huge_pages: assignment.huge_pages,
        devices: assignment.devices.iter().copied().collect(),
        features: intent.spec.needs.cpu_features.clone(),
        ..Placement::default()
    };
    let mut next = 0;
    for share in &assignment.cells {
        placement.cells.push(GuestCell {
            host: share.cell,
            vcpus: share.vcpus,
            memory: share.memory,
        });
        let mut threads = share.threads.iter();
        for vcpu in next..next + share.vcpus.get() {
            let own = threads.next().map(|thread| ThreadSet::from_iter([*thread]));
            let pin = own.unwrap_or_else(|| near(share.cell));
            if !pin.is_empty() {
                placement.pins.insert(vcpu, pin);
            }
        }
        next += share.vcpus.get();
    }
    placement.threads = shared;
    placement
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kapok_types::{
        MemoryMib, Vcpus,
        equipment::{CellShare, PageSize},
    };

    use super::*;
    use crate::driver::libvirt::record::tests::record;

    fn host() -> Vec<HostCell> {
        let cell = |id: u16, threads: &[u16]| HostCell {
            id,
            threads: threads.to_vec(),
            pages: BTreeMap::new(),
        };
        vec![cell(0, &[0, 4, 1, 5]), cell(1, &[2, 6, 3, 7])]
    }

    fn threads(text: &str) -> ThreadSet {
        text.parse().unwrap()
    }

    fn bound(own: bool) -> Intent {
        let mut intent = record().intent;
        let share = |cell, threads: &[u16]| CellShare {
            cell,
            vcpus: Vcpus(2),
            threads: if own { threads.to_vec() } else { Vec::new() },
            memory: MemoryMib(128),
        };
        intent.assignment.cells = vec![share(1, &[2, 6]), share(0, &[5, 1])];
        intent
    }

    fn pins(placement: &Placement) -> Vec<String> {
        placement.pins.values().map(ToString::to_string).collect()
    }

    #[test]
    fn dedicated_vcpus_have_a_thread_each_and_qemu_the_shared_ones() {
        let placement = of(&threads("1-2,5-6"), &host(), &bound(true));
        assert_eq!(pins(&placement), ["2", "6", "5", "1"]);
        assert_eq!(placement.threads, threads("0,3-4,7"));
        let cells: Vec<_> = placement.cells.iter().map(|cell| cell.host).collect();
        assert_eq!(cells, [1, 0]);
    }

    #[test]
    fn shared_vcpus_stay_off_threads_set_aside() {
        let plain = record().intent;
        let placement = of(&threads("6-7"), &host(), &plain);
        assert_eq!(
            (pins(&placement).len(), &placement.threads),
            (0, &threads("0-5"))
        );
        // Nothing is set aside: nothing is said.
        assert!(!needs_cells(&threads(""), &plain));
        assert_eq!(of(&threads(""), &host(), &plain), Placement::default());
    }

    #[test]
    fn shared_vcpus_stay_near_their_huge_pages() {
        let mut intent = bound(false);
        intent.assignment.huge_pages = Some(PageSize::Mib2);
        let placement = of(&threads("6"), &host(), &intent);
        assert_eq!(pins(&placement), ["2-3,7", "2-3,7", "0-1,4-5", "0-1,4-5"]);
        // A cell that is all set aside has none to lend.
        let placement = of(&threads("2-3,6-7"), &host(), &intent);
        assert_eq!(pins(&placement)[0], "0-1,4-5");
    }
}
