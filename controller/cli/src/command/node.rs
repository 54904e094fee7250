//! `kapok node …`

use kapok_proto::fabric::v1::{
    CordonNodeRequest, GetNodeRequest, ListNodesRequest, UncordonNodeRequest,
    node_service_client::NodeServiceClient as Nodes,
};

use crate::{
    args::node::Command,
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    human::plain,
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
    }
}

fn changed_node(
    client: &Client,
    out: &mut Out,
    node: kapok_proto::fabric::v1::Node,
    what: &str,
) -> Result<(), Error> {
    if out.format().is_for_people() {
        out.line(&format!("{}: {what}", plain(&node.name)))
    } else {
        out.one(&Node::from(node), client.now())
    }
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
