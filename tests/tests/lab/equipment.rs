//! Threads and huge pages of a host, set aside for one guest: what the kernel says of where it is.
//!
//! Devices aren't shown here: nothing keeps the lab's apart (there is no IOMMU), so none is offered.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{
    Host,
    fabric::text,
    kernel::{self, HugePages},
    wait::{pause, until},
};

use crate::world::{SOON, World};

/// Inside a host.
const AGENT_CONFIG: &str = "/etc/kapok/agent.toml";

/// Pages that are asked for, of 2 MiB: twice what the guest has.
const PAGES: u64 = 16;

/// The last thread of the machine is set aside, if it has more than one.
pub(crate) fn a_bound_guest_is_where_it_is_said(world: &World<'_>) -> Result<()> {
    let Some((own, shared)) = kernel::last_thread()? else {
        println!("SKIP: one thread has to stay shared, and all must be online");
        return Ok(());
    };
    let host = world.host(0);
    let config = fs::read_to_string(host.path(AGENT_CONFIG))?;
    let pages = HugePages::reserve(PAGES)?;
    if pages.is_none() {
        println!("the kernel has no huge pages to give: only threads are shown");
    }
    let change = format!("dedicated_cpus = \"{own}\"\n{config}");
    host.machine().write(AGENT_CONFIG, &change)?;
    restart(world)?;
    let shown = bound(world, &own.to_string(), &shared, pages.is_some());
    host.machine().write(AGENT_CONFIG, &config)?;
    drop(pages);
    restart(world)?;
    shown
}

fn restart(world: &World<'_>) -> Result<()> {
    world.fabric.kill_agent(0)?;
    world.fabric.start_agent(0)?;
    world.nodes_become("ready", SOON)
}

fn bound(world: &World<'_>, own: &str, shared: &str, paged: bool) -> Result<()> {
    let host = world.host(0);
    let mut needs = vec!["--dedicated-cpus"];
    if paged {
        needs.extend(["--huge-pages", "2MiB"]);
    }
    // Once the controller has heard what the node has.
    let mut last = None;
    let created = until("room for a dedicated vCPU", SOON, || {
        let created = world.create_blank("willow", &needs);
        let is_created = created.is_ok();
        last = created.err();
        Ok(is_created.then_some(()))
    });
    created.with_context(|| format!("last heard: {last:?}"))?;
    world.phase_becomes("willow", "running", SOON)?;
    let (index, domain) = world.place("willow")?;
    ensure!(index == 0, "it is on a node that sets no thread aside");
    let document = host.virsh(&["dumpxml", &domain])?;
    let pins = [
        format!("<vcpupin vcpu='0' cpuset='{own}'/>"),
        format!("<emulatorpin cpuset='{shared}'/>"),
    ];
    for pin in pins {
        ensure!(document.contains(&pin), "no {pin} in {document}");
    }
    threads(world.qemu("willow")?, own, shared)?;
    if paged {
        ensure!(
            document.contains("<page size='2048' unit='KiB'/>"),
            "{document}"
        );
        let maps = fs::read_to_string(format!("/proc/{}/numa_maps", world.qemu("willow")?))?;
        let mut huge = maps.lines().filter(|line| line.contains(" huge "));
        let guest = huge
            .find(|line| line.contains(" N0=8 "))
            .context(maps.clone())?;
        ensure!(guest.contains(" bind:0 "), "{guest}");
    }
    told_as_it_is(world)?;
    // The only thread has an owner.
    let second = world.create_blank("yew", &["--dedicated-cpus"]);
    ensure!(second.is_err(), "two guests have one thread");
    a_shared_guest_keeps_off(world, host, shared)?;
    world.remove(&["willow"])
}

/// What the kernel lets each of QEMU's threads run on.
fn threads(pid: u32, own: &str, shared: &str) -> Result<()> {
    let mut vcpus = 0;
    for (name, allowed) in kernel::threads_of(pid)? {
        // It fetched the huge pages from all over the cell before the guest began, and rests.
        if name.starts_with("TC ") {
            continue;
        }
        let is_vcpu = name.starts_with("CPU ");
        vcpus += u32::from(is_vcpu);
        let wanted = if is_vcpu { own } else { shared };
        ensure!(
            allowed == wanted,
            "{name} may run on {allowed}, and not on {wanted}"
        );
    }
    ensure!(vcpus == 1, "{vcpus} vCPUs");
    Ok(())
}

/// Nothing of it counts as drift, and what somebody changes does.
fn told_as_it_is(world: &World<'_>) -> Result<()> {
    let drift = |it: &serde_json::Value| {
        let drift = it["incarnations"][0]["status"]["drift"].as_array();
        drift.map_or(0, Vec::len)
    };
    pause(Duration::from_millis(100));
    let seen = world.instance("willow")?;
    ensure!(drift(&seen) == 0, "{seen}");
    let (_, domain) = world.place("willow")?;
    let change = ["vcpupin", &domain, "0", "0", "--live"];
    world.host(0).virsh(&change)?;
    let told = |it: &serde_json::Value| drift(it) > 0 && text(it, "phase") == "running";
    world.instance_becomes("willow", "known to have drifted", SOON, told)?;
    Ok(())
}

fn a_shared_guest_keeps_off(world: &World<'_>, host: &Host, shared: &str) -> Result<()> {
    world.on(0, || world.create_blank("rowan", &["--wait"]))?;
    let (_, domain) = world.place("rowan")?;
    let document = host.virsh(&["dumpxml", &domain])?;
    ensure!(
        document.contains(&format!("cpuset='{shared}'")),
        "{document}"
    );
    world.remove(&["rowan"])
}
