//! FAULTS 40 to 43: what hangs keeps nobody else waiting, and is never taken for dead.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{
    Host,
    fabric::text,
    libvirt::POOL_FOLDER,
    process::Proc,
    wait::{pause, until},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::world::{SOON, World};

/// How soon news of an instance must be there while another hangs.
const FRESH: Duration = Duration::from_secs(5);

/// How long it may take until a pool is said to hang: it is asked now and then, and given time.
const POOL_TOLD: Duration = Duration::from_secs(90);

/// How long a delete of a hanging instance may take.
const BOUND: Duration = Duration::from_secs(30);

fn freeze(pid: u32) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGSTOP)?)
}

fn quarantined(node: &Value) -> usize {
    node["quarantined"].as_array().map_or(0, Vec::len)
}

/// Waits until the first node's verdicts have such codes; without any it isn't in quarantine either.
fn verdicts_become(
    world: &World<'_>,
    what: &str,
    bound: Duration,
    good: impl Fn(&[&str]) -> bool,
) -> Result<()> {
    let node = world.host(0).name();
    let mut last = String::new();
    let waited = until(what, bound, || {
        let health = world.kapok().value(&["node", "health", node])?;
        last = health.to_string();
        let verdicts = health["verdicts"].as_array().into_iter().flatten();
        let codes: Vec<&str> = verdicts.map(|verdict| text(verdict, "code")).collect();
        let held = codes.is_empty() && !health["quarantine"].is_null();
        Ok((good(&codes) && !held).then_some(()))
    });
    waited.with_context(|| format!("last seen: {last}"))
}

pub(crate) fn a_frozen_libvirtd_is_a_degraded_node(world: &World<'_>) -> Result<()> {
    world.create_blank("quince", &["--wait"])?;
    let pid = world.qemu("quince")?;
    let host = world.host(0);
    host.signal_libvirtd(Signal::SIGSTOP)?;
    let frozen = Instant::now();
    world.node_becomes(0, "degraded", SOON, |node| node["state"] == "degraded")?;
    println!(
        "          degraded after {:.1} s",
        frozen.elapsed().as_secs_f32()
    );
    // Heartbeats go on, so it is never lost; and nobody says that the instance is off.
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        let node = world.node(0)?;
        ensure!(text(&node, "state") == "degraded", "{node}");
        ensure!(
            node["heartbeat_age_ms"]
                .as_u64()
                .is_some_and(|age| age < 3000),
            "{node}"
        );
        let instance = world.instance("quince")?;
        ensure!(
            ["running", "unknown"].contains(&text(&instance, "phase")),
            "{instance}"
        );
        pause(Duration::from_millis(200));
    }
    host.signal_libvirtd(Signal::SIGCONT)?;
    world.nodes_become("ready", BOUND)?;
    world.phase_becomes("quince", "running", SOON)?;
    ensure!(world.qemu("quince")? == pid, "it was restarted");
    world.remove(&["quince"])
}

pub(crate) fn one_stuck_guest_keeps_nobody_waiting(world: &World<'_>) -> Result<()> {
    world.create_guest("sorbus", &["--wait"])?;
    world.guest_answers("sorbus")?;
    world.create_blank("rowan", &["--wait"])?;
    let (_, sorbus) = world.place("sorbus")?;
    freeze(world.qemu("rowan")?)?;
    let frozen = Instant::now();
    // Before it is known that something hangs, and after.
    let host = world.host(0);
    for round in 0..2 {
        host.virsh(&["suspend", &sorbus])?;
        world
            .phase_becomes("sorbus", "failing", FRESH)
            .context("news of another guest")?;
        host.virsh(&["resume", &sorbus])?;
        world
            .phase_becomes("sorbus", "running", FRESH)
            .context("news of another guest")?;
        if round == 0 {
            world.node_becomes(0, "with one in quarantine", SOON, |node| {
                quarantined(node) == 1
            })?;
            println!(
                "          flagged after {:.1} s",
                frozen.elapsed().as_secs_f32()
            );
        }
    }
    let node = world.node(0)?;
    ensure!(text(&node, "state") == "degraded", "{node}");
    verdicts_become(world, "a verdict on the stuck one", SOON, |codes| {
        codes.contains(&"INSTANCE_STUCK")
    })?;
    let begin = Instant::now();
    world.create_blank("tamarind", &["--wait"])?;
    world.remove(&["tamarind"])?;
    println!(
        "          another came and went in {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    let begin = Instant::now();
    world.remove(&["rowan"])?;
    world.instance_goes("rowan", BOUND)?;
    println!(
        "          the stuck one went in {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    ensure!(
        begin.elapsed() < BOUND,
        "its delete took {:?}",
        begin.elapsed()
    );
    world.nodes_become("ready", SOON)?;
    world.remove(&["sorbus"])
}

pub(crate) fn thirty_stuck_guests_keep_nobody_waiting(world: &World<'_>) -> Result<()> {
    let names: Vec<String> = (1..=30).map(|number| format!("stuck-{number}")).collect();
    let begin = Instant::now();
    for name in &names {
        world.create_blank(name, &[])?;
    }
    for name in &names {
        world.phase_becomes(name, "running", BOUND)?;
    }
    println!(
        "          30 run after {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    let host = world.host(0);
    let stuck = host.qemu_pids()?;
    ensure!(stuck.len() == 30, "{stuck:?}");
    for (_, pid) in &stuck {
        freeze(*pid)?;
    }
    let frozen = Instant::now();
    world.node_becomes(0, "with some in quarantine", BOUND, |node| {
        quarantined(node) > 0
    })?;
    println!(
        "          flagged after {:.1} s",
        frozen.elapsed().as_secs_f32()
    );

    // A 31st lives as if nothing were.
    let begin = Instant::now();
    world.create_blank("ulmus", &["--wait"])?;
    println!(
        "          a 31st runs after {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    let (_, ulmus) = world.place("ulmus")?;
    host.virsh(&["suspend", &ulmus])?;
    world.phase_becomes("ulmus", "failing", FRESH)?;
    host.virsh(&["resume", &ulmus])?;
    world.phase_becomes("ulmus", "running", FRESH)?;
    let begin = Instant::now();
    world
        .kapok()
        .run(&["instance", "stop", "ulmus", "--wait"])?;
    println!(
        "          and is off after {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    world.phase_becomes("ulmus", "stopped", SOON)?;
    ensure!(world.instances()?.len() == 31);
    let node = world.node(0)?;
    ensure!(
        node["heartbeat_age_ms"]
            .as_u64()
            .is_some_and(|age| age < 3000),
        "{node}"
    );
    world.remove(&["ulmus"])?;

    // And the stuck ones can all be taken away.
    let begin = Instant::now();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world
        .kapok()
        .run(&[&["instance", "rm", "--yes"], &names[..]].concat())?;
    until("the end of all 30", Duration::from_mins(2), || {
        Ok(world.instances()?.is_empty().then_some(()))
    })?;
    println!(
        "          all 30 are gone after {:.1} s",
        begin.elapsed().as_secs_f32()
    );
    world.nodes_become("ready", SOON)
}

/// FAULTS 43: the file system under a pool doesn't answer, and whoever asks waits in the kernel.
pub(crate) fn a_hung_pool_is_that_pools_trouble(world: &World<'_>) -> Result<()> {
    world.create_blank("yew", &["--wait"])?;
    let host = world.host(0);
    let mut pool = Mount::over(host, POOL_FOLDER)?;
    world.create_blank("zelkova", &["--wait"])?;

    pool.daemon.freeze()?;
    let frozen = Instant::now();
    world.create_blank("acer", &[])?;
    world.node_becomes(0, "degraded", SOON, |node| node["state"] == "degraded")?;
    println!(
        "          degraded after {:.1} s",
        frozen.elapsed().as_secs_f32()
    );
    // Life signs go on, news of guests come, and what is there can be changed: only disks can't be
    // made.
    let (_, yew) = world.place("yew")?;
    for _ in 0..4 {
        host.virsh(&["suspend", &yew])?;
        world
            .phase_becomes("yew", "failing", FRESH)
            .context("news of a guest beside the pool")?;
        host.virsh(&["resume", &yew])?;
        world
            .phase_becomes("yew", "running", FRESH)
            .context("news of a guest beside the pool")?;
        let node = world.node(0)?;
        ensure!(
            node["heartbeat_age_ms"]
                .as_u64()
                .is_some_and(|age| age < 3000),
            "{node}"
        );
    }
    for name in ["zelkova", "acer"] {
        let instance = world.instance(name)?;
        ensure!(
            !["stopped", "gone"].contains(&text(&instance, "phase")),
            "{instance}"
        );
    }

    verdicts_become(world, "a verdict on the pool", POOL_TOLD, |codes| {
        codes.contains(&"POOL_STUCK")
    })?;
    println!(
        "          said of the pool after {:.1} s",
        frozen.elapsed().as_secs_f32()
    );

    pool.daemon.thaw()?;
    // It takes instances again: when nothing is said of it any more, and some quiet has passed.
    verdicts_become(world, "no verdict", POOL_TOLD, |codes| matches!(codes, []))?;
    world.nodes_become("ready", POOL_TOLD)?;
    world.phase_becomes("acer", "running", BOUND)?;
    world.remove(&["yew", "zelkova", "acer"])?;
    until("an unused mount", SOON, || Ok(pool.end().ok()))
}

/// A folder seen through a file system in user space.
struct Mount<'lab> {
    host: &'lab Host,
    folder: &'static str,
    daemon: Proc,
}

impl<'lab> Mount<'lab> {
    /// Lays it over the folder itself.
    fn over(host: &'lab Host, folder: &'static str) -> Result<Self> {
        let daemon = host.spawn("bindfs", "bindfs", |command| {
            command.args(["-f", folder, folder])
        })?;
        let mount = Self {
            host,
            folder,
            daemon,
        };
        until("a mount", SOON, || {
            let mounts = host.run("cat", |command| command.arg("/proc/self/mounts"))?;
            Ok(mounts
                .lines()
                .any(|line| line.contains(&format!(" {folder} fuse")))
                .then_some(()))
        })?;
        Ok(mount)
    }

    fn end(&mut self) -> Result<()> {
        self.host
            .run("umount", |command| command.arg(self.folder))
            .map(drop)
    }
}

impl Drop for Mount<'_> {
    /// Whoever waits for it gets an error; the lab can end.
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
    }
}
