//! Processor packages, by `/proc/cpuinfo` and the topology in sysfs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Processor, Reader};

const CPUS: &str = "/sys/devices/system/cpu";

pub(super) fn read(reader: &mut Reader<'_>) -> Vec<Processor> {
    let text = reader.lines("processors", "/proc/cpuinfo");
    let mut packages: BTreeMap<u32, (Processor, BTreeSet<u32>)> = BTreeMap::new();
    for block in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> = block
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let Some(thread) = fields
            .get("processor")
            .and_then(|it| it.parse::<u32>().ok())
        else {
            continue;
        };
        let told = |key: &str| fields.get(key).and_then(|it| it.parse::<u32>().ok());
        let mut shown = |file: &str| {
            reader.number::<u32>("processors", &format!("{CPUS}/cpu{thread}/topology/{file}"))
        };
        let package = told("physical id").or_else(|| shown("physical_package_id"));
        let core = told("core id").or_else(|| shown("core_id"));
        let (processor, cores) = packages.entry(package.unwrap_or(0)).or_default();
        processor.threads += 1;
        cores.insert(core.unwrap_or(thread));
        if processor.threads == 1 {
            describe(processor, &fields);
            processor.max_mhz = reader
                .number::<u32>(
                    "processors",
                    &format!("{CPUS}/cpu{thread}/cpufreq/cpuinfo_max_freq"),
                )
                .unwrap_or(0)
                / 1000;
        }
    }
    let all = packages
        .into_iter()
        .map(|(package, (processor, cores))| Processor {
            package,
            cores: u32::try_from(cores.len()).unwrap_or(u32::MAX),
            ..processor
        });
    all.collect()
}

/// What all threads of a package share.
fn describe(processor: &mut Processor, fields: &BTreeMap<&str, &str>) {
    let told = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| fields.get(key));
        found.map(|value| super::tidy(value)).unwrap_or_default()
    };
    // Arm's kernels tell numbers.
    processor.model = told(&["model name", "CPU part"]);
    processor.vendor = told(&["vendor_id", "CPU implementer"]);
    processor.microcode = told(&["microcode"]);
    let flags = fields.get("flags").or_else(|| fields.get("Features"));
    let flags = flags.map(|flags| flags.split_whitespace().map(str::to_owned));
    processor.flags = flags.into_iter().flatten().collect();
    processor.flags.sort();
}
