//! `kapok tenant …`

use kapok_proto::fabric::v1::{
    CreateTenantRequest, GetTenantRequest, ListTenantsRequest,
    tenant_service_client::TenantServiceClient as Tenants,
};

use super::changed;
use crate::{
    args::tenant::Command,
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::tenant::Tenant,
};

const LOOK: &str = "kapok tenant ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create {
            name,
            display_name,
            parent,
            request,
        } => {
            let doing = Doing::new(format!("create tenant {name}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = CreateTenantRequest {
                name: name.to_string(),
                display_name,
                parent: parent.map(|name| name.to_string()).unwrap_or_default(),
                request_id: request_id.clone(),
            };
            let tenant = client
                .change(&doing, &request_id, async |channel| {
                    Tenants::new(channel).create_tenant(request.clone()).await
                })
                .await?;
            changed(client, out, &Tenant::from(tenant), name.as_str(), "created")
        }
        Command::Ls => {
            let doing = Doing::new("list tenants", LOOK);
            let tenants = pages(&doing, async |page_token| {
                let request = ListTenantsRequest {
                    page_size: PAGE,
                    page_token,
                };
                let page = client
                    .read(&doing, async |channel| {
                        Tenants::new(channel).list_tenants(request.clone()).await
                    })
                    .await?;
                Ok((page.tenants, page.next_page_token))
            })
            .await?;
            let tenants: Vec<_> = tenants.into_iter().map(Tenant::from).collect();
            out.list(&tenants, client.now())
        }
        Command::Show { tenant } => {
            let doing = Doing::new(format!("show tenant {tenant}"), LOOK);
            let request = GetTenantRequest {
                tenant: tenant.to_string(),
            };
            let found = client
                .read(&doing, async |channel| {
                    Tenants::new(channel).get_tenant(request.clone()).await
                })
                .await?;
            out.one(&Tenant::from(found), client.now())
        }
    }
}
