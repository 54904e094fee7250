//! The server itself, and what runs on it.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Reader, Software, System,
    smbios::{Structure, Tables, says_something},
};

const DMI: &str = "/sys/class/dmi/id";

/// What the kernel shows of the firmware's tables; the tables themselves for what it shows to root
/// alone.
pub(super) fn read(reader: &mut Reader<'_>, tables: Option<&Tables>) -> System {
    const BIOS: u8 = 0;
    const SYSTEM: u8 = 1;
    const BOARD: u8 = 2;
    let mut shown = |file: &str, kind: u8, offset: usize| {
        let told = tables.and_then(|tables| tables.of(kind).next());
        let told = told.map(|it| it.text(offset)).unwrap_or_default();
        if !told.is_empty() {
            return told;
        }
        let text = reader.text("dmi", &format!("{DMI}/{file}"));
        if says_something(&text) {
            text
        } else {
            String::new()
        }
    };
    let mut system = System {
        vendor: shown("sys_vendor", SYSTEM, 4),
        model: shown("product_name", SYSTEM, 5),
        serial: shown("product_serial", SYSTEM, 7),
        uuid: String::new(),
        board: shown("board_name", BOARD, 5),
        board_serial: shown("board_serial", BOARD, 7),
        bios_vendor: shown("bios_vendor", BIOS, 4),
        bios_version: shown("bios_version", BIOS, 5),
        bios_date: shown("bios_date", BIOS, 8),
        bmc_firmware: String::new(),
        tpm_version: String::new(),
    };
    system.uuid = match tables
        .and_then(|tables| tables.of(SYSTEM).next())
        .and_then(uuid)
    {
        Some(uuid) => uuid,
        None => reader
            .text("dmi", &format!("{DMI}/product_uuid"))
            .to_lowercase(),
    };
    system.bmc_firmware = bmc_firmware(reader);
    system.tpm_version = tpm_version(reader);
    system
}

/// A system's UUID: its first three fields are little-endian. Source: DSP0134, 7.2.1.
fn uuid(system: &Structure) -> Option<String> {
    let bytes: Vec<u8> = (8..24).map(|offset| system.byte(offset)).collect();
    if bytes.iter().all(|byte| *byte == 0) || bytes.iter().all(|byte| *byte == 0xff) {
        return None;
    }
    let field = |order: &[usize]| {
        let mut hex = String::new();
        for index in order {
            // Writing to a text can't fail.
            let _ = write!(hex, "{:02x}", bytes[*index]);
        }
        hex
    };
    let fields = [
        field(&[3, 2, 1, 0]),
        field(&[5, 4]),
        field(&[7, 6]),
        field(&[8, 9]),
        field(&[10, 11, 12, 13, 14, 15]),
    ];
    Some(fields.join("-"))
}

fn bmc_firmware(reader: &mut Reader<'_>) -> String {
    const DEVICES: &str = "/sys/bus/platform/devices";
    let devices = reader.list("bmc", DEVICES);
    let Some(bmc) = devices.iter().find(|name| name.starts_with("ipmi_bmc.")) else {
        return String::new();
    };
    reader.text("bmc", &format!("{DEVICES}/{bmc}/firmware_revision"))
}

fn tpm_version(reader: &mut Reader<'_>) -> String {
    const TPM: &str = "/sys/class/tpm/tpm0";
    match reader
        .text("tpm", &format!("{TPM}/tpm_version_major"))
        .as_str()
    {
        "2" => "2.0".into(),
        "1" => "1.2".into(),
        // Older kernels don't say; a version 1 shows its capabilities.
        _ if reader.host.exists(format!("{TPM}/device/caps")) => "1.2".into(),
        _ => String::new(),
    }
}

/// The kernel, the distribution, the clock source, the mitigations.
pub(super) fn software(reader: &mut Reader<'_>) -> Software {
    const FLAWS: &str = "/sys/devices/system/cpu/vulnerabilities";
    const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let mut vulnerabilities = BTreeMap::new();
    for flaw in reader.list("software", FLAWS) {
        let state = reader.text("software", &format!("{FLAWS}/{flaw}"));
        vulnerabilities.insert(flaw, state);
    }
    Software {
        kernel: reader.text("software", "/proc/sys/kernel/osrelease"),
        os: os(&reader.lines("software", "/etc/os-release")),
        clock_source: reader.text("software", CLOCK),
        vulnerabilities,
    }
}

fn os(release: &str) -> String {
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

/// Whether guests can run guests.
pub(super) fn nested(reader: &Reader<'_>) -> bool {
    ["kvm_intel", "kvm_amd"].iter().any(|module| {
        let path = format!("/sys/module/{module}/parameters/nested");
        let text = reader.host.text(path);
        text.is_ok_and(|text| text.is_some_and(|text| text == "1" || text == "Y"))
    })
}
