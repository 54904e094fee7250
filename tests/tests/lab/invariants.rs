//! What holds after every scenario: what people see, what the hosts have, and what is claimed are
//! three views of one thing.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};
use kapok_lab::{Host, fabric::text, libvirt::POOL_FOLDER, wait::until};
use serde_json::Value;

use crate::world::{SOON, World};

/// Waits until the views agree.
pub(crate) fn hold(world: &World<'_>) -> Result<()> {
    let mut last = None;
    let held = until("the invariants", SOON, || match check(world) {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    held.with_context(|| format!("{:#}", last.expect("it was looked at")))
}

fn check(world: &World<'_>) -> Result<()> {
    let instances = world.instances()?;
    let nodes = world.nodes()?;
    for host in world.lab().hosts() {
        let here: Vec<(&Value, &Value)> = instances
            .iter()
            .flat_map(|instance| {
                let lives = instance["incarnations"].as_array().into_iter().flatten();
                lives.map(move |life| (instance, life))
            })
            .filter(|(_, life)| text(life, "node") == host.name())
            .collect();
        domains(host, &here)?;
        volumes(host, &here)?;
        let node = nodes.iter().find(|node| text(node, "name") == host.name());
        claims(node.context("a node is missing")?, &here)?;
    }
    Ok(())
}

/// `virsh list` agrees with `kapok instance ls`, and nothing starts by itself.
fn domains(host: &Host, here: &[(&Value, &Value)]) -> Result<()> {
    let ids = |running: bool| -> BTreeSet<String> {
        here.iter()
            .filter(|(instance, _)| !running || text(instance, "phase") == "running")
            .map(|(_, life)| text(life, "id").to_owned())
            .collect()
    };
    let listed = |options: &[&str]| -> Result<BTreeSet<String>> {
        let names = host.virsh(&[&["list", "--name"], options].concat())?;
        let ours = names
            .lines()
            .filter_map(|name| name.trim().strip_prefix("kapok-"));
        Ok(ours.map(str::to_owned).collect())
    };
    same(host, "domains", &ids(false), &listed(&["--all"])?)?;
    same(
        host,
        "running domains",
        &ids(true),
        &listed(&["--state-running"])?,
    )?;
    same(
        host,
        "autostarting domains",
        &BTreeSet::new(),
        &listed(&["--all", "--autostart"])?,
    )
}

/// The pool holds the instances' root disks and images, and nothing else of Kapok's.
fn volumes(host: &Host, here: &[(&Value, &Value)]) -> Result<()> {
    let expected = here
        .iter()
        .map(|(_, life)| format!("kapok-{}-root.qcow2", text(life, "id")));
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(host.path(POOL_FOLDER))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("kapok-") && !name.starts_with("kapok-base-") {
            found.insert(name);
        }
    }
    same(host, "root disks", &expected.collect(), &found)
}

/// The node's claims are the sum of its incarnations'.
fn claims(node: &Value, here: &[(&Value, &Value)]) -> Result<()> {
    let sum = |field: &str| {
        here.iter()
            .filter_map(|(_, life)| life[field].as_u64())
            .sum::<u64>()
    };
    let shown = [
        node["instances"].as_u64(),
        node["vcpus"]["claimed"].as_u64(),
        node["memory_mib"]["claimed"].as_u64(),
    ];
    let count = u64::try_from(here.len())?;
    let expected = [count, sum("claim_vcpus"), sum("claim_memory_mib")].map(Some);
    if shown != expected {
        bail!(
            "{} claims {shown:?}, its instances {expected:?}",
            text(node, "name")
        );
    }
    if node["stray_incarnation_ids"]
        .as_array()
        .is_none_or(|strays| !strays.is_empty())
    {
        bail!("{} has strays: {node}", text(node, "name"));
    }
    Ok(())
}

fn same(
    host: &Host,
    what: &str,
    expected: &BTreeSet<String>,
    found: &BTreeSet<String>,
) -> Result<()> {
    if expected != found {
        bail!(
            "{what} of {}: {expected:?} expected, {found:?} found",
            host.name()
        );
    }
    Ok(())
}
