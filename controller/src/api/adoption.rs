//! Adopting nodes after the record was restored or rebuilt: what is different, and settling it.
//!
//! What a node holds is asked of its agent each time, so that people see what is there now. What they
//! settle is what they saw: the list's etag comes back with the wish, and the ledger compares anew.

use std::collections::BTreeMap;

use futures::{FutureExt as _, StreamExt as _, stream};
use kapok_proto::{
    convert::timestamp,
    fabric::v1::{
        self as wire, AdoptNodeRequest, DifferenceKind, ListDifferencesResponse, NodeDifferences,
    },
};
use kapok_types::{Name, NodeId};
use tonic::Status;

use super::{
    Api,
    caller::{Caller, key, optional, request_id},
    console::unreachable,
    status,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{
        Command, Fabric,
        adoption::{self, Difference, Held, Kind},
        city,
        command::AdoptNode,
    },
    ledger,
    link::{self, CALL_DEADLINE},
};

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 64;

/// What all nodes hold differently that are still to be adopted.
pub(super) async fn list(api: &Api, caller: &Caller) -> Result<ListDifferencesResponse, Status> {
    api.authorize(caller, Action::NodeList, &Object::Fabric, "")?;
    // Instances are named, whoever's they are.
    let root = city();
    api.authorize(
        caller,
        Action::InstanceList,
        &about::tenant(&root),
        root.as_str(),
    )?;
    let snapshot = api.ledger.snapshot();
    let fabric = &snapshot.fabric;
    let Some(adoption) = &fabric.adoption else {
        return Ok(ListDifferencesResponse::default());
    };
    let nodes = adoption.nodes.iter().cloned();
    let nodes = nodes.map(|name| of_node(api, fabric, name).boxed());
    let nodes: Vec<_> = nodes.collect();
    let nodes = stream::iter(nodes).buffered(AT_ONCE).collect().await;
    Ok(ListDifferencesResponse {
        adopting: true,
        cause: adoption.cause.as_str().to_owned(),
        begin_time: Some(timestamp(adoption.began_at)),
        backup_time: adoption.backup_at.map(timestamp),
        nodes,
    })
}

async fn of_node(api: &Api, fabric: &Fabric, name: Name) -> NodeDifferences {
    match held_by(api, fabric, &name).await {
        Ok((node, held)) => differences(fabric, &name, node, &held),
        Err(told) => NodeDifferences {
            node: name.to_string(),
            detail: told.message().to_owned(),
            ..NodeDifferences::default()
        },
    }
}

/// Settles a node's differences.
pub(super) async fn adopt(
    api: &Api,
    caller: Caller,
    request: AdoptNodeRequest,
) -> Result<(ledger::Done, String), Status> {
    let AdoptNodeRequest {
        node,
        etag,
        tenant,
        request_id: id,
    } = request;
    let id = request_id(&id)?;
    let which = key("node", node)?;
    let etag = key("etag", etag)?;
    let tenant: Option<Name> = optional("tenant", &tenant)?;
    let snapshot = api.ledger.snapshot();
    let Some(node) = snapshot.fabric.node(&which) else {
        let some = |name: &Name| Object::Node(name.clone());
        api.authorize_absent(&caller, Action::NodeAdopt, some, &which)?;
        return Err(super::caller::absent("node", &which));
    };
    api.authorize(&caller, Action::NodeAdopt, &about::node(node), &which)?;
    // One that is adopted already is refused by the ledger, in its own words, and isn't asked.
    let held = if snapshot.fabric.is_adopting(&node.name) {
        held_by(api, &snapshot.fabric, &node.name).await?.1
    } else {
        Vec::new()
    };
    let mut fresh = Vec::new();
    for _ in adoption::compare(&snapshot.fabric, node.id, &held) {
        fresh.push(api.ledger.fresh());
    }
    let certificate = api.links.certificate(&node.address, node.id).await;
    let command = Command::AdoptNode(Box::new(AdoptNode {
        node: which.clone(),
        etag,
        tenant,
        held,
        certificate,
        fresh,
    }));
    Ok((api.submit(caller, id, command).await?, which))
}

/// What a node's agent holds now.
async fn held_by(api: &Api, fabric: &Fabric, name: &Name) -> Result<(NodeId, Vec<Held>), Status> {
    let node = fabric.nodes.get(name);
    let node = node.ok_or_else(|| unreachable(name.as_str()))?;
    let client = api.links.client(node.id);
    let mut client = client.ok_or_else(|| unreachable(name.as_str()))?;
    let late = || unreachable(name.as_str());
    let asking = link::held_intents(&mut client, node.id);
    let intents = api.within(CALL_DEADLINE, late, asking).await?;
    let intents = intents.map_err(|why| {
        let message = format!("node {name} can't be compared: {why}");
        status::unavailable("NODE_UNASKED", &message)
    })?;
    let mut held: BTreeMap<_, Held> = BTreeMap::new();
    for intent in intents {
        let size = api.observed.report(intent.incarnation);
        let size = size.filter(|report| report.node == node.id);
        let size = size.and_then(|report| report.status.size);
        held.insert(intent.incarnation, Held { intent, size });
    }
    Ok((node.id, held.into_values().collect()))
}

fn differences(fabric: &Fabric, name: &Name, node: NodeId, held: &[Held]) -> NodeDifferences {
    let differences = adoption::compare(fabric, node, held);
    NodeDifferences {
        node: name.to_string(),
        asked: true,
        detail: String::new(),
        etag: adoption::etag(&differences),
        differences: (differences.iter())
            .map(|one| difference(fabric, one, held))
            .collect(),
    }
}

fn difference(fabric: &Fabric, one: &Difference, held: &[Held]) -> wire::Difference {
    let kind = match one.kind {
        Kind::Unknown => DifferenceKind::Unknown,
        Kind::Missing => DifferenceKind::Missing,
        Kind::Ahead => DifferenceKind::Ahead,
        Kind::Behind => DifferenceKind::Behind,
        Kind::Conflict => DifferenceKind::Conflict,
    };
    let known = fabric.instances.get(&one.instance);
    wire::Difference {
        kind: kind.into(),
        instance_id: one.instance.to_string(),
        incarnation_id: one.incarnation.to_string(),
        tenant: known.map_or_else(|| city().to_string(), |known| known.tenant.to_string()),
        name: one.name.to_string(),
        detail: one.words(fabric, held),
    }
}
