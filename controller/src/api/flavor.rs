//! Flavors: the fabric's, for tenants to use.

use std::{collections::BTreeSet, ops::Bound};

use kapok_proto::fabric::v1::{
    CreateFlavorRequest, DeleteFlavorRequest, DeleteFlavorResponse, Flavor, GetFlavorRequest,
    ListFlavorsRequest, ListFlavorsResponse, UpdateFlavorRequest,
    flavor_service_server::FlavorService,
};
use kapok_types::{Bytes, MemoryMib, Name, Vcpus};
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, optional_key, parsed, request_id},
    instance::needs,
    mask,
    page::Page,
    view,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{self, Command, Fabric, FlavorChange, command::CreateFlavor},
};

#[tonic::async_trait]
impl FlavorService for Api {
    async fn create_flavor(
        &self,
        request: Request<CreateFlavorRequest>,
    ) -> Result<Response<Flavor>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let create = CreateFlavor {
            name: parsed("name", &wire.name)?,
            vcpus: Vcpus(wire.vcpus),
            memory: MemoryMib(wire.memory_mib),
            root_disk: disk(wire.root_disk_bytes),
            description: optional_key("description", wire.description)?,
            visible_to: tenants(&wire.visible_to)?,
            needs: needs(wire.needs.as_ref())?,
        };
        self.authorize(&caller, Action::FlavorCreate, &Object::Fabric, "")?;
        let (name, asking) = (create.name.clone(), caller.clone());
        let done = self
            .submit(caller, id, Command::CreateFlavor(create))
            .await?;
        self.flavor(&done.snapshot.fabric, &asking, &name)
    }

    async fn get_flavor(
        &self,
        request: Request<GetFlavorRequest>,
    ) -> Result<Response<Flavor>, Status> {
        let caller = self.caller(&request)?;
        let name: Name = parsed("flavor", &request.into_inner().flavor)?;
        let snapshot = self.ledger.snapshot();
        let found = snapshot.fabric.flavors.get(&name);
        let found = found.ok_or_else(|| absent("flavor", name.as_str()))?;
        let object = about::flavor(found);
        self.authorize(&caller, Action::FlavorGet, &object, name.as_str())?;
        self.flavor(&snapshot.fabric, &caller, &name)
    }

    async fn list_flavors(
        &self,
        request: Request<ListFlavorsRequest>,
    ) -> Result<Response<ListFlavorsResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::FlavorList, &Object::Fabric, "")?;
        let ListFlavorsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let page = Page::new("flavors".into(), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<Name>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let snapshot = self.ledger.snapshot();
        let rest = snapshot.fabric.flavors.range((from, Bound::Unbounded));
        let seen = rest
            .filter(|(_, flavor)| self.may(&caller, Action::FlavorGet, &about::flavor(flavor)))
            .map(|(name, flavor)| (name.to_string(), self.seen(&caller, flavor)));
        let (flavors, next_page_token) = page.take(seen);
        Ok(Response::new(ListFlavorsResponse {
            flavors,
            next_page_token,
        }))
    }

    async fn update_flavor(
        &self,
        request: Request<UpdateFlavorRequest>,
    ) -> Result<Response<Flavor>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let name: Name = parsed("flavor", &wire.flavor)?;
        let etag = optional_key("etag", wire.etag)?;
        let fields = [
            "vcpus",
            "memory_mib",
            "root_disk_bytes",
            "description",
            "visible_to",
            "needs",
        ];
        let changes = mask::changes(wire.update_mask, &fields, |field| {
            Ok(Some(match field {
                "vcpus" => FlavorChange::Vcpus(Vcpus(wire.vcpus)),
                "memory_mib" => FlavorChange::Memory(MemoryMib(wire.memory_mib)),
                "root_disk_bytes" => FlavorChange::RootDisk(disk(wire.root_disk_bytes)),
                "description" => {
                    let text = optional_key("description", wire.description.clone())?;
                    FlavorChange::Description(text)
                }
                "visible_to" => FlavorChange::VisibleTo(tenants(&wire.visible_to)?),
                "needs" => FlavorChange::Needs(needs(wire.needs.as_ref())?),
                _ => return Ok(None),
            }))
        })?;
        self.may_change_flavor(&caller, Action::FlavorUpdate, &name)?;
        let command = Command::UpdateFlavor {
            flavor: name.clone(),
            changes,
            etag,
        };
        let asking = caller.clone();
        let done = self.submit(caller, id, command).await?;
        self.flavor(&done.snapshot.fabric, &asking, &name)
    }

    async fn delete_flavor(
        &self,
        request: Request<DeleteFlavorRequest>,
    ) -> Result<Response<DeleteFlavorResponse>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let flavor: Name = parsed("flavor", &wire.flavor)?;
        let etag = optional_key("etag", wire.etag)?;
        self.may_change_flavor(&caller, Action::FlavorDelete, &flavor)?;
        self.submit(caller, id, Command::DeleteFlavor { flavor, etag })
            .await?;
        Ok(Response::new(DeleteFlavorResponse {}))
    }
}

impl Api {
    /// Refuses a caller who may not do this with a flavor, whether it is there or not.
    fn may_change_flavor(
        &self,
        caller: &Caller,
        action: Action,
        name: &Name,
    ) -> Result<(), Status> {
        match self.ledger.snapshot().fabric.flavors.get(name) {
            Some(found) => self.authorize(caller, action, &about::flavor(found), name.as_str()),
            None => self.authorize_absent(caller, action, about::some_flavor, name.as_str()),
        }
    }

    fn flavor(
        &self,
        fabric: &Fabric,
        caller: &Caller,
        name: &Name,
    ) -> Result<Response<Flavor>, Status> {
        let found = fabric.flavors.get(name);
        let found = found.ok_or_else(|| absent("flavor", name.as_str()))?;
        Ok(Response::new(self.seen(caller, found)))
    }

    /// A flavor as a caller sees it: without the tenants that aren't there for them (FAULTS 25).
    fn seen(&self, caller: &Caller, flavor: &fabric::Flavor) -> Flavor {
        let sees = |tenant: &Name| self.may(caller, Action::TenantGet, &about::tenant(tenant));
        view::flavor(flavor, sees)
    }
}

fn disk(bytes: u64) -> Option<Bytes> {
    (bytes != 0).then_some(Bytes(bytes))
}

fn tenants(names: &[String]) -> Result<BTreeSet<Name>, Status> {
    names
        .iter()
        .map(|name| parsed("visible_to", name))
        .collect()
}
