//! Disks as the kernel sees them: requests, the time they took, and those that failed.
//!
//! Only disks with a device of their own: what is made of disks (dm, md), loops and memory would
//! say everything twice. A disk that hangs answers nothing and so has no slow requests either: what
//! is in flight tells it.

use super::{decimal, found};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

const BLOCKS: &str = "/sys/block";
/// The unit of `size`, whatever the disk's own is.
const SECTOR_BYTES: f64 = 512.0;

/// What a disk's driver calls its state when it is lost. Source: `scsi_sysfs.c` and
/// nvme's `sysfs.c`.
const LOST: &[&str] = &["offline", "transport-offline", "dead"];

/// Reads all disks.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let mut readings = Vec::new();
    for disk in host.list(BLOCKS)? {
        let folder = format!("{BLOCKS}/{disk}");
        let hidden = host.text(format!("{folder}/hidden"));
        let is_path = matches!(hidden, Ok(Some(hidden)) if hidden == "1");
        // CD drives have nothing to say, and hidden ones are paths of another.
        if is_path || disk.starts_with("sr") || !host.exists(format!("{folder}/device")) {
            continue;
        }
        let component = Component::new(Kind::Disk, &disk);
        let mut push = |quantity, tried: Result<Option<f64>, Failure>| {
            readings.extend(Reading::tried(&component, quantity, tried));
        };
        match statistics(host, &folder) {
            Ok(Some(done)) => {
                push(quantity::IO_REQUESTS, Ok(Some(done.requests)));
                push(quantity::IO_TIME, Ok(Some(done.seconds)));
                push(quantity::IO_IN_FLIGHT, Ok(Some(done.in_flight)));
            }
            Ok(None) => {}
            Err(failure) => push(quantity::IO_REQUESTS, Err(failure)),
        }
        push(
            quantity::IO_ERRORS,
            host.number(format!("{folder}/device/ioerr_cnt")),
        );
        let sectors = host.number(format!("{folder}/size"));
        push(
            quantity::SIZE,
            sectors.map(|sectors| sectors.map(|sectors| sectors * SECTOR_BYTES)),
        );
        let state = host.text(format!("{folder}/device/state"));
        let lost = |state: String| f64::from(u8::from(LOST.contains(&state.as_str())));
        push(quantity::FAILED, state.map(|state| state.map(lost)));
    }
    found(readings, "no disks")
}

/// What a disk did.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Statistics {
    requests: f64,
    seconds: f64,
    in_flight: f64,
}

fn statistics(host: &Host, folder: &str) -> Result<Option<Statistics>, Failure> {
    let path = format!("{folder}/stat");
    let Some(text) = host.text(&path)? else {
        return Ok(None);
    };
    let wrong = || Failure::Unreadable(format!("{path} holds something else"));
    parse(&text).map(Some).ok_or_else(wrong)
}

/// Source: the kernel's Documentation/block/stat.rst. Reads and writes always, discards since 4.19,
/// flushes since 5.5.
fn parse(text: &str) -> Option<Statistics> {
    let numbers: Option<Vec<f64>> = text.split_whitespace().map(decimal).collect();
    let numbers = numbers?;
    let in_flight = *numbers.get(8)?;
    let sum = |places: [usize; 4]| -> f64 {
        let there = places.iter().filter_map(|place| numbers.get(*place));
        there.sum()
    };
    Some(Statistics {
        requests: sum([0, 4, 11, 15]),
        seconds: sum([3, 7, 14, 16]) / 1000.0,
        in_flight,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const MODERN: &str = "100 5 8000 250 40 2 960 150 3 90 400 7 0 64 20 5 80";

    #[test]
    fn disks_are_read_and_what_is_made_of_them_is_not() {
        let block = |file: &str| format!("sys/block/{file}");
        let tree = Tree::new()
            .file(&block("sda/stat"), MODERN)
            .file(&block("sda/size"), "2048")
            .file(&block("sda/device/state"), "offline")
            .file(&block("sda/device/ioerr_cnt"), "0x1f")
            .file(&block("vda/stat"), "1 0 8 2 1 0 8 3 0 4 5")
            .file(&block("vda/device/vendor"), "0x1af4")
            .file(&block("sr0/device/state"), "running")
            .file(&block("nvme0c0n1/hidden"), "1")
            .file(&block("nvme0c0n1/device/state"), "live")
            .file(&block("dm-0/stat"), MODERN);
        let expected = "\
            disk/sda io_requests 152\n\
            disk/sda io_time 0.5\n\
            disk/sda io_in_flight 3\n\
            disk/sda io_errors 31\n\
            disk/sda size 1048576\n\
            disk/sda failed 1\n\
            disk/vda io_requests 2\n\
            disk/vda io_time 0.005\n\
            disk/vda io_in_flight 0\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }

    #[test]
    fn statistics_that_are_none_are_unreadable() {
        let tree = Tree::new()
            .file("sys/block/sda/stat", "1 2 x")
            .file("sys/block/sda/device/state", "running");
        let expected = "\
            disk/sda io_requests unreadable: /sys/block/sda/stat holds something else\n\
            disk/sda failed 0\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(MODERN)) {
            if let Some(done) = parse(&text) {
                prop_assert!(done.requests.is_finite() && done.seconds.is_finite());
            }
        }
    }
}
