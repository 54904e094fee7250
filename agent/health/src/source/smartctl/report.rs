//! smartctl's report on one disk, read.
//!
//! Its exit status is a bitmask: bits 0 and 1 say that the disk wasn't asked, bit 2 that some
//! command failed, and the others repeat what was found. Source: smartctl(8), "EXIT STATUS".

use serde_json::Value;

use crate::{Component, Quantity, Reading, quantity};

/// Bits 0 and 1: smartctl didn't understand its arguments, or couldn't open the disk.
const NOT_ASKED: i32 = 0b11;
/// Bit 2: some command failed, and what it would have told is missing.
const IN_PART: i32 = 1 << 2;
/// Bit 3: the disk says that it fails.
const FAILING: i32 = 1 << 3;

/// Bytes of an NVMe data unit. Source: NVM Express base specification, "Data Units Written".
const NVME_UNIT_BYTES: f64 = 512_000.0;

/// What a disk may be asked for.
const ASKED: &[Quantity] = &[
    quantity::SMART_FAILING,
    quantity::TEMPERATURE,
    quantity::TEMPERATURE_WARNING,
    quantity::TEMPERATURE_CRITICAL,
    quantity::POWER_ON,
    quantity::SELF_TEST_FAILED,
    quantity::CRITICAL_WARNING,
    quantity::AVAILABLE_SPARE,
    quantity::AVAILABLE_SPARE_THRESHOLD,
    quantity::WEAR,
    quantity::MEDIA_ERRORS,
    quantity::WRITTEN,
    quantity::REALLOCATED_SECTORS,
    quantity::PENDING_SECTORS,
    quantity::UNCORRECTABLE_SECTORS,
    quantity::INTERFACE_ERRORS,
];

/// What one report says of the disk. Nothing for a disk that has no SMART.
pub(super) fn readings(disk: &Component, text: &str, status: Option<i32>) -> Vec<Reading> {
    let unreadable = |reason: String| {
        let failing = Reading::unreadable(disk, quantity::SMART_FAILING, reason);
        vec![failing]
    };
    let Some(status) = status else {
        return unreadable("smartctl was ended by a signal".to_owned());
    };
    let report: Value = match serde_json::from_str(text) {
        Ok(report @ Value::Object(_)) => report,
        Ok(_) => return unreadable("smartctl's report is no object".to_owned()),
        Err(error) => return unreadable(format!("smartctl's report is not JSON: {error}")),
    };
    if sleeps(&report) {
        // Said, lest they be taken for vanished.
        let absent = ASKED
            .iter()
            .map(|quantity| Reading::absent(disk, quantity.clone()));
        let asleep = Reading::flag(disk, quantity::ASLEEP, true);
        return absent.chain([asleep]).collect();
    }
    if status & NOT_ASKED != 0 {
        return unreadable(complaint(&report, status));
    }
    if report.pointer("/smart_support/available") == Some(&Value::Bool(false)) {
        return Vec::new();
    }
    let read = Report { disk, report };
    let mut readings = vec![read.judgement(status)];
    readings.push(Reading::flag(disk, quantity::ASLEEP, false));
    read.common(&mut readings);
    read.nvme(&mut readings);
    read.ata(&mut readings);
    read.scsi(&mut readings);
    if status & IN_PART == 0 {
        // All was answered: what is missing this disk doesn't have, though another may have had it
        // in the same place.
        let missing = |asked: &&Quantity| readings.iter().all(|it| it.quantity != **asked);
        let missing: Vec<&Quantity> = ASKED.iter().filter(missing).collect();
        let absent = missing.into_iter().cloned();
        readings.extend(absent.map(|quantity| Reading::absent(disk, quantity)));
    }
    readings
}

/// smartctl has no field of its own for it: it says so in a message, and exits with 2.
fn sleeps(report: &Value) -> bool {
    messages(report).any(|said| said.starts_with("Device is in ") && said.contains(" mode, exit("))
}

fn messages(report: &Value) -> impl Iterator<Item = &str> {
    let list = report.pointer("/smartctl/messages");
    let list = list
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|it| it["string"].as_str())
}

fn complaint(report: &Value, status: i32) -> String {
    let said: Vec<&str> = messages(report).collect();
    if said.is_empty() {
        format!("smartctl couldn't ask the disk (exit status {status})")
    } else {
        said.join("; ").chars().take(256).collect()
    }
}

struct Report<'a> {
    disk: &'a Component,
    report: Value,
}

impl Report<'_> {
    /// The disk's own judgement: its overall word, and an attribute of those that announce failure
    /// at its threshold.
    fn judgement(&self, status: i32) -> Reading {
        let passed = self.report.pointer("/smart_status/passed");
        let announced = self
            .attributes()
            .any(|it| it["flags"]["prefailure"] == Value::Bool(true) && it["when_failed"] == "now");
        if announced || status & FAILING != 0 {
            return Reading::flag(self.disk, quantity::SMART_FAILING, true);
        }
        match passed.and_then(Value::as_bool) {
            Some(passed) => Reading::flag(self.disk, quantity::SMART_FAILING, !passed),
            None => Reading::unreadable(
                self.disk,
                quantity::SMART_FAILING,
                complaint(&self.report, status),
            ),
        }
    }

    /// What smartctl says in one place for all sorts of disks.
    fn common(&self, readings: &mut Vec<Reading>) {
        self.put(readings, quantity::TEMPERATURE, "/temperature/current", 1.0);
        self.first(
            readings,
            quantity::TEMPERATURE_WARNING,
            &[
                "/temperature/op_limit_max",
                "/nvme_composite_temperature_threshold/warning",
            ],
        );
        self.first(
            readings,
            quantity::TEMPERATURE_CRITICAL,
            &[
                "/temperature/critical_limit_max",
                "/temperature/limit_max",
                "/temperature/drive_trip",
                "/nvme_composite_temperature_threshold/critical",
            ],
        );
        if let Some(hours) = self.number("/power_on_time/hours") {
            let minutes = self.number("/power_on_time/minutes").unwrap_or_default();
            let seconds = hours.mul_add(3600.0, minutes * 60.0);
            readings.push(Reading::new(self.disk, quantity::POWER_ON, seconds));
        }
        let places = ["ata_smart_data", "nvme_self_test_log", "scsi_self_test_0"];
        let passed = places.iter().find_map(|place| {
            let pointer = format!("/{place}/self_test/status/passed");
            self.report.pointer(&pointer)?.as_bool()
        });
        // None while a test runs, and after one that was broken off.
        readings.push(passed.map_or_else(
            || Reading::absent(self.disk, quantity::SELF_TEST_FAILED),
            |passed| Reading::flag(self.disk, quantity::SELF_TEST_FAILED, !passed),
        ));
    }

    fn nvme(&self, readings: &mut Vec<Reading>) {
        const LOG: &str = "/nvme_smart_health_information_log";
        const FIELDS: &[(Quantity, &str, f64)] = &[
            (quantity::CRITICAL_WARNING, "critical_warning", 1.0),
            (quantity::AVAILABLE_SPARE, "available_spare", 0.01),
            (
                quantity::AVAILABLE_SPARE_THRESHOLD,
                "available_spare_threshold",
                0.01,
            ),
            (quantity::WEAR, "percentage_used", 0.01),
            (quantity::MEDIA_ERRORS, "media_errors", 1.0),
            (quantity::WRITTEN, "data_units_written", NVME_UNIT_BYTES),
        ];
        for (quantity, field, scale) in FIELDS {
            self.put(
                readings,
                quantity.clone(),
                &format!("{LOG}/{field}"),
                *scale,
            );
        }
    }

    fn ata(&self, readings: &mut Vec<Reading>) {
        let mut worn = self.number("/endurance_used/current_percent");
        for attribute in self.attributes() {
            let Some(id) = attribute["id"].as_u64() else {
                continue;
            };
            let name = attribute["name"].as_str().unwrap_or_default();
            let quantity = match id {
                5 => quantity::REALLOCATED_SECTORS,
                187 => quantity::MEDIA_ERRORS,
                197 => quantity::PENDING_SECTORS,
                198 => quantity::UNCORRECTABLE_SECTORS,
                199 => quantity::INTERFACE_ERRORS,
                241 if name == "Total_LBAs_Written" => quantity::WRITTEN,
                // Normalized: 100 when new, and less with use.
                _ if is_wear(id, name) => {
                    let left = attribute["value"].as_f64().filter(|it| *it <= 100.0);
                    worn = worn.or(left.map(|left| 100.0 - left));
                    continue;
                }
                _ => continue,
            };
            let block = self.number("/logical_block_size").unwrap_or(512.0);
            let scale = if id == 241 { block } else { 1.0 };
            if let Some(raw) = raw(attribute) {
                readings.push(Reading::new(self.disk, quantity, raw * scale));
            }
        }
        // NVMe and SAS have said it already, in fields of their own.
        let said = readings.iter().any(|it| it.quantity == quantity::WEAR);
        let sas = self.number("/scsi_percentage_used_endurance_indicator");
        if let Some(worn) = worn.or(sas).filter(|_| !said) {
            readings.push(Reading::new(self.disk, quantity::WEAR, worn / 100.0));
        }
    }

    fn scsi(&self, readings: &mut Vec<Reading>) {
        self.put(
            readings,
            quantity::REALLOCATED_SECTORS,
            "/scsi_grown_defect_list",
            1.0,
        );
        self.put(
            readings,
            quantity::PENDING_SECTORS,
            "/scsi_pending_defects/count",
            1.0,
        );
        let counted = ["read", "write", "verify"].map(|way| {
            self.number(&format!(
                "/scsi_error_counter_log/{way}/total_uncorrected_errors"
            ))
        });
        if counted.iter().any(Option::is_some) {
            let sum = counted.iter().flatten().sum();
            readings.push(Reading::new(self.disk, quantity::MEDIA_ERRORS, sum));
        }
    }

    fn attributes(&self) -> impl Iterator<Item = &Value> {
        let table = self.report.pointer("/ata_smart_attributes/table");
        table
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
            .iter()
    }

    fn number(&self, pointer: &str) -> Option<f64> {
        self.report.pointer(pointer).and_then(Value::as_f64)
    }

    fn put(&self, readings: &mut Vec<Reading>, quantity: Quantity, pointer: &str, scale: f64) {
        if let Some(number) = self.number(pointer) {
            readings.push(Reading::new(self.disk, quantity, number * scale));
        }
    }

    /// The first of these that the disk states. Zero is how firmware says "none".
    fn first(&self, readings: &mut Vec<Reading>, quantity: Quantity, pointers: &[&str]) {
        let stated = pointers.iter().filter_map(|pointer| self.number(pointer));
        if let Some(number) = stated.into_iter().find(|number| *number > 0.0) {
            readings.push(Reading::new(self.disk, quantity, number));
        }
    }
}

/// Whether an attribute's normalized value is what is left of an SSD's life. Vendors share numbers
/// with other meanings: the name, from smartctl's database, decides.
fn is_wear(id: u64, name: &str) -> bool {
    matches!(id, 169 | 173 | 177 | 202 | 230 | 231 | 233)
        && ["Wear", "Life", "Lifetime_Remain", "Block-Erase"]
            .iter()
            .any(|word| name.contains(word))
}

/// An attribute's raw value as smartctl shows it: vendors pack more into the number's upper bytes.
fn raw(attribute: &Value) -> Option<f64> {
    let shown = attribute["raw"]["string"].as_str().unwrap_or_default();
    let digits: String = shown.chars().take_while(char::is_ascii_digit).collect();
    digits
        .parse()
        .ok()
        .or_else(|| attribute["raw"]["value"].as_f64())
}
