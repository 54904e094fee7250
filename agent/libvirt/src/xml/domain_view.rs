//! A domain as libvirt describes it: only what Kapok looks at.

use serde::Deserialize;
use uuid::Uuid;

use super::{
    Amount, Error,
    metadata::Metadata,
    placement::{PlacementView, RawHostDevice, RawPlacement},
};

/// What a domain's document says. Foreign domains are read too, so most of it may be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainView {
    /// The domain's UUID; the incarnation's, if it is ours.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: Option<String>,
    /// libvirt's word for how it runs, for example `kvm`.
    pub virt_type: String,
    /// Architecture by the kernel's name.
    pub arch: Option<String>,
    /// Machine type.
    pub machine: Option<String>,
    /// Most memory, in bytes.
    pub memory_bytes: u64,
    /// Most virtual CPUs.
    pub most_vcpus: u32,
    /// Virtual CPUs that it has now, or starts with.
    pub vcpus: u32,
    /// Where it is on the host, and what is its own there.
    pub placement: PlacementView,
    /// Its disks, in libvirt's order.
    pub disks: Vec<DiskView>,
    /// Its network cards, in libvirt's order.
    pub nics: Vec<NicView>,
    /// Kapok's record, if it has one. A domain with one isn't ours yet: the record may be copied.
    pub metadata: Option<Metadata>,
}

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskView {
    /// The guest's name for it, for example `vda`.
    pub target: String,
    /// The file or block device; absent for network disks and empty drives.
    pub source: Option<String>,
    /// The driver type.
    pub format: Option<String>,
}

/// A network card of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicView {
    /// Its address.
    pub mac: Option<String>,
    /// The libvirt network.
    pub network: Option<String>,
    /// The tap on the host, while it runs.
    pub tap: Option<String>,
    /// The host's bridge that it is plugged into. Of a libvirt network's cards libvirt tells it
    /// while they run.
    pub bridge: Option<String>,
}

impl DomainView {
    /// Reads a domain's document.
    ///
    /// # Errors
    ///
    /// Whatever the document's guard refuses, or a document without name, UUID or memory.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let raw: RawDomain = super::read(text)?;
        // A foreign domain's strange record must not hide the domain.
        let metadata = Metadata::find(text).unwrap_or_default();
        // Nor must where it is.
        let place: RawPlacement = super::read(text).unwrap_or_default();
        let cpuset = raw.vcpu.as_ref().and_then(|vcpu| vcpu.cpuset.as_deref());
        let placement = place.view(cpuset, &raw.devices.hostdev);
        let placement = placement.unwrap_or_default();
        Ok(Self {
            uuid: Uuid::try_parse(raw.uuid.trim()).map_err(super::malformed)?,
            name: raw.name,
            title: raw.title,
            virt_type: raw.virt_type,
            arch: raw.os.as_ref().and_then(|os| os.os_type.arch.clone()),
            machine: raw.os.and_then(|os| os.os_type.machine),
            memory_bytes: raw.memory.to_bytes("KiB")?,
            most_vcpus: raw.vcpu.as_ref().map_or(1, |vcpu| vcpu.count),
            // Said only where it is fewer than there can be.
            vcpus: raw
                .vcpu
                .map_or(1, |vcpu| vcpu.current.unwrap_or(vcpu.count)),
            placement,
            disks: raw.devices.disk.into_iter().map(DiskView::from).collect(),
            nics: raw
                .devices
                .interface
                .into_iter()
                .map(NicView::from)
                .collect(),
            metadata,
        })
    }
}

#[derive(Deserialize)]
struct RawDomain {
    #[serde(rename = "@type")]
    virt_type: String,
    name: String,
    uuid: String,
    title: Option<String>,
    memory: Amount,
    vcpu: Option<RawVcpu>,
    os: Option<RawOs>,
    #[serde(default)]
    devices: RawDevices,
}

#[derive(Deserialize)]
struct RawVcpu {
    #[serde(rename = "@cpuset")]
    cpuset: Option<String>,
    #[serde(rename = "@current")]
    current: Option<u32>,
    #[serde(rename = "$text")]
    count: u32,
}

#[derive(Deserialize)]
struct RawOs {
    #[serde(rename = "type")]
    os_type: RawOsType,
}

#[derive(Deserialize)]
struct RawOsType {
    #[serde(rename = "@arch")]
    arch: Option<String>,
    #[serde(rename = "@machine")]
    machine: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawDevices {
    #[serde(default)]
    disk: Vec<RawDisk>,
    #[serde(default)]
    interface: Vec<RawInterface>,
    #[serde(default)]
    hostdev: Vec<RawHostDevice>,
}

#[derive(Deserialize)]
struct RawDisk {
    driver: Option<RawDriver>,
    source: Option<RawSource>,
    target: RawTarget,
}

#[derive(Deserialize)]
struct RawDriver {
    #[serde(rename = "@type")]
    format: Option<String>,
}

#[derive(Deserialize, Default)]
struct RawSource {
    #[serde(rename = "@file")]
    file: Option<String>,
    #[serde(rename = "@dev")]
    dev: Option<String>,
    #[serde(rename = "@network")]
    network: Option<String>,
    #[serde(rename = "@bridge")]
    bridge: Option<String>,
}

#[derive(Deserialize)]
struct RawTarget {
    #[serde(rename = "@dev")]
    dev: String,
}

#[derive(Deserialize)]
struct RawInterface {
    mac: Option<RawMac>,
    source: Option<RawSource>,
    target: Option<RawTarget>,
}

#[derive(Deserialize)]
struct RawMac {
    #[serde(rename = "@address")]
    address: String,
}

impl From<RawDisk> for DiskView {
    fn from(raw: RawDisk) -> Self {
        let source = raw.source.unwrap_or_default();
        Self {
            target: raw.target.dev,
            source: source.file.or(source.dev),
            format: raw.driver.and_then(|driver| driver.format),
        }
    }
}

impl From<RawInterface> for NicView {
    fn from(raw: RawInterface) -> Self {
        let source = raw.source.unwrap_or_default();
        Self {
            mac: raw.mac.map(|mac| mac.address),
            network: source.network,
            tap: raw.target.map(|target| target.dev),
            bridge: source.bridge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shaped as `virsh dumpxml` of a running guest prints it.
    #[test]
    fn a_foreign_domain_is_read() {
        let text = "<domain type='qemu' id='3'><name>theirs</name>\
            <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>\
            <metadata><x:y xmlns:x='urn:x'><x:z/></x:y></metadata>\
            <memory unit='KiB'>2097152</memory><vcpu placement='static' current='1'>4</vcpu>\
            <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type><boot dev='hd'/></os>\
            <devices><disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>\
            <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/x'/>\
            <backingStore/><target dev='vda' bus='virtio'/></disk>\
            <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>\
            <target dev='vnet7'/></interface><interface type='network'>\
            <source network='n' portid='4' bridge='virbr3'/><target dev='vnet8'/></interface>\
            </devices></domain>";
        let view = DomainView::parse(text).unwrap();
        assert_eq!(view.memory_bytes, 2 << 30);
        assert_eq!((view.vcpus, view.most_vcpus), (1, 4));
        assert_eq!(view.metadata, None);
        assert_eq!(view.disks[0].source, None);
        assert_eq!(view.disks[1].source.as_deref(), Some("/dev/x"));
        let card = |at: usize| {
            let nic = &view.nics[at];
            [&nic.network, &nic.tap, &nic.bridge].map(Option::as_deref)
        };
        assert_eq!(card(0), [None, Some("vnet7"), Some("br0")]);
        assert_eq!(card(1), [Some("n"), Some("vnet8"), Some("virbr3")]);
    }
}
