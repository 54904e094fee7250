//! What the machine's one kernel gives and says: huge pages, and where threads may run.

use std::fs;

use anyhow::{Context, Result};

use crate::note;

/// The kernel's own; all hosts of a lab share it.
const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages of the kernel's usual size, until they are dropped. They alone outlive a process that
/// is killed.
#[derive(Debug)]
pub struct HugePages {
    former: u64,
}

impl HugePages {
    /// Has the kernel set some more aside; none if it hasn't so many to give.
    ///
    /// # Errors
    ///
    /// When the kernel can't be asked.
    pub fn reserve(count: u64) -> Result<Option<Self>> {
        let read = || -> Result<u64> { Ok(fs::read_to_string(HUGE_PAGES)?.trim().parse()?) };
        let pages = Self { former: read()? };
        let wanted = pages.former + count;
        fs::write(HUGE_PAGES, wanted.to_string())?;
        Ok((read()? >= wanted).then_some(pages))
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = fs::write(HUGE_PAGES, self.former.to_string()) {
            let former = self.former;
            note(&format!(
                "{HUGE_PAGES} was {former} and stays as it is: {error}"
            ));
        }
    }
}

/// The last of the machine's threads, and all others in the kernel's list form; none if there is
/// only one, or some are offline.
///
/// # Errors
///
/// When the kernel can't be asked.
pub fn last_thread() -> Result<Option<(u16, String)>> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let Some(Ok(last)) = online.trim().strip_prefix("0-").map(str::parse) else {
        return Ok(None);
    };
    Ok(Some(match last {
        1 => (1, "0".into()),
        _ => (last, format!("0-{}", last - 1)),
    }))
}

/// A process' threads by their names, each with where it may run in the kernel's list form.
///
/// # Errors
///
/// When the process is gone.
pub fn threads_of(pid: u32) -> Result<Vec<(String, String)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let read = |name: &str| fs::read_to_string(task.join(name));
        // One may end meanwhile.
        let (Ok(name), Ok(status)) = (read("comm"), read("status")) else {
            continue;
        };
        let mut lines = status.lines();
        let allowed = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = allowed.context("a thread doesn't say where it may run")?;
        threads.push((name.trim().to_owned(), allowed.trim().to_owned()));
    }
    Ok(threads)
}
