//! What a lab may leave behind, and looking for it.
//!
//! A lab's folder holds an `owner` file: pid and start time of its raiser. Folders, processes
//! and mounts of a lab whose raiser still runs are not leftovers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::places;

/// How the folders of labs are named.
pub(crate) const PREFIX: &str = "lab-";

/// Everything that labs of this checkout have left on this machine: folders, processes in their
/// namespaces, mounts and interfaces. Labs whose raiser still runs don't count.
pub fn leftovers() -> Vec<String> {
    let runs = places::runs();
    let mut left: Vec<String> = folders(&runs)
        .into_iter()
        .filter(|folder| !has_owner(folder))
        .map(|folder| format!("folder {}", folder.display()))
        .collect();
    for (process, lab) in processes(&runs) {
        if !has_owner(&runs.join(&lab)) {
            left.push(format!("process {process} of {lab}"));
        }
    }
    left.extend(machine_wide(&runs));
    left
}

/// What this one lab has left.
pub(crate) fn of(folder: &Path) -> Vec<String> {
    let mut left = Vec::new();
    if folder.exists() {
        left.push(format!("folder {}", folder.display()));
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    for (process, lab) in processes(&places::runs()) {
        if lab == name {
            left.push(format!("process {process} of {lab}"));
        }
    }
    left
}

/// Writes down who raised the lab.
pub(crate) fn own(folder: &Path) -> Result<()> {
    let pid = std::process::id();
    let start = start_time(pid).context("can't read this process's start time")?;
    Ok(fs::write(folder.join("owner"), format!("{pid} {start}"))?)
}

/// Removes folders whose raiser is gone, and whose caretaker too (a machine's power cut).
pub(crate) fn sweep(runs: &Path) {
    let busy: Vec<String> = processes(runs).into_iter().map(|(_, lab)| lab).collect();
    for folder in folders(runs) {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !has_owner(&folder) && !busy.contains(&name) && folder.join("owner").exists() {
            let _taken_by_another = fs::remove_dir_all(&folder);
        }
    }
}

fn folders(runs: &Path) -> Vec<PathBuf> {
    fs::read_dir(runs)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
        })
        .collect()
}

/// Whether the raiser of a lab still runs.
fn has_owner(folder: &Path) -> bool {
    let text = fs::read_to_string(folder.join("owner")).unwrap_or_default();
    let Some((pid, start)) = text.split_once(' ') else {
        return false;
    };
    pid.parse()
        .ok()
        .and_then(start_time)
        .is_some_and(|now| now == start.trim())
}

/// When a process started, in the kernel's ticks since its boot: with the pid, one process for
/// ever. Nothing for a zombie, which holds nothing.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, the rest is numbers after a state letter.
    let rest = stat.rsplit_once(") ")?.1;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

/// Processes in a mount namespace of a lab: pid and the lab's name.
fn processes(runs: &Path) -> Vec<(u32, String)> {
    let Some(root) = root_in_file_system(runs) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if let Some(lab) = mounts.lines().find_map(|line| lab_of(line, &root)) {
            found.push((pid, lab));
        }
    }
    found
}

/// The lab whose folder is the source of this mount.
fn lab_of(line: &str, root: &str) -> Option<String> {
    let source = line.split(' ').nth(3)?;
    let name = source
        .strip_prefix(root)?
        .strip_prefix('/')?
        .split('/')
        .next()?;
    name.starts_with(PREFIX).then(|| name.to_owned())
}

/// The path that mount tables show for the source of a bind mount from `folder`.
fn root_in_file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (root, point) = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            Some((fields.next()?, Path::new(fields.next()?)))
        })
        .filter(|(_, point)| folder.starts_with(point))
        .max_by_key(|(_, point)| point.as_os_str().len())?;
    let inner = folder.strip_prefix(point).ok()?;
    Some(Path::new(root).join(inner).to_string_lossy().into_owned())
}

/// What could have leaked into the raiser's own namespaces, whoever did it.
fn machine_wide(runs: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(root) = root_in_file_system(runs) {
        for line in mounts.lines().filter(|line| lab_of(line, &root).is_some()) {
            left.push(format!("mount {line}"));
        }
    }
    for name in ["kapok-lab", "kapok0", "kapok-port-1"] {
        if Path::new("/sys/class/net").join(name).exists() {
            left.push(format!("network interface {name}"));
        }
    }
    left
}
