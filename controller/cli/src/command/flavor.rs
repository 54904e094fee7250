//! `kapok flavor …`

use kapok_proto::fabric::v1::{
    CreateFlavorRequest, DeleteFlavorRequest, GetFlavorRequest, ListFlavorsRequest,
    UpdateFlavorRequest, flavor_service_client::FlavorServiceClient as Flavors,
};
use kapok_types::Name;

use super::{changed, gone, mask};
use crate::{
    args::{
        Request,
        flavor::{Command, Create, Update},
    },
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::flavor::Flavor,
};

const LOOK: &str = "kapok flavor ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create(create) => create_one(client, out, create).await,
        Command::Ls => list(client, out).await,
        Command::Show { flavor } => {
            let doing = Doing::new(format!("show flavor {flavor}"), LOOK);
            let request = GetFlavorRequest {
                flavor: flavor.to_string(),
            };
            let found = client
                .read(&doing, async |channel| {
                    Flavors::new(channel).get_flavor(request.clone()).await
                })
                .await?;
            out.one(&Flavor::from(found), client.now())
        }
        Command::Update(what) => update(client, out, what).await,
        Command::Rm { flavor, request } => remove(client, out, &flavor, request).await,
    }
}

async fn create_one(client: &Client, out: &mut Out, create: Create) -> Result<(), Error> {
    // What can be missing here is a tenant.
    let doing =
        Doing::new(format!("create flavor {}", create.name), "kapok tenant ls").shown_by(LOOK);
    let request_id = client.request_id(create.request.request_id);
    let request = CreateFlavorRequest {
        name: create.name.to_string(),
        vcpus: create.vcpus,
        memory_mib: create.memory.get(),
        root_disk_bytes: create.disk.unwrap_or_default().get(),
        description: create.description,
        visible_to: texts(&create.tenants),
        request_id: request_id.clone(),
        needs: create.needs.wire(),
    };
    let flavor = client
        .change(&doing, &request_id, async |channel| {
            Flavors::new(channel).create_flavor(request.clone()).await
        })
        .await?;
    changed(
        client,
        out,
        &Flavor::from(flavor),
        create.name.as_str(),
        "created",
    )
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Error> {
    let doing = Doing::new("list flavors", LOOK);
    let flavors = pages(&doing, async |page_token| {
        let request = ListFlavorsRequest {
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Flavors::new(channel).list_flavors(request.clone()).await
            })
            .await?;
        Ok((page.flavors, page.next_page_token))
    })
    .await?;
    let flavors: Vec<_> = flavors.into_iter().map(Flavor::from).collect();
    out.list(&flavors, client.now())
}

async fn update(client: &Client, out: &mut Out, update: Update) -> Result<(), Error> {
    let name = update.flavor;
    let doing = Doing::new(format!("change flavor {name}"), LOOK);
    let request_id = client.request_id(update.request.request_id);
    let needs = update.needs.wire();
    let request = UpdateFlavorRequest {
        flavor: name.to_string(),
        update_mask: Some(mask(&[
            ("vcpus", update.vcpus.is_some()),
            ("memory_mib", update.memory.is_some()),
            ("root_disk_bytes", update.disk.is_some() || update.no_disk),
            ("description", update.description.is_some()),
            ("visible_to", !update.tenants.is_empty()),
            ("needs", needs.is_some() || update.no_needs),
        ])),
        etag: update.etag,
        request_id: request_id.clone(),
        vcpus: update.vcpus.unwrap_or_default(),
        memory_mib: update.memory.unwrap_or_default().get(),
        root_disk_bytes: update.disk.unwrap_or_default().get(),
        description: update.description.unwrap_or_default(),
        visible_to: texts(&update.tenants),
        needs,
    };
    let flavor = client
        .change(&doing, &request_id, async |channel| {
            Flavors::new(channel).update_flavor(request.clone()).await
        })
        .await?;
    changed(client, out, &Flavor::from(flavor), name.as_str(), "changed")
}

async fn remove(
    client: &Client,
    out: &mut Out,
    flavor: &Name,
    request: Request,
) -> Result<(), Error> {
    let doing = Doing::new(format!("remove flavor {flavor}"), LOOK);
    let request_id = client.request_id(request.request_id);
    let request = DeleteFlavorRequest {
        flavor: flavor.to_string(),
        etag: String::new(),
        request_id: request_id.clone(),
    };
    client
        .change(&doing, &request_id, async |channel| {
            Flavors::new(channel).delete_flavor(request.clone()).await
        })
        .await?;
    gone(out, flavor.as_str(), "removed")
}

fn texts(names: &[Name]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}
