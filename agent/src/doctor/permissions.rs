//! Whether the agent's user is there, and may what the agent does.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use kapok_helper::USER;

use super::{
    Finding, Server,
    users::{Account, Act},
};

const CHECK: &str = "permissions";
/// Opens libvirt's sockets.
const GROUP: &str = "libvirt";
/// The sockets of the monolithic daemon and of the modular one; and the URI that leads to them.
const SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];
const SYSTEM_URI: &str = "qemu:///system";
const USERS: &str = "systemd-sysusers && systemd-tmpfiles --create";

/// The user, and what it may.
pub(super) fn check(server: &Server<'_>) -> Vec<Finding> {
    let account = match Account::of_agent(server.host) {
        Ok(Some(account)) => account,
        Ok(None) => {
            let found = format!("there is no user {USER}, as whom the agent runs");
            return vec![Finding::failing(CHECK, found, USERS)];
        }
        Err(failure) => return vec![Finding::unread(CHECK, &failure)],
    };
    let mut findings = vec![group(&account), state(server, &account)];
    findings.extend(files(server, &account));
    findings.extend(sockets(server, &account));
    if findings.iter().all(|it| it.advice.is_empty()) {
        let found = format!("the user {USER} may what the agent does");
        return vec![Finding::healthy(CHECK, found)];
    }
    findings.retain(|it| !it.advice.is_empty());
    findings
}

fn group(account: &Account) -> Finding {
    if account.is_in(GROUP) {
        return Finding::healthy(CHECK, "");
    }
    let found = format!("the user {USER} isn't in the group {GROUP}, which opens libvirt's socket");
    Finding::failing(
        CHECK,
        found,
        format!("adduser {USER} {GROUP}, and restart the agent"),
    )
}

/// The state directory holds the node's key.
fn state(server: &Server<'_>, account: &Account) -> Finding {
    let folder = &server.config.state_dir;
    let shown = folder.display();
    let is = match fs::metadata(server.host.path(folder)) {
        Ok(is) => is,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Finding::degraded(CHECK, format!("there is no {shown} yet"), USERS);
        }
        Err(error) => return unread(folder, &error),
    };
    if is.uid() != account.uid {
        let found = format!("{shown} belongs to uid {}, not to {USER}", is.uid());
        return Finding::failing(CHECK, found, format!("chown -R {USER}: {shown}"));
    }
    let mode = is.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let found = format!("{shown} is open to others (mode {mode:o}), and holds the node's key");
        return Finding::failing(CHECK, found, format!("chmod 700 {shown}"));
    }
    Finding::healthy(CHECK, "")
}

/// Files that the agent reads. One that isn't there is the configuration's affair.
fn files(server: &Server<'_>, account: &Account) -> Vec<Finding> {
    let token = server.config.http.token_file.as_deref();
    let libvirt = &server.config.libvirt;
    let probe = [&libvirt.probe_kernel, &libvirt.probe_initrd];
    let probe = probe.into_iter().flatten().map(|it| (it.as_path(), false));
    let read = [(server.file, true)].into_iter();
    let read = read.chain(token.map(|it| (it, false))).chain(probe);
    read.filter_map(|(file, may_lack)| {
        let shown = file.display();
        match fs::metadata(server.host.path(file)) {
            Ok(is) if account.may(Act::Read, &is) => None,
            Ok(_) => {
                let found = format!("the user {USER} can't read {shown}");
                let advice = format!("chgrp {USER} {shown} && chmod g+r {shown}");
                Some(Finding::failing(CHECK, found, advice))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (!may_lack).then(|| {
                let found = format!(
                    "{shown} isn't there, and {} names it",
                    server.file.display()
                );
                Finding::failing(CHECK, found, "put it there, or correct the name")
            }),
            Err(error) => Some(unread(file, &error)),
        }
    })
    .collect()
}

fn sockets(server: &Server<'_>, account: &Account) -> Option<Finding> {
    if server.config.libvirt.uri != SYSTEM_URI {
        return None;
    }
    let of = |socket: &&str| fs::metadata(server.host.path(socket)).ok();
    let there: Vec<_> = SOCKETS.iter().filter_map(of).collect();
    if there.is_empty() {
        let found = format!("libvirt doesn't listen at {}", SOCKETS.join(" or "));
        let advice = "install libvirt-daemon-system, and systemctl enable --now libvirtd.socket";
        return Some(Finding::failing(CHECK, found, advice));
    }
    if there.iter().any(|is| account.may(Act::Write, is)) {
        return None;
    }
    let found = format!("libvirt's socket isn't for the user {USER}");
    let advice = format!(
        "let the group {GROUP} use it: SocketGroup= and SocketMode=0660 of libvirtd.socket, or \
         unix_sock_group of libvirtd.conf"
    );
    Some(Finding::failing(CHECK, found, advice))
}

fn unread(path: &Path, error: &io::Error) -> Finding {
    let found = format!("{}: {error}", path.display());
    Finding::unknown(CHECK, found, "run the doctor as root")
}
