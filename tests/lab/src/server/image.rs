//! The server's disk: Debian as its installer leaves it, with libvirt, and nothing of Kapok.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use uuid::Uuid;

use crate::places;
use crate::run::{run, system};

/// The release that packages are made for.
const SUITE: &str = "bookworm";

/// What is installed besides the essential packages.
const PACKAGES: &[&str] = &[
    "dbus",
    "dnsmasq-base",
    "initramfs-tools",
    "iproute2",
    "iptables",
    "kmod",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "linux-image-cloud-amd64",
    "procps",
    "qemu-guest-agent",
    "qemu-system-x86",
    "qemu-utils",
    "systemd-sysv",
    "udev",
    "zstd",
];

/// The size of the disk. It is a hole until it is written.
const DISK_MIB: u64 = 4096;

/// The files of a built server image. They are shared and not to be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The disk: one ext4 file system, raw.
    pub disk: PathBuf,
    /// Its kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
}

/// Gives the image, building it if this recipe wasn't built before (40 s and 600 MB). Packages are
/// those of that day; who wants newer ones removes the folder.
///
/// # Errors
///
/// When not root, when Debian can't be reached, or a tool is missing.
pub fn build() -> Result<Image> {
    let cache = places::cache();
    fs::create_dir_all(&cache).with_context(|| format!("can't create {}", cache.display()))?;
    let lock = File::create(cache.join("server.lock"))?;
    lock.lock().context("can't lock the server image's cache")?;
    let recipe = format!("1 {SUITE} {PACKAGES:?} {DISK_MIB}");
    let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, recipe.as_bytes());
    let folder = cache.join("server").join(key.simple().to_string());
    let within = |folder: &Path| Image {
        disk: folder.join("disk.raw"),
        kernel: folder.join("vmlinuz"),
        initrd: folder.join("initrd.img"),
    };
    if folder.is_dir() {
        return Ok(within(&folder));
    }
    let parts = tempfile::Builder::new()
        .prefix("server-build-")
        .tempdir_in(&cache)?;
    let root = parts.path().join("root");
    run(system("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=directory"])
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(SUITE)
        .arg(&root))?;
    // No source can be reached from where it runs.
    fs::write(root.join("etc/apt/sources.list"), "")?;
    fs::write(root.join("etc/hostname"), "server\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost server\n")?;
    let made = parts.path().join("made");
    fs::create_dir(&made)?;
    let image = within(&made);
    // Links in the root folder to the newest.
    fs::copy(linked(&root, "vmlinuz")?, &image.kernel)?;
    fs::copy(linked(&root, "initrd.img")?, &image.initrd)?;
    file_system(&root, &image.disk, DISK_MIB)?;
    fs::create_dir_all(cache.join("server"))?;
    fs::rename(&made, &folder)?;
    Ok(within(&folder))
}

/// What a link in the root folder of another system leads to.
fn linked(root: &Path, name: &str) -> Result<PathBuf> {
    let to = fs::read_link(root.join(name)).with_context(|| format!("no /{name}"))?;
    Ok(root.join(to.strip_prefix("/").unwrap_or(&to)))
}

/// A folder's content as an ext4 file system in a file, made without mounting it.
pub(super) fn file_system(folder: &Path, file: &Path, mib: u64) -> Result<()> {
    run(system("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(folder)
        .arg(file)
        .arg(format!("{mib}M")))?;
    Ok(())
}
