//! Instances made larger or smaller.

use kapok_proto::fabric::v1::{Operation, ResizeInstanceRequest};
use kapok_types::{MemoryMib, Name, Vcpus};
use tonic::{Response, Status};

use super::{
    Api,
    caller::{Caller, key, optional, optional_key, request_id},
};
use crate::{
    authz::{Action, about},
    fabric::{Command, command::ResizeInstance},
};

pub(super) async fn answer(
    api: &Api,
    caller: Caller,
    wire: ResizeInstanceRequest,
) -> Result<Response<Operation>, Status> {
    let id = request_id(&wire.request_id)?;
    let wish = ResizeInstance {
        instance: key("instance", wire.instance)?,
        flavor: optional("flavor", &wire.flavor)?,
        vcpus: Vcpus(wire.vcpus),
        memory: MemoryMib(wire.memory_mib),
        etag: optional_key("etag", wire.etag)?,
    };
    let caller = api.may_change(caller, Action::InstanceResize, &wish.instance)?;
    if let Some(flavor) = &wish.flavor {
        may_get(api, &caller, &wish.instance, flavor)?;
    }
    let command = Command::ResizeInstance(wish);
    if wire.validate_only {
        return api.dry_run(&caller, command);
    }
    api.change(caller, id, command).await
}

/// Refuses a caller who may not use this flavor.
fn may_get(api: &Api, caller: &Caller, instance: &str, name: &Name) -> Result<(), Status> {
    let snapshot = api.ledger.snapshot();
    let fabric = &snapshot.fabric;
    let tenant = fabric.instance(instance, &caller.home);
    let flavor = tenant.and_then(|found| fabric.flavor(name, &found.tenant));
    flavor.map_or(Ok(()), |flavor| {
        api.authorize(
            caller,
            Action::FlavorGet,
            &about::flavor(flavor),
            name.as_str(),
        )
    })
}
