//! The tenants' tree.

use std::ops::Bound;

use kapok_proto::fabric::v1::{
    CreateTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse, Tenant,
    tenant_service_server::TenantService,
};
use kapok_types::Name;
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{absent, optional, optional_key, parsed, request_id},
    page::Page,
    view,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{Command, Fabric, city},
};

#[tonic::async_trait]
impl TenantService for Api {
    async fn create_tenant(
        &self,
        request: Request<CreateTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let mut caller = self.caller(&request)?;
        let CreateTenantRequest {
            name,
            display_name,
            parent,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let name: Name = parsed("name", &name)?;
        let display = optional_key("display_name", display_name)?;
        let parent = optional::<Name>("parent", &parent)?;
        let above = parent.clone().unwrap_or_else(city);
        let object = about::tenant(&above);
        self.authorize(&caller, Action::TenantCreate, &object, above.as_str())?;
        caller.reach(&above);
        let command = Command::CreateTenant {
            name: name.clone(),
            display,
            parent,
        };
        let done = self.submit(caller, id, command).await?;
        shown(&done.snapshot.fabric, &name)
    }

    async fn get_tenant(
        &self,
        request: Request<GetTenantRequest>,
    ) -> Result<Response<Tenant>, Status> {
        let caller = self.caller(&request)?;
        let name: Name = parsed("tenant", &request.into_inner().tenant)?;
        let snapshot = self.ledger.snapshot();
        let answer = shown(&snapshot.fabric, &name)?;
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
        let rest = snapshot.fabric.tenants.range((from, Bound::Unbounded));
        let seen =
            rest.filter(|(name, _)| self.may(&caller, Action::TenantGet, &about::tenant(name)));
        let (tenants, next_page_token) =
            page.take(seen.map(|(name, tenant)| (name.to_string(), view::tenant(tenant))));
        Ok(Response::new(ListTenantsResponse {
            tenants,
            next_page_token,
        }))
    }
}

fn shown(fabric: &Fabric, name: &Name) -> Result<Response<Tenant>, Status> {
    let tenant = fabric.tenants.get(name);
    let tenant = tenant.ok_or_else(|| absent("tenant", name.as_str()))?;
    Ok(Response::new(view::tenant(tenant)))
}
