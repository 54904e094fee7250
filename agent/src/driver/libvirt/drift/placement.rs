//! Where a domain is, against where it should be: threads, cells, huge pages, devices. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kapok_libvirt::xml::placement::{Placement, PlacementView};
use kapok_types::{ThreadSet, quantity::MIB};

/// Everything but processor features: libvirt spells the whole model out for a guest that runs.
pub(super) fn compare(
    wanted: &Placement,
    view: &PlacementView,
    place: &str,
    found: &mut Vec<String>,
) {
    devices(wanted, view, place, found);
    if view.threads != wanted.threads {
        found.push(format!(
            "{place} may run on {} instead of {}",
            words(&view.threads),
            words(&wanted.threads)
        ));
    }
    let cells = wanted.cells.iter();
    let cells = cells.map(|cell| (Some(cell.host), cell.memory.get().saturating_mul(MIB)));
    let strict = wanted.huge_pages.is_some();
    if !cells.eq(view.cells.iter().copied()) || view.strict != strict {
        found.push(format!(
            "{place} has its memory in other cells than its own"
        ));
    }
    let pages = wanted.huge_pages.map(|size| size.mib().saturating_mul(MIB));
    let pages: BTreeSet<u64> = pages.into_iter().collect();
    if view.page_bytes != pages {
        let size = wanted
            .huge_pages
            .map_or("the usual size", |size| size.as_str());
        found.push(format!(
            "{place} has its memory in other pages than of {size}"
        ));
    }
    pins(&wanted.pins, &view.pins, place, found);
}

/// Whether a definition requires the features that it should.
pub(super) fn features(
    wanted: &Placement,
    view: &PlacementView,
    place: &str,
    found: &mut Vec<String>,
) {
    let mut missing = wanted.features.iter();
    if let Some(feature) = missing.find(|it| !view.features.contains(it.as_str())) {
        found.push(format!(
            "{place} doesn't require the processor feature {feature}"
        ));
    }
}

fn devices(wanted: &Placement, view: &PlacementView, place: &str, found: &mut Vec<String>) {
    for lost in wanted.devices.difference(&view.devices) {
        found.push(format!("{place} lacks the device {lost}"));
    }
    for extra in view.devices.difference(&wanted.devices) {
        found.push(format!(
            "{place} has the device {extra}, which isn't its own"
        ));
    }
    if view.other_devices > 0 {
        found.push(format!(
            "{place} has {} devices of the host that aren't its own",
            view.other_devices
        ));
    }
}

fn pins(
    wanted: &BTreeMap<u32, ThreadSet>,
    view: &BTreeMap<u32, ThreadSet>,
    place: &str,
    found: &mut Vec<String>,
) {
    let none = ThreadSet::default();
    let vcpus: BTreeSet<u32> = wanted.keys().chain(view.keys()).copied().collect();
    for vcpu in vcpus {
        let of = |pins: &BTreeMap<u32, ThreadSet>| pins.get(&vcpu).unwrap_or(&none).clone();
        let (is, should) = (of(view), of(wanted));
        if is != should {
            found.push(format!(
                "{place} has vCPU {vcpu} on {} instead of {}",
                words(&is),
                words(&should)
            ));
        }
    }
}

fn words(threads: &ThreadSet) -> String {
    if threads.is_empty() {
        return "all threads".into();
    }
    format!("the threads {threads}")
}

#[cfg(test)]
mod tests {
    use kapok_libvirt::xml::placement::GuestCell;
    use kapok_types::{
        MemoryMib, Vcpus,
        equipment::{PageSize, PciAddress},
    };

    use super::*;

    /// A change, and what is said of it.
    type Case<'a> = (&'a dyn Fn(&mut PlacementView), &'a str);

    fn placement() -> Placement {
        Placement {
            threads: "0-1".parse().unwrap(),
            pins: [(0, "2".parse().unwrap()), (1, "3".parse().unwrap())].into(),
            cells: vec![GuestCell {
                host: 0,
                vcpus: Vcpus(2),
                memory: MemoryMib(256),
            }],
            huge_pages: Some(PageSize::Mib2),
            devices: ["0000:65:00.0".parse().unwrap()].into(),
            features: ["avx2".parse().unwrap()].into(),
        }
    }

    fn view() -> PlacementView {
        PlacementView {
            threads: "0-1".parse().unwrap(),
            pins: placement().pins,
            cells: vec![(Some(0), 256 * MIB)],
            strict: true,
            page_bytes: [2 * MIB].into(),
            devices: placement().devices,
            other_devices: 0,
            features: ["aes".into(), "avx2".into()].into(),
        }
    }

    fn told(change: impl Fn(&mut PlacementView)) -> Vec<String> {
        let (mut view, mut found) = (view(), Vec::new());
        change(&mut view);
        features(&placement(), &view, "it", &mut found);
        compare(&placement(), &view, "it", &mut found);
        found
    }

    #[test]
    fn every_difference_is_told() {
        assert_eq!(told(|_| {}), Vec::<String>::new());
        let table: [Case<'_>; 9] = [
            (
                &|view| view.threads = ThreadSet::default(),
                "it may run on all threads instead of the threads 0-1",
            ),
            (
                &|view| drop(view.pins.insert(1, "0-3".parse().unwrap())),
                "it has vCPU 1 on the threads 0-3 instead of the threads 3",
            ),
            (
                &|view| drop(view.pins.remove(&0)),
                "it has vCPU 0 on all threads instead of the threads 2",
            ),
            (
                &|view| view.cells[0].0 = Some(1),
                "it has its memory in other cells than its own",
            ),
            (
                &|view| view.strict = false,
                "it has its memory in other cells than its own",
            ),
            (
                &|view| view.page_bytes.clear(),
                "it has its memory in other pages than of 2MiB",
            ),
            (
                &|view| view.devices.clear(),
                "it lacks the device 0000:65:00.0",
            ),
            (
                &|view| view.other_devices = 1,
                "it has 1 devices of the host that aren't its own",
            ),
            (
                &|view| view.features.retain(|feature| feature != "avx2"),
                "it doesn't require the processor feature avx2",
            ),
        ];
        for (change, words) in table {
            assert_eq!(told(change), [words]);
        }
        // FAULTS 44: what somebody attached with virsh is told by its address.
        let extra = told(|view| {
            view.devices
                .extend(["0000:66:00.0".parse::<PciAddress>().unwrap()]);
        });
        assert_eq!(
            extra,
            ["it has the device 0000:66:00.0, which isn't its own"]
        );
    }
}
