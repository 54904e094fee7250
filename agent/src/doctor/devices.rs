//! What the kernel sets aside for guests, and keeps apart: IOMMU groups and huge pages.

use kapok_health::{Failure, Host};

use super::{Finding, Server};

const GROUPS: &str = "/sys/kernel/iommu_groups";
const PAGES: &str = "/sys/kernel/mm/hugepages";
/// More of the memory in huge pages than this leaves too little for all else, in percent.
const MOST_PAGES_PERCENT: u64 = 95;

/// Both.
pub(super) fn check(server: &Server<'_>) -> Vec<Finding> {
    let iommu = iommu(server).unwrap_or_else(|failure| Finding::unread("iommu", &failure));
    let pages = pages(server.host);
    let pages = pages.unwrap_or_else(|failure| Finding::unread("huge-pages", &failure));
    vec![iommu, pages]
}

fn iommu(server: &Server<'_>) -> Result<Finding, Failure> {
    const CHECK: &str = "iommu";
    let groups = server.host.list(GROUPS)?.len();
    let devices = server.config.devices.len();
    if groups > 0 {
        return Ok(Finding::healthy(
            CHECK,
            format!("it keeps {groups} groups apart"),
        ));
    }
    if devices == 0 {
        let found = "there is none, and no [[devices]] are offered that would need one";
        return Ok(Finding::healthy(CHECK, found));
    }
    let command = server.host.text("/proc/cmdline")?.unwrap_or_default();
    let asked = command.contains("intel_iommu=on") || command.contains("amd_iommu");
    let found = format!(
        "there is none, so none of the {devices} [[devices]] of {} is offered",
        server.file.display()
    );
    let advice = if asked {
        "switch it on in the firmware (VT-d, AMD-Vi)"
    } else {
        "switch it on in the firmware (VT-d, AMD-Vi), and boot with intel_iommu=on if it is Intel's"
    };
    Ok(Finding::failing(CHECK, found, advice))
}

fn pages(host: &Host) -> Result<Finding, Failure> {
    const CHECK: &str = "huge-pages";
    let total = memory_kib(&host.text("/proc/meminfo")?.unwrap_or_default());
    let (mut shown, mut held_kib) = (Vec::new(), 0_u64);
    for name in host.list(PAGES)? {
        let size = { name.strip_prefix("hugepages-") }
            .and_then(|rest| rest.strip_suffix("kB"))
            .and_then(|kib| kib.parse::<u64>().ok());
        let Some(size_kib) = size else {
            continue;
        };
        let count = |file: &str| -> Result<u64, Failure> {
            let text = host.text(format!("{PAGES}/{name}/{file}"))?;
            Ok(text.and_then(|text| text.parse().ok()).unwrap_or_default())
        };
        let (all, free) = (count("nr_hugepages")?, count("free_hugepages")?);
        held_kib = held_kib.saturating_add(all.saturating_mul(size_kib));
        if all > 0 {
            let size_mib = size_kib / 1024;
            shown.push(format!("{all} of {size_mib} MiB, {free} free"));
        }
    }
    if shown.is_empty() {
        return Ok(Finding::healthy(CHECK, "none are set aside"));
    }
    let shown = shown.join("; ");
    if total > 0 && held_kib.saturating_mul(100) / total > MOST_PAGES_PERCENT {
        let found = format!("{shown}: next to nothing of the memory is left for all else");
        let advice = "lower vm.nr_hugepages, or hugepages= of the kernel's command line";
        return Ok(Finding::failing(CHECK, found, advice));
    }
    Ok(Finding::healthy(CHECK, shown))
}

fn memory_kib(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|it| it.parse().ok()).unwrap_or_default()
}
