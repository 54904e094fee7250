//! Bonds: how many of their members work.
//!
//! Whether a member's link is up stands in sysfs. Whether the switch lets it take part (802.3ad) is
//! another question: one link too many may be up and idle in an aggregator of its own.

use super::{count, found, nic::NETS};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

/// Reads all bonds.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    for bond in host.list(NETS)? {
        let folder = format!("{NETS}/{bond}");
        let component = Component::new(Kind::Bond, &bond);
        let members = match host.text(format!("{folder}/bonding/slaves")) {
            Ok(Some(members)) => members,
            Ok(None) => continue,
            Err(error) => {
                let reading = Reading::unreadable(&component, quantity::MEMBERS, error);
                readings.push(reading);
                continue;
            }
        };
        let members: Vec<&str> = members.split_whitespace().collect();
        let all = count(members.len());
        readings.push(Reading::new(&component, quantity::MEMBERS, all));
        let tried = active(host, &members).map(Some);
        readings.extend(Reading::tried(&component, quantity::MEMBERS_ACTIVE, tried));
        let carrier = host.number(format!("{folder}/carrier"));
        readings.extend(Reading::tried(&component, quantity::CARRIER, carrier));
        let tried = host.text(format!("/proc/net/bonding/{bond}"));
        let tried = tried.map(|text| aggregated(&text?));
        // None while no aggregator is active.
        readings.push(Reading::tried_or_absent(
            &component,
            quantity::MEMBERS_AGGREGATED,
            tried,
        ));
    }
    found(readings, "no bonds")
}

/// How many members have a link.
fn active(host: &Host, members: &[&str]) -> Result<f64, Failure> {
    let mut active = 0.0;
    for member in members {
        let status = host.text(format!("{NETS}/{member}/bonding_slave/mii_status"))?;
        if status.as_deref() == Some("up") {
            active += 1.0;
        }
    }
    Ok(active)
}

/// How many members are in the aggregator that carries the traffic; none but for 802.3ad.
fn aggregated(text: &str) -> Option<f64> {
    let id = |line: &str| {
        line.trim()
            .strip_prefix("Aggregator ID:")?
            .trim()
            .parse()
            .ok()
    };
    let mut ids = text.lines().filter_map(id);
    // The first is the bond's own, all others are the members'.
    let active: u32 = ids.next()?;
    Some(count(ids.filter(|id| *id == active).count()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const AGGREGATED: &str = "Bonding Mode: IEEE 802.3ad Dynamic link aggregation\n\
        802.3ad info\nActive Aggregator Info:\n\tAggregator ID: 2\n\tNumber of ports: 1\n\n\
        Slave Interface: eno1\nMII Status: up\nAggregator ID: 1\n\n\
        Slave Interface: eno2\nMII Status: up\nAggregator ID: 2\n";

    #[test]
    fn a_link_that_is_up_may_still_carry_nothing() {
        let net = |file: &str| format!("sys/class/net/{file}");
        let tree = Tree::new()
            .file(&net("bonding_masters"), "bond0 bond1")
            .file(&net("bond0/bonding/slaves"), "eno1 eno2")
            .file(&net("bond0/carrier"), "1")
            .file(&net("bond1/bonding/slaves"), "eno3 eno4")
            .file(&net("eno1/bonding_slave/mii_status"), "up")
            .file(&net("eno2/bonding_slave/mii_status"), "up")
            .file(&net("eno3/bonding_slave/mii_status"), "up")
            .file(&net("eno4/bonding_slave/mii_status"), "down")
            .file("proc/net/bonding/bond0", AGGREGATED)
            .file("proc/net/bonding/bond1", "Bonding Mode: active-backup");
        let expected = "\
            bond/bond0 members 2\n\
            bond/bond0 members_active 2\n\
            bond/bond0 carrier 1\n\
            bond/bond0 members_aggregated 1\n\
            bond/bond1 members 2\n\
            bond/bond1 members_active 1\n\
            bond/bond1 members_aggregated absent\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(AGGREGATED)) {
            prop_assert!(aggregated(&text).is_none_or(f64::is_finite));
        }
    }
}
