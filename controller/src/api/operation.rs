//! People's operations.

use std::{collections::BTreeMap, ops::Bound, time::Duration};

use kapok_proto::fabric::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
    Operation, WatchOperationRequest, operation_service_server::OperationService,
};
use kapok_types::OperationId;
use tonic::{Request, Response, Status};

use super::{
    Answers, Api, answers,
    caller::{Caller, absent, optional_key, parsed, request_id},
    page::Page,
    view::View,
};
use crate::{
    authz::{Action, about},
    fabric::{self, Command, Fabric},
};

/// Pause between two messages of a watch: what changes meanwhile is one change.
const COALESCE: Duration = Duration::from_millis(100);

#[tonic::async_trait]
impl OperationService for Api {
    type WatchOperationStream = Answers<Operation>;

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = self.caller(&request)?;
        let id = parsed("operation", &request.into_inner().operation)?;
        let snapshot = self.ledger.snapshot();
        self.may_see(&snapshot.fabric, &caller, id)?;
        Ok(Response::new(self.operation(&snapshot.fabric, id)?))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let caller = self.caller(&request)?;
        let ListOperationsRequest {
            instance,
            running_only,
            page_size,
            page_token,
        } = request.into_inner();
        let which = optional_key("instance", instance)?;
        let page = Page::new(
            format!("operations {running_only} {which}"),
            page_size,
            &page_token,
        )?;
        let to = match &page.after {
            Some(last) => Bound::Excluded(parsed::<OperationId>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let view = View {
            fabric,
            observed: &self.observed,
        };
        // Operations outlive their instance: then only its name or id, as they wrote it, is left.
        let instance = fabric
            .instance(&which, &caller.home)
            .map(|instance| instance.id);
        let named = format!("{}/{which}", caller.home);
        let wanted = |operation: &fabric::Operation| {
            which.is_empty()
                || if let Some(id) = instance {
                    operation.instance == id
                } else {
                    let called = format!("{}/{}", operation.tenant, operation.instance_name);
                    called == which || called == named || operation.instance.to_string() == which
                }
        };
        // Each tenant is asked about once, then only what is shown.
        let mut listed = BTreeMap::new();
        let mut seen = |operation: &fabric::Operation| {
            let tenant = &operation.tenant;
            let listed = *listed.entry(tenant.clone()).or_insert_with(|| {
                self.may(&caller, Action::OperationList, &about::tenant(tenant))
            });
            listed && self.may(&caller, Action::OperationGet, &about::operation(operation))
        };
        let range = (Bound::Unbounded, to);
        let all: Box<dyn Iterator<Item = &fabric::Operation> + Send> = if running_only {
            let running = fabric.running.range(range).rev();
            Box::new(running.filter_map(|(id, _)| fabric.operations.get(id)))
        } else {
            Box::new(
                fabric
                    .operations
                    .range(range)
                    .rev()
                    .map(|(_, operation)| operation),
            )
        };
        let shown = all.filter(|operation| wanted(operation) && seen(operation));
        let (operations, next_page_token) =
            page.take(shown.map(|one| (one.id.to_string(), view.operation(one))));
        Ok(Response::new(ListOperationsResponse {
            operations,
            next_page_token,
        }))
    }

    async fn watch_operation(
        &self,
        request: Request<WatchOperationRequest>,
    ) -> Result<Response<Answers<Operation>>, Status> {
        let caller = self.caller(&request)?;
        let id = parsed("operation", &request.into_inner().operation)?;
        // Subscribed before the first look: nothing falls in between.
        let (mut intent, mut reports) = (self.ledger.changes(), self.observed.changes());
        self.may_see(&self.ledger.snapshot().fabric, &caller, id)?;
        let api = self.clone();
        let stream = async_stream::stream! {
            let mut last = None;
            loop {
                intent.borrow_and_update();
                reports.borrow_and_update();
                let Ok(now) = api.operation(&api.ledger.snapshot().fabric, id) else {
                    // Forgotten meanwhile: it ended long ago.
                    return;
                };
                let ended = now.end_time.is_some();
                if last.as_ref() != Some(&now) {
                    last = Some(now.clone());
                    yield Ok(now);
                }
                if ended {
                    return;
                }
                let changed = tokio::select! {
                    biased;
                    () = api.stop.cancelled() => false,
                    changed = intent.changed() => changed.is_ok(),
                    changed = reports.changed() => changed.is_ok(),
                };
                if !changed {
                    yield Err(Api::stopping());
                    return;
                }
                tokio::time::sleep(COALESCE).await;
            }
        };
        Ok(Response::new(answers(stream)))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let mut caller = self.caller(&request)?;
        let CancelOperationRequest {
            operation,
            request_id: id,
        } = request.into_inner();
        let operation = parsed::<OperationId>("operation", &operation)?;
        let id = request_id(&id)?;
        let which = operation.to_string();
        let action = Action::OperationCancel;
        if let Some(found) = self.ledger.snapshot().fabric.operations.get(&operation) {
            self.authorize(&caller, action, &about::operation(found), &which)?;
            caller.reach(&found.tenant);
        } else {
            self.authorize_absent(&caller, action, about::some_operation, &which)?;
        }
        let done = self
            .submit(caller, id, Command::CancelOperation { operation })
            .await?;
        Ok(Response::new(
            self.operation(&done.snapshot.fabric, operation)?,
        ))
    }
}

impl Api {
    /// Refuses a caller who may not see an operation as if it wasn't there.
    fn may_see(&self, fabric: &Fabric, caller: &Caller, id: OperationId) -> Result<(), Status> {
        let object = about::operation(present(fabric, id)?);
        self.authorize(caller, Action::OperationGet, &object, &id.to_string())
    }

    /// An operation as people see it.
    pub(super) fn operation(&self, fabric: &Fabric, id: OperationId) -> Result<Operation, Status> {
        let operation = present(fabric, id)?;
        Ok(View {
            fabric,
            observed: &self.observed,
        }
        .operation(operation))
    }
}

fn present(fabric: &Fabric, id: OperationId) -> Result<&fabric::Operation, Status> {
    let found = fabric.operations.get(&id);
    found.ok_or_else(|| absent("operation", &id.to_string()))
}
