//! The Debian packages that Kapok's demo, tests and build need, and how they get there.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use crate::run::{capture, run, said, system};

/// What building the agent with libvirt and the controller with etcd needs.
pub const BUILD: &[&str] = &[
    "gcc",
    "libc6-dev",
    "libprotobuf-dev",
    "libvirt-dev",
    "pkg-config",
    "protobuf-compiler",
];

/// What a lab of real hosts needs.
pub const LAB: &[&str] = &[
    "bindfs",
    "dnsmasq-base",
    "iproute2",
    "iptables",
    "libvirt-clients",
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-system",
    "qemu-system-x86",
    "qemu-utils",
    "util-linux",
];

/// What making the guest image needs.
pub const GUEST: &[&str] = &["dosfstools", "kmod", "mtools", "syslinux", "zstd"];

/// What the tests with foreign clients, exporters, real etcd and emulated hardware need.
pub const DEV: &[&str] = &[
    "curl",
    "etcd-server",
    "ipmitool",
    "openipmi",
    "openssl",
    "prometheus",
    "prometheus-node-exporter",
    "python3",
    "python3-venv",
    "smartmontools",
    "sqlite3",
    "systemd",
];

/// What making Kapok's own packages needs, and looking through them.
pub const PACKAGE: &[&str] = &[
    "binutils",
    "dpkg-dev",
    "lintian",
    "prometheus",
    "systemd",
    "xz-utils",
];

/// What a whole Debian server under QEMU needs.
pub const SERVER: &[&str] = &[
    "dpkg-dev",
    "e2fsprogs",
    "mmdebstrap",
    "qemu-system-x86",
    "qemu-utils",
    "util-linux",
];

/// What the measurement of scrapes compares with, and what it reads with.
pub const BENCH: &[&str] = &["curl", "prometheus-libvirt-exporter"];

/// The file by which Debian asks whether a package may start its services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The packages among these that are not installed.
///
/// # Errors
///
/// When this is no Debian (dpkg is missing).
pub fn missing(wanted: &[&str]) -> Result<Vec<String>> {
    let output = capture(
        system("dpkg-query")
            .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
            .args(wanted),
    )
    .context("Kapok's lab needs Debian: dpkg-query is missing")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    Ok(wanted
        .iter()
        .filter(|name| !installed.contains(name))
        .map(|name| (*name).to_owned())
        .collect())
}

/// Times that apt may be asked: to make room for one package it may remove another of ours, of a
/// version that doesn't fit (qemu-utils from backports gives way to Debian's own QEMU).
const ROUNDS: usize = 3;

/// Installs what is missing of these packages, without asking anything and without starting any
/// service. Afterwards all of them are there.
///
/// # Errors
///
/// When not root, or apt can't; the error holds what it said.
pub fn install(wanted: &[&str]) -> Result<()> {
    for _ in 0..ROUNDS {
        let missing = missing(wanted)?;
        if missing.is_empty() {
            return Ok(());
        }
        install_once(&missing)?;
    }
    match missing(wanted)? {
        none if none.is_empty() => Ok(()),
        missing => bail!(
            "apt takes away again what it was asked for: {}; see apt-get install {}",
            missing.join(" "),
            wanted.join(" ")
        ),
    }
}

fn install_once(names: &[String]) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!(
            "only root can install packages; run as root: apt-get install {}",
            names.join(" ")
        );
    }
    let _policy = NoServices::declare()?;
    if attempt(names).is_ok() {
        return Ok(());
    }
    // Lists that are absent or old are the usual reason.
    update()?;
    attempt(names)
}

/// Fetches apt's package lists.
///
/// # Errors
///
/// When apt can't reach its sources.
pub fn update() -> Result<()> {
    // One source that can't be reached must not hide the others: install says what is missing.
    let output = capture(apt().args(["update", "-q"]))?;
    if !output.status.success() && !has_lists() {
        bail!("apt-get update failed: {}", said(&output));
    }
    Ok(())
}

fn has_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|entries| {
        entries
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

fn attempt(names: &[String]) -> Result<()> {
    run(apt()
        .args([
            "install",
            "-q",
            "-y",
            "--no-install-recommends",
            "--allow-downgrades",
        ])
        // Another apt may be running: wait for it instead of failing.
        .args([
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Dpkg::Options::=--force-confold",
        ])
        .args(names))?;
    Ok(())
}

fn apt() -> Command {
    let mut command = system("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_MODE", "l");
    command
}

/// While it lives, packages start no services: the machine's own libvirtd is not needed and
/// must not appear because somebody looked at Kapok. A policy that was there before stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn declare() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("can't write {POLICY}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            match fs::remove_file(POLICY) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => crate::note(&format!("can't remove {POLICY}: {error}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_missing() {
        let missing = missing(&["dpkg", "no-such-package-in-debian"]).unwrap();
        assert_eq!(missing, ["no-such-package-in-debian"]);
    }
}
