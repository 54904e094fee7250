//! Memory that only starting needed.
//!
//! Before `main`, the dynamic linker reads the symbol tables and relocations of libvirt and of the
//! thirty libraries below it, once. These pages stay mapped into the process, and count as its
//! resident memory, until the kernel runs short. They can be let go at once: whatever is needed of
//! them again is found in the page cache.

use std::{ffi::c_void, fs, ptr::NonNull};

use nix::sys::mman::{MmapAdvise, madvise};

/// Lets go of the pages of programs and libraries that starting has touched; answers how many KiB
/// were resident of them. Legal while the process has one thread: at the beginning of `main`.
pub fn release_linked() -> u64 {
    if fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        return 0;
    }
    let map = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let clean = mappings(&map).filter(Mapping::is_clean);
    clean
        .filter(Mapping::release)
        .map(|it| it.resident_kib)
        .sum()
}

/// A line of `/proc/self/smaps` with what follows it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    /// It can be read and not written, and shows a file.
    read_only_file: bool,
    resident_kib: u64,
    /// Pages that aren't the file's: written before the mapping became read-only.
    own_kib: Option<u64>,
    /// Such pages that are in swap: they count there and not above.
    swapped_kib: Option<u64>,
}

impl Mapping {
    fn is_clean(&self) -> bool {
        self.read_only_file && self.own_kib == Some(0) && self.swapped_kib == Some(0)
    }

    fn release(&self) -> bool {
        let length = self.end.saturating_sub(self.start);
        let Some(start) = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(self.start))
        else {
            return false;
        };
        // SAFETY: a mapping of a file that can't be written and holds no page of its own: each page
        // that is let go reads the same when it is touched again. Nobody unmaps it meanwhile, for
        // there is no other thread.
        unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) }.is_ok()
    }
}

/// The mappings that a text of `/proc/self/smaps` lists. Source: `proc_pid_smaps(5)`.
fn mappings(text: &str) -> impl Iterator<Item = Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        if let Some(mapping) = header(line) {
            found.push(mapping);
        } else if let Some(mapping) = found.last_mut() {
            let kib = |name: &str| {
                let rest = line.strip_prefix(name)?.trim();
                rest.strip_suffix(" kB")?.parse().ok()
            };
            if let Some(resident) = kib("Rss:") {
                mapping.resident_kib = resident;
            } else if let Some(own) = kib("Anonymous:") {
                mapping.own_kib = Some(own);
            } else if let Some(swapped) = kib("Swap:") {
                mapping.swapped_kib = Some(swapped);
            }
        }
    }
    found.into_iter()
}

/// `START-END PERMISSIONS OFFSET DEVICE INODE FILE`
fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let file = words.nth(3);
    Some(Mapping {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        read_only_file: permissions.starts_with("r-")
            && permissions.ends_with('p')
            && file.is_some_and(|file| file.starts_with('/')),
        ..Mapping::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unwritten_pages_of_files_are_let_go() {
        let text = "\
7f0000000000-7f0000010000 r--p 00000000 fe:00 1234   /usr/lib/libvirt.so.0
Rss:                  64 kB
Anonymous:             0 kB
Swap:                  0 kB
7f0000010000-7f0000020000 r--p 00010000 fe:00 1234   /usr/lib/libvirt.so.0
Rss:                  64 kB
Anonymous:             4 kB
Swap:                  0 kB
7f0000018000-7f0000020000 r--p 00018000 fe:00 1234   /usr/lib/libvirt.so.0
Anonymous:             0 kB
Swap:                  4 kB
7f0000020000-7f0000030000 rw-p 00020000 fe:00 1234   /usr/lib/libvirt.so.0
Anonymous:             0 kB
Swap:                  0 kB
7f0000030000-7f0000040000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000040000-7f0000050000 r-xp 00000000 00:00 0      [vdso]
Anonymous:             0 kB
Swap:                  0 kB
7f0000050000-7f0000060000 r-xp 00000000 fe:00 1234   /usr/bin/kapok-agent
Rss:                   8 kB
";
        let clean: Vec<_> = mappings(text).filter(Mapping::is_clean).collect();
        // What the kernel says nothing of is left alone.
        assert_eq!(clean.len(), 1);
        assert_eq!(
            (clean[0].start, clean[0].resident_kib),
            (0x7f00_0000_0000, 64)
        );
    }

    #[test]
    fn a_process_with_threads_is_left_alone() {
        // The test harness has more than one.
        let released = std::thread::scope(|threads| threads.spawn(release_linked).join());
        assert_eq!(released.unwrap(), 0);
    }
}
