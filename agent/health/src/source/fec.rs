//! Forward error correction of network ports: blocks that it could not mend, by `ethtool`.
//!
//! The kernel tells them by netlink alone. Ports whose driver doesn't count them are left out.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{found, nic};
use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

/// How long one port may take: the driver may ask its firmware.
const PORT_DEADLINE: Duration = Duration::from_secs(5);

/// The source.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fec;

#[async_trait]
impl Source for Fec {
    fn name(&self) -> &'static str {
        "fec"
    }

    fn cadence(&self) -> Duration {
        Duration::from_mins(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(30)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let mut readings = Vec::new();
        host.tool("ethtool")?;
        for port in nic::ports(host)? {
            let component = Component::new(Kind::Nic, &port);
            let arguments = ["--json", "-I", "--show-fec", &port];
            let tried = match host.run("ethtool", &arguments, PORT_DEADLINE).await {
                // Most drivers know no FEC, which is no failure.
                Ok(output) if output.status == Some(0) => parse(&output.text),
                Ok(_) => Ok(None),
                Err(failure) => Err(failure),
            };
            readings.extend(Reading::tried(&component, quantity::FEC_UNCORRECTED, tried));
        }
        found(readings, "no port counts errors of FEC")
    }
}

/// The blocks that could not be mended; none where the driver doesn't count them. Source:
/// `ETHTOOL_MSG_FEC_GET` of the kernel's ethtool-netlink.rst, as ethtool prints it.
fn parse(text: &str) -> Result<Option<f64>, Failure> {
    let answer: Value = serde_json::from_str(text)
        .map_err(|error| Failure::Unreadable(format!("ethtool's answer is no JSON: {error}")))?;
    let total = answer.pointer("/0/statistics/uncorrectable_blocks/total");
    Ok(total.and_then(Value::as_f64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const COUNTED: &str = r#"[ {
        "ifname": "eno1",
        "config": [ "Auto" ],
        "active": [ "RS" ],
        "statistics": {
            "corrected_blocks": { "total": 256 },
            "uncorrectable_blocks": { "total": 145 }
        }
    } ]"#;

    fn tree() -> Tree {
        Tree::new().file("sys/class/net/eno1/device/vendor", "0x15b3")
    }

    #[tokio::test]
    async fn a_port_s_blocks_are_counted() {
        let tree = tree().tool("ethtool", COUNTED, 0);
        let readings = Fec.read(tree.host()).await.unwrap();
        assert_eq!(render(&readings), "nic/eno1 fec_uncorrected 145\n");
    }

    #[tokio::test]
    async fn a_port_without_fec_has_none_and_garbage_is_unreadable() {
        let without = tree().tool("ethtool", "", 95);
        let absent = Fec.read(without.host()).await;
        assert!(matches!(absent, Err(Failure::Absent(_))), "{absent:?}");
        let garbage = tree().tool("ethtool", "oh", 0);
        let readings = render(&Fec.read(garbage.host()).await.unwrap());
        assert!(readings.contains("unreadable: ethtool's answer is no JSON"));
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(COUNTED)) {
            let _ = parse(&text);
        }
    }
}
