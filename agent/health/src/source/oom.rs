//! Processes that the kernel killed because memory was short.

use super::{decimal, found};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

const VMSTAT: &str = "/proc/vmstat";

/// Reads the counter.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let text = host.text(VMSTAT)?.unwrap_or_default();
    let component = Component::only(Kind::Kernel);
    let kills = parse(&text).map(|kills| Reading::new(&component, quantity::OOM_KILLS, kills));
    found(
        kills.into_iter().collect(),
        "the kernel counts no OOM kills",
    )
}

fn parse(text: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| decimal(line.strip_prefix("oom_kill ")?.trim()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const COUNTERS: &str = "nr_free_pages 3814\noom_kill 4\nunevictable_pgs_culled 0";

    #[test]
    fn kills_are_counted() {
        let tree = Tree::new().file("proc/vmstat", COUNTERS);
        assert_eq!(render(&read(tree.host()).unwrap()), "kernel oom_kills 4\n");
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(COUNTERS)) {
            prop_assert!(parse(&text).is_none_or(f64::is_finite));
        }
    }
}
