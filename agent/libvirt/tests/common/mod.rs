//! A private node of libvirt's own test driver, and a domain for it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

use kapok_libvirt::{
    Connection,
    xml::{
        domain::{
            CacheMode, CpuMode, DiskConfig, DiskSource, DomainConfig, MacAddress, NicConfig,
            VirtType,
        },
        metadata::Metadata,
        placement::Placement,
    },
};
use kapok_types::{
    Env as _, MemoryMib, Vcpus,
    env::Seeded,
    instance::{Arch, DiskFormat},
};

const NODE: &str = "<node><cpu><mhz>2000</mhz><model>x86_64</model><active>8</active>\
    <nodes>2</nodes><sockets>1</sockets><cores>4</cores><threads>1</threads></cpu>\
    <memory>16777216</memory>\
    <network><name>default</name><bridge name='virbr0'/></network></node>";

/// A connection to a node that nobody else sees. The directory may go when it is open.
pub fn node() -> Connection {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.xml");
    std::fs::write(&path, NODE).unwrap();
    Connection::open(&format!("test://{}", path.display())).unwrap()
}

pub fn config(seed: u64) -> DomainConfig {
    let env = Seeded::new(seed);
    DomainConfig {
        incarnation: env.incarnation_id(),
        title: Some("web-1".into()),
        memory: MemoryMib(256),
        vcpus: Vcpus(2),
        most_vcpus: Vcpus(8),
        arch: Arch::X86_64,
        machine: "pc-q35-7.2".into(),
        virt_type: VirtType::Test,
        cpu: CpuMode::HypervisorDefault,
        root: DiskConfig {
            source: DiskSource::File("/pool/root.qcow2".into()),
            format: DiskFormat::Qcow2,
            cache: CacheMode::Writeback,
        },
        placement: Placement::default(),
        nic: Some(NicConfig {
            network: "default".into(),
            mac: MacAddress::local([0x54, 0, 0, 0, 1]),
        }),
        metadata: Metadata::new("{\"version\":1}").unwrap(),
    }
}
