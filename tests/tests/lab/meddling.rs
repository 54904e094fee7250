//! FAULTS 44: what people do with virsh. Domains that Kapok did not make are seen and left alone;
//! what happens to its own is told and put right.

use std::time::Duration;

use anyhow::{Result, ensure};
use kapok_lab::{
    Host,
    fabric::text,
    wait::{pause, until},
};

use crate::{
    guests::{life, lives_on},
    life::GUESTS,
    world::{SOON, World},
};

/// Memory of the foreign domain, in MiB.
const FOREIGN_MIB: u64 = 48;

/// A domain made with virsh, running.
fn make_foreign(host: &Host, name: &str) -> Result<String> {
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>{FOREIGN_MIB}</memory>
         <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    );
    let file = format!("/run/{name}.xml");
    host.machine().write(&file, &xml)?;
    host.virsh(&["define", &file])?;
    host.virsh(&["start", name])?;
    host.virsh(&["dumpxml", "--inactive", name])
}

fn remove_foreign(world: &World<'_>, index: usize, names: &[&str]) -> Result<()> {
    let host = world.host(index);
    for name in names {
        let _may_be_off = host.virsh(&["destroy", name]);
        host.virsh(&["undefine", name])?;
    }
    foreign_becomes(world, index, 0)
}

fn foreign_becomes(world: &World<'_>, index: usize, count: u64) -> Result<()> {
    let what = format!("with {count} foreign domains");
    world
        .node_becomes(index, &what, SOON, |node| node["foreign_domains"] == count)
        .map(drop)
}

pub(crate) fn a_foreign_domain_is_seen_and_left_alone(world: &World<'_>) -> Result<()> {
    let host = world.host(0);
    let before = world.node(0)?["memory_mib"]["capacity"].as_u64();
    let document = make_foreign(host, "theirs")?;
    foreign_becomes(world, 0, 1)?;
    // What it uses is nobody's to claim.
    world.node_becomes(0, "smaller by the foreign domain", SOON, |node| {
        node["memory_mib"]["capacity"].as_u64() == before.map(|mib| mib - FOREIGN_MIB)
    })?;
    let pid = host
        .qemu_pids()?
        .into_iter()
        .find(|(name, _)| name == "theirs");
    world.fabric.kill_agent(0)?;
    world.fabric.start_agent(0)?;
    world.nodes_become("ready", SOON)?;
    foreign_becomes(world, 0, 1)?;
    ensure!(
        host.qemu_pids()?
            .into_iter()
            .find(|(name, _)| name == "theirs")
            == pid
    );
    ensure!(
        host.virsh(&["dumpxml", "--inactive", "theirs"])? == document,
        "it was changed"
    );
    remove_foreign(world, 0, &["theirs"])
}

pub(crate) fn a_copied_definition_is_not_ours(world: &World<'_>) -> Result<()> {
    let (index, domain) = world.place(GUESTS[0])?;
    let host = world.host(index);
    let before = life(world, GUESTS[0])?;
    let document = host.virsh(&["dumpxml", "--inactive", &domain])?;
    let incarnation = domain.trim_start_matches("kapok-");
    ensure!(document.contains(&format!("<uuid>{incarnation}</uuid>")));
    // As people do it: another name, no UUID, the metadata as it was.
    let copy = document
        .replace(&format!("<name>{domain}</name>"), "<name>copy</name>")
        .replace(&format!("<uuid>{incarnation}</uuid>"), "");
    ensure!(copy.contains(incarnation), "the copy has lost the metadata");
    host.machine().write("/run/copy.xml", &copy)?;
    host.virsh(&["define", "/run/copy.xml"])?;
    let copied = host.virsh(&["dumpxml", "copy"])?;
    foreign_becomes(world, index, 1)?;
    // Ours obeys and the copy stays, also when the agent finds both at its start.
    world.fabric.kill_agent(index)?;
    world.fabric.start_agent(index)?;
    world.nodes_become("ready", SOON)?;
    foreign_becomes(world, index, 1)?;
    lives_on(host, &domain, &before)?;
    ensure!(
        host.virsh(&["dumpxml", "copy"])? == copied,
        "the copy was changed"
    );
    remove_foreign(world, index, &["copy"])
}

pub(crate) fn a_destroyed_domain_comes_back(world: &World<'_>) -> Result<()> {
    world.create_blank("nutmeg", &["--wait"])?;
    let (index, domain) = world.place("nutmeg")?;
    let before = world.qemu("nutmeg")?;
    world.host(index).virsh(&["destroy", &domain])?;
    until("another QEMU", SOON, || {
        Ok(world.qemu("nutmeg").ok().filter(|now| *now != before))
    })?;
    world.phase_becomes("nutmeg", "running", SOON)?;
    // Started by virsh while it should be off: it goes off again.
    world
        .kapok()
        .run(&["instance", "stop", "nutmeg", "--wait"])?;
    world.host(index).virsh(&["start", &domain])?;
    pause(Duration::from_millis(500));
    world.phase_becomes("nutmeg", "stopped", Duration::from_secs(45))?;
    until("the domain to be off", Duration::from_secs(45), || {
        Ok((!world.host(index).running_domains()?.contains(&domain)).then_some(()))
    })?;
    world.remove(&["nutmeg"])
}

pub(crate) fn an_undefined_domain_is_defined_again(world: &World<'_>) -> Result<()> {
    let name = GUESTS[1];
    let (index, domain) = world.place(name)?;
    let host = world.host(index);
    let before = life(world, name)?;
    host.virsh(&["undefine", &domain])?;
    until("a persistent definition", SOON, || {
        let listed = host.virsh(&["list", "--all", "--persistent", "--name"])?;
        Ok(listed.contains(&domain).then_some(()))
    })?;
    lives_on(host, &domain, &before)?;

    // And with nothing left of it.
    world.create_blank("olive", &["--wait"])?;
    let (index, domain) = world.place("olive")?;
    let host = world.host(index);
    host.virsh(&["undefine", &domain])?;
    host.virsh(&["destroy", &domain])?;
    world.instance_becomes("olive", "running again, with its drift told", SOON, |it| {
        text(it, "phase") == "running"
            && host.running_domains().is_ok_and(|on| on.contains(&domain))
    })?;
    world.remove(&["olive"])
}

pub(crate) fn a_changed_domain_shows_its_drift(world: &World<'_>) -> Result<()> {
    world.create_blank("pine", &["--wait"])?;
    let (index, domain) = world.place("pine")?;
    let host = world.host(index);
    // Autostart would start it after a boot without anybody's word.
    host.virsh(&["autostart", &domain])?;
    until("autostart to be off again", SOON, || {
        let listed = host.virsh(&["list", "--all", "--autostart", "--name"])?;
        Ok((!listed.contains(&domain)).then_some(()))
    })?;
    host.virsh(&["setmaxmem", &domain, "65536", "--config"])?;
    let drifted = |it: &serde_json::Value| {
        let drift = it["incarnations"][0]["status"]["drift"].as_array();
        drift.is_some_and(|drift| !drift.is_empty())
    };
    let seen = world.instance_becomes("pine", "known to have drifted", SOON, drifted)?;
    ensure!(text(&seen, "phase") == "running", "{seen}");
    world.remove(&["pine"])
}
