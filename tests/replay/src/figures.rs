//! Percentiles of durations, and what a disk takes to make a write durable.

use std::{
    fmt,
    fs::File,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use kapok_types::{Env, env::System};
use nix::sys::statfs::{self, FsType};
use serde::{Serialize, Serializer};

/// Durations of the same kind of thing, in the order of their size.
#[derive(Debug, Clone, Default)]
pub struct Durations(Vec<Duration>);

impl FromIterator<Duration> for Durations {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        let mut durations: Vec<_> = durations.into_iter().collect();
        durations.sort_unstable();
        Self(durations)
    }
}

impl Durations {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The duration that `permille` of them don't exceed (nearest rank); zero if there are none.
    pub fn at(&self, permille: usize) -> Duration {
        let rank = (self.0.len() * permille).div_ceil(1000);
        self.0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:.1?}, p99 {:.1?}", self.at(500), self.at(990))
    }
}

impl Serialize for Durations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Percentiles {
            count: usize,
            p50_us: u128,
            p99_us: u128,
            max_us: u128,
        }
        let percentiles = Percentiles {
            count: self.len(),
            p50_us: self.at(500).as_micros(),
            p99_us: self.at(990).as_micros(),
            max_us: self.at(1000).as_micros(),
        };
        percentiles.serialize(serializer)
    }
}

/// A folder's file system, and how long it takes to make 4 KiB durable.
#[derive(Debug)]
pub struct Disk {
    /// Its magic number, as statfs(2) tells it.
    pub file_system: FsType,
    /// A write of 4 KiB at a file's end with fdatasync(2), each.
    pub syncs: Durations,
}

impl Disk {
    /// Writes a file in `folder` for a moment.
    ///
    /// # Errors
    ///
    /// The folder can't be written, or what is written there is in memory only.
    pub fn measure(folder: &Path) -> io::Result<Self> {
        const SYNCS: usize = 300;
        let file_system = statfs::statfs(folder)?.filesystem_type();
        if [statfs::TMPFS_MAGIC, RAMFS_MAGIC].contains(&file_system) {
            return Err(io::Error::other(format!(
                "{} is in memory only, where nothing is durable; name a folder on a disk",
                folder.display()
            )));
        }
        let env = System::new();
        let path = folder.join("fdatasync");
        let mut file = File::create(&path)?;
        let mut syncs = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let began = env.monotonic();
            file.write_all(&[0x5a; 4096])?;
            file.sync_data()?;
            syncs.push(env.monotonic().saturating_sub(began));
        }
        drop(file);
        std::fs::remove_file(&path)?;
        Ok(Self {
            file_system,
            syncs: syncs.into_iter().collect(),
        })
    }
}

/// Source: Linux, include/uapi/linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.file_system {
            statfs::EXT4_SUPER_MAGIC => "ext2/3/4",
            statfs::XFS_SUPER_MAGIC => "xfs",
            statfs::BTRFS_SUPER_MAGIC => "btrfs",
            statfs::OVERLAYFS_SUPER_MAGIC => "overlayfs",
            FsType(other) => return write!(f, "file system {other:#x}, fdatasync {}", self.syncs),
        };
        write!(f, "{name}, fdatasync {}", self.syncs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let of =
            |ms: &[u64]| -> Durations { ms.iter().copied().map(Duration::from_millis).collect() };
        assert_eq!(of(&[]).at(500), Duration::ZERO);
        let one_to_ten = of(&[3, 1, 2, 10, 9, 8, 7, 6, 5, 4]);
        assert_eq!(one_to_ten.at(500), Duration::from_millis(5));
        assert_eq!(one_to_ten.at(990), Duration::from_millis(10));
        assert_eq!(one_to_ten.at(1), Duration::from_millis(1));
    }
}
