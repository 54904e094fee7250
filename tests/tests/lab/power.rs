//! A host that loses its cable, and one that loses its power.

use std::time::Duration;

use anyhow::{Result, ensure};
use kapok_lab::{fabric::text, wait::pause};

use crate::{
    guests::{life, life_of, lives_on},
    life::GUESTS,
    world::{SOON, World},
};

pub(crate) fn a_lost_node_is_not_a_dead_one(world: &World<'_>) -> Result<()> {
    let mut here = None;
    for name in GUESTS {
        let (index, domain) = world.place(name)?;
        if index == 1 {
            here = Some((name, domain));
        }
    }
    let Some((name, domain)) = here else {
        anyhow::bail!("no guest is on the second host");
    };
    let host = world.host(1);
    let before = life(world, name)?;

    // The cable: silence, and nothing else. The guest runs on.
    host.unplug()?;
    world.node_becomes(1, "unreachable", SOON, |node| {
        node["state"] == "unreachable"
    })?;
    let lost = world.phase_becomes(name, "unknown", SOON)?;
    ensure!(
        text(&lost, "power") == "running" && lost["guest_agent"] == false,
        "{lost}"
    );
    lives_on(host, &domain, &before)?;
    host.plug()?;
    world.nodes_become("ready", SOON)?;
    world.phase_becomes(name, "running", SOON)?;
    lives_on(host, &domain, &before)?;

    // The power: still only silence, and nothing is started elsewhere.
    let place = world.place(name)?;
    host.cut_power()?;
    world.node_becomes(1, "unreachable", SOON, |node| {
        node["state"] == "unreachable"
    })?;
    pause(Duration::from_secs(2));
    ensure!(world.place(name)? == place, "it was moved without proof");
    let mut elsewhere = world.host(0).running_domains()?;
    elsewhere.retain(|other| *other == domain);
    ensure!(
        elsewhere.is_empty(),
        "it was started elsewhere without proof"
    );

    // Its disks are local: the agent starts what ran there by itself, without the controller.
    world.fabric.kill_controller()?;
    host.power_on()?;
    world.fabric.start_agent(1)?;
    let after = life_of(host, &domain)?;
    ensure!(after.boot != before.boot);
    world.fabric.start_controller()?;
    world.nodes_become("ready", SOON)?;
    world.guest_answers(name)?;
    lives_on(host, &domain, &after)
}
