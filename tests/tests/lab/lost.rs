//! Record and backup are lost, the authority's key isn't: the nodes say what they hold, and no guest
//! notices.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use kapok_lab::{fabric::text, places, wait::until};
use serde_json::Value;

use crate::{
    guests::{life_of, lives_on},
    world::{SOON, World},
};

const GUESTS: [&str; 3] = ["first", "second", "third"];

/// What no agent holds of an instance.
const UNKNOWN: [&str; 9] = [
    "image",
    "image_name",
    "created_at",
    "created_by",
    "operation",
    "flavor",
    "groups",
    "system",
    "tenant",
];

/// The instances of the record with their incarnations and claims, without what no agent holds.
fn instances(world: &World<'_>) -> Result<BTreeMap<String, Value>> {
    let said = world.fabric.controller_command(&["db", "dump"])?;
    let mut instances = BTreeMap::new();
    for line in said.lines() {
        let mut object: Value = serde_json::from_str(line)?;
        let key = text(&object, "key").to_owned();
        if !key.starts_with("instance/") {
            continue;
        }
        let mut value = object["value"].take();
        let fields = value.as_object_mut().context("an instance is an object")?;
        fields.retain(|field, _| !UNKNOWN.contains(&field.as_str()));
        instances.insert(key, value);
    }
    Ok(instances)
}

pub(crate) fn a_record_is_rebuilt_from_three_nodes(world: &World<'_>) -> Result<()> {
    for (index, name) in GUESTS.iter().enumerate() {
        world.on(index, || world.create_guest(name, &[]))?;
    }
    world.create_blank("off", &["--stopped", "--wait"])?;
    let mut lives = Vec::new();
    for name in GUESTS {
        world.guest_answers(name)?;
        let (host, domain) = world.place(name)?;
        lives.push((host, domain.clone(), life_of(world.host(host), &domain)?));
    }
    let nodes = world.nodes()?;
    let nodes: Vec<_> = nodes
        .iter()
        .map(|node| {
            let [name, id, address] = ["name", "id", "address"].map(|key| text(node, key));
            format!("{name}={id}@{address}")
        })
        .collect();
    let before = instances(world)?;
    ensure!(before.len() == 4, "{before:?}");
    world.fabric.kill_controller()?;
    fs::remove_file(world.fabric.controller_state().join("log.redb"))?;

    let shared = world.lab().shared_folder()?;
    let people = shared.join("rebuilt");
    let inside = places::inside(&people).display().to_string();
    let mut line = vec!["db", "rebuild", "--credentials", &inside];
    for node in &nodes {
        line.extend(["--node", node]);
    }
    let said = world.fabric.controller_command(&line)?;
    ensure!(said.contains("3 nodes, 4 instances"), "{said}");
    for lost in ["quotas", "people", "names"] {
        ensure!(said.contains(lost), "{lost} isn't listed: {said}");
    }
    let after = instances(world)?;
    ensure!(after == before, "{after:#?}\nbefore: {before:#?}");

    fs::rename(
        shared.join("credentials"),
        shared.join("credentials-before"),
    )?;
    fs::rename(people, shared.join("credentials"))?;
    world.fabric.start_controller()?;
    until("all nodes to be compared", SOON, || {
        let said = world.kapok().run(&["node", "differences"])?;
        Ok((said.matches("same").count() == 3).then_some(()))
    })?;
    world.kapok().run(&["node", "adopt", "--all", "--yes"])?;
    world.nodes_become("ready", SOON)?;
    for (host, domain, life) in &lives {
        lives_on(world.host(*host), domain, life)?;
    }
    // The fabric goes on: what was rebuilt is changed and removed as ever.
    let start = ["instance", "start", "off", "--wait"];
    world.kapok().run(&start)?;
    world.remove(&["off"])?;
    world.remove(&GUESTS)
}
