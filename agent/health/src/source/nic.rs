//! Ports of network cards: those with a device, and none that are virtual functions, which come and
//! go with the guests that they are given to.

use super::found;
use crate::{Component, Failure, Host, Kind, Quantity, Reading, quantity};

pub(super) const NETS: &str = "/sys/class/net";
/// A port is meant to be used. Source: `IFF_UP` of linux/if.h.
const IFF_UP: u32 = 1;

const STATISTICS: &[(&str, Quantity)] = &[
    ("rx_packets", quantity::RECEIVED_PACKETS),
    ("rx_crc_errors", quantity::CRC_ERRORS),
    ("rx_errors", quantity::RECEIVE_ERRORS),
    ("tx_errors", quantity::TRANSMIT_ERRORS),
];

/// Reads all ports.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    for port in ports(host)? {
        let folder = format!("{NETS}/{port}");
        let component = Component::new(Kind::Nic, &port);
        let tried = |quantity, tried: Result<Option<f64>, Failure>| {
            Reading::tried(&component, quantity, tried)
        };
        let or_absent = |quantity, tried: Result<Option<f64>, Failure>| {
            Reading::tried_or_absent(&component, quantity, tried)
        };
        let number = |file: &str| host.number(format!("{folder}/{file}"));
        let up = host
            .text(format!("{folder}/flags"))
            .map(|flags| flags.map(|flags| is_up(&flags)));
        // A port that is down has no carrier to speak of; without one there is no speed. A driver
        // may not know its speed: it says -1, or that the question makes no sense.
        let carrier = match up {
            Ok(Some(true)) => number("carrier"),
            _ => Ok(None),
        };
        let speed = match carrier {
            Ok(Some(1.0)) => number("speed").ok().flatten(),
            _ => None,
        };
        let bytes = |megabits: f64| (megabits > 0.0).then_some(megabits * 125_000.0);
        // Of a port that can't be asked whether it is up, nothing is known to be absent.
        if up.is_ok() {
            readings.push(or_absent(quantity::CARRIER, carrier));
            readings.push(or_absent(quantity::LINK_SPEED, Ok(speed.and_then(bytes))));
        }
        let up = up.map(|up| up.map(|up| f64::from(u8::from(up))));
        readings.extend(tried(quantity::ADMIN_UP, up));
        let changes = number("carrier_changes");
        readings.extend(tried(quantity::CARRIER_CHANGES, changes));
        for (file, quantity) in STATISTICS {
            let number = number(&format!("statistics/{file}"));
            readings.extend(tried(quantity.clone(), number));
        }
    }
    found(readings, "no network ports")
}

/// The names of all ports.
pub(super) fn ports(host: &Host) -> Result<Vec<String>, Failure> {
    let mut names = host.list(NETS)?;
    names.retain(|name| {
        let device = format!("{NETS}/{name}/device");
        host.exists(&device) && !host.exists(format!("{device}/physfn"))
    });
    Ok(names)
}

fn is_up(flags: &str) -> bool {
    let digits = flags.trim_start_matches("0x");
    u32::from_str_radix(digits, 16).is_ok_and(|flags| flags & IFF_UP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    #[test]
    fn only_ports_with_a_device_are_read_and_a_carrier_only_where_one_is_due() {
        let net = |file: &str| format!("sys/class/net/{file}");
        let tree = Tree::new()
            .file(&net("eno1/device/vendor"), "0x8086")
            .file(&net("eno1/flags"), "0x1003")
            .file(&net("eno1/carrier"), "1")
            .file(&net("eno1/carrier_changes"), "3")
            .file(&net("eno1/speed"), "25000")
            .file(&net("eno1/statistics/rx_packets"), "99")
            .file(&net("eno1/statistics/rx_crc_errors"), "2")
            .file(&net("eno2/device/vendor"), "0x8086")
            .file(&net("eno2/flags"), "0x1002")
            .file(&net("eno2/carrier"), "Invalid argument")
            .file(&net("eno2/carrier_changes"), "1")
            .file(&net("eno3/device/vendor"), "0x1af4")
            .file(&net("eno3/flags"), "0x1003")
            .file(&net("eno3/carrier"), "1")
            .file(&net("eno3/speed"), "-1")
            .file(&net("eno1v0/device/physfn/vendor"), "0x8086")
            .file(&net("eno1v0/flags"), "0x1002")
            .file(&net("br0/flags"), "0x1003");
        let expected = "\
            nic/eno1 carrier 1\n\
            nic/eno1 link_speed 3125000000\n\
            nic/eno1 admin_up 1\n\
            nic/eno1 carrier_changes 3\n\
            nic/eno1 received_packets 99\n\
            nic/eno1 crc_errors 2\n\
            nic/eno2 carrier absent\n\
            nic/eno2 link_speed absent\n\
            nic/eno2 admin_up 0\n\
            nic/eno2 carrier_changes 1\n\
            nic/eno3 carrier 1\n\
            nic/eno3 link_speed absent\n\
            nic/eno3 admin_up 1\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }
}
