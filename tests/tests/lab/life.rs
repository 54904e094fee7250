//! What people do with instances, and what guests do by themselves.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{fabric::text, wait::until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    guests::life,
    world::{SOON, World},
};

/// The guests that most scenarios look at; the first scenario makes them.
pub(crate) const GUESTS: [&str; 3] = ["alder", "birch", "cedar"];

pub(crate) fn guests_run_on_two_nodes(world: &World<'_>) -> Result<()> {
    for (number, name) in GUESTS.iter().enumerate() {
        world.on(number % 2, || world.create_guest(name, &[]))?;
    }
    let mut nodes = BTreeSet::new();
    for name in GUESTS {
        let instance = world.guest_answers(name)?;
        nodes.insert(text(&instance, "node").to_owned());
        ensure!(life(world, name)?.ticks > 0);
    }
    ensure!(nodes.len() == 2, "all guests are on {nodes:?}");
    Ok(())
}

pub(crate) fn agents_have_no_privileges(world: &World<'_>) -> Result<()> {
    for index in 0..world.lab().hosts().len() {
        let pid = world.fabric.agent_pid(index).context("no agent")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
        };
        let users = field("Uid:").context("no Uid line")?;
        ensure!(
            users.iter().all(|user| user != "0"),
            "an agent is root: {users:?}"
        );
        ensure!(
            field("CapEff:") == Some(vec!["0000000000000000".into()]),
            "{status}"
        );
        ensure!(field("NoNewPrivs:") == Some(vec!["1".into()]), "{status}");
    }
    Ok(())
}

pub(crate) fn stop_start_restart_remove(world: &World<'_>) -> Result<()> {
    world.create_guest("dogwood", &["--wait"])?;
    world.guest_answers("dogwood")?;
    let first = life(world, "dogwood")?;
    let (host, domain) = world.place("dogwood")?;

    world
        .kapok()
        .run(&["instance", "stop", "dogwood", "--wait"])?;
    let stopped = world.phase_becomes("dogwood", "stopped", SOON)?;
    ensure!(text(&stopped, "ended") == "by-intent", "{stopped}");
    ensure!(!world.host(host).running_domains()?.contains(&domain));

    world
        .kapok()
        .run(&["instance", "start", "dogwood", "--wait"])?;
    world.guest_answers("dogwood")?;
    let second = life(world, "dogwood")?;
    ensure!(second.boot != first.boot);

    world
        .kapok()
        .run(&["instance", "restart", "dogwood", "--wait"])?;
    world.guest_answers("dogwood")?;
    let third = life(world, "dogwood")?;
    ensure!(
        third.boot != second.boot,
        "it wasn't restarted: {second:?}, {third:?}"
    );
    ensure!(world.place("dogwood")?.1 == domain, "it got another domain");

    world.remove(&["dogwood"])?;
    world.instance_goes("dogwood", SOON)
}

pub(crate) fn a_guest_that_powers_itself_off_stays_off(world: &World<'_>) -> Result<()> {
    world.create_guest("elm", &["--wait"])?;
    world.guest_answers("elm")?;
    // The guest's shell waits on its console; the console closes with the guest.
    let console = ["instance", "console", "elm"];
    let said =
        world
            .kapok()
            .with_input(&console, "\nsleep 3; poweroff\n", Duration::from_mins(1))?;
    ensure!(
        said.contains("kapok-tick"),
        "the console shows no ticks: {said:?}"
    );
    world.instance_becomes("elm", "off by its guest", SOON, |it| {
        text(it, "phase") == "stopped"
            && text(it, "power") == "stopped"
            && text(it, "ended") == "by-guest"
    })?;
    // A start takes it from there.
    world.kapok().run(&["instance", "start", "elm", "--wait"])?;
    world.phase_becomes("elm", "running", SOON)?;
    world.remove(&["elm"])
}

pub(crate) fn a_killed_qemu_is_restarted(world: &World<'_>) -> Result<()> {
    world.create_guest("fir", &["--wait"])?;
    for _ in 0..2 {
        let before = world.qemu("fir")?;
        kill(Pid::from_raw(i32::try_from(before)?), Signal::SIGKILL)?;
        until("another QEMU", SOON, || {
            Ok(world.qemu("fir").ok().filter(|now| *now != before))
        })?;
        world.phase_becomes("fir", "running", SOON)?;
    }
    world.remove(&["fir"])
}
