//! People's instances.

use std::collections::BTreeSet;

use kapok_proto::{
    common::v1 as common,
    convert,
    fabric::v1::{
        CreateConsoleTicketRequest, CreateConsoleTicketResponse, CreateInstanceRequest,
        CreateInstancesRequest, CreateInstancesResponse, DeleteInstanceRequest,
        ExplainInstanceRequest, ExplainInstanceResponse, GetInstanceRequest, Instance,
        ListInstancesRequest, ListInstancesResponse, OpenConsoleRequest, OpenConsoleResponse,
        Operation, ResizeInstanceRequest, RestartInstanceRequest, StartInstanceRequest,
        StopInstanceRequest, UpdateInstanceRequest, instance_service_server::InstanceService,
    },
};
use kapok_types::{Bytes, InstanceId, MemoryMib, Name, Needs, Vcpus, instance::Power};
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::{
    Answers, Api, batch,
    caller::{Caller, absent, key, optional, optional_key, parsed, request_id},
    console, explain, mask,
    page::{Page, place},
    resize, status,
    view::View,
};
use crate::{
    authz::{Action, about},
    fabric::{self, Command, Event, Fabric, Outcome, command::CreateInstance},
};

#[tonic::async_trait]
impl InstanceService for Api {
    type OpenConsoleStream = Answers<OpenConsoleResponse>;

    async fn create_instance(
        &self,
        request: Request<CreateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let validate_only = wire.validate_only;
        let wish = create(wire)?;
        let caller = self.may_create(caller, &wish)?;
        let command = Command::CreateInstance(wish);
        if validate_only {
            return self.dry_run(&caller, command);
        }
        self.change(caller, id, command).await
    }

    async fn create_instances(
        &self,
        request: Request<CreateInstancesRequest>,
    ) -> Result<Response<CreateInstancesResponse>, Status> {
        let caller = self.caller(&request)?;
        batch::create(self, caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn update_instance(
        &self,
        request: Request<UpdateInstanceRequest>,
    ) -> Result<Response<Instance>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        let etag = optional_key("etag", wire.etag)?;
        let mut systems = mask::changes(wire.update_mask, &["system"], |field| match field {
            "system" => parsed::<Name>(field, &wire.system).map(Some),
            _ => Ok(None),
        })?;
        let system = systems.pop();
        let system = system.ok_or_else(|| status::bad_field("update_mask", "must be stated"))?;
        let caller = self.may_change(caller, Action::InstanceUpdate, &instance)?;
        let asking = caller.clone();
        let command = Command::ChangeInstanceSystem {
            instance: instance.clone(),
            system,
            etag,
        };
        let done = self.submit(caller, id, command).await?;
        let view = View {
            fabric: &done.snapshot.fabric,
            observed: &self.observed,
        };
        let found = view.fabric.instance(&instance, &asking.home);
        let found = found.ok_or_else(|| absent("instance", &instance))?;
        Ok(Response::new(view.instance(found)))
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<Instance>, Status> {
        let caller = self.caller(&request)?;
        let which = key("instance", request.into_inner().instance)?;
        let snapshot = self.ledger.snapshot();
        let view = View {
            fabric: &snapshot.fabric,
            observed: &self.observed,
        };
        let found = self.instance(&snapshot.fabric, &caller, Action::InstanceGet, &which)?;
        Ok(Response::new(view.instance(found)))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let caller = self.caller(&request)?;
        let ListInstancesRequest {
            node,
            page_size,
            page_token,
            tenant,
            system,
        } = request.into_inner();
        let node = optional_key("node", node)?;
        let system = optional_key("system", system)?;
        let below = optional::<Name>("tenant", &tenant)?;
        let question = format!("instances {node} {tenant} {system}");
        let page = Page::new(question, page_size, &page_token)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let view = View {
            fabric,
            observed: &self.observed,
        };
        let there = match node.as_str() {
            "" => None,
            node => Some(self.on_node(fabric, &caller, node)?),
        };
        let within = match system.as_str() {
            "" => None,
            which => Some(self.system(fabric, &caller, Action::SystemGet, which)?),
        };
        let below = below.or_else(|| Some(within?.tenant.clone()));
        let places = self.places(
            fabric,
            &caller,
            Action::InstanceList,
            below.as_ref(),
            &fabric.instance_names,
            page.after.as_deref(),
        )?;
        let wanted = places.filter(|(_, id)| there.as_ref().is_none_or(|there| there.contains(id)));
        let shown = wanted.filter_map(|(called, id)| {
            let instance = fabric.instances.get(id)?;
            let of = (&instance.tenant, &instance.system);
            if within.is_some_and(|within| (&within.tenant, &within.name) != of) {
                return None;
            }
            let seen = self.may(&caller, Action::InstanceGet, &about::instance(instance));
            seen.then(|| (place(called), view.instance(instance)))
        });
        let (instances, next_page_token) = page.take(shown);
        Ok(Response::new(ListInstancesResponse {
            instances,
            next_page_token,
        }))
    }

    async fn start_instance(
        &self,
        request: Request<StartInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        let caller = self.may_change(caller, Action::InstanceStart, &instance)?;
        self.change(caller, id, Command::StartInstance { instance })
            .await
    }

    async fn stop_instance(
        &self,
        request: Request<StopInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        let caller = self.may_change(caller, Action::InstanceStop, &instance)?;
        self.change(caller, id, Command::StopInstance { instance })
            .await
    }

    async fn restart_instance(
        &self,
        request: Request<RestartInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        let caller = self.may_change(caller, Action::InstanceRestart, &instance)?;
        self.change(caller, id, Command::RestartInstance { instance })
            .await
    }

    async fn resize_instance(
        &self,
        request: Request<ResizeInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request)?;
        resize::answer(self, caller, request.into_inner()).await
    }

    async fn delete_instance(
        &self,
        request: Request<DeleteInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let instance = key("instance", wire.instance)?;
        let etag = optional_key("etag", wire.etag)?;
        let caller = self.may_change(caller, Action::InstanceDelete, &instance)?;
        self.change(caller, id, Command::DeleteInstance { instance, etag })
            .await
    }

    async fn explain_instance(
        &self,
        request: Request<ExplainInstanceRequest>,
    ) -> Result<Response<ExplainInstanceResponse>, Status> {
        let caller = self.caller(&request)?;
        explain::answer(self, caller, request.into_inner()).map(Response::new)
    }

    async fn create_console_ticket(
        &self,
        request: Request<CreateConsoleTicketRequest>,
    ) -> Result<Response<CreateConsoleTicketResponse>, Status> {
        let caller = self.caller(&request)?;
        let which = key("instance", request.into_inner().instance)?;
        console::grant(self, caller, &which)
            .await
            .map(Response::new)
    }

    async fn open_console(
        &self,
        request: Request<Streaming<OpenConsoleRequest>>,
    ) -> Result<Response<Answers<OpenConsoleResponse>>, Status> {
        let caller = self.caller(&request)?;
        console::open(self, caller, request.into_inner())
            .await
            .map(Response::new)
    }
}

impl Api {
    /// An instance that a caller names, if they may do this with it. One that they may not see is
    /// refused as one that isn't there.
    pub(super) fn instance<'f>(
        &self,
        fabric: &'f Fabric,
        caller: &Caller,
        action: Action,
        which: &str,
    ) -> Result<&'f fabric::Instance, Status> {
        let found = fabric.instance(which, &caller.home);
        let found = found.ok_or_else(|| absent("instance", which))?;
        self.authorize(caller, action, &about::instance(found), which)?;
        Ok(found)
    }

    /// Refuses a caller who may not do this with an instance, whether it is there or not.
    pub(super) fn may_change(
        &self,
        mut caller: Caller,
        action: Action,
        which: &str,
    ) -> Result<Caller, Status> {
        let snapshot = self.ledger.snapshot();
        match snapshot.fabric.instance(which, &caller.home) {
            Some(found) => {
                self.authorize(&caller, action, &about::instance(found), which)?;
                caller.reach(&found.tenant);
            }
            None => self.authorize_absent(&caller, action, about::some_instance, which)?,
        }
        Ok(caller)
    }

    /// Refuses a caller who may not create this there, or not from this image or of this flavor.
    pub(super) fn may_create(
        &self,
        mut caller: Caller,
        wish: &CreateInstance,
    ) -> Result<Caller, Status> {
        let tenant = wish.tenant.clone().unwrap_or_else(|| caller.home.clone());
        let object = about::tenant(&tenant);
        self.authorize(&caller, Action::InstanceCreate, &object, tenant.as_str())?;
        let snapshot = self.ledger.snapshot();
        if let Some(image) = snapshot.fabric.image(&wish.image, &tenant) {
            let object = about::image(image);
            self.authorize(&caller, Action::ImageGet, &object, &wish.image)?;
        }
        if let Some(name) = &wish.flavor
            && let Some(flavor) = snapshot.fabric.flavor(name, &tenant)
        {
            let object = about::flavor(flavor);
            self.authorize(&caller, Action::FlavorGet, &object, name.as_str())?;
        }
        for name in &wish.groups {
            if let Some(group) = snapshot.fabric.groups.get(&(tenant.clone(), name.clone())) {
                let object = about::group(group);
                self.authorize(&caller, Action::GroupGet, &object, name.as_str())?;
            }
        }
        caller.reach(&tenant);
        Ok(caller)
    }

    /// The instances with a life on a node that the caller may see.
    fn on_node(
        &self,
        fabric: &Fabric,
        caller: &Caller,
        which: &str,
    ) -> Result<BTreeSet<InstanceId>, Status> {
        let node = fabric.node(which).ok_or_else(|| absent("node", which))?;
        self.authorize(caller, Action::NodeGet, &about::node(node), which)?;
        let there = fabric.on_node.get(&node.id);
        Ok(there
            .into_iter()
            .flat_map(|there| there.values())
            .copied()
            .collect())
    }

    pub(super) async fn change(
        &self,
        caller: Caller,
        request_id: Option<String>,
        command: Command,
    ) -> Result<Response<Operation>, Status> {
        let done = self.submit(caller, request_id, command).await?;
        let Outcome::Operation(id) = done.outcome else {
            // Another kind of command had this request id: its content would differ.
            return Err(no_operation());
        };
        info!(operation = %id, "accepted");
        Ok(Response::new(self.operation(&done.snapshot.fabric, id)?))
    }

    /// The operation that a command would begin, in place of [`Api::change`].
    pub(super) fn dry_run(
        &self,
        caller: &Caller,
        command: Command,
    ) -> Result<Response<Operation>, Status> {
        let begun = self.would_begin(caller, command)?.into_iter().next();
        begun.map(Response::new).ok_or_else(no_operation)
    }

    /// The operations that a command would begin: without ids, for there are none.
    pub(super) fn would_begin(
        &self,
        caller: &Caller,
        command: Command,
    ) -> Result<Vec<Operation>, Status> {
        let events = self.ledger.consider(caller.origin(), command);
        let events = events.map_err(|denied| status::denied(&denied))?;
        let snapshot = self.ledger.snapshot();
        let view = View {
            fabric: &snapshot.fabric,
            observed: &self.observed,
        };
        let mut placed = None;
        let mut begun = Vec::new();
        for event in &events {
            match event {
                Event::IncarnationPlaced { incarnation, .. } => {
                    placed = Some(view.node_name(incarnation.node));
                }
                Event::OperationStarted { operation } => {
                    let there = placed.take();
                    let detail = there.map(|node| format!("would be placed on {node}"));
                    begun.push(Operation {
                        id: String::new(),
                        instance_id: String::new(),
                        detail: detail.unwrap_or_default(),
                        ..view.operation(operation)
                    });
                }
                _ => {}
            }
        }
        Ok(begun)
    }
}

fn no_operation() -> Status {
    Status::internal("the change has no operation")
}

/// A wish as it came, as one that the fabric can decide on. Limits on numbers are `decide`'s.
pub(super) fn create(wire: CreateInstanceRequest) -> Result<CreateInstance, Status> {
    let run_policy = convert::run_policy(wire.run_policy)
        .map_err(|violation| status::bad_fields(&[violation]))?;
    Ok(CreateInstance {
        tenant: optional("tenant", &wire.tenant)?,
        name: parsed("name", &wire.name)?,
        image: key("image", wire.image)?,
        system: optional("system", &wire.system)?,
        flavor: optional("flavor", &wire.flavor)?,
        vcpus: Vcpus(wire.vcpus),
        memory: MemoryMib(wire.memory_mib),
        root_disk: (wire.root_disk_bytes != 0).then_some(Bytes(wire.root_disk_bytes)),
        run_policy,
        power: if wire.stopped {
            Power::Stopped
        } else {
            Power::Running
        },
        needs: needs(wire.needs.as_ref())?,
        groups: groups(&wire.groups)?,
    })
}

fn groups(given: &[String]) -> Result<BTreeSet<Name>, Status> {
    let names = given.iter().map(|name| parsed("groups", name));
    names.collect()
}

/// Needs as they came, in their spelling. Limits are `decide`'s.
pub(super) fn needs(wire: Option<&common::Needs>) -> Result<Needs, Status> {
    let read = wire.map(Needs::try_from).transpose();
    read.map(Option::unwrap_or_default)
        .map_err(|violation| status::bad_fields(&[violation.under("needs")]))
}
