//! The tenants' tree, and how much each tenant may have.
//!
//! What a tenant may do and have is set from above: authorization is asked about the tenant above
//! the one that is named. A tenant sees its own numbers and those below it, and of those above it
//! that they are there.

use std::ops::Bound;

use kapok_proto::fabric::v1::{
    self as wire, CreateTenantRequest, DeleteTenantRequest, DeleteTenantResponse, GetTenantRequest,
    ListTenantsRequest, ListTenantsResponse, UpdateTenantRequest,
    tenant_service_server::TenantService,
};
use kapok_types::Name;
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, optional, optional_key, parsed, request_id},
    mask,
    page::Page,
    status, view,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{
        Amounts, Command, Dimension, Fabric, Quota, Tenant, TenantChange, city,
        tenant::{State, isolation},
    },
};

/// Contacts that one message carries at most; how many a tenant has is `decide`'s to say.
const MAX_CONTACTS: usize = 64;

#[tonic::async_trait]
impl TenantService for Api {
    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<wire::Tenant>, Status> {
        let mut caller = self.caller(&request)?;
        let CreateTenantRequest {
            name,
            display_name,
            parent,
            request_id: id,
            contacts: given,
        } = request.into_inner();
        let id = request_id(&id)?;
        let name: Name = parsed("name", &name)?;
        let display = optional_key("display_name", display_name)?;
        let parent = optional::<Name>("parent", &parent)?;
        let contacts = contacts(given)?;
        let above = parent.clone().unwrap_or_else(city);
        let object = about::tenant(&above);
        self.authorize(&caller, Action::TenantCreate, &object, above.as_str())?;
        caller.reach(&above);
        let command = Command::CreateTenant {
            name: name.clone(),
            display,
            parent,
            contacts,
        };
        let asking = caller.clone();
        let done = self.submit(caller, id, command).await?;
        self.tenant(&done.snapshot.fabric, &asking, &name)
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<wire::Tenant>, Status> {
        let caller = self.caller(&request)?;
        let name: Name = parsed("tenant", &request.into_inner().tenant)?;
        let snapshot = self.ledger.snapshot();
        let answer = self.tenant(&snapshot.fabric, &caller, &name)?;
        let object = about::tenant(&name);
        self.authorize(&caller, Action::TenantGet, &object, name.as_str())?;
        Ok(answer)
    }

    async fn list_tenants(
        &self,
        request: Request<ListTenantsRequest>,
    ) -> Result<Response<ListTenantsResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::TenantList, &Object::Fabric, "")?;
        let ListTenantsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let page = Page::new("tenants".into(), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<Name>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let rest = fabric.tenants.range((from, Bound::Unbounded));
        let seen =
            rest.filter(|(name, _)| self.may(&caller, Action::TenantGet, &about::tenant(name)));
        let shown = seen.map(|(name, tenant)| {
            let seen = self.seen_tenant(fabric, &caller, tenant);
            (name.to_string(), seen)
        });
        let (tenants, next_page_token) = page.take(shown);
        Ok(Response::new(ListTenantsResponse {
            tenants,
            next_page_token,
        }))
    }

    async fn update_tenant(
        &self,
        request: Request<UpdateTenantRequest>,
    ) -> Result<Response<wire::Tenant>, Status> {
        let caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let tenant: Name = parsed("tenant", &wire.tenant)?;
        let etag = optional_key("etag", wire.etag.clone())?;
        let changes = changes(wire)?;
        let caller = self.may_update(caller, &tenant, &changes)?;
        let command = Command::UpdateTenant {
            tenant: tenant.clone(),
            changes,
            etag,
        };
        let asking = caller.clone();
        let done = self.submit(caller, id, command).await?;
        self.tenant(&done.snapshot.fabric, &asking, &tenant)
    }

    async fn delete_tenant(
        &self,
        request: Request<DeleteTenantRequest>,
    ) -> Result<Response<DeleteTenantResponse>, Status> {
        let caller = self.caller(&request)?;
        let DeleteTenantRequest {
            tenant,
            etag,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let tenant: Name = parsed("tenant", &tenant)?;
        let etag = optional_key("etag", etag)?;
        let caller = self.may_govern(caller, Action::TenantDelete, &tenant)?;
        self.submit(caller, id, Command::DeleteTenant { tenant, etag })
            .await?;
        Ok(Response::new(DeleteTenantResponse {}))
    }
}

impl Api {
    /// Refuses a caller who may not make all of these changes.
    fn may_update(
        &self,
        mut caller: Caller,
        tenant: &Name,
        changes: &[TenantChange],
    ) -> Result<Caller, Status> {
        let which = tenant.as_str();
        let wants = |wanted: fn(&TenantChange) -> bool| changes.iter().any(wanted);
        if wants(|change| !change.is_from_above()) {
            let there = self.ledger.snapshot().fabric.tenants.contains_key(tenant);
            let action = Action::TenantUpdate;
            if there {
                self.authorize(&caller, action, &about::tenant(tenant), which)?;
                caller.reach(tenant);
            } else {
                self.authorize_absent(&caller, action, about::tenant, which)?;
            }
        }
        if wants(|change| matches!(change, TenantChange::State(_))) {
            caller = self.may_govern(caller, Action::TenantSuspend, tenant)?;
        }
        if wants(|change| matches!(change, TenantChange::Limit(..) | TenantChange::Reserve(..))) {
            caller = self.may_govern(caller, Action::QuotaSet, tenant)?;
        }
        if wants(|change| matches!(change, TenantChange::Isolation(_))) {
            caller = self.may_govern(caller, Action::TenantIsolate, tenant)?;
        }
        Ok(caller)
    }

    /// Refuses a caller who may not do this to a tenant from above it, whether it is there or not.
    fn may_govern(
        &self,
        mut caller: Caller,
        action: Action,
        tenant: &Name,
    ) -> Result<Caller, Status> {
        let which = tenant.as_str();
        let snapshot = self.ledger.snapshot();
        let Some(found) = snapshot.fabric.tenants.get(tenant) else {
            self.authorize_absent(&caller, action, about::tenant, which)?;
            return Ok(caller);
        };
        // Everybody below the tenant above sees that one: what is asked about it tells nothing of
        // its neighbours (FAULTS 25).
        self.authorize(&caller, Action::TenantGet, &about::tenant(tenant), which)?;
        let above = found.parent.as_ref();
        let which = above.map_or("", |_| which);
        self.authorize(&caller, action, &about::above(found), which)?;
        if let Some(above) = above {
            caller.reach(above);
        }
        Ok(caller)
    }

    fn tenant(
        &self,
        fabric: &Fabric,
        caller: &Caller,
        name: &Name,
    ) -> Result<Response<wire::Tenant>, Status> {
        let tenant = fabric.tenants.get(name);
        let tenant = tenant.ok_or_else(|| absent("tenant", name.as_str()))?;
        Ok(Response::new(self.seen_tenant(fabric, caller, tenant)))
    }

    /// A tenant as a caller sees it: how much it may have and has only for whoever may know.
    fn seen_tenant(&self, fabric: &Fabric, caller: &Caller, tenant: &Tenant) -> wire::Tenant {
        let name = &tenant.name;
        let numbers = self.may(caller, Action::QuotaGet, &about::tenant(name));
        let seen = view::tenant(tenant, numbers.then(|| fabric.usage.of(name)));
        let class = isolation(&fabric.tenants, name);
        wire::Tenant {
            isolation_in_force: class.map(ToString::to_string).unwrap_or_default(),
            ..seen
        }
    }
}

/// The changes that a caller asks for. What a tenant can be is `decide`'s to say.
fn changes(wire: UpdateTenantRequest) -> Result<Vec<TenantChange>, Status> {
    let stated = wire.state();
    let quota = limits(wire.quota.unwrap_or_default());
    let reserved = amounts(wire.reserved.unwrap_or_default());
    let limit = |one: Dimension| TenantChange::Limit(one, quota.get(one));
    let reserve = |one: Dimension| TenantChange::Reserve(one, reserved.get(one));
    let fields = [
        "display_name",
        "contacts",
        "state",
        "quota",
        "quota.FIELD",
        "reserved",
        "reserved.FIELD",
        "isolation",
    ];
    let changes = mask::changes(wire.update_mask, &fields, |path| {
        Ok(Some(match path {
            "display_name" => {
                let text = optional_key("display_name", wire.display_name.clone())?;
                vec![TenantChange::Display(text)]
            }
            "contacts" => vec![TenantChange::Contacts(contacts(wire.contacts.clone())?)],
            "state" => vec![TenantChange::State(state(stated)?)],
            "isolation" => vec![TenantChange::Isolation(optional(path, &wire.isolation)?)],
            "quota" => Dimension::ALL.map(limit).to_vec(),
            "reserved" => Dimension::ALL.map(reserve).to_vec(),
            path => {
                let (of, field) = path.split_once('.').unwrap_or_default();
                let mut all = Dimension::ALL.into_iter();
                let named = all.find(|one| one.as_str() == field);
                match (of, named) {
                    ("quota", Some(one)) => vec![limit(one)],
                    ("reserved", Some(one)) => vec![reserve(one)],
                    _ => return Ok(None),
                }
            }
        }))
    })?;
    Ok(changes.into_iter().flatten().collect())
}

fn state(wire: wire::TenantState) -> Result<State, Status> {
    match wire {
        wire::TenantState::Active => Ok(State::Active),
        wire::TenantState::Suspended => Ok(State::Suspended),
        wire::TenantState::Closing => Ok(State::Closing),
        wire::TenantState::Unspecified => Err(status::bad_field("state", "isn't known")),
    }
}

fn contacts(given: Vec<String>) -> Result<Vec<String>, Status> {
    if given.len() > MAX_CONTACTS {
        let reason = format!("are {}; at most {MAX_CONTACTS} are allowed", given.len());
        return Err(status::bad_field("contacts", reason));
    }
    let checked = given.into_iter();
    checked.map(|text| optional_key("contacts", text)).collect()
}

fn limits(wire: wire::Quota) -> Quota {
    Quota {
        vcpus: wire.vcpus,
        memory_mib: wire.memory_mib,
        instances: wire.instances,
        volumes: wire.volumes,
        volume_bytes: wire.volume_bytes,
        addresses: wire.addresses,
        gpus: wire.gpus,
    }
}

fn amounts(wire: wire::Amounts) -> Amounts {
    Amounts {
        vcpus: wire.vcpus,
        memory_mib: wire.memory_mib,
        instances: wire.instances,
        volumes: wire.volumes,
        volume_bytes: wire.volume_bytes,
        addresses: wire.addresses,
        gpus: wire.gpus,
    }
}
