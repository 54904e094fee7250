//! `kapok node …`

use kapok_proto::fabric::v1::{
    CordonNodeRequest, DeleteNodeRequest, GetNodeRequest, ListNodesRequest, RebindNodeRequest,
    RevokeNodeRequest, UncordonNodeRequest, UpdateNodeRequest,
    node_service_client::NodeServiceClient as Nodes,
};

use prost_types::FieldMask;

use super::{adoption, changed, confirm, gone, health, mask, token};
use crate::{
    args::{
        OrNone,
        node::{Command, Confirmed, TokenCommand, Update},
    },
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::node::Node,
};

const LOOK: &str = "kapok node ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Ls => list(client, out).await,
        Command::Show { node } => {
            let doing = Doing::new(format!("show node {node}"), LOOK);
            let request = GetNodeRequest { node };
            let found = client
                .read(&doing, async |channel| {
                    Nodes::new(channel).get_node(request.clone()).await
                })
                .await?;
            out.one(&Node::from(found), client.now())
        }
        Command::Cordon {
            node,
            reason,
            request,
        } => {
            let doing = Doing::new(format!("cordon node {node}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = CordonNodeRequest {
                node,
                reason,
                request_id: request_id.clone(),
            };
            let changed = client
                .change(&doing, &request_id, async |channel| {
                    Nodes::new(channel).cordon_node(request.clone()).await
                })
                .await?;
            changed_node(client, out, changed, "cordoned; what runs there stays")
        }
        Command::Uncordon { node, request } => {
            let doing = Doing::new(format!("uncordon node {node}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = UncordonNodeRequest {
                node,
                request_id: request_id.clone(),
            };
            let changed = client
                .change(&doing, &request_id, async |channel| {
                    Nodes::new(channel).uncordon_node(request.clone()).await
                })
                .await?;
            changed_node(client, out, changed, "takes instances again")
        }
        Command::Health { node, readings } => health::node(client, out, node, readings).await,
        Command::Inventory { node } => health::inventory(client, out, node).await,
        Command::Release(release) => {
            let (node, what) = health::release(client, release).await?;
            changed_node(client, out, node, what)
        }
        Command::Differences => adoption::list(client, out).await,
        Command::Adopt(nodes) => adoption::adopt(client, out, nodes).await,
        Command::Token(command) => tokens(client, out, command).await,
        Command::Update(change) => update(client, out, change).await,
        Command::Rebind(which) => rebind(client, out, which).await,
        Command::Revoke { node, reason } => revoke(client, out, node, reason).await,
        Command::Rm(which) => remove(client, out, which).await,
    }
}

fn changed_node(
    client: &Client,
    out: &mut Out,
    node: kapok_proto::fabric::v1::Node,
    what: &str,
) -> Result<(), Error> {
    let name = node.name.clone();
    changed(client, out, &Node::from(node), &name, what)
}

async fn tokens(client: &Client, out: &mut Out, command: TokenCommand) -> Result<(), Error> {
    match command {
        TokenCommand::Create {
            name,
            life,
            request,
        } => token::create(client, out, format!("node/{name}"), Some(life), request).await,
        TokenCommand::Ls => token::list(client, out, "node/".to_owned()).await,
        TokenCommand::Rm(rm) => token::remove(client, out, rm).await,
    }
}

async fn update(client: &Client, out: &mut Out, update: Update) -> Result<(), Error> {
    let doing = Doing::new(format!("change node {}", update.node), LOOK);
    let request_id = client.request_id(update.request.request_id);
    let mut paths = mask(&[
        ("rack", update.rack.is_some()),
        ("room", update.room.is_some()),
        ("isolation", update.isolation.is_some()),
    ])
    .paths;
    let labels = update.labels.iter();
    paths.extend(labels.map(|label| format!("labels.{}", label.name)));
    let labels = update.labels.into_iter();
    let labels = labels.filter_map(|label| Some((label.name.to_string(), label.value?)));
    let text = |name: Option<OrNone>| name.map(OrNone::wire).unwrap_or_default();
    let request = UpdateNodeRequest {
        node: update.node,
        vcpu_overcommit_permille: update.overcommit,
        address: update.address,
        request_id: request_id.clone(),
        update_mask: (!paths.is_empty()).then_some(FieldMask { paths }),
        rack: text(update.rack),
        room: text(update.room),
        labels: labels.collect(),
        isolation: text(update.isolation),
    };
    let changed = client
        .change(&doing, &request_id, async |channel| {
            Nodes::new(channel).update_node(request.clone()).await
        })
        .await?;
    changed_node(client, out, changed, "changed")
}

async fn rebind(client: &Client, out: &mut Out, which: Confirmed) -> Result<(), Error> {
    let node = which.node;
    confirm(
        which.yes,
        &format!("Take the present hardware of {node} for the node's?"),
    )?;
    let doing = Doing::new(format!("rebind node {node}"), LOOK);
    let request_id = client.request_id(which.request.request_id);
    let request = RebindNodeRequest {
        node,
        request_id: request_id.clone(),
    };
    let changed = client
        .change(&doing, &request_id, async |channel| {
            Nodes::new(channel).rebind_node(request.clone()).await
        })
        .await?;
    changed_node(client, out, changed, "its present hardware is its own now")
}

async fn revoke(
    client: &Client,
    out: &mut Out,
    which: Confirmed,
    reason: String,
) -> Result<(), Error> {
    let node = which.node;
    confirm(
        which.yes,
        &format!("Believe nobody with the key of {node} any more?"),
    )?;
    let doing = Doing::new(format!("revoke node {node}"), LOOK);
    let request_id = client.request_id(which.request.request_id);
    let request = RevokeNodeRequest {
        node,
        reason,
        request_id: request_id.clone(),
    };
    let changed = client
        .change(&doing, &request_id, async |channel| {
            Nodes::new(channel).revoke_node(request.clone()).await
        })
        .await?;
    let what = "revoked; its guests run on, a new token brings it back";
    changed_node(client, out, changed, what)
}

async fn remove(client: &Client, out: &mut Out, which: Confirmed) -> Result<(), Error> {
    let node = which.node;
    confirm(which.yes, &format!("Forget node {node}?"))?;
    let doing = Doing::new(format!("remove node {node}"), LOOK);
    let request_id = client.request_id(which.request.request_id);
    let request = DeleteNodeRequest {
        node: node.clone(),
        request_id: request_id.clone(),
    };
    client
        .change(&doing, &request_id, async |channel| {
            Nodes::new(channel).delete_node(request.clone()).await
        })
        .await?;
    gone(out, &node, "removed")
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Error> {
    let doing = Doing::new("list nodes", LOOK);
    let nodes = pages(&doing, async |page_token| {
        let request = ListNodesRequest {
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Nodes::new(channel).list_nodes(request.clone()).await
            })
            .await?;
        Ok((page.nodes, page.next_page_token))
    })
    .await?;
    let nodes: Vec<_> = nodes.into_iter().map(Node::from).collect();
    out.list(&nodes, client.now())
}
