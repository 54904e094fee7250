//! Several new instances at once: all of them, or none.

use kapok_proto::fabric::v1::{CreateInstancesRequest, CreateInstancesResponse};
use tonic::Status;
use tracing::info;

use super::{
    Api,
    caller::{Caller, request_id},
    instance::create as wish,
    status,
};
use crate::fabric::{Command, Outcome, decide::MAX_BATCH};

pub(super) async fn create(
    api: &Api,
    mut caller: Caller,
    wire: CreateInstancesRequest,
) -> Result<CreateInstancesResponse, Status> {
    let id = request_id(&wire.request_id)?;
    let of = wire.instances.len();
    if !(1..=MAX_BATCH).contains(&of) {
        let reason = format!("are {of}; must be 1 to {MAX_BATCH}");
        return Err(status::bad_field("instances", reason));
    }
    let mut instances = Vec::with_capacity(of);
    for (number, one) in (1..).zip(wire.instances) {
        let name = one.name.clone();
        let own = !one.request_id.is_empty() || one.validate_only;
        let read = if own {
            let reason = "has a request_id or validate_only of its own; the batch has one for all";
            Err(status::bad_field("instances", reason))
        } else {
            wish(one)
        };
        let read = read.map_err(|refused| status::one_of(&refused, &name, number, of))?;
        caller = api.may_create(caller, &read)?;
        instances.push(read);
    }
    let fresh = instances.iter().map(|_| api.ledger.fresh()).collect();
    let command = Command::CreateInstances { instances, fresh };
    if wire.validate_only {
        let operations = api.would_begin(&caller, command)?;
        return Ok(CreateInstancesResponse { operations });
    }
    let done = api.submit(caller, id, command).await?;
    let Outcome::Operations(ids) = done.outcome else {
        // Another kind of command had this request id: its content would differ.
        return Err(Status::internal("the change has no operations"));
    };
    info!(operations = ids.len(), "accepted");
    let fabric = &done.snapshot.fabric;
    let operations = ids.into_iter().map(|id| api.operation(fabric, id));
    Ok(CreateInstancesResponse {
        operations: operations.collect::<Result<_, _>>()?,
    })
}
