//! Adopting nodes after the fabric's record was restored or rebuilt.

use kapok_proto::fabric::v1::{
    self as wire, AdoptNodeRequest, ListDifferencesRequest,
    node_service_client::NodeServiceClient as Nodes,
};

use super::{changed, confirm};
use crate::{
    args::node::Adopt,
    client::Client,
    error::{Doing, Error},
    output::Out,
    view::{
        adoption::{Adoption, Row},
        node::Node,
    },
};

const LOOK: &str = "kapok node differences";

/// Shows what is different.
pub(super) async fn list(client: &Client, out: &mut Out) -> Result<(), Error> {
    let adoption = Adoption::from(ask(client).await?);
    if !out.format().is_for_people() {
        return out.data(&adoption);
    }
    if !adoption.adopting {
        return out.line("every node follows the fabric's record");
    }
    out.list(&adoption.rows(|_| true), client.now())
}

/// Settles nodes' differences as they were shown.
pub(super) async fn adopt(client: &Client, out: &mut Out, adopt: Adopt) -> Result<(), Error> {
    let Adopt {
        nodes,
        all,
        tenant,
        yes,
        request,
    } = adopt;
    let adoption = Adoption::from(ask(client).await?);
    let is_meant = |node: &str| all || nodes.iter().any(|named| named == node);
    let rows: Vec<Row> = adoption.rows(is_meant);
    if out.format().is_for_people() && !rows.is_empty() {
        out.list(&rows, client.now())?;
    }
    confirm(yes, "Settle these differences so?")?;
    let mut meant: Vec<(String, String)> = adoption
        .nodes
        .iter()
        .filter(|node| is_meant(&node.node) && (node.asked || !all))
        .map(|node| (node.node.clone(), node.etag.clone()))
        .collect();
    for node in nodes {
        // One that isn't on the list: the server says why.
        if !adoption.nodes.iter().any(|listed| listed.node == node) {
            meant.push((node, "none".to_owned()));
        }
    }
    let one = meant.len() == 1;
    for (node, etag) in meant {
        let doing = Doing::new(format!("adopt node {node}"), LOOK);
        // A name of the request's can stand for one change alone.
        let request_id = client.request_id(request.request_id.clone().filter(|_| one));
        let request = AdoptNodeRequest {
            node: node.clone(),
            etag: if etag.is_empty() {
                "none".to_owned()
            } else {
                etag
            },
            tenant: tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            request_id: request_id.clone(),
        };
        let adopted = client
            .change(&doing, &request_id, async |channel| {
                Nodes::new(channel).adopt_node(request.clone()).await
            })
            .await?;
        let what = "adopted; it follows the fabric's record again";
        changed(client, out, &Node::from(adopted), &node, what)?;
    }
    let silent = adoption.nodes.iter();
    let silent = silent.filter(|node| all && !node.asked).count();
    if silent > 0 {
        out.remark(&format!(
            "{silent} nodes could not be compared and are still to be adopted: {LOOK}"
        ));
    }
    Ok(())
}

async fn ask(client: &Client) -> Result<wire::ListDifferencesResponse, Error> {
    let doing = Doing::new("compare nodes with the fabric's record", LOOK);
    client
        .read(&doing, async |channel| {
            Nodes::new(channel)
                .list_differences(ListDifferencesRequest {})
                .await
        })
        .await
}
