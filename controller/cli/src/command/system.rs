//! `kapok system …`

use kapok_proto::{
    convert::timestamp,
    fabric::v1::{
        AvailabilityClass, CreateSystemRequest, DeleteSystemRequest, GetSystemRequest,
        ListSystemsRequest, UpdateSystemRequest,
        system_service_client::SystemServiceClient as Systems,
    },
};
use kapok_types::Name;

use super::{changed, gone, mask};
use crate::{
    args::{
        Request,
        system::{Command, Create, Facts, Update},
    },
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::system::System,
};

/// Lists what could have been meant.
pub(super) const LOOK: &str = "kapok system ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create(create) => create_one(client, out, create).await,
        Command::Ls { tenant } => list(client, out, tenant).await,
        Command::Show { system } => {
            let doing = Doing::new(format!("show system {system}"), LOOK);
            let request = GetSystemRequest { system };
            let found = client
                .read(&doing, async |channel| {
                    Systems::new(channel).get_system(request.clone()).await
                })
                .await?;
            out.one(&System::from(found), client.now())
        }
        Command::Update(what) => update(client, out, *what).await,
        Command::Rm { system, request } => remove(client, out, system, request).await,
    }
}

async fn create_one(client: &Client, out: &mut Out, create: Create) -> Result<(), Error> {
    // What can be missing here is the tenant.
    let doing =
        Doing::new(format!("create system {}", create.name), "kapok tenant ls").shown_by(LOOK);
    let request_id = client.request_id(create.request.request_id);
    let facts = create.facts;
    let request = CreateSystemRequest {
        tenant: create
            .tenant
            .map(|name| name.to_string())
            .unwrap_or_default(),
        name: create.name.to_string(),
        availability_class: class(&facts),
        request_time: facts.requested.map(timestamp),
        live_time: facts.live.map(timestamp),
        end_time: facts.ends.map(timestamp),
        display_name: facts.display_name.unwrap_or_default(),
        owner: facts.owner.unwrap_or_default(),
        contacts: facts.contacts,
        request_id: request_id.clone(),
    };
    let system = client
        .change(&doing, &request_id, async |channel| {
            Systems::new(channel).create_system(request.clone()).await
        })
        .await?;
    let system = System::from(system);
    changed(client, out, &system, create.name.as_str(), "created")
}

async fn list(client: &Client, out: &mut Out, tenant: Option<Name>) -> Result<(), Error> {
    let look = if tenant.is_some() {
        "kapok tenant ls"
    } else {
        LOOK
    };
    let doing = Doing::new("list systems", look);
    let tenant = tenant.map(|name| name.to_string()).unwrap_or_default();
    let systems = pages(&doing, async |page_token| {
        let request = ListSystemsRequest {
            tenant: tenant.clone(),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Systems::new(channel).list_systems(request.clone()).await
            })
            .await?;
        Ok((page.systems, page.next_page_token))
    })
    .await?;
    let systems: Vec<_> = systems.into_iter().map(System::from).collect();
    out.list(&systems, client.now())
}

async fn update(client: &Client, out: &mut Out, update: Update) -> Result<(), Error> {
    let name = update.system;
    let doing = Doing::new(format!("change system {name}"), LOOK);
    let request_id = client.request_id(update.request.request_id);
    let facts = update.facts;
    let request = UpdateSystemRequest {
        system: name.clone(),
        update_mask: Some(mask(&[
            ("display_name", facts.display_name.is_some()),
            ("owner", facts.owner.is_some()),
            ("contacts", !facts.contacts.is_empty() || update.no_contacts),
            ("availability_class", facts.class.is_some()),
            ("request_time", facts.requested.is_some()),
            ("live_time", facts.live.is_some() || update.no_live),
            ("end_time", facts.ends.is_some() || update.no_end),
        ])),
        etag: update.etag,
        request_id: request_id.clone(),
        availability_class: class(&facts),
        request_time: facts.requested.map(timestamp),
        live_time: facts.live.map(timestamp),
        end_time: facts.ends.map(timestamp),
        display_name: facts.display_name.unwrap_or_default(),
        owner: facts.owner.unwrap_or_default(),
        contacts: facts.contacts,
    };
    let system = client
        .change(&doing, &request_id, async |channel| {
            Systems::new(channel).update_system(request.clone()).await
        })
        .await?;
    changed(client, out, &System::from(system), &name, "changed")
}

async fn remove(
    client: &Client,
    out: &mut Out,
    system: String,
    request: Request,
) -> Result<(), Error> {
    let doing = Doing::new(format!("remove system {system}"), LOOK);
    let request_id = client.request_id(request.request_id);
    let request = DeleteSystemRequest {
        system: system.clone(),
        etag: String::new(),
        request_id: request_id.clone(),
    };
    client
        .change(&doing, &request_id, async |channel| {
            Systems::new(channel).delete_system(request.clone()).await
        })
        .await?;
    gone(out, &system, "removed")
}

fn class(facts: &Facts) -> i32 {
    let class = facts.class.map(AvailabilityClass::from);
    class.unwrap_or_default().into()
}
