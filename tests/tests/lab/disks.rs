//! Disks: names and formats (FAULTS 9, 10, 12), and locks (FAULTS 49, 50).

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{
    Host,
    fabric::text,
    libvirt::POOL_FOLDER,
    wait::{pause, until},
};
use serde_json::Value;

use crate::{
    life::GUESTS,
    world::{SOON, World, tool},
};

/// The root disk of a domain of Kapok's, inside its host.
pub(crate) fn root_disk(domain: &str) -> String {
    format!("{POOL_FOLDER}/{domain}-root.qcow2")
}

/// What qemu-img says of a file of a host, read without its lock.
pub(crate) fn image_info(host: &Host, path: &str) -> Result<Value> {
    let info = host.run("qemu-img", |command| {
        command.args(["info", "--force-share", "--output=json", path])
    })?;
    Ok(serde_json::from_str(&info)?)
}

pub(crate) fn names_and_formats_are_ours(world: &World<'_>) -> Result<()> {
    for host in world.lab().hosts() {
        for entry in fs::read_dir(host.path(POOL_FOLDER))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            let base = name
                .strip_prefix("kapok-base-")
                .and_then(|rest| rest.split_once('.'))
                .is_some_and(|(digest, format)| hex(digest) && ["raw", "qcow2"].contains(&format));
            let root = name
                .strip_prefix("kapok-")
                .and_then(|rest| rest.strip_suffix("-root.qcow2"))
                .is_some_and(|id| {
                    id.len() == 36 && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
                });
            ensure!(
                base || root,
                "{name} on {} is no name that Kapok makes",
                host.name()
            );
        }
    }
    for name in GUESTS {
        let (host, domain) = world.place(name)?;
        check_formats(world.host(host), &domain, "qcow2")?;
    }
    Ok(())
}

/// Nothing about this domain's disk is left to QEMU's guess.
fn check_formats(host: &Host, domain: &str, base: &str) -> Result<()> {
    let info = image_info(host, &root_disk(domain))?;
    ensure!(text(&info, "format") == "qcow2", "{info}");
    ensure!(text(&info, "backing-filename-format") == base, "{info}");
    let document = host.virsh(&["dumpxml", "--inactive", domain])?;
    ensure!(
        document.contains("type='qcow2'"),
        "no explicit format: {document}"
    );
    Ok(())
}

pub(crate) fn a_disk_in_use_elsewhere_is_not_opened(world: &World<'_>) -> Result<()> {
    world.create_blank("gorse", &["--wait"])?;
    world
        .kapok()
        .run(&["instance", "stop", "gorse", "--wait"])?;
    let (index, domain) = world.place("gorse")?;
    let host = world.host(index);
    // Somebody else's QEMU has the disk, as another node would after a wrong decision.
    let xml = format!(
        "<domain type='qemu'><name>rival</name><memory unit='MiB'>32</memory>
         <os><type arch='x86_64' machine='q35'>hvm</type></os>
         <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
         <source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
        root_disk(&domain)
    );
    host.machine().write("/run/rival.xml", &xml)?;
    host.virsh(&["create", "/run/rival.xml"])?;

    world.kapok().run(&["instance", "start", "gorse"])?;
    world.instance_becomes("gorse", "refused by the disk's lock", SOON, |it| {
        text(it, "phase") == "failing" && text(it, "detail").contains("the disk is locked")
    })?;
    // Tried again and again, and never on. (While QEMU is being started, it is paused.)
    for _ in 0..20 {
        let on = host.virsh(&["list", "--name", "--state-running"])?;
        ensure!(!on.contains(&domain), "two QEMUs have one disk");
        ensure!(on.contains("rival"), "the rival was touched");
        pause(Duration::from_millis(100));
    }
    host.virsh(&["destroy", "rival"])?;
    world.phase_becomes("gorse", "running", SOON)?;
    world.remove(&["gorse"])
}

pub(crate) fn a_header_written_by_the_guest_means_nothing(world: &World<'_>) -> Result<()> {
    world.create_guest("hazel", &["--wait"])?;
    world.guest_answers("hazel")?;
    let (index, domain) = world.place("hazel")?;
    let host = world.host(index);
    // A qcow2 header whose backing file is a secret of the host.
    let secret = "/etc/shadow";
    let header = r"QFI\373\000\000\000\003\000\000\000\000\000\000\001\000\000\000\000\013";
    let script = format!(
        "\n(printf '{header}'; head -c 236 /dev/zero; printf {secret}) >/run/header; \
         dd if=/run/header of=/dev/vda conv=notrunc,fsync; sync; echo wrote-$((1+1))\n"
    );
    let console = ["instance", "console", "hazel"];
    let said = world
        .kapok()
        .with_input(&console, &script, Duration::from_secs(8))?;
    ensure!(said.contains("wrote-2"), "{said}");

    world
        .kapok()
        .run(&["instance", "stop", "hazel", "--wait"])?;
    let begins = host.run("qemu-io", |command| {
        let read = [
            "-f",
            "qcow2",
            "-r",
            "-c",
            "read -v 0 4",
            &root_disk(&domain),
        ]
        .map(str::to_owned);
        command.args(read)
    })?;
    ensure!(
        begins.contains("51 46 49 fb"),
        "the guest's header isn't on its disk: {begins}"
    );
    world
        .kapok()
        .run(&["instance", "start", "hazel", "--wait"])?;
    world.phase_becomes("hazel", "running", SOON)?;
    check_formats(host, &domain, "qcow2")?;
    let chain = host.run("qemu-img", |command| {
        command.args(["info", "-U", "--backing-chain", &root_disk(&domain)])
    })?;
    ensure!(!chain.contains(secret), "{chain}");
    // What QEMU has really opened.
    let pid = world.qemu("hazel")?;
    let files = tool("ls", &["-l", &format!("/proc/{pid}/fd")])?;
    ensure!(!files.contains(secret), "{files}");
    until("the base among QEMU's files", SOON, || {
        let files = tool("ls", &["-l", &format!("/proc/{pid}/fd")]).context("QEMU's files")?;
        Ok(files.contains("kapok-base-").then_some(()))
    })?;
    world.remove(&["hazel"])
}
