//! How nodes' servers do, and what they are made of.
//!
//! What all agents said is here already; what is asked of one is asked of its agent, over the link
//! that is up, and passed on as it comes.

use std::{cmp::Reverse, collections::BTreeMap};

use kapok_proto::{
    agent::v1 as agent,
    common::v1::Condition,
    fabric::v1::{
        GetNodeHealthRequest, GetNodeHealthResponse, GetNodeInventoryRequest,
        GetNodeInventoryResponse, ListNodeHealthRequest, ListNodeHealthResponse, NodeHealthSummary,
    },
    refusal,
};
use tonic::{Code, Response, Status};

use super::{
    Api,
    caller::{Caller, key},
    console::unreachable,
    node::present,
    page::Page,
    status,
    view::View,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{self, Fabric},
    link::{CALL_DEADLINE, Client},
};

/// How one node's server does, by its agent's word of now.
pub(super) async fn get(
    api: &Api,
    caller: &Caller,
    request: GetNodeHealthRequest,
) -> Result<GetNodeHealthResponse, Status> {
    let GetNodeHealthRequest { node, readings } = request;
    let snapshot = api.ledger.snapshot();
    let (node, mut agent) = asked(api, caller, &snapshot.fabric, node)?;
    let answer = agent.get_health(agent::GetHealthRequest { readings });
    let answer = answered(api, node, answer).await?;
    // The node as it is after that.
    let snapshot = api.ledger.snapshot();
    let view = View {
        fabric: &snapshot.fabric,
        observed: &api.observed,
    };
    Ok(GetNodeHealthResponse {
        node: snapshot
            .fabric
            .nodes
            .get(&node.name)
            .map(|node| view.node(node)),
        health: answer.health,
    })
}

/// What one node's server is made of, by its agent's word of now.
pub(super) async fn inventory(
    api: &Api,
    caller: &Caller,
    request: GetNodeInventoryRequest,
) -> Result<GetNodeInventoryResponse, Status> {
    let snapshot = api.ledger.snapshot();
    let (node, mut agent) = asked(api, caller, &snapshot.fabric, request.node)?;
    let answer = agent.get_inventory(agent::GetInventoryRequest {});
    let answer = answered(api, node, answer).await?;
    Ok(GetNodeInventoryResponse {
        inventory: answer.inventory,
    })
}

/// How all nodes' servers do: worst first, then by name.
pub(super) fn list(
    api: &Api,
    caller: &Caller,
    request: &ListNodeHealthRequest,
) -> Result<ListNodeHealthResponse, Status> {
    api.authorize(caller, Action::NodeList, &Object::Fabric, "")?;
    let question = format!("health {}", request.unhealthy);
    let page = Page::new(question, request.page_size, &request.page_token)?;
    let snapshot = api.ledger.snapshot();
    let view = View {
        fabric: &snapshot.fabric,
        observed: &api.observed,
    };
    let (mut counts, mut ranked) = (BTreeMap::<String, u32>::new(), Vec::new());
    for word in ["healthy", "degraded", "failing", "unknown"] {
        counts.insert(word.to_owned(), 0);
    }
    for node in snapshot.fabric.nodes.values() {
        let condition = view.condition(node);
        let (severity, word) = rank(condition);
        *counts.entry(word.to_owned()).or_default() += 1;
        if !request.unhealthy || condition != Condition::Healthy {
            ranked.push((Reverse(severity), &node.name, node));
        }
    }
    ranked.sort_unstable_by_key(|(severity, name, _)| (*severity, *name));
    let keyed = ranked.into_iter().map(|(Reverse(severity), name, node)| {
        // As it is sorted: the worst comes first.
        (format!("{} {name}", 9 - severity), node)
    });
    let rest = keyed.filter(|(key, _)| page.after.as_ref().is_none_or(|last| key > last));
    let summaries =
        rest.map(|(key, node)| -> (String, NodeHealthSummary) { (key, view.health(node)) });
    let (nodes, next_page_token) = page.take(summaries);
    Ok(ListNodeHealthResponse {
        nodes,
        next_page_token,
        counts,
    })
}

/// How long a release is wished for, in milliseconds; 0 for the default.
pub(super) fn life_ms(seconds: Option<i64>) -> Result<u64, Status> {
    let Some(seconds) = seconds else {
        return Ok(0);
    };
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(seconds.saturating_mul(1000)),
        _ => Err(status::bad_field("life", "must be 1 minute to 30 days")),
    }
}

/// The worse, the higher, and its word.
const fn rank(condition: Condition) -> (u8, &'static str) {
    match condition {
        Condition::Healthy => (0, "healthy"),
        Condition::Degraded => (1, "degraded"),
        Condition::Unknown | Condition::Unspecified => (2, "unknown"),
        Condition::Failing => (3, "failing"),
    }
}

/// A node that a caller may see, and the client of its agent.
fn asked<'f>(
    api: &Api,
    caller: &Caller,
    fabric: &'f Fabric,
    which: String,
) -> Result<(&'f fabric::Node, Client), Status> {
    let which = key("node", which)?;
    let node = present(fabric, &which)?;
    api.authorize(caller, Action::NodeGet, &about::node(node), &which)?;
    let agent = api.links.client(node.id);
    Ok((node, agent.ok_or_else(|| unreachable(node.name.as_str()))?))
}

/// What an agent answers in time.
async fn answered<T>(
    api: &Api,
    node: &fabric::Node,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    let answer = api
        .within(CALL_DEADLINE, || unreachable(node.name.as_str()), call)
        .await?;
    answer.map(Response::into_inner).map_err(|told| {
        let reason = refusal::reason(&told);
        match (told.code(), reason) {
            // Its own word on what it can't say yet.
            (Code::Unavailable, Some(reason)) => status::unavailable(&reason, told.message()),
            (Code::Unimplemented, _) => {
                let name = &node.name;
                let message = format!("the agent of {name} is of a version that can't tell");
                status::unavailable("AGENT_TOO_OLD", &message)
            }
            _ => unreachable(node.name.as_str()),
        }
    })
}
