//! People's nodes.

use std::ops::Bound;

use kapok_proto::fabric::v1::{
    CordonNodeRequest, GetNodeRequest, ListNodesRequest, ListNodesResponse, Node,
    UncordonNodeRequest, node_service_server::NodeService,
};
use kapok_types::Name;
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, key, parsed, request_id},
    page::Page,
    status,
    view::View,
};
use crate::fabric::{Command, Denied, Fabric};

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        let which = key("node", request.into_inner().node)?;
        self.node(&self.ledger.snapshot().fabric, &which)
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let ListNodesRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let page = Page::new("nodes".into(), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<Name>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let snapshot = self.ledger.snapshot();
        let view = View {
            fabric: &snapshot.fabric,
            observed: &self.observed,
        };
        let rest = snapshot.fabric.nodes.range((from, Bound::Unbounded));
        let (nodes, next_page_token) =
            page.take(rest.map(|(name, node)| (name.to_string(), view.node(node))));
        Ok(Response::new(ListNodesResponse {
            nodes,
            next_page_token,
        }))
    }

    async fn cordon_node(
        &self,
        request: Request<CordonNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = Caller::of(&request);
        let CordonNodeRequest {
            node,
            reason,
            request_id,
        } = request.into_inner();
        let node = key("node", node)?;
        if reason.chars().any(char::is_control) {
            return Err(status::bad_field("reason", "has control characters"));
        }
        let command = Command::CordonNode {
            node: node.clone(),
            reason,
        };
        self.change_node(caller, &node, &request_id, command).await
    }

    async fn uncordon_node(
        &self,
        request: Request<UncordonNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = Caller::of(&request);
        let UncordonNodeRequest { node, request_id } = request.into_inner();
        let node = key("node", node)?;
        let command = Command::UncordonNode { node: node.clone() };
        self.change_node(caller, &node, &request_id, command).await
    }
}

impl Api {
    async fn change_node(
        &self,
        caller: Caller,
        node: &str,
        id: &str,
        command: Command,
    ) -> Result<Response<Node>, Status> {
        let id = request_id(id)?;
        let done = self.submit(caller, id, command).await?;
        self.node(&done.snapshot.fabric, node)
    }

    fn node(&self, fabric: &Fabric, which: &str) -> Result<Response<Node>, Status> {
        let absent = || {
            status::denied(&Denied::Absent {
                kind: "node",
                which: which.to_owned(),
            })
        };
        let node = fabric.node(which).ok_or_else(absent)?;
        Ok(Response::new(
            View {
                fabric,
                observed: &self.observed,
            }
            .node(node),
        ))
    }
}
