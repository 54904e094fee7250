//! libvirt on a lab host: its settings, its daemon, one pool and one network.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use uuid::Uuid;

use crate::machine::Machine;
use crate::process::Proc;
use crate::users;
use crate::wait::until;

/// The storage pool that every host has: a folder.
pub const POOL: &str = "kapok";

/// The network that every host has: a bridge of its own with DHCP, leading nowhere.
pub const NETWORK: &str = "kapok";

/// Where the pool's volumes are.
pub const POOL_FOLDER: &str = "/var/lib/libvirt/images";

/// How long libvirtd may take to answer.
const START: Duration = Duration::from_secs(30);

const QEMU_CONF: &str = r#"# The lab's QEMU is a process of root without further confinement.
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
hugetlbfs_mount = []
"#;

/// Writes the daemon's settings into a host's `/etc`.
pub(crate) fn configure(etc: &Path, id: Uuid) -> Result<()> {
    let folder = etc.join("libvirt");
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder.join("qemu/networks"))?;
    fs::write(
        folder.join("libvirtd.conf"),
        format!(
            r#"unix_sock_group = "{}"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0770"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{id}"
log_outputs = "2:stderr"
"#,
            users::LIBVIRT
        ),
    )?;
    fs::write(folder.join("qemu.conf"), QEMU_CONF)?;
    fs::write(folder.join("network.conf"), "")?;
    fs::write(folder.join("libvirt.conf"), "")?;
    Ok(())
}

/// Starts the daemon; it may need a moment until it answers.
pub(crate) fn spawn(machine: &Machine) -> Result<Proc> {
    machine.command("libvirtd").spawn("libvirtd")
}

/// Waits until the daemon answers.
pub(crate) fn ready(machine: &Machine, daemon: &mut Proc) -> Result<()> {
    let socket = machine.path("/run/libvirt/libvirt-sock");
    let answered = until("libvirtd's answer", START, || {
        if !daemon.is_alive() {
            anyhow::bail!("libvirtd has ended");
        }
        let answers = socket.exists() && virsh(machine, &["uri"]).is_ok();
        Ok(answers.then_some(()))
    });
    answered.with_context(|| {
        format!(
            "{} said:\n{}",
            daemon.name(),
            crate::process::tail(&daemon.log())
        )
    })
}

/// Defines and starts what every host has. They start by themselves from then on.
pub(crate) fn furnish(machine: &Machine) -> Result<()> {
    virsh(
        machine,
        &["pool-define-as", POOL, "dir", "--target", POOL_FOLDER],
    )?;
    virsh(machine, &["pool-start", POOL])?;
    virsh(machine, &["pool-autostart", POOL])?;
    let definition = "/run/libvirt/kapok-network.xml";
    machine.write(
        definition,
        &format!(
            "<network><name>{NETWORK}</name><bridge name='kapok0' stp='off' delay='0'/>\
             <ip address='192.168.77.1' netmask='255.255.255.0'>\
             <dhcp><range start='192.168.77.10' end='192.168.77.250'/></dhcp></ip></network>"
        ),
    )?;
    virsh(machine, &["net-define", definition])?;
    virsh(machine, &["net-start", NETWORK])?;
    virsh(machine, &["net-autostart", NETWORK])?;
    Ok(())
}

/// Runs virsh as root and gives what it printed.
pub(crate) fn virsh(machine: &Machine, arguments: &[&str]) -> Result<String> {
    machine
        .command("virsh")
        .args(["--quiet", "--connect", "qemu:///system"])
        .args(arguments.iter().copied())
        .text()
}
