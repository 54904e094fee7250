//! Where a domain is on its host: the threads that its vCPUs run on, the cells that its memory is
//! in, and the devices that are its own.
//!
//! Memory is bound by the guest's cells, never by the whole process: QEMU's own memory is common
//! memory and may come from any cell. Huge pages come from memfd, so no mount is needed for them.

use std::collections::{BTreeMap, BTreeSet};

use kapok_types::{
    MemoryMib, ThreadSet, Vcpus,
    equipment::{Feature, PageSize, PciAddress},
};
use serde::{Deserialize, Serialize};

use super::{Amount, Error, Typed, domain::DomainConfig};

/// Where a domain is, and what is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Host threads for QEMU's own threads, and for vCPUs that say nothing else; empty means all.
    pub threads: ThreadSet,
    /// Host threads for vCPUs, by their number; for those that stand in it.
    pub pins: BTreeMap<u32, ThreadSet>,
    /// The guest's cells; empty for one that isn't bound to any.
    pub cells: Vec<GuestCell>,
    /// Huge pages of this size carry its memory.
    pub huge_pages: Option<PageSize>,
    /// Devices of the host that are its own.
    pub devices: BTreeSet<PciAddress>,
    /// Processor features that it must have.
    pub features: BTreeSet<Feature>,
}

/// One of a guest's cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestCell {
    /// The host's cell that its memory comes from.
    pub host: u16,
    /// Its vCPUs; numbers follow from the order of the cells.
    pub vcpus: Vcpus,
    /// Its memory.
    pub memory: MemoryMib,
}

/// What can't be written.
pub(super) fn check(config: &DomainConfig) -> Result<(), Error> {
    let placement = &config.placement;
    if placement.cells.is_empty() {
        return match placement.huge_pages {
            Some(_) => Err(Error::field("cells", "are none, but there are huge pages")),
            None => Ok(()),
        };
    }
    let vcpus = placement.cells.iter().map(|cell| cell.vcpus);
    if vcpus.fold(Vcpus::ZERO, Vcpus::saturating_add) != config.most_vcpus {
        return Err(Error::field("cells", "don't have all vCPUs"));
    }
    let memory = placement.cells.iter().map(|cell| cell.memory);
    if memory.fold(MemoryMib::ZERO, MemoryMib::saturating_add) != config.memory {
        return Err(Error::field("cells", "don't have all of the memory"));
    }
    if placement.cells.iter().any(|cell| cell.vcpus == Vcpus::ZERO) {
        return Err(Error::field("cells", "have one without a vCPU"));
    }
    Ok(())
}

#[derive(Serialize)]
pub(super) struct MemoryBacking {
    hugepages: HugePages,
    source: Typed<&'static str>,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(default)]
struct HugePages {
    page: Vec<Page>,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct Page {
    #[serde(rename = "@size")]
    size: u64,
    #[serde(rename = "@unit")]
    unit: String,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(default)]
pub(super) struct CpuTune {
    vcpupin: Vec<VcpuPin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    emulatorpin: Option<Pin>,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct VcpuPin {
    #[serde(rename = "@vcpu")]
    vcpu: u32,
    #[serde(rename = "@cpuset")]
    cpuset: String,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct Pin {
    #[serde(rename = "@cpuset")]
    cpuset: String,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(default)]
pub(super) struct NumaTune {
    memnode: Vec<MemNode>,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct MemNode {
    #[serde(rename = "@cellid")]
    cell: u32,
    #[serde(rename = "@mode")]
    mode: String,
    #[serde(rename = "@nodeset")]
    nodes: String,
}

#[derive(Serialize)]
pub(super) struct Cpu<'a> {
    #[serde(rename = "@mode", skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    feature: Vec<FeatureElement<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numa: Option<Numa>,
}

#[derive(Serialize)]
struct FeatureElement<'a> {
    #[serde(rename = "@policy")]
    policy: &'static str,
    #[serde(rename = "@name")]
    name: &'a str,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(default)]
struct Numa {
    cell: Vec<NumaCell>,
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct NumaCell {
    #[serde(rename = "@id")]
    id: u32,
    #[serde(rename = "@cpus")]
    cpus: String,
    #[serde(rename = "@memory")]
    memory: u64,
    #[serde(rename = "@unit")]
    unit: String,
}

#[derive(Serialize)]
pub(super) struct HostDevice {
    #[serde(rename = "@mode")]
    mode: &'static str,
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@managed")]
    managed: &'static str,
    source: HostDeviceSource,
}

#[derive(Serialize)]
struct HostDeviceSource {
    address: PciElement,
}

/// `<address domain='0x0000' bus='0x65' slot='0x00' function='0x1'/>`
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct PciElement {
    #[serde(rename = "@domain")]
    domain: String,
    #[serde(rename = "@bus")]
    bus: String,
    #[serde(rename = "@slot")]
    slot: String,
    #[serde(rename = "@function")]
    function: String,
}

impl Placement {
    /// The threads of all vCPUs, where nothing is said of any one.
    pub(super) fn cpuset(&self) -> Option<String> {
        let said = self.pins.is_empty() && !self.threads.is_empty();
        said.then(|| self.threads.to_string())
    }

    pub(super) fn backing(&self) -> Option<MemoryBacking> {
        self.huge_pages.map(|size| MemoryBacking {
            hugepages: HugePages {
                page: vec![Page {
                    size: size.mib() * 1024,
                    unit: "KiB".into(),
                }],
            },
            source: "memfd".into(),
        })
    }

    pub(super) fn tune_cpu(&self) -> Option<CpuTune> {
        let pins = self.pins.iter().map(|(vcpu, threads)| VcpuPin {
            vcpu: *vcpu,
            cpuset: threads.to_string(),
        });
        let own = (!self.threads.is_empty()).then(|| Pin {
            cpuset: self.threads.to_string(),
        });
        (!self.pins.is_empty()).then(|| CpuTune {
            vcpupin: pins.collect(),
            emulatorpin: own,
        })
    }

    pub(super) fn tune_numa(&self) -> Option<NumaTune> {
        let mode = self.huge_pages.map_or("preferred", |_| "strict");
        let nodes = (0..).zip(&self.cells).map(|(cell, share)| MemNode {
            cell,
            mode: mode.into(),
            nodes: share.host.to_string(),
        });
        let memnode: Vec<_> = nodes.collect();
        (!memnode.is_empty()).then_some(NumaTune { memnode })
    }

    pub(super) fn cpu(&self, mode: Option<&'static str>) -> Option<Cpu<'_>> {
        let features = self.features.iter().map(|feature| FeatureElement {
            policy: "require",
            name: feature.as_str(),
        });
        let mut next = 0_u32;
        let cells = (0..).zip(&self.cells).map(|(id, share)| {
            let (first, last) = (next, next + share.vcpus.get().saturating_sub(1));
            next = last + 1;
            let cpus = match last {
                _ if first == last => first.to_string(),
                _ => format!("{first}-{last}"),
            };
            NumaCell {
                id,
                cpus,
                memory: share.memory.get(),
                unit: "MiB".into(),
            }
        });
        let cell: Vec<_> = cells.collect();
        let numa = (!cell.is_empty()).then_some(Numa { cell });
        let feature: Vec<_> = features.collect();
        let said = mode.is_some() || numa.is_some() || !feature.is_empty();
        said.then_some(Cpu {
            mode,
            feature,
            numa,
        })
    }

    pub(super) fn host_devices(&self) -> Vec<HostDevice> {
        let device = |address: &PciAddress| HostDevice {
            mode: "subsystem",
            kind: "pci",
            managed: "yes",
            source: HostDeviceSource {
                address: PciElement {
                    domain: format!("{:#06x}", address.domain),
                    bus: format!("{:#04x}", address.bus),
                    slot: format!("{:#04x}", address.slot),
                    function: format!("{:#x}", address.function),
                },
            },
        };
        self.devices.iter().map(device).collect()
    }
}

impl PciElement {
    fn read(&self) -> Option<PciAddress> {
        let number = |text: &str| u16::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let byte = |text: &str| u8::try_from(number(text)?).ok();
        Some(PciAddress {
            domain: number(&self.domain)?,
            bus: byte(&self.bus)?,
            slot: byte(&self.slot)?,
            function: byte(&self.function)?,
        })
    }
}

/// What a domain's document says of where it is: read leniently, others' domains are read too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementView {
    /// Host threads for QEMU's own threads, and for vCPUs that say nothing else; empty means all.
    pub threads: ThreadSet,
    /// Host threads for vCPUs, by their number; for those that stand in it.
    pub pins: BTreeMap<u32, ThreadSet>,
    /// The guest's cells: the host's cell that its memory comes from, if one is named, and its
    /// memory in bytes.
    pub cells: Vec<(Option<u16>, u64)>,
    /// Whether its memory must come from the cells that are named.
    pub strict: bool,
    /// Sizes of its huge pages, in bytes; empty means none.
    pub page_bytes: BTreeSet<u64>,
    /// Devices of the host that it has.
    pub devices: BTreeSet<PciAddress>,
    /// Other devices of the host that it has: USB, mediated, SCSI.
    pub other_devices: usize,
    /// Processor features that it must have.
    pub features: BTreeSet<String>,
}

/// The elements of a domain's document that say where it is.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RawPlacement {
    #[serde(rename = "memoryBacking")]
    backing: RawBacking,
    cputune: CpuTune,
    numatune: NumaTune,
    cpu: RawCpu,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawBacking {
    hugepages: Option<HugePages>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawCpu {
    feature: Vec<RawFeature>,
    numa: Numa,
}

#[derive(Deserialize)]
struct RawFeature {
    #[serde(rename = "@policy")]
    policy: Option<String>,
    #[serde(rename = "@name")]
    name: String,
}

/// A `<hostdev>`.
#[derive(Deserialize)]
pub(super) struct RawHostDevice {
    source: Option<RawHostDeviceSource>,
}

#[derive(Deserialize)]
struct RawHostDeviceSource {
    address: Option<RawPci>,
}

/// As [`PciElement`]; other kinds of devices have other addresses.
#[derive(Deserialize)]
struct RawPci {
    #[serde(rename = "@domain")]
    domain: Option<String>,
    #[serde(rename = "@bus")]
    bus: Option<String>,
    #[serde(rename = "@slot")]
    slot: Option<String>,
    #[serde(rename = "@function")]
    function: Option<String>,
}

impl RawHostDevice {
    fn address(&self) -> Option<PciAddress> {
        let found = self.source.as_ref()?.address.as_ref()?;
        let element = PciElement {
            domain: found.domain.clone()?,
            bus: found.bus.clone()?,
            slot: found.slot.clone()?,
            function: found.function.clone()?,
        };
        element.read()
    }
}

impl RawPlacement {
    pub(super) fn view(
        self,
        cpuset: Option<&str>,
        devices: &[RawHostDevice],
    ) -> Result<PlacementView, Error> {
        let threads = |text: &str| text.parse().unwrap_or_default();
        let own = self.cputune.emulatorpin.as_ref().map(|pin| &*pin.cpuset);
        let pins = self.cputune.vcpupin.iter();
        let pages = self.backing.hugepages;
        let mut page_bytes = BTreeSet::new();
        for page in pages.iter().flat_map(|pages| &pages.page) {
            page_bytes.insert(Amount::of(page.size, &page.unit).to_bytes("KiB")?);
        }
        if pages.is_some_and(|pages| pages.page.is_empty()) {
            // The host's usual size, whichever that is.
            page_bytes.insert(0);
        }
        let nodes = &self.numatune.memnode;
        let mut cells = Vec::new();
        for cell in &self.cpu.numa.cell {
            let node = nodes.iter().find(|node| node.cell == cell.id);
            let bytes = Amount::of(cell.memory, &cell.unit).to_bytes("KiB")?;
            cells.push((node.and_then(|node| node.nodes.parse().ok()), bytes));
        }
        let addresses: Vec<_> = devices.iter().map(RawHostDevice::address).collect();
        let required = |feature: &RawFeature| feature.policy.as_deref() == Some("require");
        let features = self.cpu.feature.into_iter().filter(required);
        Ok(PlacementView {
            threads: own.or(cpuset).map(threads).unwrap_or_default(),
            pins: pins.map(|pin| (pin.vcpu, threads(&pin.cpuset))).collect(),
            cells,
            strict: !nodes.is_empty() && nodes.iter().all(|node| node.mode == "strict"),
            page_bytes,
            other_devices: addresses.iter().filter(|found| found.is_none()).count(),
            devices: addresses.into_iter().flatten().collect(),
            features: features.map(|feature| feature.name).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
