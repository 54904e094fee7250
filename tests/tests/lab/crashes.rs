//! FAULTS 36: an agent that is killed at any point of a create or a delete finishes it.
//!
//! The points are spread over the time that an undisturbed create or delete takes here.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kapok_lab::wait::pause;

use crate::world::{SOON, World};

/// How many points.
const POINTS: u32 = 6;

pub(crate) fn an_agent_killed_during_create_finishes_it(world: &World<'_>) -> Result<()> {
    let whole = time(|| world.create_blank("larch", &["--wait"]))?;
    world.remove(&["larch"])?;
    for point in 0..POINTS {
        world.create_blank("larch", &[])?;
        let (host, domain) = world.place("larch")?;
        pause(whole * point / POINTS);
        world.fabric.kill_agent(host)?;
        world.fabric.start_agent(host)?;
        world.phase_becomes("larch", "running", SOON)?;
        ensure!(world.place("larch")? == (host, domain), "it was made anew");
        world.remove(&["larch"])?;
    }
    Ok(())
}

pub(crate) fn an_agent_killed_during_delete_finishes_it(world: &World<'_>) -> Result<()> {
    world.create_blank("maple", &["--wait"])?;
    let whole = time(|| world.remove(&["maple"]))?;
    for point in 0..POINTS {
        world.create_blank("maple", &["--wait"])?;
        let (host, domain) = world.place("maple")?;
        world.kapok().run(&["instance", "rm", "--yes", "maple"])?;
        pause(whole * point / POINTS);
        world.fabric.kill_agent(host)?;
        world.fabric.start_agent(host)?;
        world.instance_goes("maple", SOON)?;
        let left = world.host(host).virsh(&["list", "--all", "--name"])?;
        ensure!(!left.contains(&domain), "{left}");
    }
    Ok(())
}

fn time(act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    act().map(|()| begin.elapsed())
}
