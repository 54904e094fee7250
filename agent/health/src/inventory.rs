//! What a server is made of, as its firmware and its kernel tell.
//!
//! One reader a topic. A reader leaves empty what the server doesn't have, and notes why what it
//! has could not be read: serial numbers and the firmware's tables are root's alone on most
//! servers. Reading may block and may hang; whoever calls bounds it. Nothing is kept between two
//! readings, least of all the table of PCI names.
//!
//! Absent on purpose: what the hypervisor offers. Its driver knows, and the agent puts it in.

use std::{collections::BTreeMap, fs, io::Read as _};

use serde::{Deserialize, Serialize};

use crate::{Failure, Host};

mod disks;
mod memory;
mod nics;
mod numa;
mod parts;
mod pci;
mod processors;
mod smbios;
mod system;

pub use parts::{PartChange, Parts};

/// Most entries of one kind that are told: virtual functions come in thousands.
const MAX_ENTRIES: usize = 4096;
/// Longest text of firmware that is passed on, in bytes.
const MAX_TEXT: usize = 256;

/// What a server is made of. A text that could not be read is empty, and `unreadable` says why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The server itself.
    pub system: System,
    /// Its processors, by number.
    pub processors: Vec<Processor>,
    /// Its NUMA cells, by number.
    pub numa_cells: Vec<NumaCell>,
    /// Its memory modules' places, empty ones as well where the firmware tells them.
    pub memory_modules: Vec<MemoryModule>,
    /// Its disks, by name.
    pub disks: Vec<Disk>,
    /// Its network ports, by name.
    pub nics: Vec<Nic>,
    /// Its PCI devices, by address.
    pub pci_devices: Vec<PciDevice>,
    /// Its graphics cards and other accelerators, by address.
    pub gpus: Vec<Gpu>,
    /// What runs on it.
    pub software: Software,
    /// Whether devices can be handed to guests: the IOMMU is on.
    pub iommu: bool,
    /// Whether guests can run guests.
    pub nested: bool,
    /// What could not be read: topic to reason.
    pub unreadable: BTreeMap<String, String>,
    /// What stands for it in the list of parts, and how each kind of them was read.
    pub parts: Parts,
}

/// The server itself, as its firmware tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Who made it.
    pub vendor: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// Its UUID.
    pub uuid: String,
    /// Its board's model.
    pub board: String,
    /// Its board's serial number.
    pub board_serial: String,
    /// The firmware's maker.
    pub bios_vendor: String,
    /// The firmware's version.
    pub bios_version: String,
    /// The firmware's date, as the firmware writes it.
    pub bios_date: String,
    /// The management controller's firmware.
    pub bmc_firmware: String,
    /// The trusted platform module's version: "2.0".
    pub tpm_version: String,
}

/// A processor package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// Its number.
    pub package: u32,
    /// Its model.
    pub model: String,
    /// Its maker.
    pub vendor: String,
    /// Its microcode's revision.
    pub microcode: String,
    /// Its cores.
    pub cores: u32,
    /// Its threads.
    pub threads: u32,
    /// Its highest frequency in MHz; 0 if unknown.
    pub max_mhz: u32,
    /// Its features, sorted.
    pub flags: Vec<String>,
}

/// A NUMA cell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaCell {
    /// Its number.
    pub cell: u32,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its threads, as ranges: "0-7,16-23".
    pub cpus: String,
    /// Distances to all cells, in the cells' order; 10 is itself.
    pub distances: Vec<u32>,
    /// Huge pages by their size.
    pub huge_pages: Vec<HugePages>,
}

/// Huge pages of one size in one cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Their size in KiB.
    pub size_kib: u64,
    /// How many there are.
    pub total: u64,
    /// How many are free.
    pub free: u64,
}

/// A place for a memory module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryModule {
    /// Its place: `DIMM_A1`.
    pub slot: String,
    /// Its size in MiB; 0 for an empty place.
    pub size_mib: u64,
    /// Its maker.
    pub vendor: String,
    /// Its part number.
    pub part: String,
    /// Its serial number.
    pub serial: String,
    /// Its kind: "DDR5".
    pub kind: String,
    /// Its speed in MT/s as configured; 0 if unknown.
    pub speed_mts: u32,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its device: "nvme0n1".
    pub name: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// Its firmware.
    pub firmware: String,
    /// Whether it rotates.
    pub rotational: bool,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How it is attached: "nvme", "ata", "sas", "scsi", "virtio", "usb", "iscsi", "fc", "fabrics".
    pub transport: String,
}

/// A network port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its name: "eth0".
    pub name: String,
    /// The hardware address it was made with, as far as the kernel tells.
    pub mac: String,
    /// Its driver.
    pub driver: String,
    /// Its firmware.
    pub firmware: String,
    /// Its speed in Mbit/s; 0 if unknown.
    pub speed_mbps: u32,
    /// Its PCI address, if it has one.
    pub pci: String,
    /// Virtual functions in use.
    pub vfs: u32,
    /// Virtual functions that it could have.
    pub max_vfs: u32,
    /// The bond that it belongs to, if any.
    pub bond: String,
}

/// A PCI device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciDevice {
    /// "0000:3b:00.0"
    pub address: String,
    /// Vendor's number, 4 hex digits.
    pub vendor_id: String,
    /// Device's number, 4 hex digits.
    pub device_id: String,
    /// Vendor's name, if the table of names has it.
    pub vendor: String,
    /// Device's name, if the table of names has it.
    pub device: String,
    /// What it is: "Ethernet controller"; its class's number without a name.
    pub class: String,
    /// Its driver, if one holds it.
    pub driver: String,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// Its NUMA cell, if the firmware says.
    pub numa_cell: Option<u32>,
}

/// A graphics card or another accelerator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its PCI address.
    pub pci: String,
    /// Its name.
    pub name: String,
    /// Its driver, if one holds it.
    pub driver: String,
}

/// What runs on a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub os: String,
    /// The clock source in use: "tsc".
    pub clock_source: String,
    /// Mitigations that the kernel reports.
    pub vulnerabilities: BTreeMap<String, String>,
}

impl Inventory {
    /// Reads all of it. Runs tools for what no file tells; may block.
    pub async fn read(host: &Host) -> Self {
        let mut reader = Reader::new(host);
        let tables = smbios::Tables::read(host);
        let (memory_modules, memory_way) = memory::read(&mut reader, &tables);
        let mut inventory = Self {
            system: system::read(&mut reader, tables.ok().as_ref()),
            processors: processors::read(&mut reader),
            numa_cells: numa::read(&mut reader),
            memory_modules,
            disks: disks::read(&mut reader),
            nics: nics::read(&mut reader).await,
            pci_devices: pci::read(&mut reader),
            software: system::software(&mut reader),
            iommu: !reader
                .list("pci_devices", "/sys/kernel/iommu_groups")
                .is_empty(),
            nested: system::nested(&reader),
            ..Self::default()
        };
        inventory.gpus = pci::gpus(&inventory.pci_devices);
        inventory.unreadable = reader.unreadable;
        inventory.parts = parts::of(&inventory, memory_way, host);
        inventory
    }
}

/// A host whose failures are noted by topic, once each.
struct Reader<'a> {
    host: &'a Host,
    unreadable: BTreeMap<String, String>,
}

impl<'a> Reader<'a> {
    const fn new(host: &'a Host) -> Self {
        let unreadable = BTreeMap::new();
        Self { host, unreadable }
    }

    fn note(&mut self, topic: &str, failure: &Failure) {
        let reason = || tidy(&failure.to_string());
        self.unreadable.entry(topic.into()).or_insert_with(reason);
    }

    /// A file's text, without what a person couldn't read; empty if there is none.
    fn text(&mut self, topic: &str, path: &str) -> String {
        match self.host.text(path) {
            Ok(text) => tidy(&text.unwrap_or_default()),
            Err(failure) => {
                self.note(topic, &failure);
                String::new()
            }
        }
    }

    /// A file's text as it is, for one that has lines.
    fn lines(&mut self, topic: &str, path: &str) -> String {
        match self.host.text(path) {
            Ok(text) => text.unwrap_or_default(),
            Err(failure) => {
                self.note(topic, &failure);
                String::new()
            }
        }
    }

    /// A file's whole number, if it holds one.
    fn number<T: std::str::FromStr>(&mut self, topic: &str, path: &str) -> Option<T> {
        self.text(topic, path).parse().ok()
    }

    fn list(&mut self, topic: &str, path: &str) -> Vec<String> {
        match self.host.list(path) {
            Ok(names) => names,
            Err(failure) => {
                self.note(topic, &failure);
                Vec::new()
            }
        }
    }
}

/// A text of firmware, fit for people: control characters and what is none become spaces, and it
/// ends.
fn tidy(text: &str) -> String {
    let clean = |c: char| {
        if c.is_control() || c == '\u{fffd}' {
            ' '
        } else {
            c
        }
    };
    let text: String = text.chars().map(clean).collect();
    let mut text = text.trim().to_owned();
    while text.len() > MAX_TEXT {
        text.pop();
    }
    text
}

/// A file's bytes, at most `most` of them; none if there is no such file.
fn bytes(host: &Host, path: &str, most: u64) -> Result<Option<Vec<u8>>, Failure> {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(host.path(path))?
            .take(most)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Failure::Unreadable(format!("{path}: {error}"))),
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Where a link finally leads, below the host's root; empty if nowhere.
fn real(host: &Host, path: &str) -> String {
    let root = fs::canonicalize(host.path("/"));
    let (Ok(root), Ok(real)) = (root, fs::canonicalize(host.path(path))) else {
        return String::new();
    };
    let below = real.strip_prefix(root).unwrap_or(&real);
    format!("/{}", below.display())
}

#[cfg(test)]
mod tests;
