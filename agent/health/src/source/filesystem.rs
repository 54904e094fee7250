//! File systems that Kapok needs: how full they are, and whether they can be written.

use std::{collections::BTreeMap, fs, path::Path, path::PathBuf, time::Duration};

use async_trait::async_trait;
use nix::sys::statvfs::statvfs;

use super::{float, found, part};
use crate::{Component, Failure, Host, Kind, Reading, Source, quantity};

const MOUNTS: &str = "/proc/self/mountinfo";

/// The source: names, and a path on each file system.
#[derive(Debug, Clone)]
pub struct Filesystem {
    paths: BTreeMap<String, PathBuf>,
}

impl Filesystem {
    /// Watches the file systems of these paths.
    pub fn new(paths: BTreeMap<String, PathBuf>) -> Self {
        Self { paths }
    }
}

#[async_trait]
impl Source for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn cadence(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// A network's file system may take long, or for ever.
    fn deadline(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let mounts = host.text(MOUNTS);
        let mut readings = Vec::new();
        for (name, path) in &self.paths {
            let component = Component::new(Kind::Filesystem, name);
            let fill = fill(host, &component, path);
            let is_there = fill.is_ok();
            readings.extend(part(fill, &component, quantity::AVAILABLE));
            // Without a file system there is no mount to ask about.
            let read_only = mounts.as_ref().map(|mounts| {
                let mounts = mounts.as_deref().filter(|_| is_there)?;
                let read_only = read_only(mounts, &real(host, path))?;
                Some(f64::from(u8::from(read_only)))
            });
            readings.extend(Reading::tried(&component, quantity::READ_ONLY, read_only));
        }
        found(readings, "no file systems are configured")
    }
}

fn fill(host: &Host, component: &Component, path: &Path) -> Result<Vec<Reading>, Failure> {
    let wrong = |error| Failure::Unreadable(format!("{}: {error}", path.display()));
    let of = statvfs(&host.path(path)).map_err(wrong)?;
    let bytes = |blocks| float(blocks) * float(of.fragment_size());
    let reading = |quantity, value| Reading::new(component, quantity, value);
    let mut readings = vec![
        reading(quantity::SIZE, bytes(of.blocks())),
        reading(quantity::AVAILABLE, bytes(of.blocks_available())),
    ];
    // Some file systems make room for files as they need it, and say 0.
    if of.files() > 0 {
        readings.push(reading(quantity::FILES, float(of.files())));
        readings.push(reading(
            quantity::FILES_AVAILABLE,
            float(of.files_available()),
        ));
    }
    Ok(readings)
}

/// A path without symbolic links, as the server sees it.
fn real(host: &Host, path: &Path) -> PathBuf {
    let resolve = || {
        let root = fs::canonicalize(host.path("/")).ok()?;
        let real = fs::canonicalize(host.path(path)).ok()?;
        Some(Path::new("/").join(real.strip_prefix(root).ok()?))
    };
    resolve().unwrap_or_else(|| path.to_owned())
}

/// Whether the mount that holds a path, or its file system, can't be written; none if no mount
/// holds it. Source: `proc_pid_mountinfo(5)`: of several mounts on one place the last is seen.
fn read_only(mounts: &str, path: &Path) -> Option<bool> {
    let parse = |line: &str| {
        let (of_mount, of_filesystem) = line.split_once(" - ")?;
        let mut fields = of_mount.split(' ').skip(4);
        let (place, options) = (unescape(fields.next()?), fields.next()?);
        let super_options = of_filesystem.split(' ').nth(2)?;
        let mut options = options.split(',').chain(super_options.split(','));
        path.starts_with(&place)
            .then(|| (place.len(), options.any(|option| option == "ro")))
    };
    let holding = mounts.lines().filter_map(parse);
    Some(holding.max_by_key(|(length, _)| *length)?.1)
}

/// A blank stands as `\040` there.
fn unescape(place: &str) -> String {
    place
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Read,
        source::tests::{Tree, near},
    };

    const MOUNTS: &str = "\
        22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n\
        30 22 254:16 / /var/lib rw,relatime - ext4 /dev/vdb ro\n\
        31 30 254:32 / /var/lib/my\\040pool rw - xfs /dev/vdc rw\n\
        32 22 254:48 / /mnt ro - xfs /dev/vdd rw\n\
        33 22 254:49 / /mnt rw - xfs /dev/vde rw";

    #[test]
    fn the_innermost_mount_counts_and_of_several_the_last() {
        for (path, expected) in [
            ("/etc", false),
            ("/var/lib/kapok", true),
            ("/var/libel", false),
            ("/var/lib/my pool/a", false),
            ("/mnt/x", false),
        ] {
            assert_eq!(read_only(MOUNTS, Path::new(path)), Some(expected), "{path}");
        }
        assert_eq!(read_only("", Path::new("/etc")), None);
    }

    #[tokio::test]
    async fn a_path_that_should_be_there_is_read_or_unreadable() {
        let tree = Tree::new()
            .file("var/lib/kapok/agent/epoch", "1")
            .link("state", "var/lib/kapok")
            .file("proc/self/mountinfo", MOUNTS);
        let paths = [("pool", "/pool"), ("state", "/state")];
        let paths = paths.map(|(name, path)| (name.to_owned(), PathBuf::from(path)));
        let source = Filesystem::new(paths.into());
        let readings = source.read(tree.host()).await.unwrap();
        let (pool, state) = readings.split_first().unwrap();
        assert_eq!(pool.component.to_string(), "filesystem/pool");
        let Read::Unreadable(reason) = &pool.read else {
            panic!("{pool:?}");
        };
        assert!(reason.starts_with("/pool: "), "{reason}");
        let of = |quantity| {
            let reading = state.iter().find(|it| it.quantity == quantity);
            reading.and_then(Reading::value)
        };
        assert!(of(quantity::SIZE) >= of(quantity::AVAILABLE) && of(quantity::SIZE) > Some(0.0));
        // Through the link, it is on the mount that can't be written.
        assert_eq!(of(quantity::READ_ONLY), Some(1.0));
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(text in near(MOUNTS)) {
            let _ = read_only(&text, Path::new("/var/lib/my pool"));
        }
    }
}
