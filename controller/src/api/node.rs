//! People's nodes.

use std::{collections::BTreeMap, ops::Bound};

use kapok_proto::fabric::v1::{
    AdoptNodeRequest, CordonNodeRequest, DeleteNodeRequest, DeleteNodeResponse,
    EndNodeReleaseRequest, GetNodeHealthRequest, GetNodeHealthResponse, GetNodeInventoryRequest,
    GetNodeInventoryResponse, GetNodeRequest, ListDifferencesRequest, ListDifferencesResponse,
    ListNodeHealthRequest, ListNodeHealthResponse, ListNodesRequest, ListNodesResponse, Node,
    RebindNodeRequest, ReleaseNodeRequest, RevokeNodeRequest, UncordonNodeRequest,
    UpdateNodeRequest, node_service_server::NodeService,
};
use kapok_types::Name;
use prost_types::FieldMask;
use tonic::{Request, Response, Status};

use super::{
    Api, adoption,
    caller::{Caller, absent, key, optional, optional_key, parsed, request_id},
    health, mask,
    page::Page,
    view::View,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{self, Command, Fabric, SiteChange},
    ledger,
};

#[tonic::async_trait]
impl NodeService for Api {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let which = key("node", request.into_inner().node)?;
        let snapshot = self.ledger.snapshot();
        let node = present(&snapshot.fabric, &which)?;
        self.authorize(&caller, Action::NodeGet, &about::node(node), &which)?;
        self.shown(&snapshot.fabric, &which)
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::NodeList, &Object::Fabric, "")?;
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
        let caller = self.caller(&request)?;
        let CordonNodeRequest {
            node,
            reason,
            request_id,
        } = request.into_inner();
        let node = key("node", node)?;
        let command = Command::CordonNode {
            node: node.clone(),
            reason,
        };
        let asked = (Action::NodeCordon, &*node, &*request_id);
        let done = self.change_node(caller, asked, command).await?;
        self.shown(&done.snapshot.fabric, &node)
    }

    async fn uncordon_node(
        &self,
        request: Request<UncordonNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let UncordonNodeRequest { node, request_id } = request.into_inner();
        let node = key("node", node)?;
        let command = Command::UncordonNode { node: node.clone() };
        let asked = (Action::NodeUncordon, &*node, &*request_id);
        let done = self.change_node(caller, asked, command).await?;
        self.shown(&done.snapshot.fabric, &node)
    }

    async fn update_node(
        &self,
        request: Request<UpdateNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let UpdateNodeRequest {
            node,
            vcpu_overcommit_permille,
            address,
            request_id,
            update_mask,
            rack,
            room,
            labels,
            isolation,
        } = request.into_inner();
        let node = key("node", node)?;
        let site = Sited {
            rack,
            room,
            labels,
            isolation,
        };
        let site = update_mask.map(|mask| site.changes(mask)).transpose()?;
        let address = address
            .map(|address| optional_key("address", address))
            .transpose()?;
        let command = Command::UpdateNode {
            node: node.clone(),
            vcpu_overcommit_permille,
            address,
            site: site.unwrap_or_default(),
        };
        let asked = (Action::NodeUpdate, &*node, &*request_id);
        let done = self.change_node(caller, asked, command).await?;
        self.shown(&done.snapshot.fabric, &node)
    }

    async fn rebind_node(
        &self,
        request: Request<RebindNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let RebindNodeRequest { node, request_id } = request.into_inner();
        let node = key("node", node)?;
        let snapshot = self.ledger.snapshot();
        let name = snapshot.fabric.node(&node).map(|node| &node.name);
        let seen = name.and_then(|name| self.observed.node(name));
        let command = Command::RebindNode {
            node: node.clone(),
            parts_differ: seen
                .and_then(|seen| seen.reported.parts)
                .is_some_and(|parts| !parts.changes.is_empty()),
        };
        let asked = (Action::NodeRebind, &*node, &*request_id);
        let done = self.change_node(caller, asked, command).await?;
        self.shown(&done.snapshot.fabric, &node)
    }

    async fn revoke_node(
        &self,
        request: Request<RevokeNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let RevokeNodeRequest {
            node,
            reason,
            request_id,
        } = request.into_inner();
        let node = key("node", node)?;
        let command = Command::RevokeNode {
            node: node.clone(),
            reason,
        };
        let asked = (Action::NodeRevoke, &*node, &*request_id);
        let done = self.change_node(caller, asked, command).await?;
        self.shown(&done.snapshot.fabric, &node)
    }

    async fn get_node_health(
        &self,
        request: Request<GetNodeHealthRequest>,
    ) -> Result<Response<GetNodeHealthResponse>, Status> {
        let caller = self.caller(&request)?;
        health::get(self, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_node_health(
        &self,
        request: Request<ListNodeHealthRequest>,
    ) -> Result<Response<ListNodeHealthResponse>, Status> {
        let caller = self.caller(&request)?;
        health::list(self, &caller, &request.into_inner()).map(Response::new)
    }

    async fn get_node_inventory(
        &self,
        request: Request<GetNodeInventoryRequest>,
    ) -> Result<Response<GetNodeInventoryResponse>, Status> {
        let caller = self.caller(&request)?;
        health::inventory(self, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn release_node(
        &self,
        request: Request<ReleaseNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let ReleaseNodeRequest {
            node,
            reason,
            life,
            request_id,
        } = request.into_inner();
        let node = key("node", node)?;
        let command = Command::ReleaseNode {
            node: node.clone(),
            reason,
            life_ms: health::life_ms(life.map(|life| life.seconds))?,
        };
        let asked = (Action::NodeRelease, &*node, &*request_id);
        let done = self.change_node(caller, asked, command).await?;
        self.shown(&done.snapshot.fabric, &node)
    }

    async fn end_node_release(
        &self,
        request: Request<EndNodeReleaseRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let EndNodeReleaseRequest { node, request_id } = request.into_inner();
        let node = key("node", node)?;
        let command = Command::EndNodeRelease {
            node: node.clone(),
            policy: self.health,
        };
        let asked = (Action::NodeRelease, &*node, &*request_id);
        let done = self.change_node(caller, asked, command).await?;
        self.shown(&done.snapshot.fabric, &node)
    }

    async fn list_differences(
        &self,
        request: Request<ListDifferencesRequest>,
    ) -> Result<Response<ListDifferencesResponse>, Status> {
        let caller = self.caller(&request)?;
        adoption::list(self, &caller).await.map(Response::new)
    }

    async fn adopt_node(
        &self,
        request: Request<AdoptNodeRequest>,
    ) -> Result<Response<Node>, Status> {
        let caller = self.caller(&request)?;
        let (done, which) = adoption::adopt(self, caller, request.into_inner()).await?;
        self.shown(&done.snapshot.fabric, &which)
    }

    async fn delete_node(
        &self,
        request: Request<DeleteNodeRequest>,
    ) -> Result<Response<DeleteNodeResponse>, Status> {
        let caller = self.caller(&request)?;
        let DeleteNodeRequest { node, request_id } = request.into_inner();
        let node = key("node", node)?;
        let command = Command::DeleteNode { node: node.clone() };
        let asked = (Action::NodeDelete, &*node, &*request_id);
        self.change_node(caller, asked, command).await?;
        Ok(Response::new(DeleteNodeResponse {}))
    }
}

impl Api {
    /// Changes a node: the action, the node as it was named, the request's id.
    async fn change_node(
        &self,
        caller: Caller,
        (action, which, id): (Action, &str, &str),
        command: Command,
    ) -> Result<ledger::Done, Status> {
        let id = request_id(id)?;
        let snapshot = self.ledger.snapshot();
        if let Some(node) = snapshot.fabric.node(which) {
            self.authorize(&caller, action, &about::node(node), which)?;
        } else {
            let some = |name: &Name| Object::Node(name.clone());
            self.authorize_absent(&caller, action, some, which)?;
        }
        self.submit(caller, id, command).await
    }

    fn shown(&self, fabric: &Fabric, which: &str) -> Result<Response<Node>, Status> {
        let view = View {
            fabric,
            observed: &self.observed,
        };
        Ok(Response::new(view.whole_node(present(fabric, which)?)))
    }
}

/// What a request says of a node's site.
struct Sited {
    rack: String,
    room: String,
    labels: BTreeMap<String, String>,
    isolation: String,
}

impl Sited {
    /// The changes that a mask names.
    fn changes(&self, mask: FieldMask) -> Result<Vec<SiteChange>, Status> {
        let fields = ["rack", "room", "labels", "labels.NAME", "isolation"];
        mask::changes(Some(mask), &fields, |path| {
            Ok(Some(match path {
                "rack" => SiteChange::Rack(optional("rack", &self.rack)?),
                "room" => SiteChange::Room(optional("room", &self.room)?),
                "isolation" => SiteChange::Isolation(optional("isolation", &self.isolation)?),
                "labels" => SiteChange::Labels(self.labels()?),
                path => match path.split_once('.') {
                    Some(("labels", name)) => {
                        let value = self.labels.get(name).cloned();
                        SiteChange::Label(parsed("labels", name)?, value)
                    }
                    _ => return Ok(None),
                },
            }))
        })
    }

    fn labels(&self) -> Result<BTreeMap<Name, String>, Status> {
        let labels = self.labels.iter();
        labels
            .map(|(name, value)| Ok((parsed("labels", name)?, value.clone())))
            .collect()
    }
}

pub(super) fn present<'f>(fabric: &'f Fabric, which: &str) -> Result<&'f fabric::Node, Status> {
    fabric.node(which).ok_or_else(|| absent("node", which))
}
