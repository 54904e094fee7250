//! People's instances.

use std::{collections::BTreeMap, ops::Bound};

use kapok_proto::{
    convert,
    fabric::v1::{
        CreateInstanceRequest, DeleteInstanceRequest, ExplainInstanceRequest,
        ExplainInstanceResponse, GetInstanceRequest, Instance, ListInstancesRequest,
        ListInstancesResponse, OpenConsoleRequest, OpenConsoleResponse, Operation,
        RestartInstanceRequest, StartInstanceRequest, StopInstanceRequest,
        instance_service_server::InstanceService,
    },
};
use kapok_types::{Bytes, MemoryMib, Name, Vcpus, instance::Power};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Answers, Api,
    caller::{Caller, key, optional_key, parsed, request_id},
    console, explain,
    page::Page,
    status,
    view::View,
};
use crate::fabric::{self, Command, Denied, Event, Fabric, Outcome, command::CreateInstance};

#[tonic::async_trait]
impl InstanceService for Api {
    type OpenConsoleStream = Answers<OpenConsoleResponse>;

    async fn create_instance(
        &self,
        request: Request<CreateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = Caller::of(&request);
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let validate_only = wire.validate_only;
        let command = Command::CreateInstance(create(wire)?);
        if validate_only {
            let events = self.ledger.consider(caller.by, command);
            let events = events.map_err(|denied| status::denied(&denied))?;
            return self.would_be(&events);
        }
        self.change(caller, id, command).await
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<Instance>, Status> {
        let which = key("instance", request.into_inner().instance)?;
        let snapshot = self.ledger.snapshot();
        let view = View {
            fabric: &snapshot.fabric,
            observed: &self.observed,
        };
        Ok(Response::new(
            view.instance(instance(&snapshot.fabric, &which)?),
        ))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let ListInstancesRequest {
            node,
            page_size,
            page_token,
        } = request.into_inner();
        let node = optional_key("node", node)?;
        let page = Page::new(format!("instances {node}"), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<Name>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let view = View {
            fabric,
            observed: &self.observed,
        };
        let shown = |(name, id): (&Name, &kapok_types::InstanceId)| {
            Some((name.to_string(), view.instance(fabric.instances.get(id)?)))
        };
        let (instances, next_page_token) = if node.is_empty() {
            let rest = fabric.instance_names.range((from, Bound::Unbounded));
            page.take(rest.filter_map(shown))
        } else {
            let there = on_node(fabric, &node)?;
            page.take(there.range((from, Bound::Unbounded)).filter_map(shown))
        };
        Ok(Response::new(ListInstancesResponse {
            instances,
            next_page_token,
        }))
    }

    async fn start_instance(
        &self,
        request: Request<StartInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = Caller::of(&request);
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        self.change(caller, id, Command::StartInstance { instance })
            .await
    }

    async fn stop_instance(
        &self,
        request: Request<StopInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = Caller::of(&request);
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        self.change(caller, id, Command::StopInstance { instance })
            .await
    }

    async fn restart_instance(
        &self,
        request: Request<RestartInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = Caller::of(&request);
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        self.change(caller, id, Command::RestartInstance { instance })
            .await
    }

    async fn delete_instance(
        &self,
        request: Request<DeleteInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = Caller::of(&request);
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        let etag = optional_key("etag", wire.etag)?;
        self.change(caller, id, Command::DeleteInstance { instance, etag })
            .await
    }

    async fn explain_instance(
        &self,
        request: Request<ExplainInstanceRequest>,
    ) -> Result<Response<ExplainInstanceResponse>, Status> {
        let caller = Caller::of(&request);
        explain::answer(self, caller, request.into_inner()).map(Response::new)
    }

    async fn open_console(
        &self,
        request: Request<Streaming<OpenConsoleRequest>>,
    ) -> Result<Response<Answers<OpenConsoleResponse>>, Status> {
        console::open(self, request.into_inner())
            .await
            .map(Response::new)
    }
}

impl Api {
    async fn change(
        &self,
        caller: Caller,
        request_id: Option<String>,
        command: Command,
    ) -> Result<Response<Operation>, Status> {
        let done = self.submit(caller, request_id, command).await?;
        let Outcome::Operation(id) = done.outcome else {
            // Another kind of command had this request id: its content would differ.
            return Err(Status::internal("the change has no operation"));
        };
        Ok(Response::new(self.operation(&done.snapshot.fabric, id)?))
    }

    /// The operation that a dry run would have begun: without an id, for there is none.
    fn would_be(&self, events: &[Event]) -> Result<Response<Operation>, Status> {
        let started = events.iter().find_map(|event| match event {
            Event::OperationStarted { operation } => Some(operation),
            _ => None,
        });
        let started = started.ok_or_else(|| Status::internal("the change has no operation"))?;
        let snapshot = self.ledger.snapshot();
        let view = View {
            fabric: &snapshot.fabric,
            observed: &self.observed,
        };
        let placed = events.iter().find_map(|event| match event {
            Event::IncarnationPlaced { incarnation, .. } => Some(view.node_name(incarnation.node)),
            _ => None,
        });
        let detail = placed
            .map(|node| format!("would be placed on {node}"))
            .unwrap_or_default();
        let (id, instance_id) = (String::new(), String::new());
        Ok(Response::new(Operation {
            id,
            instance_id,
            detail,
            ..view.operation(started)
        }))
    }
}

/// A wish as it came, as one that the fabric can decide on. Limits on numbers are `decide`'s.
pub(super) fn create(wire: CreateInstanceRequest) -> Result<CreateInstance, Status> {
    let run_policy = convert::run_policy(wire.run_policy)
        .map_err(|violation| status::bad_fields(&[violation]))?;
    Ok(CreateInstance {
        name: parsed("name", &wire.name)?,
        image: key("image", wire.image)?,
        vcpus: Vcpus(wire.vcpus),
        memory: MemoryMib(wire.memory_mib),
        root_disk: (wire.root_disk_bytes != 0).then_some(Bytes(wire.root_disk_bytes)),
        run_policy,
        power: if wire.stopped {
            Power::Stopped
        } else {
            Power::Running
        },
    })
}

/// An instance by name or id.
pub(super) fn instance<'f>(
    fabric: &'f Fabric,
    which: &str,
) -> Result<&'f fabric::Instance, Status> {
    let absent = || {
        status::denied(&Denied::Absent {
            kind: "instance",
            which: which.to_owned(),
        })
    };
    fabric.instance(which).ok_or_else(absent)
}

/// The instances with a life on a node, by name.
fn on_node(
    fabric: &Fabric,
    which: &str,
) -> Result<BTreeMap<Name, kapok_types::InstanceId>, Status> {
    let absent = || {
        status::denied(&Denied::Absent {
            kind: "node",
            which: which.to_owned(),
        })
    };
    let node = fabric.node(which).ok_or_else(absent)?;
    let there = node
        .enrolled
        .as_ref()
        .and_then(|enrolled| fabric.on_node.get(&enrolled.id));
    let instances = there.into_iter().flat_map(|there| there.values());
    Ok(instances
        .filter_map(|id| fabric.instances.get(id))
        .map(|instance| (instance.name.clone(), instance.id))
        .collect())
}
