//! Room for the local store and for images on their way to the pool.

use std::io;

use nix::{errno::Errno, sys::statvfs::statvfs};

use super::{Finding, Server};

const CHECK: &str = "space";
/// Less than this the local store can't be relied on to be written.
const LEAST_MIB: u64 = 64;
/// Less than this an image of a usual size doesn't pass.
const FEW_MIB: u64 = 4096;
const MIB: u64 = 1024 * 1024;

/// The file system of the state directory.
pub(super) fn check(server: &Server<'_>) -> Finding {
    let folder = &server.config.state_dir;
    let mut place = server.host.path(folder);
    // Before the first start its parent tells.
    let of = loop {
        match statvfs(&place) {
            Err(Errno::ENOENT) if place.pop() => {}
            of => break of,
        }
    };
    match of {
        Ok(of) => {
            let free_mib = of.blocks_available().saturating_mul(of.fragment_size()) / MIB;
            // Some file systems make room for files as they need it, and say 0.
            let files = (of.files() > 0).then(|| of.files_available());
            judge(&folder.display().to_string(), free_mib, files)
        }
        Err(error) => {
            let found = format!("{}: {}", folder.display(), io::Error::from(error));
            Finding::unknown(CHECK, found, "run the doctor as root")
        }
    }
}

fn judge(folder: &str, free_mib: u64, files: Option<u64>) -> Finding {
    let found = format!("{folder} has {free_mib} MiB left");
    let advice = format!("make room there, or put `state_dir` elsewhere ({FEW_MIB} MiB and more)");
    if files.is_some_and(|files| files < 100) {
        let found = format!("{folder} has next to no inodes left");
        return Finding::failing(CHECK, found, advice);
    }
    if free_mib < LEAST_MIB {
        Finding::failing(CHECK, found, advice)
    } else if free_mib < FEW_MIB {
        let found = format!("{found}, and images pass through it");
        Finding::degraded(CHECK, found, advice)
    } else {
        Finding::healthy(CHECK, found)
    }
}

#[cfg(test)]
mod tests {
    use kapok_health::Condition;

    use super::*;

    #[test]
    fn little_room_is_said() {
        for (free_mib, files, condition) in [
            (10_000, None, Condition::Healthy),
            (10_000, Some(1_000_000), Condition::Healthy),
            (10_000, Some(3), Condition::Failing),
            (500, None, Condition::Degraded),
            (10, None, Condition::Failing),
        ] {
            let found = judge("/var/lib/kapok/agent", free_mib, files);
            assert_eq!(found.condition, condition, "{found:?}");
        }
    }
}
