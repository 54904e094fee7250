//! What is done to the server, in order.

use anyhow::{Result, ensure};
use kapok_lab::libvirt::{NETWORK, POOL, POOL_FOLDER};
use kapok_lab::server::SHELF;
use kapok_lab::wait::until;

use super::world::{SOON, World};
use crate::package::NAMES;

/// A thing that is done, and checked.
type Step = fn(&mut World) -> Result<()>;

/// All of them. From the guest's start on each ends with the guest running on.
pub(super) const ALL: &[(&str, Step)] = &[
    ("apt installed the packages", install),
    ("the server is a node of its own fabric", found),
    ("a guest runs", create),
    ("the agent was restarted", restart_agent),
    ("the agent was killed", kill_agent),
    ("the watchdog restarted a blocked agent", block_agent),
    ("the controller was restarted", restart_controller),
    ("all packages were upgraded", upgrade),
    ("all packages were downgraded", downgrade),
    ("all services were removed", remove),
    ("they were installed again", reinstall),
    ("all packages were purged", purge),
];

/// The services that are installed, as systemd calls them.
const SERVICES: [&str; 2] = ["kapok-agent", "kapok-controller"];

fn install(world: &mut World) -> Result<()> {
    world.index_packages()?;
    world.apt(&format!("install {}", World::all(&world.older)))?;
    // The agent waits for its join; a controller without a fabric isn't even begun.
    for (service, active, enabled) in [
        ("kapok-agent", "active", "enabled"),
        ("kapok-controller", "inactive", "disabled"),
        ("kapok-helper.socket", "active", "enabled"),
    ] {
        let is = [
            world.unit(service, "ActiveState")?,
            world.unit(service, "UnitFileState")?,
        ];
        ensure!(is == [active, enabled], "{service} is {is:?}");
    }
    let groups = world.sh("id -nG kapok")?;
    ensure!(groups.split(' ').any(|it| it == "libvirt"), "{groups}");
    let folder = world.sh("stat -c '%a %U' /var/lib/kapok/agent")?;
    ensure!(folder == "700 kapok", "{folder}");
    let files = world.sh(&format!("dpkg --verify {}", NAMES.join(" ")))?;
    ensure!(files.is_empty(), "{files}");
    Ok(())
}

fn found(world: &mut World) -> Result<()> {
    let network = format!(
        "<network><name>{NETWORK}</name><bridge name='kapok0' stp='off' delay='0'/>\
         <ip address='192.168.77.1' netmask='255.255.255.0'><dhcp><range start='192.168.77.10' \
         end='192.168.77.250'/></dhcp></ip></network>"
    );
    world.server.write("/root/network.xml", &network)?;
    world.sh(&format!(
        "virsh -q pool-define-as {POOL} dir --target {POOL_FOLDER} && virsh -q pool-start {POOL} && \
         virsh -q pool-autostart {POOL} && virsh -q net-define /root/network.xml && \
         virsh -q net-start {NETWORK} && virsh -q net-autostart {NETWORK}"
    ))?;
    // Emulated on a busy machine it is none too healthy, and an administrator's change must last.
    world.sh(
        "sed -i 's/^#quarantine = .*/quarantine = \"off\"/' /etc/kapok/controller.toml && \
         kapok-controller --check-config",
    )?;
    // As README says.
    world.sh("runuser -u kapok-controller -- kapok-controller init --fabric city")?;
    world.sh("systemctl enable --now kapok-controller")?;
    let token = world.kapok("node token create server --quiet")?;
    world.server.write("/root/token", &token)?;
    world.sh("kapok-agent join --controller server:7780 --token-file /root/token")?;
    until("the node to be ready", SOON, || {
        let said = world.kapok("node show server -o json")?;
        let node: serde_json::Value = serde_json::from_str(&said)?;
        Ok((node["state"] == "ready").then_some(()))
    })
}

fn create(world: &mut World) -> Result<()> {
    world.kapok(&format!("image import {SHELF}/guest.qcow2 --name guest"))?;
    world.kapok("instance create web --image guest --vcpus 1 --memory 256MiB --wait")?;
    world.meet_guest()?;
    // Nothing that is done to a unit can reach it.
    let slice = world.sh("cat /proc/$(cat /run/libvirt/qemu/kapok-*.pid)/cgroup")?;
    ensure!(slice.contains("/machine.slice/"), "{slice}");
    Ok(())
}

fn restart_agent(world: &mut World) -> Result<()> {
    let before = world.unit("kapok-agent", "MainPID")?;
    world.sh("systemctl restart kapok-agent")?;
    world.another_process("kapok-agent", &before)?;
    world.controller_sees_it()?;
    world.guest_runs_on()
}

fn kill_agent(world: &mut World) -> Result<()> {
    let before = world.unit("kapok-agent", "MainPID")?;
    world.sh("systemctl kill --signal KILL kapok-agent")?;
    world.another_process("kapok-agent", &before)?;
    world.guest_runs_on()
}

/// A process that is stopped runs no loop.
fn block_agent(world: &mut World) -> Result<()> {
    let before = world.unit("kapok-agent", "MainPID")?;
    world.sh(&format!("kill -STOP {before}"))?;
    world.another_process("kapok-agent", &before)?;
    let log = world.sh("journalctl --no-pager -o cat -u kapok-agent")?;
    ensure!(
        log.contains("Watchdog timeout"),
        "no watchdog did that: {log}"
    );
    world.controller_sees_it()?;
    world.guest_runs_on()
}

fn restart_controller(world: &mut World) -> Result<()> {
    world.sh("systemctl restart kapok-controller")?;
    world.controller_sees_it()?;
    world.guest_runs_on()
}

fn upgrade(world: &mut World) -> Result<()> {
    let newer = world.newer.clone();
    change_to(world, &newer, "")
}

fn downgrade(world: &mut World) -> Result<()> {
    let older = world.older.clone();
    change_to(world, &older, "--allow-downgrades")
}

fn change_to(world: &mut World, version: &str, how: &str) -> Result<()> {
    let mut before = Vec::new();
    for service in SERVICES {
        before.push(world.unit(service, "MainPID")?);
    }
    world.apt(&format!("install {how} {}", World::all(version)))?;
    let installed = world.sh("dpkg-query -W -f '${Version}\\n' 'kapok*' | sort -u")?;
    ensure!(installed == version, "{installed} are installed");
    for (service, before) in SERVICES.iter().zip(before) {
        world.another_process(service, &before)?;
    }
    world.controller_sees_it()?;
    world.guest_runs_on()
}

fn remove(world: &mut World) -> Result<()> {
    world.apt("remove kapok-agent kapok-controller kapok-helper")?;
    let left = world.sh("ps -C kapok-agent,kapok-controller,kapok-helper -o comm= || true")?;
    ensure!(left.is_empty(), "still there: {left}");
    world.guest_runs_on()
}

/// Configuration and state were kept: node, fabric and guest are what they were.
fn reinstall(world: &mut World) -> Result<()> {
    let newer = world.newer.clone();
    world.apt(&format!("install {}", World::all(&newer)))?;
    world.sh("systemctl enable --now kapok-controller")?;
    world.controller_sees_it()?;
    world.guest_runs_on()
}

fn purge(world: &mut World) -> Result<()> {
    world.apt(&format!("purge {}", NAMES.join(" ")))?;
    let state = world.sh("ls /var/lib/kapok")?;
    ensure!(state == "controller", "in /var/lib/kapok: {state}");
    let config = world.sh("ls /etc/kapok 2>/dev/null || true")?;
    ensure!(config.is_empty(), "in /etc/kapok: {config}");
    world.guest_runs_on()
}
