//! Disks: block devices with a device behind them. Loops, RAM disks, maps and arrays have none.

use super::{Disk, MAX_ENTRIES, Reader, bytes, real, tidy};
use crate::Host;

const BLOCK: &str = "/sys/block";
const TOPIC: &str = "disks";
/// A sector as sysfs counts them, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

pub(super) fn read(reader: &mut Reader<'_>) -> Vec<Disk> {
    let names = reader.list(TOPIC, BLOCK);
    let disks = names.iter().filter_map(|name| one(reader, name));
    disks.take(MAX_ENTRIES).collect()
}

fn one(reader: &mut Reader<'_>, name: &str) -> Option<Disk> {
    let home = format!("{BLOCK}/{name}");
    // Drives of optical and floppy discs are no disks, and a path of a multipath NVMe is hidden
    // behind its head.
    if !reader.host.exists(format!("{home}/device"))
        || name.starts_with("sr")
        || name.starts_with("fd")
        || reader.text(TOPIC, &format!("{home}/hidden")) == "1"
    {
        return None;
    }
    let mut text = |file: &str| reader.text(TOPIC, &format!("{home}/{file}"));
    let (vendor, model) = (text("device/vendor"), text("device/model"));
    let model = match vendor.as_str() {
        // A vendor's number, or no vendor at all.
        "" | "ATA" => model,
        vendor if vendor.starts_with("0x") => model,
        vendor => format!("{vendor} {model}").trim().to_owned(),
    };
    let firmware = match text("device/firmware_rev") {
        firmware if firmware.is_empty() => text("device/rev"),
        firmware => firmware,
    };
    let serial = [text("device/serial"), text("serial")];
    let serial = serial.into_iter().find(|serial| !serial.is_empty());
    let rotational = text("queue/rotational") == "1";
    let size = text("size").parse::<u64>().unwrap_or(0);
    Some(Disk {
        name: name.into(),
        model,
        serial: serial.unwrap_or_else(|| scsi_serial(reader.host, &home)),
        firmware,
        rotational,
        size_bytes: size.saturating_mul(SECTOR_BYTES),
        transport: transport(name, &real(reader.host, &home), reader.host, &home).into(),
    })
}

/// A SCSI disk's serial number: its page 0x80, four bytes of header before the text.
/// Source: SPC-4, 7.8.14.
fn scsi_serial(host: &Host, home: &str) -> String {
    let page = bytes(host, &format!("{home}/device/vpd_pg80"), 256);
    let page = page.ok().flatten().unwrap_or_default();
    tidy(&String::from_utf8_lossy(page.get(4..).unwrap_or_default()))
}

/// How a disk is attached, by the way to it through sysfs.
fn transport(name: &str, way: &str, host: &Host, home: &str) -> &'static str {
    if name.starts_with("nvme") {
        let transport = host.text(format!("{home}/device/transport")).ok().flatten();
        return match transport.as_deref() {
            None | Some("pcie") => "nvme",
            Some(_) => "fabrics",
        };
    }
    let steps = [
        ("/usb", "usb"),
        ("/session", "iscsi"),
        ("/rport-", "fc"),
        ("/end_device-", "sas"),
        ("/ata", "ata"),
        ("/virtio", "virtio"),
        ("/mmc", "mmc"),
    ];
    let found = steps.iter().find(|(step, _)| way.contains(step));
    found.map_or("scsi", |(_, transport)| transport)
}
