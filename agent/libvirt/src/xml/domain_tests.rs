use super::*;
use crate::xml::domain_view::DomainView;

pub(crate) fn config() -> DomainConfig {
    DomainConfig {
        incarnation: "0190d6b4-6f5e-7c3a-8b1e-2f6d1c9a0b11".parse().unwrap(),
        title: Some("web-1".into()),
        memory: MemoryMib(512),
        vcpus: Vcpus(2),
        most_vcpus: Vcpus(8),
        arch: Arch::X86_64,
        machine: "pc-q35-7.2".into(),
        virt_type: VirtType::Kvm,
        cpu: CpuMode::HostModel,
        root: DiskConfig {
            source: DiskSource::File("/pool/root.qcow2".into()),
            format: DiskFormat::Qcow2,
            cache: CacheMode::None,
        },
        placement: Placement::default(),
        nic: Some(NicConfig {
            network: "default".into(),
            mac: MacAddress::local([0x54, 0, 1, 2, 3]),
        }),
        metadata: Metadata::new("{\"version\":1,\"name\":\"web-1\"}").unwrap(),
    }
}

/// One element a line, so that a difference is readable.
fn lines(doc: &DomainDoc) -> String {
    doc.as_str().replace("><", ">\n<")
}

#[test]
fn a_domain_on_x86() {
    insta::assert_snapshot!(lines(&DomainDoc::new(&config()).unwrap()));
}

#[test]
fn a_domain_on_arm_with_a_block_device() {
    let mut config = config();
    config.arch = Arch::Aarch64;
    config.machine = "virt-7.2".into();
    config.most_vcpus = config.vcpus;
    config.virt_type = VirtType::Qemu;
    config.cpu = CpuMode::Maximum;
    config.root.source = DiskSource::Block("/dev/vg/root".into());
    config.root.format = DiskFormat::Raw;
    config.root.cache = CacheMode::Writeback;
    config.nic = None;
    config.title = None;
    insta::assert_snapshot!(lines(&DomainDoc::new(&config).unwrap()));
}

#[test]
fn what_is_written_is_read_back() {
    let config = config();
    let view = DomainView::parse(DomainDoc::new(&config).unwrap().as_str()).unwrap();
    assert_eq!(view.uuid, config.incarnation.0);
    assert_eq!(view.name, domain_name(config.incarnation));
    assert_eq!(view.title, config.title);
    assert_eq!(view.memory_bytes, 512 << 20);
    assert_eq!((view.vcpus, view.most_vcpus), (2, 8));
    assert_eq!(view.machine.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(view.metadata, Some(config.metadata));
    assert_eq!(view.disks.len(), 1);
    assert_eq!(view.disks[0].source.as_deref(), Some("/pool/root.qcow2"));
    assert_eq!(view.disks[0].format.as_deref(), Some("qcow2"));
    assert_eq!(view.nics[0].network.as_deref(), Some("default"));
}

/// FAULTS 10: the disk's driver type is our record, so nothing has to probe a guest's bytes.
#[test]
fn every_disk_states_the_format_of_our_record() {
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let mut config = config();
        config.root.format = format;
        let view = DomainView::parse(DomainDoc::new(&config).unwrap().as_str()).unwrap();
        assert_eq!(view.disks[0].format.as_deref(), Some(format.as_str()));
    }
}

/// FAULTS 1: markup in any text stays text, or is refused.
#[test]
fn markup_in_a_value_makes_no_element() {
    let hostile = "x</name><devices><disk type='file'><source file='/etc/shadow'/></disk>";
    let mut config = config();
    config.title = Some(hostile.into());
    config.nic.as_mut().unwrap().network = "n'/><source network='other".into();
    config.root.source = DiskSource::File("/p/a\"'><source file='/etc/shadow".into());
    config.metadata = Metadata::new(format!("]]>{hostile}")).unwrap();
    let view = DomainView::parse(DomainDoc::new(&config).unwrap().as_str()).unwrap();
    assert_eq!(view.title.as_deref(), Some(hostile));
    assert_eq!(view.name, domain_name(config.incarnation));
    assert_eq!(view.disks.len(), 1);
    assert_eq!(
        view.disks[0].source.as_deref(),
        Some("/p/a\"'><source file='/etc/shadow")
    );
    assert_eq!(
        view.nics[0].network.as_deref(),
        Some("n'/><source network='other")
    );
    assert_eq!(view.metadata.unwrap().as_str(), format!("]]>{hostile}"));
}

#[test]
fn what_cannot_be_written_is_named() {
    let refused = |change: &dyn Fn(&mut DomainConfig)| {
        let mut config = config();
        change(&mut config);
        match DomainDoc::new(&config) {
            Err(Error::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|c| c.title = Some("a\0b".into())), "title");
    assert_eq!(refused(&|c| c.machine = "q35".into()), "machine");
    assert_eq!(refused(&|c| c.machine = "pc".into()), "machine");
    assert_eq!(
        refused(&|c| c.machine = "pc-7.2' kernel='".into()),
        "machine"
    );
    assert_eq!(
        refused(&|c| c.root.source = DiskSource::File("a".into())),
        "root.path"
    );
    assert_eq!(
        refused(&|c| c.root.source = DiskSource::File("/a\nb".into())),
        "root.path"
    );
    assert_eq!(refused(&|c| c.memory = MemoryMib(0)), "memory");
    assert_eq!(refused(&|c| c.vcpus = Vcpus(0)), "vcpus");
    assert_eq!(refused(&|c| c.most_vcpus = Vcpus(1)), "most_vcpus");
}

#[test]
fn hardware_addresses_are_local_and_unicast() {
    let mac = MacAddress::local([1, 2, 3, 4, 0xff]);
    assert_eq!(mac.to_string(), "52:01:02:03:04:ff");
    assert_eq!("52:01:02:03:04:ff".parse(), Ok(mac));
    for wrong in [
        "",
        "52:01:02:03:04",
        "52:01:02:03:04:ff:00",
        "52:01:02:03:04:xx",
        "5:2:1:2:3:4",
    ] {
        assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
    }
}

proptest::proptest! {
    /// FAULTS 1 and 2: any text is refused or comes back as it was.
    #[test]
    fn text_is_refused_or_comes_back(title in ".{1,40}", path in "/[ -~]{1,60}", content in "[ -~]{1,80}") {
        let mut config = config();
        config.title = Some(title.clone());
        config.root.source = DiskSource::File(path.clone());
        let Ok(metadata) = Metadata::new(content) else { return Ok(()) };
        config.metadata = metadata.clone();
        if let Ok(doc) = DomainDoc::new(&config) {
            let view = DomainView::parse(doc.as_str()).unwrap();
            proptest::prop_assert_eq!(view.title, Some(title));
            proptest::prop_assert_eq!(view.disks[0].source.as_deref(), Some(path.as_str()));
            proptest::prop_assert_eq!(view.metadata, Some(metadata));
        }
    }
}
