//! The kernel's numbers, read now and then from `/proc`.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::compat::tree::Tree;

/// Processor time by mode, in the order of `/proc/stat`.
///
/// Source: `proc_stat(5)`.
pub(super) const MODES: [&str; 8] = [
    "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
];
/// Ticks of those times in a second. Source: `USER_HZ`, which the kernel's interface fixes.
const TICKS: f64 = 100.0;

/// What was last read. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    root: Arc<PathBuf>,
    /// Whether to read for another exporter's names, too.
    tree: bool,
    held: Arc<Mutex<Option<Held>>>,
}

/// What was read, and when by the monotonic clock.
type Held = (Arc<Numbers>, Duration);

/// One reading.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Numbers {
    /// Averages over 1, 5 and 15 minutes.
    pub(super) load: [f64; 3],
    /// By the kernel's names, in bytes.
    pub(super) memory: BTreeMap<Box<str>, u64>,
    /// Seconds by [`MODES`], all threads together.
    pub(super) cpu_seconds: [f64; 8],
    /// Seconds since 1970.
    pub(super) booted_at: u64,
    /// Another exporter's series, if they are wanted.
    pub(super) tree: Option<Tree>,
}

impl Kernel {
    /// Reads below this root, "/" but for tests.
    pub(crate) fn new(root: impl Into<PathBuf>, tree: bool) -> Self {
        Self {
            root: Arc::new(root.into()),
            tree,
            held: Arc::default(),
        }
    }

    /// Reads; none, if it isn't a kernel that this version knows. Blocks, for no longer than the
    /// kernel itself takes.
    pub(super) fn read(&self) -> Option<Numbers> {
        let read = |name| fs::read_to_string(self.root.join("proc").join(name)).ok();
        let (load, memory, stat) = (read("loadavg")?, read("meminfo")?, read("stat")?);
        let mut words = load.split_whitespace().map_while(|word| word.parse().ok());
        let load = [words.next()?, words.next()?, words.next()?];
        let (cpu_seconds, booted_at) = times(&stat)?;
        Some(Numbers {
            load,
            memory: memory.lines().filter_map(memory_line).collect(),
            cpu_seconds,
            booted_at,
            tree: self.tree.then(|| Tree::read(&self.root)),
        })
    }

    /// Holds what was read.
    pub(super) fn set(&self, numbers: Numbers, now: Duration) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some((Arc::new(numbers), now));
    }

    /// What was last read, and when.
    pub(super) fn get(&self) -> Option<(Arc<Numbers>, Duration)> {
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// `MemTotal:  16 kB` in bytes.
fn memory_line(line: &str) -> Option<(Box<str>, u64)> {
    let (name, rest) = line.split_once(':')?;
    let mut words = rest.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    let bytes = match words.next() {
        Some(_) => number.checked_mul(1024)?,
        None => number,
    };
    Some((name.into(), bytes))
}

fn times(stat: &str) -> Option<([f64; 8], u64)> {
    let mut lines = stat.lines();
    let all = lines.next()?.strip_prefix("cpu ")?;
    let mut seconds = [0.0; 8];
    for (slot, word) in seconds.iter_mut().zip(all.split_whitespace()) {
        *slot = word.parse::<f64>().ok()? / TICKS;
    }
    let booted = lines.find_map(|line| line.strip_prefix("btime "))?;
    Some((seconds, booted.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_read() {
        let numbers = Kernel::new("/", true).read().unwrap();
        assert!(numbers.memory["MemTotal"] > 1 << 20, "{numbers:?}");
        assert!(numbers.cpu_seconds[3] > 0.0 && numbers.booted_at > 1_000_000_000);
    }

    #[test]
    fn garbage_is_no_reading() {
        assert_eq!(times("cpu  1 2 x\nbtime 7\n"), None);
        assert_eq!(times("cpu  1 2\n"), None);
        assert_eq!(
            memory_line("HugePages_Total:       3"),
            Some(("HugePages_Total".into(), 3))
        );
        assert_eq!(memory_line("MemFree: 18446744073709551615 kB"), None);
        assert!(Kernel::new("/nonexistent", false).read().is_none());
    }
}
