//! What is in the guest's and the probe's initramfs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::debs;
use crate::run::{run, system};

/// The drivers, by file name; what they depend on is found and loaded before them.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "virtio-rng",
    "button",
    "evdev",
];

/// Scripts and settings: path, permission bits, content.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/inittab", 0o644, include_str!("files/inittab")),
    ("etc/rcS", 0o755, include_str!("files/rcS")),
    ("etc/tick", 0o755, include_str!("files/tick")),
    ("etc/udhcpc", 0o755, include_str!("files/udhcpc")),
    ("etc/passwd", 0o644, "root::0:0:root:/:/bin/sh\n"),
    ("etc/group", 0o644, "root:x:0:\n"),
    (
        "etc/acpi/PWRF/00000080",
        0o755,
        include_str!("files/power-button"),
    ),
    ("sbin/shutdown", 0o755, include_str!("files/shutdown")),
];

const PROBE: &str = include_str!("files/probe-init");

const FOLDERS: &[&str] = &[
    "bin",
    "sbin",
    "dev",
    "etc",
    "etc/acpi",
    "etc/acpi/PWRF",
    "lib",
    "lib/modules",
    "lib64",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/sbin",
    "var",
];

/// Changes whenever the content would.
pub(super) fn recipe() -> String {
    format!("2 {MODULES:?} {FILES:?} {PROBE} {FOLDERS:?}")
}

/// The guest's userland.
pub(super) fn guest(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.character_device("dev/null", 1, 3)?;
    archive.character_device("dev/ttyS0", 4, 64)?;
    for (path, mode, content) in FILES {
        archive.file(path, *mode, content.as_bytes())?;
    }
    let busybox = root.join("bin/busybox");
    archive.file("bin/busybox", 0o755, &read(&busybox)?)?;
    for applet in run(system(&busybox.to_string_lossy()).arg("--list-full"))?.lines() {
        let ours = FILES.iter().any(|(path, ..)| *path == applet);
        let placed = FOLDERS.iter().any(|folder| {
            applet
                .strip_prefix(folder)
                .is_some_and(|rest| rest[1..].find('/').is_none())
        });
        if placed && !ours && applet != "bin/busybox" {
            archive.link(applet, "/bin/busybox")?;
        }
    }
    archive.link("init", "/bin/busybox")?;
    for (path, file) in agent(root)? {
        archive.file(&path, 0o755, &read(&file)?)?;
    }
    let mut order = String::new();
    for module in modules(root)? {
        let name = module
            .file_name()
            .context("a module without a name")?
            .to_string_lossy();
        order.push_str(&name);
        order.push('\n');
        archive.file(&format!("lib/modules/{name}"), 0o644, &read(&module)?)?;
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes())?;
    Ok(archive.finish()?)
}

/// The probe's userland: it says that it was reached, and ends.
pub(super) fn probe(root: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc"] {
        archive.folder(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.file("bin/busybox", 0o755, &read(&root.join("bin/busybox"))?)?;
    archive.link("bin/sh", "/bin/busybox")?;
    archive.file("init", 0o755, PROBE.as_bytes())?;
    Ok(archive.finish()?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

/// The guest agent, its libraries and their loader: path in the guest, file here.
fn agent(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let program = root.join("usr/sbin/qemu-ga");
    let loader = root.join("lib64/ld-linux-x86-64.so.2");
    let libraries = [
        root.join("lib/x86_64-linux-gnu"),
        root.join("usr/lib/x86_64-linux-gnu"),
    ];
    let search = libraries
        .each_ref()
        .map(|folder| folder.to_string_lossy().into_owned())
        .join(":");
    // The unpacked loader itself answers, so that the machine's libraries play no part.
    let answer = run(system(&loader.to_string_lossy())
        .args(["--library-path", &search, "--list"])
        .arg(&program))?;
    let mut files = vec![
        ("usr/sbin/qemu-ga".to_owned(), program),
        ("lib64/ld-linux-x86-64.so.2".to_owned(), loader),
    ];
    for line in answer.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some("=>"), Some(path)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if !name.starts_with('/') {
            files.push((format!("usr/lib/{name}"), PathBuf::from(path)));
        }
    }
    Ok(files)
}

/// The module files in the order in which they can be loaded.
fn modules(root: &Path) -> Result<Vec<PathBuf>> {
    let kernel = debs::modules(root)?;
    let mut all = Vec::new();
    walk(&kernel, &mut all)?;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in MODULES {
        add(name, &all, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn add(
    name: &str,
    all: &[PathBuf],
    seen: &mut BTreeSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    // A module's name has underscores where its file may have dashes.
    let plain = name.replace('-', "_");
    if !seen.insert(plain.clone()) {
        return Ok(());
    }
    let file = all
        .iter()
        .find(|file| {
            file.file_stem()
                .is_some_and(|stem| stem.to_string_lossy().replace('-', "_") == plain)
        })
        .with_context(|| format!("the kernel package has no module {name}"))?;
    for needed in run(system("modinfo").args(["-F", "depends"]).arg(file))?
        .trim()
        .split(',')
    {
        if !needed.is_empty() {
            add(needed, all, seen, order)?;
        }
    }
    order.push(file.clone());
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
