//! `kapok health`, and what is asked of one node's server

use kapok_proto::fabric::v1::{
    EndNodeReleaseRequest, GetNodeHealthRequest, GetNodeInventoryRequest, ListNodeHealthRequest,
    Node, ReleaseNodeRequest, node_service_client::NodeServiceClient as Nodes,
};

use crate::{
    args::{health::Health, node::Release},
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::{
        health::{FabricHealth, NodeHealth},
        inventory::Inventory,
    },
};

const LOOK: &str = "kapok node ls";

/// Shows how all nodes do.
pub(super) async fn run(client: &Client, out: &mut Out, which: Health) -> Result<(), Error> {
    let doing = Doing::new("ask for the nodes' health", "");
    let mut counts = None;
    let nodes = pages(&doing, async |page_token| {
        let request = ListNodeHealthRequest {
            page_size: PAGE,
            page_token,
            unhealthy: !which.all,
        };
        let page = client
            .read(&doing, async |channel| {
                Nodes::new(channel).list_node_health(request.clone()).await
            })
            .await?;
        counts.get_or_insert(page.counts);
        Ok((page.nodes, page.next_page_token))
    })
    .await?;
    let health = FabricHealth::new(counts.unwrap_or_default(), nodes);
    if out.format().is_for_people() {
        out.raw(health.text(client.now()).as_bytes())
    } else {
        out.data(&health)
    }
}

/// Shows how one node does.
pub(super) async fn node(
    client: &Client,
    out: &mut Out,
    node: String,
    readings: bool,
) -> Result<(), Error> {
    let doing = Doing::new(format!("ask for the health of node {node}"), LOOK);
    let request = GetNodeHealthRequest { node, readings };
    let answer = client
        .read(&doing, async |channel| {
            Nodes::new(channel).get_node_health(request.clone()).await
        })
        .await?;
    let health = NodeHealth::from(answer);
    if out.format().is_for_people() {
        out.raw(health.text(client.now()).as_bytes())
    } else {
        out.data(&health)
    }
}

/// Shows what one node's server is made of.
pub(super) async fn inventory(client: &Client, out: &mut Out, node: String) -> Result<(), Error> {
    let doing = Doing::new(format!("ask for the inventory of node {node}"), LOOK);
    let request = GetNodeInventoryRequest { node };
    let answer = client
        .read(&doing, async |channel| {
            Nodes::new(channel)
                .get_node_inventory(request.clone())
                .await
        })
        .await?;
    let inventory = Inventory::from(answer.inventory.unwrap_or_default());
    if out.format().is_for_people() {
        let wide = out.format() == crate::output::Format::Wide;
        out.raw(inventory.text(client.now(), wide).as_bytes())
    } else {
        out.data(&inventory)
    }
}

/// Puts a word before a node's verdicts, or takes it back. The node, and what became of it.
pub(super) async fn release(
    client: &Client,
    release: Release,
) -> Result<(Node, &'static str), Error> {
    let Release {
        node,
        reason,
        life,
        end,
        request,
    } = release;
    let request_id = client.request_id(request.request_id);
    if end {
        let doing = Doing::new(format!("end the release of node {node}"), LOOK);
        let request = EndNodeReleaseRequest {
            node,
            request_id: request_id.clone(),
        };
        let changed = client
            .change(&doing, &request_id, async |channel| {
                Nodes::new(channel).end_node_release(request.clone()).await
            })
            .await?;
        return Ok((changed, "its verdicts decide again"));
    }
    let doing = Doing::new(format!("release node {node}"), LOOK);
    let request = ReleaseNodeRequest {
        node,
        reason: reason.unwrap_or_default(),
        life: prost_types::Duration::try_from(life).ok(),
        request_id: request_id.clone(),
    };
    let changed = client
        .change(&doing, &request_id, async |channel| {
            Nodes::new(channel).release_node(request.clone()).await
        })
        .await?;
    Ok((changed, "released; it takes instances until that ends"))
}
