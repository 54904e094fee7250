//! FAULTS 39 and 45: whatever is killed above a guest, the guest runs on, and what people see
//! agrees with the hosts again.

use std::time::Duration;

use anyhow::{Result, ensure};
use kapok_lab::wait::pause;

use crate::{
    guests::{Life, life_of, lives_on},
    invariants,
    life::GUESTS,
    world::{SOON, World},
};

/// Every guest, where it is and how it was.
pub(crate) fn lives(world: &World<'_>) -> Result<Vec<(usize, String, Life)>> {
    let read = |name: &&str| {
        let (host, domain) = world.place(name)?;
        let life = life_of(world.host(host), &domain)?;
        Ok((host, domain, life))
    };
    GUESTS.iter().map(read).collect()
}

/// All of them run on where they were.
pub(crate) fn all_live_on(world: &World<'_>, before: &[(usize, String, Life)]) -> Result<()> {
    before
        .iter()
        .try_for_each(|(host, domain, life)| lives_on(world.host(*host), domain, life))
}

/// All of them run on, and everything agrees again.
pub(crate) fn afterwards(world: &World<'_>, before: &[(usize, String, Life)]) -> Result<()> {
    world.nodes_become("ready", SOON)?;
    for name in GUESTS {
        world.phase_becomes(name, "running", SOON)?;
    }
    all_live_on(world, before)?;
    invariants::hold(world)
}

pub(crate) fn a_killed_agent_changes_nothing(world: &World<'_>) -> Result<()> {
    let before = lives(world)?;
    world.fabric.kill_agent(0)?;
    all_live_on(world, &before)?;
    world.fabric.start_agent(0)?;
    afterwards(world, &before)
}

pub(crate) fn a_killed_controller_changes_nothing(world: &World<'_>) -> Result<()> {
    let before = lives(world)?;
    world.fabric.kill_controller()?;
    // Longer than the silence after which a controller would speak of a lost node.
    pause(Duration::from_secs(6));
    all_live_on(world, &before)?;
    world.fabric.start_controller()?;
    afterwards(world, &before)
}

pub(crate) fn a_killed_libvirtd_changes_nothing(world: &World<'_>) -> Result<()> {
    let before = lives(world)?;
    world.host(0).kill_libvirtd()?;
    world.node_becomes(0, "degraded, not lost", SOON, |node| {
        node["state"] == "degraded"
    })?;
    for (host, domain, life) in before.iter().filter(|(host, ..)| *host == 0) {
        let pids = world.host(*host).qemu_pids()?;
        ensure!(
            pids.contains(&(domain.clone(), life.qemu)),
            "{domain} ended with libvirtd"
        );
    }
    world.host(0).start_libvirtd()?;
    afterwards(world, &before)
}

pub(crate) fn all_three_killed_at_once_change_nothing(world: &World<'_>) -> Result<()> {
    let before = lives(world)?;
    world.fabric.kill_controller()?;
    world.fabric.kill_agent(1)?;
    world.host(1).kill_libvirtd()?;
    world.fabric.start_controller()?;
    world.fabric.start_agent(1)?;
    world.host(1).start_libvirtd()?;
    afterwards(world, &before)
}
