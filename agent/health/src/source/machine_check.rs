//! Machine checks, as far as one learns of them without root: the counters of their interrupts.
//!
//! What a machine check was about stands in the kernel's log and in rasdaemon's database, which is
//! a source of its own.

use super::{decimal, found};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

const INTERRUPTS: &str = "/proc/interrupts";

/// Reads the counters.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let text = host.text(INTERRUPTS)?.unwrap_or_default();
    let component = Component::only(Kind::Cpu);
    let readings = [
        (quantity::MACHINE_CHECKS, "MCE"),
        (quantity::DEFERRED_ERRORS, "DFR"),
    ];
    let readings = readings
        .into_iter()
        .filter_map(|(quantity, name)| Some(Reading::new(&component, quantity, sum(&text, name)?)));
    found(readings.collect(), "no machine checks are counted")
}

/// The sum over all CPUs of the interrupt called `name`. Some processors tell every CPU of one
/// machine check: that it grows says more than how far.
fn sum(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().map_while(decimal).sum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const INTEL: &str = "           CPU0       CPU1\n\
        \x20 0:         12          0   IO-APIC   2-edge      timer\n\
        NMI:          3          4   Non-maskable interrupts\n\
        MCE:          1          1   Machine check exceptions\n\
        MCP:         40         40   Machine check polls\nERR:          0";

    #[test]
    fn exceptions_count_and_polls_do_not() {
        let tree = Tree::new().file("proc/interrupts", INTEL);
        assert_eq!(
            render(&read(tree.host()).unwrap()),
            "cpu machine_checks 2\n"
        );
        let guest = Tree::new().file("proc/interrupts", "NMI: 0 0");
        assert!(matches!(read(guest.host()), Err(Failure::Absent(_))));
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(INTEL)) {
            prop_assert!(sum(&text, "MCE").is_none_or(f64::is_finite));
        }
    }
}
