//! `kapok group …`

use kapok_proto::fabric::v1::{
    CreateGroupRequest, DeleteGroupRequest, GetGroupRequest, ListGroupsRequest,
    group_service_client::GroupServiceClient as Groups,
};
use kapok_types::Name;

use super::{changed, gone};
use crate::{
    args::group::{Command, Create},
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::group::Group,
};

/// Lists what could have been meant.
pub(super) const LOOK: &str = "kapok group ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create(create) => create_one(client, out, create).await,
        Command::Ls { tenant } => list(client, out, tenant).await,
        Command::Show { group } => {
            let doing = Doing::new(format!("show group {group}"), LOOK);
            let request = GetGroupRequest { group };
            let found = client
                .read(&doing, async |channel| {
                    Groups::new(channel).get_group(request.clone()).await
                })
                .await?;
            out.one(&Group::from(found), client.now())
        }
        Command::Rm { group, request } => {
            let doing = Doing::new(format!("remove group {group}"), LOOK);
            let request_id = client.request_id(request.request_id);
            let request = DeleteGroupRequest {
                group: group.clone(),
                request_id: request_id.clone(),
            };
            client
                .change(&doing, &request_id, async |channel| {
                    Groups::new(channel).delete_group(request.clone()).await
                })
                .await?;
            gone(out, &group, "removed")
        }
    }
}

async fn create_one(client: &Client, out: &mut Out, create: Create) -> Result<(), Error> {
    // What can be missing here is the tenant.
    let doing =
        Doing::new(format!("create group {}", create.name), "kapok tenant ls").shown_by(LOOK);
    let (kind, domain) = create.kind();
    let request_id = client.request_id(create.request.request_id);
    let request = CreateGroupRequest {
        tenant: create
            .tenant
            .map(|name| name.to_string())
            .unwrap_or_default(),
        name: create.name.to_string(),
        kind: kind.into(),
        domain: domain.into(),
        soft: create.soft,
        request_id: request_id.clone(),
    };
    let group = client
        .change(&doing, &request_id, async |channel| {
            Groups::new(channel).create_group(request.clone()).await
        })
        .await?;
    let group = Group::from(group);
    changed(client, out, &group, create.name.as_str(), "created")
}

async fn list(client: &Client, out: &mut Out, tenant: Option<Name>) -> Result<(), Error> {
    let look = if tenant.is_some() {
        "kapok tenant ls"
    } else {
        LOOK
    };
    let doing = Doing::new("list groups", look);
    let tenant = tenant.map(|name| name.to_string()).unwrap_or_default();
    let groups = pages(&doing, async |page_token| {
        let request = ListGroupsRequest {
            tenant: tenant.clone(),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Groups::new(channel).list_groups(request.clone()).await
            })
            .await?;
        Ok((page.groups, page.next_page_token))
    })
    .await?;
    let groups: Vec<_> = groups.into_iter().map(Group::from).collect();
    out.list(&groups, client.now())
}
