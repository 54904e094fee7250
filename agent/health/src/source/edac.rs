//! Memory errors as the kernel's EDAC drivers count them: by controller, row and module.
//!
//! One error is counted at each of the three. Drivers have modules (`dimm3`, or `rank3` where ranks
//! are what they know), the older layout has rows (`csrow2`), and most have both.

use super::{found, number_of, part};
use crate::{Component, Failure, Host, Kind, Quantity, Reading, quantity};

const CONTROLLERS: &str = "/sys/devices/system/edac/mc";

/// Layouts of what is below a controller: the folder's prefix, and its two counters.
const PARTS: &[(&str, &str, &str)] = &[
    ("csrow", "ce_count", "ue_count"),
    ("dimm", "dimm_ce_count", "dimm_ue_count"),
    ("rank", "dimm_ce_count", "dimm_ue_count"),
];

/// Reads all controllers.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    for controller in host.list(CONTROLLERS)? {
        if number_of(&controller, "mc").is_none() {
            continue;
        }
        let component = Component::new(Kind::Memory, &controller);
        let folder = format!("{CONTROLLERS}/{controller}");
        readings.extend(counters(host, &component, &folder, "ce_count", "ue_count"));
        let below = parts(host, &controller, &folder);
        readings.extend(part(below, &component, quantity::UNCORRECTABLE_ERRORS));
    }
    found(readings, "no EDAC driver")
}

fn parts(host: &Host, controller: &str, folder: &str) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    for part in host.list(folder)? {
        let layout = PARTS
            .iter()
            .find(|(prefix, ..)| number_of(&part, prefix).is_some());
        let Some((_, corrected, uncorrected)) = layout else {
            continue;
        };
        let folder = format!("{folder}/{part}");
        // The label is silkscreened on the board, if somebody told the kernel. A word about where
        // to look isn't worth losing the counters.
        let label = host.text(format!("{folder}/dimm_label")).ok().flatten();
        let name = format!("{controller}/{part} {}", label.unwrap_or_default());
        let component = Component::new(Kind::Memory, name);
        readings.extend(counters(host, &component, &folder, corrected, uncorrected));
    }
    Ok(readings)
}

fn counters(
    host: &Host,
    component: &Component,
    folder: &str,
    corrected: &str,
    uncorrected: &str,
) -> impl Iterator<Item = Reading> {
    let read = |quantity: Quantity, file: &str| {
        Reading::tried(component, quantity, host.number(format!("{folder}/{file}")))
    };
    [
        read(quantity::CORRECTABLE_ERRORS, corrected),
        read(quantity::UNCORRECTABLE_ERRORS, uncorrected),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    #[test]
    fn an_error_is_counted_at_its_controller_row_and_module() {
        let tree = Tree::new()
            .file("sys/devices/system/edac/mc/mc0/ce_count", "7")
            .file("sys/devices/system/edac/mc/mc0/ue_count", "1")
            .file("sys/devices/system/edac/mc/mc0/csrow2/ce_count", "7")
            .file("sys/devices/system/edac/mc/mc0/csrow2/ue_count", "1")
            .file("sys/devices/system/edac/mc/mc0/dimm4/dimm_label", "DIMM_B1")
            .file("sys/devices/system/edac/mc/mc0/dimm4/dimm_ce_count", "7")
            .file("sys/devices/system/edac/mc/mc0/dimm4/dimm_ue_count", "1")
            .file("sys/devices/system/edac/mc/mc0/rank1/dimm_ce_count", "0")
            .file("sys/devices/system/edac/mc/power/control", "auto");
        let readings = read(tree.host()).unwrap();
        let expected = "\
            memory/mc0 correctable_errors 7\n\
            memory/mc0 uncorrectable_errors 1\n\
            memory/mc0/csrow2 correctable_errors 7\n\
            memory/mc0/csrow2 uncorrectable_errors 1\n\
            memory/mc0/dimm4 DIMM_B1 correctable_errors 7\n\
            memory/mc0/dimm4 DIMM_B1 uncorrectable_errors 1\n\
            memory/mc0/rank1 correctable_errors 0\n";
        assert_eq!(render(&readings), expected);
    }

    #[test]
    fn a_counter_that_holds_something_else_is_unreadable_and_hides_no_other() {
        let tree = Tree::new()
            .file("sys/devices/system/edac/mc/mc0/ce_count", "many")
            .file("sys/devices/system/edac/mc/mc0/ue_count", "0");
        let expected = "\
            memory/mc0 correctable_errors unreadable: \
            /sys/devices/system/edac/mc/mc0/ce_count holds \"many\"\n\
            memory/mc0 uncorrectable_errors 0\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
        assert_eq!(
            read(Tree::new().host()),
            Err(Failure::Absent("no EDAC driver".into()))
        );
    }
}
