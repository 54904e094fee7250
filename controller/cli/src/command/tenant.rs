//! `kapok tenant …`

use kapok_proto::fabric::v1::{
    CreateTenantRequest, DeleteTenantRequest, GetTenantRequest, ListTenantsRequest, Tenant as Wire,
    TenantState, UpdateTenantRequest, tenant_service_client::TenantServiceClient as Tenants,
};
use kapok_types::Name;

use super::{changed, confirm, gone, mask};
use crate::{
    args::{
        OrNone,
        tenant::{Command, Update, Which},
    },
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::tenant::Tenant,
};

pub(super) const LOOK: &str = "kapok tenant ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create {
            name,
            display_name,
            parent,
            contacts,
            request,
        } => {
            let doing = Doing::new(format!("create tenant {name}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = CreateTenantRequest {
                name: name.to_string(),
                display_name,
                parent: parent.map(|name| name.to_string()).unwrap_or_default(),
                request_id: request_id.clone(),
                contacts,
            };
            let tenant = client
                .change(&doing, &request_id, async |channel| {
                    Tenants::new(channel).create_tenant(request.clone()).await
                })
                .await?;
            changed(client, out, &Tenant::from(tenant), name.as_str(), "created")
        }
        Command::Ls => list(client, out).await,
        Command::Show { tenant } => {
            let doing = Doing::new(format!("show tenant {tenant}"), LOOK);
            let found = get(client, &doing, &tenant).await?;
            out.one(&Tenant::from(found), client.now())
        }
        Command::Update(what) => describe(client, out, what).await,
        Command::Suspend(which) => {
            let said = "suspended; what runs there runs on";
            set_state(client, out, which, "suspend", TenantState::Suspended, said).await
        }
        Command::Resume(which) => {
            let said = "active again";
            set_state(client, out, which, "resume", TenantState::Active, said).await
        }
        Command::Close(which) => {
            let said = "closing; what runs there runs on";
            set_state(client, out, which, "close", TenantState::Closing, said).await
        }
        Command::Rm {
            tenant,
            yes,
            request,
        } => {
            confirm(yes, &format!("Remove tenant {tenant}?"))?;
            let doing = Doing::new(format!("remove tenant {tenant}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = DeleteTenantRequest {
                tenant: tenant.to_string(),
                etag: String::new(),
                request_id: request_id.clone(),
            };
            client
                .change(&doing, &request_id, async |channel| {
                    Tenants::new(channel).delete_tenant(request.clone()).await
                })
                .await?;
            gone(out, tenant.as_str(), "removed")
        }
    }
}

/// Asks for one tenant.
pub(super) async fn get(client: &Client, doing: &Doing, tenant: &Name) -> Result<Wire, Error> {
    let request = GetTenantRequest {
        tenant: tenant.to_string(),
    };
    client
        .read(doing, async |channel| {
            Tenants::new(channel).get_tenant(request.clone()).await
        })
        .await
}

/// Changes one tenant.
pub(super) async fn update(
    client: &Client,
    doing: &Doing,
    request_id: Option<String>,
    change: UpdateTenantRequest,
) -> Result<Wire, Error> {
    let request_id = client.request_id(request_id);
    let request = UpdateTenantRequest {
        request_id: request_id.clone(),
        ..change
    };
    client
        .change(doing, &request_id, async |channel| {
            Tenants::new(channel).update_tenant(request.clone()).await
        })
        .await
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Error> {
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

async fn describe(client: &Client, out: &mut Out, what: Update) -> Result<(), Error> {
    let name = what.tenant.to_string();
    let doing = Doing::new(format!("change tenant {name}"), LOOK);
    let contacts = !what.contacts.is_empty() || what.no_contacts;
    let change = UpdateTenantRequest {
        tenant: name.clone(),
        update_mask: Some(mask(&[
            ("display_name", what.display_name.is_some()),
            ("contacts", contacts),
            ("isolation", what.isolation.is_some()),
        ])),
        isolation: what.isolation.map(OrNone::wire).unwrap_or_default(),
        display_name: what.display_name.unwrap_or_default(),
        contacts: what.contacts,
        etag: what.etag,
        ..UpdateTenantRequest::default()
    };
    let tenant = update(client, &doing, what.request.request_id, change).await?;
    changed(client, out, &Tenant::from(tenant), &name, "changed")
}

async fn set_state(
    client: &Client,
    out: &mut Out,
    Which { tenant, request }: Which,
    what: &str,
    state: TenantState,
    said: &str,
) -> Result<(), Error> {
    let name = tenant.to_string();
    let doing = Doing::new(format!("{what} tenant {name}"), LOOK);
    let change = UpdateTenantRequest {
        tenant: name.clone(),
        state: state.into(),
        update_mask: Some(mask(&[("state", true)])),
        ..UpdateTenantRequest::default()
    };
    let tenant = update(client, &doing, request.request_id, change).await?;
    changed(client, out, &Tenant::from(tenant), &name, said)
}
