//! PCI devices, with names from the distribution's table where there is one.
//!
//! The table has some 40,000 lines: it is read line by line, and only names that are asked for are
//! kept.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufReader, Read as _},
};

use super::{Gpu, MAX_ENTRIES, PciDevice, Reader, tidy};
use crate::Host;

const DEVICES: &str = "/sys/bus/pci/devices";
const TOPIC: &str = "pci_devices";
/// Where distributions put the table of names.
const TABLES: [&str; 3] = [
    "/usr/share/misc/pci.ids",
    "/usr/share/hwdata/pci.ids",
    "/var/lib/pciutils/pci.ids",
];
/// Most of the table that is read, in bytes.
const MAX_TABLE_BYTES: u64 = 16 * 1024 * 1024;

pub(super) fn read(reader: &mut Reader<'_>) -> Vec<PciDevice> {
    let addresses = reader.list(TOPIC, DEVICES);
    let mut devices: Vec<PciDevice> = addresses
        .iter()
        .take(MAX_ENTRIES)
        .map(|address| one(reader, address))
        .collect();
    let names = Names::of(reader.host, &devices);
    for device in &mut devices {
        names.give(device);
    }
    devices
}

/// Graphics cards and other accelerators among them. Source: PCI Code and ID Assignment, 1.11:
/// base class 03 is display controllers, 12 processing accelerators.
pub(super) fn gpus(devices: &[PciDevice]) -> Vec<Gpu> {
    let words = [
        "VGA compatible controller",
        "3D controller",
        "Display controller",
        "Processing accelerators",
    ];
    let numbers = ["0300", "0301", "0302", "0380", "1200"];
    let is_one = |device: &&PciDevice| {
        words
            .iter()
            .chain(&numbers)
            .any(|class| device.class == *class)
    };
    let gpus = devices.iter().filter(is_one).map(|device| Gpu {
        pci: device.address.clone(),
        name: title(device),
        driver: device.driver.clone(),
    });
    gpus.collect()
}

/// A device's name for people.
fn title(device: &PciDevice) -> String {
    let numbers = format!("[{}:{}]", device.vendor_id, device.device_id);
    let parts = [device.vendor.as_str(), &device.device, &numbers];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

/// The last PCI address on a way through sysfs; empty without one.
pub(super) fn address_in(way: &str) -> String {
    let is_address = |step: &&str| {
        let shape = |c: char| if c.is_ascii_hexdigit() { 'h' } else { c };
        step.chars().map(shape).collect::<String>() == "hhhh:hh:hh.h"
    };
    way.split('/')
        .rev()
        .find(is_address)
        .unwrap_or_default()
        .to_owned()
}

fn one(reader: &mut Reader<'_>, address: &str) -> PciDevice {
    let home = format!("{DEVICES}/{address}");
    let mut number = |file: &str| {
        let text = reader.text(TOPIC, &format!("{home}/{file}"));
        text.trim_start_matches("0x").to_lowercase()
    };
    let (vendor_id, device_id) = (number("vendor"), number("device"));
    // Class and subclass; the interface after them says no more of what it is.
    let class: String = number("class").chars().take(4).collect();
    let numa_cell = number("numa_node").parse().ok();
    let host = reader.host;
    PciDevice {
        address: address.into(),
        vendor_id,
        device_id,
        class,
        driver: host.link(format!("{home}/driver")).unwrap_or_default(),
        iommu_group: host
            .link(format!("{home}/iommu_group"))
            .and_then(|it| it.parse().ok()),
        numa_cell,
        ..PciDevice::default()
    }
}

/// Names that were asked for: by vendor, by vendor and device, by class.
#[derive(Default)]
struct Names {
    vendors: BTreeMap<String, Option<String>>,
    devices: BTreeMap<(String, String), Option<String>>,
    classes: BTreeMap<String, Option<String>>,
}

impl Names {
    /// Names of these devices and their classes.
    fn of(host: &Host, wanted: &[PciDevice]) -> Self {
        let mut names = Self::default();
        for device in wanted {
            let (vendor, class) = (device.vendor_id.clone(), device.class.clone());
            names.vendors.insert(vendor.clone(), None);
            names
                .devices
                .insert((vendor, device.device_id.clone()), None);
            names.classes.insert(class, None);
        }
        if wanted.is_empty() {
            return names;
        }
        let table = TABLES
            .iter()
            .find_map(|table| fs::File::open(host.path(table)).ok());
        if let Some(table) = table {
            names.learn(BufReader::new(table.take(MAX_TABLE_BYTES)));
        }
        names
    }

    /// Source: the table's own head: "vendor", tab "device", two tabs "subsystem"; "C class",
    /// tab "subclass", two tabs "interface".
    fn learn(&mut self, table: impl std::io::BufRead) {
        let mut above = String::new();
        for line in table.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let depth = line.bytes().take_while(|byte| *byte == b'\t').count();
            let Some((number, name)) = line.trim().split_once("  ") else {
                continue;
            };
            if line.starts_with('#') || depth > 1 {
                continue;
            }
            let entry = if depth == 0 {
                number.clone_into(&mut above);
                self.vendors.get_mut(number)
            } else if let Some(class) = above.strip_prefix("C ") {
                self.classes.get_mut(&format!("{class}{number}"))
            } else {
                self.devices.get_mut(&(above.clone(), number.to_owned()))
            };
            if let Some(entry) = entry {
                *entry = Some(tidy(name));
            }
        }
    }

    fn give(&self, device: &mut PciDevice) {
        let named = |name: Option<&Option<String>>| name.cloned().flatten();
        let key = (device.vendor_id.clone(), device.device_id.clone());
        device.vendor = named(self.vendors.get(&device.vendor_id)).unwrap_or_default();
        device.device = named(self.devices.get(&key)).unwrap_or_default();
        if let Some(class) = named(self.classes.get(&device.class)) {
            device.class = class;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_in_its_own_form() {
        let table = "# comment\n10de  NVIDIA Corporation\n\t20b0  GA100 [A100 SXM4 40GB]\n\
                     \t\t10de 1450  A100-SXM4-40GB\n8086  Intel Corporation\n\t20b0  not NVIDIA's\n\
                     C 03  Display controller\n\t02  3D controller\n\t\t00  XGA\n";
        let device = PciDevice {
            vendor_id: "10de".into(),
            device_id: "20b0".into(),
            class: "0302".into(),
            ..PciDevice::default()
        };
        let mut names = Names::of(&Host::new("/nonexistent"), std::slice::from_ref(&device));
        names.learn(table.as_bytes());
        let mut named = device;
        names.give(&mut named);
        assert_eq!(
            title(&named),
            "NVIDIA Corporation GA100 [A100 SXM4 40GB] [10de:20b0]"
        );
        assert_eq!(named.class, "3D controller");
        assert_eq!(gpus(&[named]).len(), 1);
    }

    #[test]
    fn the_last_address_counts() {
        let way = "/sys/devices/pci0000:00/0000:00:03.0/0000:3b:00.1/virtio2";
        assert_eq!(address_in(way), "0000:3b:00.1");
        assert_eq!(address_in("/sys/devices/virtual/net/tap0"), "");
    }
}
