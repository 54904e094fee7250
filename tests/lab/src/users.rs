//! The users of a lab machine. They exist in its own `/etc` only: nothing is added to the
//! machine that runs the lab.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};

/// The unprivileged user that runs agents and controllers, and its group.
pub const NAME: &str = "kapok";

/// Its home and the place of its state.
pub const HOME: &str = "/var/lib/kapok";

/// The group whose members may use libvirt's read-write socket.
pub const LIBVIRT: &str = "libvirt";

/// Ids from Debian's range for packages with fixed ids, at its end, where none is given out.
const UID: u32 = 64_990;
const LIBVIRT_GID: u32 = 64_991;

/// What of the raiser's `/etc` a machine gets a copy of: what programs need to find users,
/// libraries and names.
const COPIED: &[&str] = &[
    "alternatives",
    "ca-certificates.conf",
    "debian_version",
    "default",
    "group",
    "host.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "login.defs",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "protocols",
    "qemu",
    "rpc",
    "services",
    "ssl",
    "timezone",
];

/// Fills a machine's own `/etc`.
pub(crate) fn make_etc(etc: &Path, host: &str, machine_id: &str) -> Result<()> {
    fs::create_dir_all(etc)?;
    for name in COPIED {
        copy(&Path::new("/etc").join(name), &etc.join(name))?;
    }
    append(
        &etc.join("passwd"),
        NAME,
        &format!("{NAME}:x:{UID}:{UID}::{HOME}:/bin/sh"),
    )?;
    append(&etc.join("group"), NAME, &format!("{NAME}:x:{UID}:"))?;
    append(
        &etc.join("group"),
        LIBVIRT,
        &format!("{LIBVIRT}:x:{LIBVIRT_GID}:"),
    )?;
    join_group(&etc.join("group"), LIBVIRT, NAME)?;
    fs::write(etc.join("hostname"), format!("{host}\n"))?;
    fs::write(
        etc.join("hosts"),
        format!("127.0.0.1 localhost\n127.0.1.1 {host}\n"),
    )?;
    fs::write(etc.join("machine-id"), format!("{machine_id}\n"))?;
    fs::create_dir_all(etc.join("kapok"))?;
    Ok(())
}

/// Makes a folder that belongs to [`NAME`], as the machine with this `/etc` knows it.
pub(crate) fn own_folder(etc: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let (uid, gid) = ids(etc)?;
    chown(folder, Some(uid), Some(gid))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o750))?;
    Ok(())
}

/// The user and group id of [`NAME`] in this `/etc`.
pub(crate) fn ids(etc: &Path) -> Result<(u32, u32)> {
    let passwd = fs::read_to_string(etc.join("passwd"))?;
    let fields = passwd
        .lines()
        .find(|line| names(line, NAME))
        .with_context(|| format!("no user {NAME} in {}", etc.display()))?
        .split(':')
        .collect::<Vec<_>>();
    let field = |at: usize| fields.get(at).and_then(|text| text.parse().ok());
    field(2)
        .zip(field(3))
        .with_context(|| format!("the user {NAME} has no ids"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let Ok(kind) = fs::symlink_metadata(from) else {
        return Ok(());
    };
    if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if kind.is_file() {
        fs::copy(from, to)?;
    }
    Ok(())
}

fn names(line: &str, name: &str) -> bool {
    line.strip_prefix(name)
        .is_some_and(|rest| rest.starts_with(':'))
}

fn append(file: &Path, name: &str, entry: &str) -> Result<()> {
    let mut text = fs::read_to_string(file)?;
    if !text.lines().any(|line| names(line, name)) {
        text.push_str(entry);
        text.push('\n');
        fs::write(file, text)?;
    }
    Ok(())
}

fn join_group(file: &Path, group: &str, member: &str) -> Result<()> {
    let mut text = String::new();
    for line in fs::read_to_string(file)?.lines() {
        text.push_str(line);
        let members = line.rsplit(':').next().unwrap_or_default();
        if names(line, group) && !members.split(',').any(|name| name == member) {
            if !members.is_empty() {
                text.push(',');
            }
            text.push_str(member);
        }
        text.push('\n');
    }
    Ok(fs::write(file, text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_gets_the_user_and_its_groups() {
        let folder = tempfile::tempdir().unwrap();
        make_etc(folder.path(), "node-9", "0123").unwrap();
        let group = fs::read_to_string(folder.path().join("group")).unwrap();
        let libvirt = group.lines().find(|line| names(line, LIBVIRT)).unwrap();
        assert!(
            libvirt
                .rsplit(':')
                .next()
                .unwrap()
                .split(',')
                .any(|name| name == NAME)
        );
        assert!(ids(folder.path()).unwrap().0 > 0);
        // Twice is the same as once.
        join_group(&folder.path().join("group"), LIBVIRT, NAME).unwrap();
        assert_eq!(
            group,
            fs::read_to_string(folder.path().join("group")).unwrap()
        );
    }
}
