//! Conversions to the wire that only the agent needs.

use std::sync::Arc;

use kapok_proto::{agent::v1 as wire, common::v1 as common};

use super::health;
use crate::{
    driver::{self, Foreign},
    heartbeat::LifeSign,
    watch::{Change, Item, Key, facts::NodeFacts},
};

/// Longest name of a foreign domain that is passed on, in bytes.
const MAX_NAME: usize = 256;

pub(super) fn facts(facts: &NodeFacts) -> wire::NodeFacts {
    let mut versions: std::collections::BTreeMap<_, _> =
        facts.driver.versions.iter().cloned().collect();
    versions.insert("kapok-agent".into(), env!("CARGO_PKG_VERSION").into());
    wire::NodeFacts {
        node_id: facts.node.to_string(),
        host_name: facts.host.name.clone(),
        arch: common::Arch::from(facts.driver.arch).into(),
        cpus: facts.driver.cpus,
        memory_mib: facts.memory().get(),
        reserved_memory_mib: facts.reserved.get(),
        foreign_memory_mib: facts.foreign_memory.get(),
        foreign_vcpus: facts.foreign_vcpus.get(),
        virt_type: facts.driver.virt_type.clone(),
        virt_reason: facts.driver.virt_reason.clone(),
        boot_id: facts.host.boot.to_string(),
        kernel: facts.host.kernel.clone(),
        driver: facts.driver.driver.into(),
        versions,
        lacks: facts.driver.lacks.iter().map(|&lack| lack.into()).collect(),
        fingerprint: facts.host.fingerprint.clone(),
        trust_digest: facts.trust.hex(),
        http_port: facts.http_port.into(),
        equipment: Some(facts.driver.equipment.as_ref().into()),
    }
}

pub(super) fn foreign(domain: &Foreign) -> wire::ForeignDomain {
    let end = (0..=MAX_NAME.min(domain.name.len()))
        .rev()
        .find(|end| domain.name.is_char_boundary(*end));
    wire::ForeignDomain {
        uuid: domain.uuid.to_string(),
        name: domain.name[..end.unwrap_or(0)].into(),
        active: domain.active,
        vcpus: domain.vcpus.get(),
        memory_mib: domain.memory.get(),
    }
}

pub(super) fn item(item: &Item) -> wire::watch_item::Item {
    match item {
        Item::Node(node) => wire::watch_item::Item::Node(facts(node)),
        Item::Instance(status) => wire::watch_item::Item::Instance(status.into()),
        Item::Foreign(domain) => wire::watch_item::Item::Foreign(foreign(domain)),
        Item::Health(news) => wire::watch_item::Item::Health(health::news(news)),
        Item::Parts(news) => wire::watch_item::Item::Parts(health::parts(news)),
    }
}

/// A change as an item; none for a thing that never goes.
pub(super) fn change(change: &Change) -> Option<wire::watch_item::Item> {
    let (key, state): (Key, &Option<Arc<Item>>) = (change.0, &change.1);
    if let Some(state) = state {
        return Some(item(state));
    }
    match key {
        Key::Instance(incarnation) => Some(wire::watch_item::Item::ForgottenIncarnationId(
            incarnation.to_string(),
        )),
        Key::Foreign(uuid) => Some(wire::watch_item::Item::ForeignGoneUuid(uuid.to_string())),
        Key::Node | Key::Health | Key::Parts => None,
    }
}

pub(super) fn life_sign(
    run: uuid::Uuid,
    sequence: u64,
    sign: &LifeSign,
) -> wire::HeartbeatResponse {
    wire::HeartbeatResponse {
        run_id: run.to_string(),
        sequence,
        epoch: sign.epoch.get(),
        needs_resync: sign.needs_resync,
        lanes: sign.lanes.iter().map(lane).collect(),
        hypervisor_up: sign.hypervisor_up,
        quarantined: sign.quarantined.iter().map(ToString::to_string).collect(),
        node_id: sign.node.to_string(),
    }
}

fn lane(lane: &driver::Lane) -> wire::Lane {
    wire::Lane {
        name: lane.name.into(),
        stuck_ms: lane.stuck_ms,
        depth: lane.depth,
    }
}
