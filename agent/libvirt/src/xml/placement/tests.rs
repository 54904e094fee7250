//! Goldens of what is bound, and what is read back of it.

use super::*;
use crate::xml::{
    domain::{CpuMode, DomainDoc, VirtType, tests::config},
    domain_view::DomainView,
};

fn threads(text: &str) -> ThreadSet {
    text.parse().unwrap()
}

fn pins(each: &[&str]) -> BTreeMap<u32, ThreadSet> {
    let each = each.iter().map(|text| threads(text));
    (0..).zip(each).collect()
}

fn cell(host: u16, vcpus: u32, memory: u64) -> GuestCell {
    GuestCell {
        host,
        vcpus: Vcpus(vcpus),
        memory: MemoryMib(memory),
    }
}

/// All at once: four dedicated vCPUs over two cells, 1 GiB pages, two devices, features.
fn split() -> DomainConfig {
    let mut config = config();
    (config.vcpus, config.most_vcpus) = (Vcpus(4), Vcpus(4));
    config.memory = MemoryMib(8192);
    config.placement = Placement {
        threads: threads("0-3"),
        pins: pins(&["4", "20", "8", "24"]),
        cells: vec![cell(0, 2, 4096), cell(1, 2, 4096)],
        huge_pages: Some(PageSize::Gib1),
        devices: ["0000:65:00.0", "0001:ca:1f.7"]
            .map(|text| text.parse().unwrap())
            .into(),
        features: ["avx2", "sse4.2"].map(|text| text.parse().unwrap()).into(),
    };
    config
}

/// One cell, no thread of its own: on the cell's shared threads, in pages of 2 MiB.
fn paged() -> DomainConfig {
    let mut config = config();
    config.most_vcpus = config.vcpus;
    (config.virt_type, config.cpu) = (VirtType::Qemu, CpuMode::Maximum);
    config.placement = Placement {
        pins: pins(&["8-15", "8-15"]),
        cells: vec![cell(1, 2, 512)],
        huge_pages: Some(PageSize::Mib2),
        ..Placement::default()
    };
    config
}

/// Dedicated vCPUs in common memory.
fn dedicated() -> DomainConfig {
    let mut config = config();
    config.most_vcpus = config.vcpus;
    config.placement = Placement {
        threads: threads("0-1"),
        pins: pins(&["2", "3"]),
        cells: vec![cell(0, 2, 512)],
        ..Placement::default()
    };
    config
}

/// Nothing of its own, on a node that sets threads aside.
fn shared() -> DomainConfig {
    let mut config = config();
    config.placement.threads = threads("0-3,16-19");
    config
}

fn document(config: &DomainConfig) -> String {
    let document = DomainDoc::new(config).unwrap();
    document.as_str().replace("><", ">\n<")
}

#[test]
fn a_guest_split_over_two_cells() {
    insta::assert_snapshot!(document(&split()));
}

#[test]
fn a_guest_in_huge_pages() {
    insta::assert_snapshot!(document(&paged()));
}

#[test]
fn a_guest_with_dedicated_vcpus() {
    insta::assert_snapshot!(document(&dedicated()));
}

#[test]
fn a_shared_guest_keeps_off_threads_set_aside() {
    insta::assert_snapshot!(document(&shared()));
}

#[test]
fn what_is_written_is_read_back() {
    for config in [split(), paged(), dedicated(), shared()] {
        let view = DomainView::parse(DomainDoc::new(&config).unwrap().as_str()).unwrap();
        let (wanted, found) = (&config.placement, &view.placement);
        assert_eq!(
            (&found.threads, &found.pins),
            (&wanted.threads, &wanted.pins)
        );
        let cells = wanted.cells.iter();
        let cells: Vec<_> = cells
            .map(|cell| (Some(cell.host), cell.memory.get() << 20))
            .collect();
        assert_eq!(found.cells, cells);
        assert_eq!(found.strict, wanted.huge_pages.is_some());
        let pages = wanted.huge_pages.map(|size| size.mib() << 20);
        assert_eq!(found.page_bytes, pages.into_iter().collect());
        assert_eq!((&found.devices, found.other_devices), (&wanted.devices, 0));
        let features = wanted.features.iter().map(|it| it.as_str().to_owned());
        assert_eq!(found.features, features.collect());
    }
}

/// What `virsh` and other programs write is read as well, and what isn't understood hides nothing.
#[test]
fn others_words_are_read() {
    let text = "<domain type='kvm'><name>theirs</name>\
        <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid><memory unit='KiB'>2097152</memory>\
        <memoryBacking><hugepages/></memoryBacking><vcpu placement='static' cpuset='^1,0-2'>2</vcpu>\
        <cputune><shares>100</shares><vcpupin vcpu='1' cpuset='7'/></cputune>\
        <numatune><memory mode='interleave' nodeset='0-1'/></numatune>\
        <os><type arch='x86_64'>hvm</type></os><devices>\
        <hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>\
        <hostdev mode='subsystem' type='pci'><driver name='vfio'/><source>\
        <address domain='0x0000' bus='0x06' slot='0x00' function='0x0'/></source><alias name='x'/>\
        <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></hostdev>\
        </devices></domain>";
    let found = DomainView::parse(text).unwrap().placement;
    assert_eq!(found.pins, [(1, threads("7"))].into());
    assert_eq!(found.page_bytes, [0].into());
    assert_eq!(found.devices, ["0000:06:00.0".parse().unwrap()].into());
    assert_eq!(found.other_devices, 1);
    let strange = text.replace("vcpu='1' cpuset", "vcpu='x' cpuset");
    let view = DomainView::parse(&strange).unwrap();
    assert_eq!(view.name, "theirs");
    assert_eq!(view.placement.pins, BTreeMap::new());
}

#[test]
fn cells_carry_the_whole_guest() {
    let refused = |change: &dyn Fn(&mut DomainConfig)| {
        let mut config = split();
        change(&mut config);
        DomainDoc::new(&config).unwrap_err().to_string()
    };
    for wrong in [
        refused(&|config| config.placement.cells[1].vcpus = Vcpus(1)),
        refused(&|config| config.most_vcpus = Vcpus(8)),
        refused(&|config| config.placement.cells[1].memory = MemoryMib(1024)),
        refused(&|config| config.placement.cells.clear()),
    ] {
        assert!(wrong.starts_with("cells "), "{wrong}");
    }
}
