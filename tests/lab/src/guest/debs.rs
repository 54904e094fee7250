//! Debian packages as files: which, downloaded once, unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::run::{run, system};

/// What the guest is made of, besides the kernel: busybox, the guest agent and its libraries.
const PARTS: &[&str] = &[
    "busybox-static",
    "libc6",
    "libglib2.0-0",
    "libnuma1",
    "libpcre2-8-0",
    "libudev1",
    "liburing2",
    "qemu-guest-agent",
];

/// The package whose only dependency is the newest cloud kernel.
const KERNEL: &str = "linux-image-cloud-amd64";

/// A package file as apt would download it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    /// The file's name, which holds the version.
    pub(super) file: String,
    /// What apt knows of its content; empty if nothing.
    pub(super) digest: String,
}

/// The packages in the versions that apt would take today.
pub(super) fn wanted() -> Result<Vec<Package>> {
    if let Ok(found) = ask_apt() {
        return Ok(found);
    }
    // A fresh machine or container has no package lists yet.
    packages::update()?;
    ask_apt()
}

fn ask_apt() -> Result<Vec<Package>> {
    let depends = run(system("apt-cache").args(["depends", "--important", KERNEL]))?;
    let kernel = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{KERNEL} depends on no kernel"))?;
    let answer = run(system("apt-get")
        .args(["download", "--print-uris"])
        .arg(kernel)
        .args(PARTS))?;
    let found: Vec<Package> = answer.lines().filter_map(parse).collect();
    if found.len() != PARTS.len() + 1 {
        bail!(
            "apt knows only {} of the guest's {} packages",
            found.len(),
            PARTS.len() + 1
        );
    }
    Ok(found)
}

/// Reads a line such as `'http://…' NAME_VERSION_ARCH.deb SIZE SHA256:…`.
fn parse(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace();
    words.next().filter(|address| address.starts_with('\''))?;
    let file = words.next()?;
    let _size = words.next()?;
    Some(Package {
        name: file.split('_').next()?.to_owned(),
        file: file.to_owned(),
        digest: words.next().unwrap_or_default().to_owned(),
    })
}

/// Downloads what is missing in `store` and unpacks everything into `root`.
pub(super) fn unpack(wanted: &[Package], store: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(store)?;
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|package| !store.join(&package.file).is_file())
        .map(|package| package.name.as_str())
        .collect();
    if !missing.is_empty() {
        // Into a folder of its own first: a download that was cut is never taken for a package.
        let fresh = tempfile::Builder::new()
            .prefix("download-")
            .tempdir_in(store)?;
        run(system("apt-get")
            // As root: the build folder may be closed to apt's own user.
            .args(["download", "-q", "-o", "APT::Sandbox::User=root"])
            .args(&missing)
            .current_dir(fresh.path()))?;
        for entry in fs::read_dir(fresh.path())? {
            let entry = entry?;
            fs::rename(entry.path(), store.join(entry.file_name()))?;
        }
    }
    fs::create_dir_all(root)?;
    for package in wanted {
        run(system("dpkg-deb")
            .arg("-x")
            .arg(store.join(&package.file))
            .arg(root))?;
    }
    Ok(())
}

/// The kernel among the unpacked packages.
pub(super) fn kernel(root: &Path) -> Result<PathBuf> {
    first(&root.join("boot"), "vmlinuz-")
}

/// The folder of the kernel's modules.
pub(super) fn modules(root: &Path) -> Result<PathBuf> {
    Ok(first(&root.join("lib/modules"), "")?.join("kernel"))
}

fn first(folder: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| format!("the kernel package has no {}", folder.display()))?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("no {prefix}… in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_prints() {
        let line = "'http://deb.example/b_1%3a1_amd64.deb' b_1%3a1_amd64.deb 928188 SHA256:3d3f";
        let package = parse(line).unwrap();
        assert_eq!(package.name, "b");
        assert_eq!(package.file, "b_1%3a1_amd64.deb");
        assert_eq!(package.digest, "SHA256:3d3f");
        assert_eq!(parse("Reading package lists..."), None);
    }
}
