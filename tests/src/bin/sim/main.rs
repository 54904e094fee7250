//! `cargo xtask sim`: a fabric of a city's size, measured. The controller's own program and many
//! simulated nodes in another process, over real gRPC with mTLS on loopback; people of 200 bureaus
//! with 698 systems.
//!
//! ```text
//!   join ─▶ fill ─▶ ask ─▶ a minute of rest ─▶ a minute of creates and deletes ─▶ kill -9, and back
//! ```
//!
//! Prints figures; asserts none. The programs were built before. Arguments: nodes, instances, and
//! changes a second under load.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

mod answers;
mod city;
mod names;
mod shares;

use std::{
    collections::VecDeque,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{
    fabric::{Build, Person, Settings},
    loopback::{Loopback, Nodes},
};
use kapok_proto::fabric::v1::{GetInstanceRequest, ListInstancesRequest, NodeState};
use kapok_tests::{env::SimEnv, people::People, real};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    answers::{Times, ask_all},
    city::{City, full_name, is_pace},
    names::{SYSTEMS, TENANTS},
    shares::Shares,
};

/// How long rest and load take, each.
const LONG: Duration = Duration::from_mins(1);
/// How often life signs are looked at in rest.
const LOOK: Duration = Duration::from_secs(5);
/// How long nothing may be written before it is rest.
const QUIET: Duration = Duration::from_secs(15);
/// Instances that live for a while under load before they are deleted.
const KEPT: usize = 100;
/// How long all agents may take to come back.
const BACK: Duration = Duration::from_mins(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let nodes: u16 = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let instances: u32 = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let rate: u32 = arguments.next().map_or(Ok(20), |text| text.parse())?;
    // A fifth more than is needed, spread over all nodes: each thread carries four vCPUs.
    let cpus = (instances * 6 / 5).div_ceil(u32::from(nodes) * 4).max(1);
    let begun = Instant::now();
    let mut fabric = Loopback::start(
        Nodes {
            count: nodes,
            cpus,
            latency_ms: 5,
        },
        &Settings {
            build: if cfg!(debug_assertions) {
                Build::Debug
            } else {
                Build::Release
            },
            ..Settings::default()
        },
    )?;
    println!(
        "{nodes} nodes joined in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let measured = measure(&mut fabric, nodes, instances, rate).await;
    measured.with_context(|| fabric.last_words())
}

async fn measure(fabric: &mut Loopback, nodes: u16, instances: u32, rate: u32) -> Result<()> {
    let kapok = fabric.kapok();
    let channel = real::lasting(&real::person(&kapok.credential())?, kapok.server())?;
    let people = People::new(channel.clone(), SimEnv::new(1, tokio::time::Instant::now()));
    let city = City { channel, people };
    Shares::look(fabric)?.print("joined", None);

    city.found().await?;
    let (before, begun) = (Shares::look(fabric)?, Instant::now());
    city.fill(instances).await?;
    let accepted = begun.elapsed().as_secs_f64();
    city.all_run(instances).await?;
    println!(
        "{instances} instances of {TENANTS} tenants with {SYSTEMS} systems, accepted in {accepted:.1} s, all \
         run after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    Shares::look(fabric)?.print("meanwhile", Some(&before));

    ask_all(&city).await?;
    rest(fabric, &city).await?;
    load(fabric, &city, instances, rate).await?;
    city.all_run(instances).await?;
    back(fabric, &city, nodes, instances).await
}

/// Nobody asks for anything.
async fn rest(fabric: &Loopback, city: &City) -> Result<()> {
    quiet(fabric).await?;
    println!("a minute of rest:");
    let (before, entries) = (Shares::look(fabric)?, head(fabric)?);
    let (mut ages, begun) = (Times::default(), Instant::now());
    while begun.elapsed() < LONG {
        sleep(LOOK).await;
        let ages_ms = city.nodes().await?.into_iter();
        let ages_ms = ages_ms.filter_map(|node| node.heartbeat_age_ms);
        ages.0.extend(ages_ms.map(Duration::from_millis));
    }
    Shares::look(fabric)?.print("", Some(&before));
    ages.print("age of life signs, each second");
    println!("  entries written: {}", head(fabric)? - entries);
    let auditor = fabric.kapok().by(Person::Auditor);
    for entry in auditor.list(&["audit", "ls", "--limit", "100"])? {
        if entry["sequence"].as_u64() > Some(entries) {
            println!("    {entry}");
        }
    }
    Ok(())
}

/// Waits for what came before to be on record: who was told to wait is, some seconds later.
async fn quiet(fabric: &Loopback) -> Result<()> {
    let (begun, mut last) = (Instant::now(), head(fabric)?);
    while begun.elapsed() < LONG * 2 {
        sleep(QUIET).await;
        let now = head(fabric)?;
        if now == last {
            return Ok(());
        }
        last = now;
    }
    Ok(())
}

/// Instances come and go, and people look at them.
async fn load(fabric: &Loopback, city: &City, instances: u32, rate: u32) -> Result<()> {
    println!("a minute of {rate} changes a second, creates and deletes by turns:");
    let (before, entries) = (Shares::look(fabric)?, head(fabric)?);
    let [mut changes, mut shows, mut lists] = [(); 3].map(|()| Times::default());
    let mut told_to_wait = 0_u32;
    let mut tick = interval(Duration::from_secs(1) / rate.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut extra, mut next) = (VecDeque::new(), instances);
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        tick.tick().await;
        let asked = Instant::now();
        let old = (extra.len() > KEPT).then(|| extra.pop_front()).flatten();
        let changed = if let Some(number) = old {
            city.delete(number).await
        } else {
            extra.push_back(next);
            next += 1;
            city.create(next - 1).await
        };
        match changed {
            Ok(_) => changes.0.push(asked.elapsed()),
            Err(status) if is_pace(&status) => told_to_wait += 1,
            Err(status) => return Err(status).context("a change was refused"),
        }
        let asked = Instant::now();
        let instance = full_name(next % instances.max(1));
        let wanted = GetInstanceRequest { instance };
        city.people.instances().get_instance(wanted).await?;
        shows.0.push(asked.elapsed());
        let asked = Instant::now();
        let wanted = ListInstancesRequest::default();
        city.people.instances().list_instances(wanted).await?;
        lists.0.push(asked.elapsed());
    }
    let took = begun.elapsed().as_secs_f64();
    for number in extra {
        city.delete(number).await?;
    }
    Shares::look(fabric)?.print("", Some(&before));
    changes.print("change an instance");
    shows.print("show an instance");
    lists.print("list 100 instances");
    let written = head(fabric)? - entries;
    println!(
        "  entries written: {written} in {took:.0} s; told to wait: {told_to_wait}; the log's file: {} MiB",
        size(&fabric.folder().join("a/log.redb"))? >> 20
    );
    Ok(())
}

/// The controller is killed, and all agents are connected again by the next one.
async fn back(fabric: &mut Loopback, city: &City, nodes: u16, instances: u32) -> Result<()> {
    println!("kill -9 of the controller, and its next start:");
    fabric.kill_controller();
    let begun = Instant::now();
    fabric.start_controller()?;
    println!("  it answers after {:.1} s", begun.elapsed().as_secs_f64());
    let mut lost = 0;
    loop {
        // The connection to the one that was killed ends in the first call.
        let Ok(seen) = city.nodes().await else {
            ensure!(begun.elapsed() < BACK, "it doesn't answer");
            continue;
        };
        let states = |state| seen.iter().filter(|node| node.state() == state).count();
        lost = lost.max(states(NodeState::Unreachable));
        if states(NodeState::Ready) == usize::from(nodes) {
            break;
        }
        ensure!(
            begun.elapsed() < BACK,
            "{} are ready",
            states(NodeState::Ready)
        );
        sleep(Duration::from_millis(200)).await;
    }
    println!(
        "  all {nodes} nodes are ready after {:.1} s; seen as unreachable meanwhile: {lost}",
        begun.elapsed().as_secs_f64()
    );
    city.all_run(instances).await?;
    println!(
        "  all {instances} instances are known to run after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    Shares::look(fabric)?.print("then", None);
    Ok(())
}

/// The number of the log's last entry.
fn head(fabric: &Loopback) -> Result<u64> {
    let auditor = fabric.kapok().by(Person::Auditor);
    let last = auditor.list(&["audit", "ls", "--limit", "1"])?;
    let last = last.first().context("nothing is on record")?;
    last["sequence"].as_u64().context("an entry has no number")
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).context("the log's file")?.len())
}
