//! Arrays of the kernel's software RAID (md).

use super::{count, decimal, found};
use crate::{Component, Failure, Host, Kind, Reading, quantity};

const MDSTAT: &str = "/proc/mdstat";

/// States in which an array can't be used. Source: the kernel's Documentation/admin-guide/md.rst.
const FAILED: &[&str] = &["inactive", "clear", "broken"];

/// Reads all arrays.
pub(super) fn read(host: &Host) -> Result<Vec<Reading>, Failure> {
    let text = host.text(MDSTAT)?.unwrap_or_default();
    let mut readings = Vec::new();
    for array in parse(&text) {
        let component = Component::new(Kind::Array, &array.name);
        let folder = format!("/sys/block/{}/md", array.name);
        let state = host.text(format!("{folder}/array_state"));
        let failed = match &state {
            Ok(Some(state)) => FAILED.contains(&state.as_str()),
            // Files of one array that can't be read leave the word of mdstat.
            Ok(None) | Err(_) => !array.active,
        };
        let missing = host.number(format!("{folder}/degraded")).ok().flatten();
        let degraded = missing.map_or(array.working < array.members, |missing| missing > 0.0);
        readings.extend([
            Reading::new(&component, quantity::MEMBERS, count(array.members)),
            Reading::new(&component, quantity::MEMBERS_ACTIVE, count(array.working)),
            Reading::new(&component, quantity::MEMBERS_FAILED, count(array.faulty)),
            Reading::flag(&component, quantity::ARRAY_DEGRADED, degraded),
            Reading::flag(&component, quantity::ARRAY_FAILED, failed),
        ]);
        let resync = Ok::<_, Failure>(array.resync);
        readings.push(Reading::tried_or_absent(
            &component,
            quantity::RESYNC,
            resync,
        ));
    }
    found(readings, "no md arrays")
}

/// An array.
#[derive(Debug, Clone, PartialEq, Default)]
struct Array {
    name: String,
    active: bool,
    /// Members that it should have.
    members: usize,
    /// Those that work.
    working: usize,
    /// Those that are marked as faulty.
    faulty: usize,
    /// The share of a rebuild or check that is done.
    resync: Option<f64>,
}

/// The arrays of `/proc/mdstat`. An array's paragraph begins at the margin:
///
/// ```text
/// md0 : active raid1 sdb1[2](F) sda1[0]
///       1046528 blocks super 1.2 [2/1] [U_]
///       [==>..................]  recovery = 12.6% (131904/1046528) finish=0.5min speed=26380K/sec
/// ```
fn parse(text: &str) -> Vec<Array> {
    let mut arrays: Vec<Array> = Vec::new();
    for line in text.lines() {
        if let Some((name, rest)) = line.split_once(" : ")
            && name.starts_with("md")
            && !name.contains(char::is_whitespace)
        {
            arrays.push(head(name, rest));
        } else if let (true, Some(array)) = (line.starts_with(' '), arrays.last_mut()) {
            body(array, line);
        }
    }
    arrays
}

fn head(name: &str, rest: &str) -> Array {
    let members: Vec<&str> = rest
        .split_whitespace()
        .filter(|word| word.contains('['))
        .collect();
    let marked = |mark: &str| members.iter().filter(|word| word.contains(mark)).count();
    let faulty = marked("(F)");
    // What has no redundancy has no "[2/1]" either: then all that are there count.
    let used = members.len() - marked("(S)");
    Array {
        name: name.to_owned(),
        active: rest.starts_with("active"),
        members: used,
        working: used - faulty.min(used),
        faulty,
        resync: None,
    }
}

fn body(array: &mut Array, line: &str) {
    for word in line.split_whitespace() {
        let inner = word
            .strip_prefix('[')
            .and_then(|word| word.strip_suffix(']'));
        if let Some((members, working)) = inner.and_then(|inner| inner.split_once('/'))
            && let (Ok(members), Ok(working)) = (members.parse(), working.parse())
        {
            (array.members, array.working) = (members, working);
        }
    }
    let percent = line.split_once(" = ").and_then(|(_, rest)| {
        let (percent, _) = rest.trim_start().split_once('%')?;
        decimal(percent)
    });
    if let Some(percent) = percent.filter(|percent| (0.0..=100.0).contains(percent)) {
        array.resync = Some(percent / 100.0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::tests::{Tree, near, render};

    const ARRAYS: &str = "Personalities : [raid1] [raid6] [raid5] [raid4] [raid0]\n\
        md0 : active raid1 sdb1[2](F) sda1[0] sdc1[3](S)\n\
        \x20     1046528 blocks super 1.2 [2/1] [U_]\n\
        \x20     [==>.....]  recovery = 12.6% (131904/1046528) finish=0.5min speed=26380K/sec\n\
        \x20     bitmap: 0/1 pages [0KB], 65536KB chunk\n\n\
        md1 : active raid0 sdd1[1] sde1[0]\n\
        \x20     2093056 blocks super 1.2 512k chunks\n\n\
        md2 : inactive sdf1[0](S)\n\
        \x20     1046528 blocks\n\nunused devices: <none>";

    #[test]
    fn arrays_are_read_as_the_kernel_prints_them() {
        let tree = Tree::new()
            .file("proc/mdstat", ARRAYS)
            .file("sys/block/md1/md/array_state", "broken");
        let expected = "\
            array/md0 members 2\n\
            array/md0 members_active 1\n\
            array/md0 members_failed 1\n\
            array/md0 array_degraded 1\n\
            array/md0 array_failed 0\n\
            array/md0 resync 0.126\n\
            array/md1 members 2\n\
            array/md1 members_active 2\n\
            array/md1 members_failed 0\n\
            array/md1 array_degraded 0\n\
            array/md1 array_failed 1\n\
            array/md1 resync absent\n\
            array/md2 members 0\n\
            array/md2 members_active 0\n\
            array/md2 members_failed 0\n\
            array/md2 array_degraded 0\n\
            array/md2 array_failed 1\n\
            array/md2 resync absent\n";
        assert_eq!(render(&read(tree.host()).unwrap()), expected);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(ARRAYS)) {
            prop_assert!(parse(&text).len() <= text.lines().count());
        }
    }
}
