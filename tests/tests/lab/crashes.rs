//! FAULTS 36: an agent that is killed at any point of a create or a delete finishes it.
//!
//! The points are what libvirt has done so far, as the host's files show it. They are watched
//! while `kapok` still runs, because one step follows another within milliseconds.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use kapok_lab::{Host, libvirt::POOL_FOLDER, wait::pause};

use crate::world::{SOON, World};

/// How far libvirt has come.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// Nothing is awaited: the agent may not have heard of it yet.
    AtOnce,
    /// A definition comes or goes.
    Definition,
    /// A root disk comes or goes.
    RootDisk,
    /// A QEMU comes or goes.
    Qemu,
    /// A moment after that.
    Later,
}

const POINTS: [Point; 5] = [
    Point::AtOnce,
    Point::Definition,
    Point::RootDisk,
    Point::Qemu,
    Point::Later,
];

/// Where all instances of this file are made.
const HOST: usize = 0;

impl Point {
    /// The files of what it is about.
    fn files(self, host: &Host) -> BTreeSet<String> {
        let (folder, end) = match self {
            Self::AtOnce => return BTreeSet::new(),
            Self::Definition => ("/etc/libvirt/qemu", ".xml"),
            Self::RootDisk => (POOL_FOLDER, "-root.qcow2"),
            Self::Qemu | Self::Later => ("/run/libvirt/qemu", ".pid"),
        };
        let entries = fs::read_dir(host.path(folder));
        let names = entries.into_iter().flatten().filter_map(Result::ok);
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("kapok-") && name.ends_with(end))
            .collect()
    }

    /// Has `act` done, and kills the agent as soon as the point is reached.
    fn kill_at(self, world: &World<'_>, act: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        let host = world.host(HOST);
        let before = self.files(host);
        thread::scope(|scope| {
            let acting = scope.spawn(act);
            let end = Instant::now() + SOON;
            while !matches!(self, Self::AtOnce) && self.files(host) == before {
                if Instant::now() > end {
                    bail!("waited in vain for {self:?}");
                }
                pause(Duration::from_micros(300));
            }
            if matches!(self, Self::AtOnce | Self::Later) {
                pause(Duration::from_millis(100));
            }
            world.fabric.kill_agent(HOST)?;
            acting.join().map_err(|_| anyhow!("it panicked"))?
        })?;
        world.fabric.start_agent(HOST)
    }
}

pub(crate) fn an_agent_killed_during_create_finishes_it(world: &World<'_>) -> Result<()> {
    world.on(HOST, || {
        for point in POINTS {
            point.kill_at(world, || world.create_blank("larch", &[]))?;
            world.phase_becomes("larch", "running", SOON)?;
            world.remove(&["larch"])?;
        }
        Ok(())
    })
}

pub(crate) fn an_agent_killed_during_delete_finishes_it(world: &World<'_>) -> Result<()> {
    world.on(HOST, || {
        for point in POINTS {
            world.create_blank("maple", &["--wait"])?;
            let (_, domain) = world.place("maple")?;
            let remove = ["instance", "rm", "--yes", "maple"];
            point.kill_at(world, || world.kapok().run(&remove).map(drop))?;
            world.instance_goes("maple", SOON)?;
            let left = world.host(HOST).virsh(&["list", "--all", "--name"])?;
            ensure!(!left.contains(&domain), "{left}");
        }
        Ok(())
    })
}
