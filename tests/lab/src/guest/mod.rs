//! The guest image: a real bootable disk of 13 MB, made from Debian's own packages.
//!
//! A Debian cloud kernel and an initramfs with busybox, the QEMU guest agent and the virtio
//! drivers, started by syslinux from a FAT disk without a partition table. It lives in the
//! initramfs alone, so that its disk is free for tests to write on.
//!
//! On its serial console it says, each at the start of a line:
//!
//! - [`USERLAND`] once, when its first process runs;
//! - `kapok-boot UUID` once, the boot id of its kernel;
//! - `kapok-address ADDRESS` when DHCP gave it one;
//! - `kapok-tick N` once a second, from 1: a guest that was restarted starts again at 1.
//!   The last N is in `/run/ticks` too, for the guest agent to read;
//! - `kapok-goodbye` when it shuts down in order.
//!
//! A shell without login waits there too. The power button, the guest agent's shutdown and
//! `poweroff` end it; `reboot` restarts it.
//!
//! **Invariant:** nothing is installed on the machine; packages are downloaded and unpacked
//! below the build folder.

mod cpio;
mod debs;
mod initramfs;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use uuid::Uuid;

use crate::places;
use crate::run::{run, system};

/// What the guest and the probe print when their userland runs.
pub const USERLAND: &str = "kapok-userland";

/// How the disk starts its kernel.
const SYSLINUX: &str = include_str!("files/syslinux.cfg");

/// Size of the guest's disk, in MiB. FAT16 needs 5, kernel and initramfs need 13.
const DISK_MIB: u64 = 32;

/// The files of a built guest image. They are shared by all labs of a checkout and must not
/// be written to: copy the disk, or use it as a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The bootable disk: qcow2, compressed.
    pub disk: PathBuf,
    /// The kernel alone, for a direct boot.
    pub kernel: PathBuf,
    /// The initramfs alone, for a direct boot.
    pub initrd: PathBuf,
    /// A kernel for the agent's KVM probe.
    pub probe_kernel: PathBuf,
    /// An initramfs that prints [`USERLAND`] on the first serial port and powers off.
    pub probe_initrd: PathBuf,
}

impl Image {
    fn within(folder: &Path) -> Self {
        Self {
            disk: folder.join("guest.qcow2"),
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd"),
            probe_kernel: folder.join("probe-vmlinuz"),
            probe_initrd: folder.join("probe-initrd"),
        }
    }
}

/// Gives the guest image, building it if this recipe with these package versions wasn't
/// built before. Several processes may ask at the same time; one builds.
///
/// # Errors
///
/// When a package can't be downloaded or a tool is missing (`cargo xtask setup` installs them).
pub fn build() -> Result<Image> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the guest image is made for x86_64 only; this machine is {}",
            std::env::consts::ARCH
        );
    }
    let cache = places::cache();
    fs::create_dir_all(&cache).with_context(|| format!("can't create {}", cache.display()))?;
    let lock = File::create(cache.join("guest.lock"))?;
    lock.lock().context("can't lock the guest image's cache")?;

    let packages = debs::wanted()?;
    let key = key(&packages);
    let folder = cache.join("guest").join(key.simple().to_string());
    if folder.join("guest.qcow2").is_file() {
        return Ok(Image::within(&folder));
    }
    let parts = tempfile::Builder::new()
        .prefix("guest-build-")
        .tempdir_in(&cache)?;
    let root = parts.path().join("root");
    debs::unpack(&packages, &cache.join("debs"), &root)?;
    let made = parts.path().join("made");
    fs::create_dir(&made)?;
    let image = Image::within(&made);
    fs::copy(debs::kernel(&root)?, &image.kernel)?;
    fs::hard_link(&image.kernel, &image.probe_kernel)?;
    compress(&initramfs::guest(&root)?, &image.initrd)?;
    compress(&initramfs::probe(&root)?, &image.probe_initrd)?;
    make_disk(&image, parts.path())?;
    fs::create_dir_all(cache.join("guest"))?;
    fs::rename(&made, &folder)?;
    Ok(Image::within(&folder))
}

/// One name for "this recipe with these packages".
fn key(packages: &[debs::Package]) -> Uuid {
    let mut text = format!("{SYSLINUX}{DISK_MIB}{}", initramfs::recipe());
    for package in packages {
        text.push_str(&package.file);
        text.push_str(&package.digest);
    }
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
}

fn compress(bytes: &[u8], to: &Path) -> Result<()> {
    let raw = to.with_extension("raw");
    fs::write(&raw, bytes)?;
    run(system("zstd")
        .args(["-q", "-f", "-19", "--rm", "-o"])
        .arg(to)
        .arg(&raw))?;
    Ok(())
}

/// Kernel, initramfs and syslinux on a FAT disk, written without mounting it.
fn make_disk(image: &Image, scratch: &Path) -> Result<()> {
    let raw = scratch.join("disk.raw");
    let config = scratch.join("syslinux.cfg");
    fs::write(&config, SYSLINUX)?;
    File::create(&raw)?.set_len(DISK_MIB * 1024 * 1024)?;
    run(system("mkfs.vfat").args(["-n", "KAPOK"]).arg(&raw))?;
    // The mtools would refuse a disk whose geometry they can't guess.
    let mcopy = |from: &Path, to: &str| {
        run(system("mcopy")
            .env("MTOOLS_SKIP_CHECK", "1")
            .arg("-i")
            .arg(&raw)
            .arg(from)
            .arg(to))
    };
    mcopy(&image.kernel, "::vmlinuz")?;
    mcopy(&image.initrd, "::initrd")?;
    mcopy(&config, "::syslinux.cfg")?;
    run(system("syslinux").arg("--install").arg(&raw))?;
    run(system("qemu-img")
        .args(["convert", "-q", "-f", "raw", "-O", "qcow2", "-c"])
        .arg(&raw)
        .arg(&image.disk))?;
    Ok(())
}
