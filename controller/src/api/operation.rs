//! People's operations.

use std::{ops::Bound, time::Duration};

use kapok_proto::fabric::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
    Operation, WatchOperationRequest, operation_service_server::OperationService,
};
use kapok_types::OperationId;
use tonic::{Request, Response, Status};

use super::{
    Answers, Api, answers,
    caller::{Caller, optional_key, parsed, request_id},
    page::Page,
    status,
    view::View,
};
use crate::fabric::{Command, Denied, Fabric};

/// Pause between two messages of a watch: what changes meanwhile is one change.
const COALESCE: Duration = Duration::from_millis(100);

#[tonic::async_trait]
impl OperationService for Api {
    type WatchOperationStream = Answers<Operation>;

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let id = parsed("operation", &request.into_inner().operation)?;
        Ok(Response::new(
            self.operation(&self.ledger.snapshot().fabric, id)?,
        ))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
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
        let instance = fabric.instance(&which).map(|instance| instance.id);
        let wanted = |operation: &crate::fabric::Operation| {
            which.is_empty()
                || match instance {
                    Some(id) => operation.instance == id,
                    None => {
                        operation.instance_name.as_str() == which
                            || operation.instance.to_string() == which
                    }
                }
        };
        let range = (Bound::Unbounded, to);
        let all: Box<dyn Iterator<Item = &crate::fabric::Operation> + Send> = if running_only {
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
        let shown = all.filter(|operation| wanted(operation));
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
        let id = parsed("operation", &request.into_inner().operation)?;
        // Subscribed before the first look: nothing falls in between.
        let (mut intent, mut reports) = (self.ledger.changes(), self.observed.changes());
        self.operation(&self.ledger.snapshot().fabric, id)?;
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
        let caller = Caller::of(&request);
        let CancelOperationRequest {
            operation,
            request_id: id,
        } = request.into_inner();
        let operation = parsed("operation", &operation)?;
        let id = request_id(&id)?;
        let done = self
            .submit(caller, id, Command::CancelOperation { operation })
            .await?;
        Ok(Response::new(
            self.operation(&done.snapshot.fabric, operation)?,
        ))
    }
}

impl Api {
    /// An operation as people see it.
    pub(super) fn operation(&self, fabric: &Fabric, id: OperationId) -> Result<Operation, Status> {
        let absent = || {
            status::denied(&Denied::Absent {
                kind: "operation",
                which: id.to_string(),
            })
        };
        let operation = fabric.operations.get(&id).ok_or_else(absent)?;
        Ok(View {
            fabric,
            observed: &self.observed,
        }
        .operation(operation))
    }
}
