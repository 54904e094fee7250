//! Instances that become larger, while they run and at their next start.

use anyhow::{Result, ensure};
use kapok_lab::{fabric::text, wait::until};

use crate::{
    guests::{file_of, life, lives_on},
    world::{GUEST, SOON, World},
};

/// vCPUs come to a guest that runs, and its counter never notices; memory waits for a restart.
pub(crate) fn vcpus_come_live_and_memory_with_a_restart(world: &World<'_>) -> Result<()> {
    world.create_guest("gorse", &["--wait"])?;
    world.guest_answers("gorse")?;
    let (host, domain) = world.place("gorse")?;
    let host = world.host(host);
    let before = life(world, "gorse")?;
    let online = || file_of(host, &domain, "/sys/devices/system/cpu/online");
    ensure!(online()?.trim() == "0", "{}", online()?);

    let resize = ["instance", "resize", "gorse", "--wait"];
    let said = world
        .kapok()
        .run(&[&resize[..], &["--vcpus", "2"]].concat())?;
    ensure!(!said.contains("next start"), "{said}");
    until("two processors in the guest", GUEST, || {
        Ok((online()?.trim() == "0-1").then_some(()))
    })?;
    let shown = world.instance("gorse")?;
    let one = &shown["incarnations"][0];
    ensure!(
        one["status"]["vcpus"] == 2 && one["claim_vcpus"] == 2,
        "{shown}"
    );
    ensure!(
        one["status"]["drift"].as_array().is_some_and(Vec::is_empty),
        "{shown}"
    );
    lives_on(host, &domain, &before)?;

    let said = world
        .kapok()
        .run(&[&resize[..], &["--memory", "320MiB"]].concat())?;
    ensure!(said.contains("next start"), "{said}");
    let waits = world.instance("gorse")?;
    let status = &waits["incarnations"][0]["status"];
    ensure!(
        status["memory_mib"] == 256 && status["resize_pending"] == true,
        "{waits}"
    );
    let people = world.kapok().run(&["instance", "show", "gorse"])?;
    ensure!(
        people.contains("256 MiB (320 MiB after a restart)"),
        "{people}"
    );
    lives_on(host, &domain, &before)?;

    world
        .kapok()
        .run(&["instance", "restart", "gorse", "--wait"])?;
    world.guest_answers("gorse")?;
    let after = life(world, "gorse")?;
    ensure!(after.boot != before.boot);
    let whole = world.instance_becomes("gorse", "of its new size", SOON, |it| {
        let status = &it["incarnations"][0]["status"];
        status["memory_mib"] == 320 && status["resize_pending"] == false
    })?;
    ensure!(text(&whole, "phase") == "running", "{whole}");
    ensure!(online()?.trim() == "0-1", "it starts with both");
    world.remove(&["gorse"])
}
