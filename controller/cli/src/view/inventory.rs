//! What a node's server is made of.

use std::collections::BTreeMap;

use kapok_proto::common::v1 as wire;
use kapok_types::{Bytes, MemoryMib, Timestamp};
use serde::Serialize;

use super::{Time, time, when, yes_no};
use crate::{
    human::{dash, or_dash, plain},
    output::{columns, pairs},
};

/// Features and models that a line names.
const MAX_NAMED: usize = 8;

/// The wire's message with the same fields, as programs see it.
macro_rules! mirror {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Serialize)]
        struct $name { $($field: $type,)* }

        impl From<wire::$name> for $name {
            fn from(wire: wire::$name) -> Self {
                Self { $($field: wire.$field,)* }
            }
        }
    };
}

mirror! {
    /// The server itself.
    System {
        vendor: String,
        model: String,
        serial: String,
        uuid: String,
        board: String,
        board_serial: String,
        bios_vendor: String,
        bios_version: String,
        bios_date: String,
        bmc_firmware: String,
        tpm_version: String,
    }
}
mirror! {
    Processor {
        package: u32,
        model: String,
        vendor: String,
        microcode: String,
        cores: u32,
        threads: u32,
        max_mhz: u32,
        flags: Vec<String>,
    }
}
mirror! { HugePages { size_kib: u64, total: u64, free: u64, } }
mirror! {
    MemoryModule {
        slot: String,
        size_mib: u64,
        vendor: String,
        part: String,
        serial: String,
        kind: String,
        speed_mts: u32,
    }
}
mirror! {
    Disk {
        name: String,
        model: String,
        serial: String,
        firmware: String,
        rotational: bool,
        size_bytes: u64,
        transport: String,
    }
}
mirror! {
    Nic {
        name: String,
        mac: String,
        driver: String,
        firmware: String,
        speed_mbps: u32,
        pci: String,
        vfs: u32,
        max_vfs: u32,
        bond: String,
    }
}
mirror! {
    PciDevice {
        address: String,
        vendor_id: String,
        device_id: String,
        vendor: String,
        device: String,
        class: String,
        driver: String,
        iommu_group: Option<u32>,
        numa_cell: Option<u32>,
    }
}
mirror! { Gpu { pci: String, name: String, driver: String, } }
mirror! {
    Virtualization {
        virt_type: String,
        check: String,
        machine_types: Vec<String>,
        cpu_models: Vec<String>,
        iommu: bool,
        nested: bool,
    }
}
mirror! {
    /// A part that isn't what the node was accepted with; an empty side isn't there.
    PartChange { part: String, before: String, after: String, }
}

#[derive(Debug, Clone, Serialize)]
struct NumaCell {
    cell: u32,
    memory_mib: u64,
    cpus: String,
    distances: Vec<u32>,
    huge_pages: Vec<HugePages>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Software {
    kernel: String,
    os: String,
    libvirt: String,
    qemu: String,
    agent: String,
    clock_source: String,
    vulnerabilities: BTreeMap<String, String>,
}

/// What a server is made of. A text that can't be read is empty, and `unreadable` says why.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Inventory {
    system: System,
    processors: Vec<Processor>,
    numa_cells: Vec<NumaCell>,
    memory_modules: Vec<MemoryModule>,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    pci_devices: Vec<PciDevice>,
    gpus: Vec<Gpu>,
    software: Software,
    virtualization: Virtualization,
    unreadable: BTreeMap<String, String>,
    read_time: Option<Time>,
    changes: Vec<PartChange>,
}

impl From<wire::NumaCell> for NumaCell {
    fn from(cell: wire::NumaCell) -> Self {
        Self {
            cell: cell.cell,
            memory_mib: cell.memory_mib,
            cpus: cell.cpus,
            distances: cell.distances,
            huge_pages: all(cell.huge_pages),
        }
    }
}

impl From<wire::Software> for Software {
    fn from(software: wire::Software) -> Self {
        Self {
            kernel: software.kernel,
            os: software.os,
            libvirt: software.libvirt,
            qemu: software.qemu,
            agent: software.agent,
            clock_source: software.clock_source,
            vulnerabilities: software.vulnerabilities,
        }
    }
}

impl From<wire::Inventory> for Inventory {
    fn from(inventory: wire::Inventory) -> Self {
        Self {
            system: inventory.system.unwrap_or_default().into(),
            processors: all(inventory.processors),
            numa_cells: all(inventory.numa_cells),
            memory_modules: all(inventory.memory_modules),
            disks: all(inventory.disks),
            nics: all(inventory.nics),
            pci_devices: all(inventory.pci_devices),
            gpus: all(inventory.gpus),
            software: inventory.software.unwrap_or_default().into(),
            virtualization: inventory.virtualization.unwrap_or_default().into(),
            unreadable: inventory.unreadable,
            read_time: time(inventory.read_time),
            changes: all(inventory.changes),
        }
    }
}

fn all<W, V: From<W>>(wire: Vec<W>) -> Vec<V> {
    wire.into_iter().map(V::from).collect()
}

impl Inventory {
    /// The answer for people; PCI devices only if they want much.
    pub(crate) fn text(&self, now: Timestamp, wide: bool) -> String {
        let mut text = self.head(now);
        let mut section = |headers: &[&str], rows: Vec<Vec<String>>| {
            if !rows.is_empty() {
                text += "\n";
                text += &columns(headers, rows);
            }
        };
        section(&["CHANGED PART", "WAS", "IS"], self.changed());
        section(
            &["CPU", "MODEL", "CORES", "THREADS", "MHZ", "MICROCODE"],
            self.processor_rows(),
        );
        section(
            &["NUMA CELL", "MEMORY", "THREADS", "DISTANCES", "HUGE PAGES"],
            self.cell_rows(),
        );
        section(
            &["MODULE", "SIZE", "KIND", "MT/S", "VENDOR", "PART", "SERIAL"],
            self.module_rows(),
        );
        section(
            &["DISK", "SIZE", "KIND", "MODEL", "SERIAL", "FIRMWARE"],
            self.disk_rows(),
        );
        section(
            &["NIC", "MAC", "MBIT/S", "DRIVER", "FIRMWARE", "VFS", "BOND"],
            self.nic_rows(),
        );
        section(&["GPU", "NAME", "DRIVER"], self.gpu_rows());
        if wide {
            section(
                &[
                    "PCI", "CLASS", "VENDOR", "DEVICE", "DRIVER", "IOMMU", "CELL",
                ],
                self.pci_rows(),
            );
        }
        let unread = self.unreadable.iter();
        let unread = unread.map(|(topic, why)| vec![plain(topic), plain(why)]);
        section(&["CAN'T BE READ", "WHY"], unread.collect());
        text
    }

    fn head(&self, now: Timestamp) -> String {
        let (system, software, virt) = (&self.system, &self.software, &self.virtualization);
        let joined = |parts: &[&str]| {
            let parts: Vec<_> = parts
                .iter()
                .filter(|part| !part.is_empty())
                .copied()
                .collect();
            or_dash(&parts.join(" "))
        };
        pairs(&[
            ("Server", joined(&[&system.vendor, &system.model])),
            ("Serial", or_dash(&system.serial)),
            ("UUID", or_dash(&system.uuid)),
            ("Board", joined(&[&system.board, &system.board_serial])),
            (
                "BIOS",
                joined(&[&system.bios_vendor, &system.bios_version, &system.bios_date]),
            ),
            ("BMC", or_dash(&system.bmc_firmware)),
            ("TPM", or_dash(&system.tpm_version)),
            ("System", joined(&[&software.os, &software.kernel])),
            ("libvirt", or_dash(&software.libvirt)),
            ("QEMU", or_dash(&software.qemu)),
            ("Agent", or_dash(&software.agent)),
            ("Clock source", or_dash(&software.clock_source)),
            ("Virtualization", joined(&[&virt.virt_type, &virt.check])),
            ("IOMMU", yes_no(virt.iommu)),
            ("Nested", yes_no(virt.nested)),
            ("Machine types", few(&virt.machine_types)),
            ("CPU models", few(&virt.cpu_models)),
            ("PCI devices", self.pci_devices.len().to_string()),
            ("Read", when(self.read_time, now)),
        ])
    }

    fn changed(&self) -> Vec<Vec<String>> {
        let row = |one: &PartChange| {
            vec![
                plain(&one.part),
                or_dash(&one.before),
                match one.after.as_str() {
                    "" => "gone".to_owned(),
                    after => plain(after),
                },
            ]
        };
        self.changes.iter().map(row).collect()
    }

    fn processor_rows(&self) -> Vec<Vec<String>> {
        let row = |one: &Processor| {
            vec![
                one.package.to_string(),
                or_dash(&one.model),
                one.cores.to_string(),
                one.threads.to_string(),
                number(one.max_mhz),
                or_dash(&one.microcode),
            ]
        };
        self.processors.iter().map(row).collect()
    }

    fn cell_rows(&self) -> Vec<Vec<String>> {
        let pages = |one: &HugePages| {
            let size = Bytes(one.size_kib.saturating_mul(1024));
            format!("{size}: {} of {} free", one.free, one.total)
        };
        let row = |one: &NumaCell| {
            let distances: Vec<_> = one.distances.iter().map(ToString::to_string).collect();
            let pages: Vec<_> = one.huge_pages.iter().map(pages).collect();
            vec![
                one.cell.to_string(),
                MemoryMib(one.memory_mib).to_string(),
                or_dash(&one.cpus),
                or_dash(&distances.join(" ")),
                or_dash(&pages.join(", ")),
            ]
        };
        self.numa_cells.iter().map(row).collect()
    }

    fn module_rows(&self) -> Vec<Vec<String>> {
        let row = |one: &MemoryModule| {
            let size = match one.size_mib {
                0 => "empty".to_owned(),
                size => MemoryMib(size).to_string(),
            };
            vec![
                plain(&one.slot),
                size,
                or_dash(&one.kind),
                number(one.speed_mts),
                or_dash(&one.vendor),
                or_dash(&one.part),
                or_dash(&one.serial),
            ]
        };
        self.memory_modules.iter().map(row).collect()
    }

    fn disk_rows(&self) -> Vec<Vec<String>> {
        let row = |one: &Disk| {
            let rotates = if one.rotational { ", rotates" } else { "" };
            vec![
                plain(&one.name),
                Bytes(one.size_bytes).to_string(),
                plain(&format!("{}{rotates}", one.transport)),
                or_dash(&one.model),
                or_dash(&one.serial),
                or_dash(&one.firmware),
            ]
        };
        self.disks.iter().map(row).collect()
    }

    fn nic_rows(&self) -> Vec<Vec<String>> {
        let row = |one: &Nic| {
            vec![
                plain(&one.name),
                or_dash(&one.mac),
                number(one.speed_mbps),
                or_dash(&one.driver),
                or_dash(&one.firmware),
                format!("{}/{}", one.vfs, one.max_vfs),
                or_dash(&one.bond),
            ]
        };
        self.nics.iter().map(row).collect()
    }

    fn gpu_rows(&self) -> Vec<Vec<String>> {
        let row = |one: &Gpu| vec![plain(&one.pci), or_dash(&one.name), or_dash(&one.driver)];
        self.gpus.iter().map(row).collect()
    }

    fn pci_rows(&self) -> Vec<Vec<String>> {
        let optional = |number: Option<u32>| number.map_or_else(dash, |number| number.to_string());
        let named = |name: &str, id: &str| or_dash(if name.is_empty() { id } else { name });
        let row = |one: &PciDevice| {
            vec![
                plain(&one.address),
                or_dash(&one.class),
                named(&one.vendor, &one.vendor_id),
                named(&one.device, &one.device_id),
                or_dash(&one.driver),
                optional(one.iommu_group),
                optional(one.numa_cell),
            ]
        };
        self.pci_devices.iter().map(row).collect()
    }
}

/// A number, where 0 means that it isn't known.
fn number(number: u32) -> String {
    match number {
        0 => dash(),
        number => number.to_string(),
    }
}

/// The first of several words, and how many more there are.
fn few(words: &[String]) -> String {
    let named = or_dash(&words.get(..MAX_NAMED).unwrap_or(words).join(", "));
    match words.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
