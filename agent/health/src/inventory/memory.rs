//! Memory modules: by the firmware's tables, else by the memory controllers' drivers (EDAC), which
//! tell less but to everybody.

use std::collections::BTreeMap;

use super::{
    MAX_ENTRIES, MemoryModule, Reader, parts,
    smbios::{Structure, Tables},
};
use crate::Failure;

/// Where the controllers' drivers show modules.
const EDAC: &str = "/sys/devices/system/edac/mc";
/// A memory device in the firmware's tables.
const MEMORY_DEVICE: u8 = 17;

/// The modules, and by which way they were found; none if they could not be.
pub(super) fn read(
    reader: &mut Reader<'_>,
    tables: &Result<Tables, Failure>,
) -> (Vec<MemoryModule>, Option<&'static str>) {
    if let Ok(tables) = tables {
        let modules = by_firmware(tables);
        if !modules.is_empty() {
            return (apart(modules), Some(parts::BY_FIRMWARE));
        }
    }
    let modules = by_edac(reader);
    if !modules.is_empty() {
        return (apart(modules), Some(parts::BY_DRIVER));
    }
    if let Err(failure @ Failure::Unreadable(_)) = tables {
        reader.note("memory_modules", failure);
    }
    (Vec::new(), None)
}

fn module(it: &Structure) -> MemoryModule {
    let (size, extended) = (it.word(0x0c), u64::from(it.double(0x1c)));
    let size_mib = match size {
        0 | 0xffff => 0,
        0x7fff => extended & 0x7fff_ffff,
        // In KiB.
        size if size & 0x8000 != 0 => u64::from(size & 0x7fff) / 1024,
        size => u64::from(size),
    };
    let slot = it.text(0x10);
    if size_mib == 0 {
        return MemoryModule {
            slot,
            ..MemoryModule::default()
        };
    }
    let configured = match it.word(0x20) {
        0 | 0xffff => it.word(0x15),
        speed => speed,
    };
    MemoryModule {
        slot,
        size_mib,
        vendor: it.text(0x17),
        part: it.text(0x1a),
        serial: it.text(0x18),
        kind: kind(it.byte(0x12)).into(),
        speed_mts: if configured == 0xffff {
            0
        } else {
            configured.into()
        },
    }
}

/// All of them, each by a name that no other has: some firmware calls every place "DIMM 0", and
/// only its bank tells.
fn by_firmware(tables: &Tables) -> Vec<MemoryModule> {
    let devices: Vec<&Structure> = tables.of(MEMORY_DEVICE).take(MAX_ENTRIES).collect();
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for device in &devices {
        *count.entry(device.text(0x10)).or_default() += 1;
    }
    let named = devices.iter().map(|device| {
        let mut module = module(device);
        let bank = device.text(0x11);
        if module.slot.is_empty() {
            module.slot = bank;
        } else if count.get(&module.slot).is_some_and(|count| *count > 1) && !bank.is_empty() {
            module.slot = format!("{bank} {}", module.slot);
        }
        module
    });
    named.collect()
}

/// Its kind by its number in the tables.
const fn kind(number: u8) -> &'static str {
    match number {
        0x12 => "DDR",
        0x13 | 0x14 => "DDR2",
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1e => "LPDDR4",
        0x1f => "NVDIMM",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        0x07 => "RAM",
        _ => "",
    }
}

fn by_edac(reader: &mut Reader<'_>) -> Vec<MemoryModule> {
    let mut modules = Vec::new();
    for controller in reader.list("memory_modules", EDAC) {
        if !controller.starts_with("mc") {
            continue;
        }
        for place in reader.list("memory_modules", &format!("{EDAC}/{controller}")) {
            if !(place.starts_with("dimm") || place.starts_with("rank")) {
                continue;
            }
            let mut text = |file: &str| {
                reader.text(
                    "memory_modules",
                    &format!("{EDAC}/{controller}/{place}/{file}"),
                )
            };
            let label = text("dimm_label");
            let kind = text("dimm_mem_type")
                .replace("Unbuffered-", "")
                .replace("Registered-", "");
            modules.push(MemoryModule {
                slot: if label.is_empty() {
                    format!("{controller}/{place}")
                } else {
                    label
                },
                size_mib: text("size").parse().unwrap_or(0),
                kind: if kind == "Unknown" {
                    String::new()
                } else {
                    kind
                },
                ..MemoryModule::default()
            });
        }
    }
    modules.truncate(MAX_ENTRIES);
    modules
}

/// Numbers places that still have the same name.
fn apart(mut modules: Vec<MemoryModule>) -> Vec<MemoryModule> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for module in &mut modules {
        let count = seen.entry(module.slot.clone()).or_default();
        *count += 1;
        if *count > 1 {
            module.slot = format!("{} #{count}", module.slot);
        }
    }
    modules
}
