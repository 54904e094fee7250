//! What the kernel says of itself: its taint, and what went wrong within it since its boot.

use super::found;
use crate::{Component, Failure, Host, Kind, Quantity, Reading, quantity};

/// Counters by quantity; each appeared with some kernel, and what isn't there isn't counted.
/// Source: the kernel's Documentation/ABI/testing/sysfs-kernel-* and admin-guide/sysctl/kernel.rst.
const COUNTERS: &[(Quantity, &[&str])] = &[
    (quantity::TAINT, &["/proc/sys/kernel/tainted"]),
    (
        quantity::LOCKUPS,
        &[
            "/sys/kernel/softlockup_count",
            "/sys/kernel/hardlockup_count",
            "/sys/kernel/rcu_stall_count",
            "/proc/sys/kernel/hung_task_detect_count",
        ],
    ),
    (quantity::OOPSES, &["/sys/kernel/oops_count"]),
    (quantity::WARNINGS, &["/sys/kernel/warn_count"]),
];

/// Reads all counters.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let component = Component::only(Kind::Kernel);
    let readings = COUNTERS.iter().filter_map(|(quantity, files)| {
        Reading::tried(&component, quantity.clone(), sum(host, files))
    });
    found(readings.collect(), "the kernel says nothing of itself")
}

fn sum(host: &Host, files: &[&str]) -> Result<Option<f64>, Failure> {
    let mut sum = None;
    for file in files {
        if let Some(number) = host.number(file)? {
            sum = Some(sum.unwrap_or(0.0) + number);
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{Tree, render};

    #[test]
    fn what_the_kernel_counts_is_summed_and_what_it_does_not_is_left_out() {
        let tree = Tree::new()
            .file("proc/sys/kernel/tainted", "4609")
            .file("proc/sys/kernel/hung_task_detect_count", "2")
            .file("sys/kernel/softlockup_count", "1")
            .file("sys/kernel/warn_count", "5");
        let expected = "kernel taint 4609\nkernel lockups 3\nkernel warnings 5\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }

    #[test]
    fn a_counter_that_can_t_be_read_is_not_taken_for_none() {
        let tree = Tree::new()
            .file("sys/kernel/softlockup_count", "1")
            .file("sys/kernel/rcu_stall_count", "-");
        let readings = render(&read(tree.host()).unwrap());
        assert_eq!(
            readings,
            "kernel lockups unreadable: /sys/kernel/rcu_stall_count holds \"-\"\n"
        );
    }
}
