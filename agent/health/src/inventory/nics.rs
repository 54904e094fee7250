//! Network ports with a device behind them. Bridges, bonds, taps and the like have none.

use std::time::Duration;

use super::{MAX_ENTRIES, Nic, Reader, pci, real, tidy};
use crate::Host;

const NET: &str = "/sys/class/net";
const TOPIC: &str = "nics";
/// How long a driver may take to tell its firmware.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn read(reader: &mut Reader<'_>) -> Vec<Nic> {
    let mut nics = Vec::new();
    for name in reader.list(TOPIC, NET).into_iter().take(MAX_ENTRIES) {
        let home = format!("{NET}/{name}");
        if !reader.host.exists(format!("{home}/device")) {
            continue;
        }
        let mut nic = one(reader, &name, &home);
        // A function's firmware is its card's.
        if !is_virtual_function(reader.host, &name) {
            nic.firmware = firmware(reader.host, &name).await;
        }
        nics.push(nic);
    }
    nics
}

/// Whether a port is a virtual function of a card.
pub(super) fn is_virtual_function(host: &Host, name: &str) -> bool {
    host.exists(format!("{NET}/{name}/device/physfn"))
}

/// Whether a port keeps the address it was made with, and stays: not plugged in by a person.
pub(super) fn is_built_in(host: &Host, name: &str) -> bool {
    let given = host
        .text(format!("{NET}/{name}/addr_assign_type"))
        .ok()
        .flatten();
    let bonded = host.exists(format!("{NET}/{name}/bonding_slave/perm_hwaddr"));
    let own = bonded || given.is_none_or(|kind| kind == "0");
    own && !is_virtual_function(host, name)
        && !real(host, &format!("{NET}/{name}/device")).contains("/usb")
}

fn one(reader: &mut Reader<'_>, name: &str, home: &str) -> Nic {
    let mut text = |file: &str| reader.text(TOPIC, &format!("{home}/{file}"));
    // In a bond every port has the bond's address; its own is kept beside.
    let own = text("bonding_slave/perm_hwaddr");
    let mac = if own.is_empty() { text("address") } else { own };
    let vfs = text("device/sriov_numvfs").parse().unwrap_or(0);
    let max_vfs = text("device/sriov_totalvfs").parse().unwrap_or(0);
    let host = reader.host;
    // A port without a link has no speed: the kernel answers an error, or -1.
    let speed = host.text(format!("{home}/speed")).ok().flatten();
    let bond = host.link(format!("{home}/master"));
    let bond = bond.filter(|bond| host.exists(format!("{NET}/{bond}/bonding")));
    Nic {
        name: name.into(),
        mac,
        driver: host
            .link(format!("{home}/device/driver"))
            .unwrap_or_default(),
        firmware: String::new(),
        speed_mbps: speed.and_then(|speed| speed.parse().ok()).unwrap_or(0),
        pci: pci::address_in(&real(host, &format!("{home}/device"))),
        vfs,
        max_vfs,
        bond: bond.unwrap_or_default(),
    }
}

/// What `ethtool -i` says; empty where it isn't installed, or the driver doesn't tell.
async fn firmware(host: &Host, name: &str) -> String {
    // It would be taken for an option.
    if name.starts_with('-') {
        return String::new();
    }
    let Ok(said) = host.run("ethtool", &["-i", name], PATIENCE).await else {
        return String::new();
    };
    let version = said
        .text
        .lines()
        .find_map(|line| line.strip_prefix("firmware-version:"));
    let version = tidy(version.unwrap_or_default());
    if version == "N/A" {
        String::new()
    } else {
        version
    }
}
