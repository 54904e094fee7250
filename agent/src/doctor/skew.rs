//! Programs that were upgraded and not started again: what runs isn't what is installed.

use kapok_health::{Failure, Host};

use super::Finding;

const CHECK: &str = "upgrades";
/// What the kernel says behind a program's name when its file was replaced.
const REPLACED: &str = " (deleted)";

/// The programs of guests, libvirt and Kapok.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    judge(host).unwrap_or_else(|failure| vec![Finding::unread(CHECK, &failure)])
}

fn judge(host: &Host) -> Result<Vec<Finding>, Failure> {
    if host.link("/proc/1/exe").is_none() {
        let unread = "which programs run is for root to see".to_owned();
        return Err(Failure::Unreadable(unread));
    }
    let (mut guests, mut daemons) = (0_u32, Vec::new());
    let processes = host.list("/proc")?;
    for process in processes.iter().filter(|it| it.parse::<u32>().is_ok()) {
        // Kernel threads have none, and others may have ended meanwhile.
        let program = host.link(format!("/proc/{process}/exe"));
        let Some(program) = program.as_deref().and_then(|it| it.strip_suffix(REPLACED)) else {
            continue;
        };
        if program.starts_with("qemu-system-") {
            guests += 1;
        } else if program == "libvirtd"
            || program.starts_with("virt")
            || program.starts_with("kapok")
        {
            daemons.push(program.to_owned());
        }
    }
    let mut findings = Vec::new();
    if guests > 0 {
        let found = format!("{guests} guests run on a QEMU that was replaced since");
        let advice = "they take the new one with a stop and a start: `kapok instance restart`";
        findings.push(Finding::degraded(CHECK, found, advice));
    }
    daemons.sort();
    daemons.dedup();
    for daemon in daemons {
        let found = format!("{daemon} was upgraded, and the old one runs");
        let advice = format!("systemctl restart {daemon}: guests run on");
        findings.push(Finding::degraded(CHECK, found, advice));
    }
    if findings.is_empty() {
        let found = "what runs is what is installed";
        findings.push(Finding::healthy(CHECK, found));
    }
    Ok(findings)
}
