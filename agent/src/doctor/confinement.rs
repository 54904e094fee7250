//! Whether the kernel keeps guests' QEMUs apart from each other and from the host: sVirt.

use kapok_health::{Failure, Host};

use super::Finding;

const CHECK: &str = "confinement";
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
/// What libvirt makes each guest's profile from.
const TEMPLATE: &str = "/etc/apparmor.d/libvirt/TEMPLATE.qemu";
const SELINUX: &str = "/sys/fs/selinux/enforce";
/// Root's: nobody else can say what it holds.
const QEMU: &str = "/etc/libvirt/qemu.conf";

/// `AppArmor` or `SELinux`, and that libvirt uses it.
pub(super) fn check(host: &Host) -> Finding {
    judge(host).unwrap_or_else(|failure| Finding::unread(CHECK, &failure))
}

fn judge(host: &Host) -> Result<Finding, Failure> {
    let by = if host.text(SELINUX)?.as_deref() == Some("1") {
        "SELinux"
    } else if host.text(APPARMOR)?.as_deref() == Some("Y") {
        if !host.exists(TEMPLATE) {
            let found =
                format!("AppArmor is on, but libvirt has no profile for guests ({TEMPLATE})");
            let advice = "install libvirt-daemon-system and apparmor, and restart libvirtd";
            return Ok(Finding::degraded(CHECK, found, advice));
        }
        "AppArmor"
    } else {
        let found = "neither AppArmor nor SELinux is on: a QEMU that a guest broke out of reaches \
                     all other guests' disks";
        let advice = "install apparmor, and boot with apparmor=1 security=apparmor";
        return Ok(Finding::degraded(CHECK, found, advice));
    };
    let config = match host.text(QEMU) {
        Ok(config) => config.unwrap_or_default(),
        Err(failure) => return Ok(Finding::unread(CHECK, &failure)),
    };
    let off = config.lines().map(str::trim).any(|line| {
        let value = line.strip_prefix("security_driver").map(str::trim_start);
        value.is_some_and(|value| value.starts_with('=') && value.contains("\"none\""))
    });
    if off {
        let found = format!("{by} is on, but {QEMU} says security_driver = \"none\"");
        let advice = "take that line away, and restart libvirtd: guests run on";
        return Ok(Finding::degraded(CHECK, found, advice));
    }
    Ok(Finding::healthy(CHECK, format!("{by} confines guests")))
}
