#![allow(
    clippy::float_cmp,
    reason = "small whole numbers, read and not computed"
)]

use std::collections::BTreeMap;

use kapok_helper::smart::Disk;
use proptest::prelude::*;

use super::*;
use crate::Read;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../../tests/tools/smartctl/", $name, ".json"))
    };
}

fn sda() -> Component {
    Component::new(Kind::Disk, "sda")
}

fn values(text: &str, status: i32) -> BTreeMap<String, f64> {
    report::readings(&sda(), text, Some(status))
        .into_iter()
        .filter_map(|it| Some((it.quantity.name.to_string(), it.value()?)))
        .collect()
}

#[track_caller]
fn check(text: &str, status: i32, expected: &[(&str, f64)]) {
    let found = values(text, status);
    let expected: BTreeMap<String, f64> = expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    let names = |it: &BTreeMap<String, f64>| it.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (name, value) in expected {
        let near = (found[&name] - value).abs() <= value.abs() * 1e-9;
        assert!(near, "{name}: {} instead of {value}", found[&name]);
    }
}

#[test]
fn an_nvme_disk_tells_its_limits() {
    check(
        recorded!("nvme"),
        0,
        &[
            ("asleep", 0.0),
            ("available_spare", 1.0),
            ("available_spare_threshold", 0.1),
            ("critical_warning", 0.0),
            ("media_errors", 0.0),
            ("power_on", 11_532.0 * 3600.0),
            ("smart_failing", 0.0),
            ("temperature", 36.0),
            ("temperature_critical", 83.0),
            ("temperature_warning", 80.0),
            ("wear", 0.03),
            ("written", 98_765_432.0 * 512_000.0),
        ],
    );
    let low = values(recorded!("nvme-spare-low"), 8);
    assert_eq!(low["smart_failing"], 1.0);
    assert_eq!(low["critical_warning"], 1.0);
    assert!(low["wear"] > 1.0 && low["available_spare"] < low["available_spare_threshold"]);
}

/// Findings in the exit status (an error log, a failed test) are no errors of asking.
#[test]
fn a_sata_disk_tells_its_attributes() {
    check(
        recorded!("sata-pending"),
        192,
        &[
            ("asleep", 0.0),
            ("interface_errors", 3.0),
            ("media_errors", 4.0),
            ("pending_sectors", 24.0),
            ("power_on", 20_644.5 * 3600.0),
            ("reallocated_sectors", 8.0),
            ("self_test_failed", 1.0),
            ("smart_failing", 0.0),
            ("temperature", 38.0),
            ("temperature_critical", 65.0),
            ("temperature_warning", 60.0),
            ("uncorrectable_sectors", 24.0),
            ("written", 80e9),
        ],
    );
}

#[test]
fn an_attribute_that_announces_failure_counts_at_its_threshold() {
    let worn = values(recorded!("sata-ssd-worn"), 16);
    assert_eq!(worn["smart_failing"], 1.0);
    assert!((worn["wear"] - 0.96).abs() < 1e-9);
}

#[test]
fn a_sas_disk_tells_its_error_counters() {
    let sas = values(recorded!("sas"), 0);
    assert_eq!(sas["media_errors"], 3.0);
    assert_eq!(sas["reallocated_sectors"], 2.0);
    assert_eq!(sas["temperature_critical"], 60.0);
}

#[test]
fn asleep_is_not_unreadable_and_denied_is() {
    let mut asleep = report::readings(&sda(), recorded!("asleep"), Some(2));
    assert_eq!(
        asleep.pop(),
        Some(Reading::flag(&sda(), quantity::ASLEEP, true))
    );
    assert!(asleep.iter().all(|it| it.read == Read::Absent));
    // Nothing that a disk told before is left out of it.
    for text in [recorded!("nvme"), recorded!("sata-pending")] {
        for told in report::readings(&sda(), text, Some(0)) {
            let said = |it: &Reading| it.quantity == told.quantity;
            assert!(asleep.iter().any(said) || told.quantity == quantity::ASLEEP);
        }
    }
    let denied = report::readings(&sda(), recorded!("denied"), Some(2));
    let reason = "Smartctl open device: /dev/sda failed: Permission denied";
    let unreadable = Reading::unreadable(&sda(), quantity::SMART_FAILING, reason);
    assert_eq!(denied, [unreadable]);
    assert_eq!(report::readings(&sda(), recorded!("no-smart"), Some(4)), []);
}

/// A disk that didn't give its judgement is not said to be well by what else it gave.
#[test]
fn a_judgement_that_is_missing_is_unreadable() {
    let mut report: serde_json::Value = serde_json::from_str(recorded!("nvme")).unwrap();
    report.as_object_mut().unwrap().remove("smart_status");
    let readings = report::readings(&sda(), &report.to_string(), Some(4));
    assert!(
        matches!(readings[0].read, Read::Unreadable(_)),
        "{readings:?}"
    );
    assert!(readings.len() > 5);
}

#[test]
fn disks_are_called_as_the_kernel_calls_them() {
    let blocks = ["nvme0c0n1", "nvme0n1", "nvme10n1", "sda"].map(str::to_owned);
    let disks = kapok_helper::smart::parse(recorded!("scan")).unwrap();
    let name = |it: &Disk| component(&it.device, it.way.as_deref(), &blocks).to_string();
    let names: Vec<String> = disks.iter().map(name).collect();
    assert_eq!(names, ["disk/sda", "disk/bus/0/megaraid,8", "disk/nvme0n1"]);
    assert_eq!(disks[0].way, None);
    assert_eq!(disks[1].way.as_deref(), Some("megaraid,8"));
}

fn cut(text: &str, at: usize) -> &str {
    let at = (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    &text[..at.unwrap_or_default()]
}

proptest! {
    /// FAULTS 63: whatever the tool prints, there is an answer, and a report that was cut is never
    /// taken for a healthy disk.
    #[test]
    fn garbage_and_cut_reports_are_unreadable(
        text in ".{0,200}", at in 0_usize..1200, status in any::<Option<i32>>(),
    ) {
        let _ = report::readings(&sda(), &text, status);
        let readings = report::readings(&sda(), cut(recorded!("nvme"), at), Some(0));
        prop_assert!(readings.iter().all(|it| it.value().is_none()));
        prop_assert!(!readings.is_empty());
    }
}
