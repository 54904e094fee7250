//! Whether what a bridge's guests may send fits all of its ports: frames that don't are dropped
//! without a word.

use kapok_health::{Failure, Host};

use super::Finding;

const CHECK: &str = "mtu";
const CLASS: &str = "/sys/class/net";

/// All bridges with ports.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    let findings = judge(host).unwrap_or_else(|failure| vec![Finding::unread(CHECK, &failure)]);
    if findings.is_empty() {
        return vec![Finding::healthy(CHECK, "no bridge has ports yet")];
    }
    findings
}

fn judge(host: &Host) -> Result<Vec<Finding>, Failure> {
    let (mut findings, mut fine) = (Vec::new(), Vec::new());
    for bridge in host.list(CLASS)? {
        let ports = host.list(format!("{CLASS}/{bridge}/brif"))?;
        let Some(mtu) = mtu(host, &bridge)?.filter(|_| !ports.is_empty()) else {
            continue;
        };
        let mut fits = true;
        for port in ports {
            // A guest's own port has what the bridge had when it came; cards and bonds lead out.
            let own = self::mtu(host, &port)?.unwrap_or(mtu);
            if own < mtu {
                fits = false;
                findings.push(Finding::degraded(
                    CHECK,
                    format!("{bridge} takes {mtu} bytes, and its port {port} only {own}"),
                    format!("ip link set {port} mtu {mtu}, or {bridge} mtu {own}; and keep it so"),
                ));
            }
        }
        if fits {
            fine.push(format!("{bridge} {mtu}"));
        }
    }
    if findings.is_empty() && !fine.is_empty() {
        let found = format!(
            "all ports of bridges take what the bridge does: {}",
            fine.join(", ")
        );
        findings.push(Finding::healthy(CHECK, found));
    }
    Ok(findings)
}

fn mtu(host: &Host, name: &str) -> Result<Option<u32>, Failure> {
    let text = host.text(format!("{CLASS}/{name}/mtu"))?;
    Ok(text.and_then(|text| text.parse().ok()))
}
