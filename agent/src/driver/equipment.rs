//! What a node has beyond amounts: how much of it is set aside, and whether an intent keeps to what
//! the node offers. Pure.
//!
//! The controller decides who gets what. That its word is enough to hand out a device or a thread is
//! absent on purpose: what the node's own configuration doesn't offer, no guest gets.

use std::collections::{BTreeMap, BTreeSet};

use kapok_types::{
    Equipment, Intent, MemoryMib, Name, Violation,
    equipment::{Cell, CellShare, PageSize},
};

/// Threads for dedicated vCPUs, and the memory of all huge pages.
pub fn set_aside(equipment: &Equipment) -> (u32, MemoryMib) {
    let threads: usize = (equipment.cells.iter())
        .map(|cell| cell.dedicated.len())
        .sum();
    let pages = equipment.cells.iter().flat_map(|cell| &cell.pages);
    let memory = pages.map(|(size, count)| MemoryMib(size.mib().saturating_mul(*count)));
    (
        u32::try_from(threads).unwrap_or(u32::MAX),
        memory.fold(MemoryMib::ZERO, MemoryMib::saturating_add),
    )
}

/// Whether the node offers all that an intent needs, and all that is assigned to it, and whether the
/// one is the other.
///
/// # Errors
///
/// The first thing that isn't so.
pub fn check(equipment: &Equipment, intent: &Intent) -> Result<(), Violation> {
    let needs = &intent.spec.needs;
    let lacks = |what: String| Err(Violation::new("spec.needs", what));
    for feature in &needs.cpu_features {
        if !equipment.cpu_features.contains(feature) {
            return lacks(format!(
                "are the processor feature {feature}, which guests here can't have"
            ));
        }
    }
    for (kind, needed, offered) in [
        ("storage pool", &needs.pool, &equipment.pools),
        ("network", &needs.network, &equipment.networks),
    ] {
        if let Some(name) = needed.as_ref().filter(|name| !offered.contains(*name)) {
            return lacks(format!(
                "are the {kind} {name}, which this node doesn't offer"
            ));
        }
    }
    cells(equipment, intent).map_err(|reason| Violation::new("assignment.cells", reason))?;
    devices(equipment, intent).map_err(|reason| Violation::new("assignment.devices", reason))
}

fn cells(equipment: &Equipment, intent: &Intent) -> Result<(), String> {
    let (needs, spec) = (&intent.spec.needs, &intent.spec);
    let assignment = &intent.assignment;
    if needs.dedicated_cpus != assignment.has_threads() {
        return Err("don't have the threads that it needs".into());
    }
    if needs.huge_pages != assignment.huge_pages {
        return Err("don't have the huge pages that it needs".into());
    }
    if assignment.cells.is_empty() {
        return match assignment.huge_pages {
            Some(_) => Err("are none, but there are huge pages".into()),
            None => Ok(()),
        };
    }
    let vcpus = assignment
        .cells
        .iter()
        .map(|share| u64::from(share.vcpus.get()));
    if vcpus.sum::<u64>() != u64::from(spec.vcpus.get()) {
        return Err(format!("don't add up to its {} vCPUs", spec.vcpus));
    }
    let memory = assignment.cells.iter().map(|share| share.memory);
    if memory.fold(MemoryMib::ZERO, MemoryMib::saturating_add) != spec.memory {
        return Err(format!("don't add up to its {}", spec.memory));
    }
    let mut taken = BTreeSet::new();
    for share in &assignment.cells {
        let cell = equipment.cells.iter().find(|cell| cell.id == share.cell);
        let cell = cell.ok_or_else(|| {
            format!(
                "name the cell {}, in which this node sets nothing aside",
                share.cell
            )
        })?;
        threads(cell, share, needs.dedicated_cpus)?;
        pages(cell, share, assignment.huge_pages)?;
        if let Some(twice) = share.threads.iter().find(|thread| !taken.insert(**thread)) {
            return Err(format!("name the thread {twice} twice"));
        }
    }
    Ok(())
}

fn threads(cell: &Cell, share: &CellShare, dedicated: bool) -> Result<(), String> {
    let vcpus = usize::try_from(share.vcpus.get()).unwrap_or(usize::MAX);
    if vcpus == 0 {
        return Err(format!("have no vCPU in the cell {}", cell.id));
    }
    if share.threads.len() != if dedicated { vcpus } else { 0 } {
        let count = share.threads.len();
        return Err(format!(
            "have {count} threads for {vcpus} vCPUs in the cell {}",
            cell.id
        ));
    }
    let mut named = share.threads.iter();
    match named.find(|thread| !cell.dedicated.contains(thread)) {
        Some(thread) => Err(format!(
            "name the thread {thread}, which isn't set aside in the cell {} of this node",
            cell.id
        )),
        None => Ok(()),
    }
}

fn pages(cell: &Cell, share: &CellShare, size: Option<PageSize>) -> Result<(), String> {
    let Some(size) = size else { return Ok(()) };
    let there = cell.pages.get(&size).copied().unwrap_or_default();
    let fits = share.memory.get().is_multiple_of(size.mib())
        && share.memory.get() <= size.mib().saturating_mul(there);
    if fits {
        return Ok(());
    }
    Err(format!(
        "want {} in pages of {} of the cell {}, which has {there}",
        share.memory,
        size.as_str(),
        cell.id
    ))
}

fn devices(equipment: &Equipment, intent: &Intent) -> Result<(), String> {
    let mut given: BTreeMap<&Name, u32> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for address in &intent.assignment.devices {
        let offered = equipment.devices.iter().find(|it| it.address == *address);
        let device =
            offered.ok_or_else(|| format!("name {address}, which this node doesn't offer"))?;
        if !taken.insert(*address) {
            return Err(format!("name {address} twice"));
        }
        *given.entry(&device.class).or_default() += 1;
    }
    let needed = intent.spec.needs.devices.iter();
    let needed: BTreeMap<&Name, u32> = needed.map(|(class, count)| (class, *count)).collect();
    if given == needed {
        return Ok(());
    }
    Err("aren't of the classes that it needs".into())
}

#[cfg(test)]
mod tests {
    use kapok_types::{
        Assignment, Bytes, Digest, Epoch, Generation, Needs, Vcpus,
        equipment::Device,
        instance::{Arch, Counters, DiskFormat, Power, RootDisk, RunPolicy, Spec},
    };

    use super::*;

    fn intent() -> Intent {
        let id = "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11";
        Intent {
            incarnation: id.parse().unwrap(),
            instance: id.parse().unwrap(),
            node: id.parse().unwrap(),
            name: "web-1".parse().unwrap(),
            spec: Spec {
                arch: Arch::X86_64,
                vcpus: Vcpus(1),
                memory: MemoryMib(256),
                root: RootDisk {
                    image: Digest::of(b"image"),
                    image_format: DiskFormat::Qcow2,
                    image_bytes: Bytes(5),
                    size: Bytes(1 << 30),
                },
                run_policy: RunPolicy::Always,
                needs: Needs::default(),
            },
            power: Power::Running,
            counters: Counters::default(),
            generation: Generation(1),
            epoch: Epoch(1),
            operation: None,
            assignment: Assignment::default(),
        }
    }

    /// A change, and what is said of it.
    type Case<'a> = (&'a dyn Fn(&mut Intent), &'a str);

    fn equipment() -> Equipment {
        let cell = |id: u16, dedicated: &[u16]| Cell {
            id,
            dedicated: dedicated.to_vec(),
            pages: [(PageSize::Mib2, 64)].into(),
        };
        Equipment {
            cells: vec![cell(0, &[2, 6]), cell(1, &[3, 7])],
            cpu_features: ["avx2".parse().unwrap()].into(),
            devices: vec![Device {
                address: "0000:65:00.0".parse().unwrap(),
                class: "gpu".parse().unwrap(),
                cell: Some(0),
            }],
            pools: ["kapok".parse().unwrap()].into(),
            networks: ["kapok".parse().unwrap(), "lab".parse().unwrap()].into(),
        }
    }

    /// Everything that can be had, over both cells.
    fn full() -> Intent {
        let share = |cell, threads: &[u16]| CellShare {
            cell,
            vcpus: Vcpus(2),
            threads: threads.to_vec(),
            memory: MemoryMib(128),
        };
        let mut full = intent();
        (full.spec.vcpus, full.spec.memory) = (Vcpus(4), MemoryMib(256));
        let needs = &mut full.spec.needs;
        (needs.dedicated_cpus, needs.huge_pages) = (true, Some(PageSize::Mib2));
        needs.cells = 2;
        needs.cpu_features = ["avx2".parse().unwrap()].into();
        needs.devices = [("gpu".parse().unwrap(), 1)].into();
        needs.pool = Some("kapok".parse().unwrap());
        needs.network = Some("lab".parse().unwrap());
        full.assignment.cells = vec![share(0, &[2, 6]), share(1, &[7, 3])];
        full.assignment.huge_pages = Some(PageSize::Mib2);
        full.assignment.devices = vec!["0000:65:00.0".parse().unwrap()];
        full
    }

    #[test]
    fn what_is_set_aside_adds_up() {
        assert_eq!(set_aside(&equipment()), (4, MemoryMib(256)));
        assert_eq!(set_aside(&Equipment::default()), (0, MemoryMib::ZERO));
    }

    /// Rule 9 of the design: a thread or a device that the node's configuration doesn't offer is
    /// handed to nobody, whoever says so.
    #[test]
    fn what_is_not_offered_is_not_given() {
        assert_eq!(check(&equipment(), &full()), Ok(()));
        assert_eq!(check(&Equipment::default(), &intent()), Ok(()));
        let refused = |change: &dyn Fn(&mut Intent)| {
            let mut intent = full();
            change(&mut intent);
            check(&equipment(), &intent).unwrap_err().to_string()
        };
        let table: [Case<'_>; 16] = [
            (
                &|it| it.assignment.cells[0].threads = vec![2, 0],
                "the thread 0, which isn't set aside",
            ),
            (
                &|it| it.assignment.cells[0].threads = vec![2, 3],
                "the thread 3, which isn't set aside",
            ),
            (
                &|it| it.assignment.cells[0].threads = vec![2, 2],
                "the thread 2 twice",
            ),
            (
                &|it| it.assignment.cells[0].threads = vec![2],
                "1 threads for 2 vCPUs",
            ),
            (&|it| it.assignment.cells[1].cell = 9, "the cell 9"),
            (
                &|it| it.assignment.cells[1].memory = MemoryMib(64),
                "add up",
            ),
            (&|it| it.spec.vcpus = Vcpus(5), "add up to its 5 vCPUs"),
            (&|it| it.spec.needs.dedicated_cpus = false, "threads"),
            (&|it| it.spec.needs.huge_pages = None, "huge pages"),
            (
                &|it| {
                    it.spec.memory = MemoryMib(256);
                    it.assignment.cells[0].memory = MemoryMib(130);
                    it.assignment.cells[1].memory = MemoryMib(126);
                },
                "want 130 MiB in pages of 2MiB of the cell 0, which has 64",
            ),
            (&|it| it.assignment.devices.clear(), "classes"),
            (
                &|it| it.assignment.devices = vec!["0000:66:00.0".parse().unwrap()],
                "0000:66:00.0, which this node doesn't offer",
            ),
            (
                &|it| it.assignment.devices = vec!["0000:65:00.0".parse().unwrap(); 2],
                "twice",
            ),
            (
                &|it| it.spec.needs.cpu_features = ["avx512f".parse().unwrap()].into(),
                "avx512f",
            ),
            (
                &|it| it.spec.needs.pool = Some("fast".parse().unwrap()),
                "the storage pool fast",
            ),
            (
                &|it| it.spec.needs.network = Some("dmz".parse().unwrap()),
                "the network dmz",
            ),
        ];
        for (change, reason) in table {
            let said = refused(change);
            assert!(said.contains(reason), "{said:?} instead of {reason:?}");
        }
    }

    /// Nothing comes to an instance that needs nothing.
    #[test]
    fn nobody_is_given_what_it_does_not_need() {
        let mut intent = intent();
        intent.assignment = full().assignment;
        assert!(check(&equipment(), &intent).is_err());
        intent.assignment.cells.clear();
        intent.assignment.huge_pages = None;
        let said = check(&equipment(), &intent).unwrap_err();
        assert_eq!(said.field, "assignment.devices");
    }
}
