//! The tenants' systems.

use kapok_proto::{
    convert,
    fabric::v1::{
        AvailabilityClass as WireClass, CreateSystemRequest, DeleteSystemRequest,
        DeleteSystemResponse, GetSystemRequest, ListSystemsRequest, ListSystemsResponse, System,
        UpdateSystemRequest, system_service_server::SystemService,
    },
};
use kapok_types::{Name, Timestamp};
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, key, optional, optional_key, parsed, request_id},
    mask,
    page::{Page, place},
    status, view,
};
use crate::{
    authz::{Action, about},
    fabric::{self, AvailabilityClass, Command, Fabric, SystemChange, command::CreateSystem},
};

#[tonic::async_trait]
impl SystemService for Api {
    async fn create_system(
        &self,
        request: Request<CreateSystemRequest>,
    ) -> Result<Response<System>, Status> {
        let mut caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let tenant = optional::<Name>("tenant", &wire.tenant)?;
        let name: Name = parsed("name", &wire.name)?;
        let home = tenant.clone().unwrap_or_else(|| caller.home.clone());
        let mut facts = vec![
            SystemChange::Display(optional_key("display_name", wire.display_name)?),
            SystemChange::Owner(optional_key("owner", wire.owner)?),
            SystemChange::Contacts(contacts(wire.contacts)?),
            SystemChange::Class(class(wire.availability_class)?),
            SystemChange::LiveAt(time(wire.live_time)),
            SystemChange::EndsAt(time(wire.end_time)),
        ];
        facts.extend(time(wire.request_time).map(SystemChange::RequestedAt));
        let object = about::tenant(&home);
        self.authorize(&caller, Action::SystemCreate, &object, home.as_str())?;
        caller.reach(&home);
        let command = Command::CreateSystem(CreateSystem {
            tenant,
            name: name.clone(),
            facts,
        });
        let done = self.submit(caller, id, command).await?;
        shown(&done.snapshot.fabric, name.as_str(), &home)
    }

    async fn get_system(
        &self,
        request: Request<GetSystemRequest>,
    ) -> Result<Response<System>, Status> {
        let caller = self.caller(&request)?;
        let which = key("system", request.into_inner().system)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let found = self.system(fabric, &caller, Action::SystemGet, &which)?;
        Ok(Response::new(view::system(fabric, found)))
    }

    async fn list_systems(
        &self,
        request: Request<ListSystemsRequest>,
    ) -> Result<Response<ListSystemsResponse>, Status> {
        let caller = self.caller(&request)?;
        let ListSystemsRequest {
            tenant,
            page_size,
            page_token,
        } = request.into_inner();
        let below = optional::<Name>("tenant", &tenant)?;
        let page = Page::new(format!("systems {tenant}"), page_size, &page_token)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let places = self.places(
            fabric,
            &caller,
            Action::SystemList,
            below.as_ref(),
            &fabric.systems,
            page.after.as_deref(),
        )?;
        let seen = places
            .filter(|(_, system)| self.may(&caller, Action::SystemGet, &about::system(system)));
        let (systems, next_page_token) =
            page.take(seen.map(|(called, system)| (place(called), view::system(fabric, system))));
        Ok(Response::new(ListSystemsResponse {
            systems,
            next_page_token,
        }))
    }

    async fn update_system(
        &self,
        request: Request<UpdateSystemRequest>,
    ) -> Result<Response<System>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let system = key("system", wire.system)?;
        let etag = optional_key("etag", wire.etag)?;
        let fields = [
            "display_name",
            "owner",
            "contacts",
            "availability_class",
            "request_time",
            "live_time",
            "end_time",
        ];
        let changes = mask::changes(wire.update_mask, &fields, |field| {
            Ok(Some(match field {
                "display_name" => {
                    SystemChange::Display(optional_key(field, wire.display_name.clone())?)
                }
                "owner" => SystemChange::Owner(optional_key(field, wire.owner.clone())?),
                "contacts" => SystemChange::Contacts(contacts(wire.contacts.clone())?),
                "availability_class" => SystemChange::Class(class(wire.availability_class)?),
                "request_time" => {
                    let at = time(wire.request_time);
                    let at = at.ok_or_else(|| status::bad_field(field, "must be stated"))?;
                    SystemChange::RequestedAt(at)
                }
                "live_time" => SystemChange::LiveAt(time(wire.live_time)),
                "end_time" => SystemChange::EndsAt(time(wire.end_time)),
                _ => return Ok(None),
            }))
        })?;
        let caller = self.may_change_system(caller, Action::SystemUpdate, &system)?;
        let home = caller.home.clone();
        let command = Command::UpdateSystem {
            system: system.clone(),
            changes,
            etag,
        };
        let done = self.submit(caller, id, command).await?;
        shown(&done.snapshot.fabric, &system, &home)
    }

    async fn delete_system(
        &self,
        request: Request<DeleteSystemRequest>,
    ) -> Result<Response<DeleteSystemResponse>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let system = key("system", wire.system)?;
        let etag = optional_key("etag", wire.etag)?;
        let caller = self.may_change_system(caller, Action::SystemDelete, &system)?;
        self.submit(caller, id, Command::DeleteSystem { system, etag })
            .await?;
        Ok(Response::new(DeleteSystemResponse {}))
    }
}

impl Api {
    /// A system that a caller names, if they may do this with it. One that they may not see is
    /// refused as one that isn't there.
    pub(super) fn system<'f>(
        &self,
        fabric: &'f Fabric,
        caller: &Caller,
        action: Action,
        which: &str,
    ) -> Result<&'f fabric::System, Status> {
        let found = fabric.system(which, &caller.home);
        let found = found.ok_or_else(|| absent("system", which))?;
        self.authorize(caller, action, &about::system(found), which)?;
        Ok(found)
    }

    /// Refuses a caller who may not do this with a system, whether it is there or not.
    fn may_change_system(
        &self,
        mut caller: Caller,
        action: Action,
        which: &str,
    ) -> Result<Caller, Status> {
        let snapshot = self.ledger.snapshot();
        match snapshot.fabric.system(which, &caller.home) {
            Some(found) => {
                self.authorize(&caller, action, &about::system(found), which)?;
                caller.reach(&found.tenant);
            }
            None => self.authorize_absent(&caller, action, about::some_system, which)?,
        }
        Ok(caller)
    }
}

fn shown(fabric: &Fabric, which: &str, home: &Name) -> Result<Response<System>, Status> {
    let system = fabric.system(which, home);
    let system = system.ok_or_else(|| absent("system", which))?;
    Ok(Response::new(view::system(fabric, system)))
}

fn contacts(given: Vec<String>) -> Result<Vec<String>, Status> {
    let checked = given.into_iter().map(|text| optional_key("contacts", text));
    checked.collect()
}

fn class(given: i32) -> Result<AvailabilityClass, Status> {
    match WireClass::try_from(given) {
        Ok(WireClass::Unspecified | WireClass::None) => Ok(AvailabilityClass::None),
        Ok(WireClass::Restart) => Ok(AvailabilityClass::Restart),
        Ok(WireClass::Recreate) => Ok(AvailabilityClass::Recreate),
        Err(_) => {
            let reason = "has a value that this version doesn't know";
            Err(status::bad_field("availability_class", reason))
        }
    }
}

fn time(given: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    given.as_ref().map(convert::timestamp_from)
}
