//! `kapok user …`

use kapok_proto::fabric::v1::{
    CreateUserRequest, DeleteUserRequest, ExternalIdentity, GetUserRequest, ListUsersRequest,
    UpdateUserRequest, user_service_client::UserServiceClient as Users,
};

use super::{changed, confirm, gone, token};
use crate::{
    args::user::{Command, Create, Grant, Grants},
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::Out,
    view::user::User,
};

const LOOK: &str = "kapok user ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, command: Command) -> Result<(), Error> {
    match command {
        Command::Create(new) => create(client, out, new).await,
        Command::Ls => list(client, out).await,
        Command::Show { user } => {
            let doing = Doing::new(format!("show {user}"), LOOK);
            let request = GetUserRequest { user };
            let found = client
                .read(&doing, async |channel| {
                    Users::new(channel).get_user(request.clone()).await
                })
                .await?;
            out.one(&User::from(found), client.now())
        }
        Command::Grant(Grants {
            user,
            roles,
            request,
        }) => {
            let change = UpdateUserRequest {
                user,
                grant: wire(roles),
                ..UpdateUserRequest::default()
            };
            let user = update(client, change, request.request_id, "give roles to").await?;
            rights(client, out, user)
        }
        Command::Revoke(Grants {
            user,
            roles,
            request,
        }) => {
            let change = UpdateUserRequest {
                user,
                revoke: wire(roles),
                ..UpdateUserRequest::default()
            };
            let user = update(client, change, request.request_id, "take roles from").await?;
            rights(client, out, user)
        }
        Command::Disable(which) => {
            confirm(
                which.yes,
                &format!("Disable {} and end their certificates?", which.user),
            )?;
            let change = UpdateUserRequest {
                user: which.user,
                disabled: Some(true),
                ..UpdateUserRequest::default()
            };
            let user = update(client, change, which.request.request_id, "disable").await?;
            let name = user.subject.clone();
            changed(client, out, &User::from(user), &name, "disabled")
        }
        Command::Enable { user, request } => {
            let change = UpdateUserRequest {
                user,
                disabled: Some(false),
                ..UpdateUserRequest::default()
            };
            let user = update(client, change, request.request_id, "enable").await?;
            let name = user.subject.clone();
            changed(client, out, &User::from(user), &name, "can log in again")
        }
        Command::Rm(which) => {
            let user = which.user;
            confirm(
                which.yes,
                &format!("Remove {user} and end their certificates and tokens?"),
            )?;
            let doing = Doing::new(format!("remove {user}"), LOOK);
            let request_id = client.request_id(which.request.request_id);
            let request = DeleteUserRequest {
                user: user.clone(),
                request_id: request_id.clone(),
            };
            client
                .change(&doing, &request_id, async |channel| {
                    Users::new(channel).delete_user(request.clone()).await
                })
                .await?;
            gone(out, &user, "removed")
        }
        Command::Token {
            user,
            life,
            request,
        } => token::create(client, out, user, life, request).await,
    }
}

fn wire(grants: Vec<Grant>) -> Vec<kapok_proto::fabric::v1::Grant> {
    grants.into_iter().map(|grant| grant.0).collect()
}

fn rights(
    client: &Client,
    out: &mut Out,
    user: kapok_proto::fabric::v1::User,
) -> Result<(), Error> {
    let name = user.subject.clone();
    let user = User::from(user);
    let rights = format!("has {}", user.rights());
    changed(client, out, &user, &name, &rights)
}

async fn create(client: &Client, out: &mut Out, new: Create) -> Result<(), Error> {
    // What can be missing here is a grant's tenant.
    let doing = Doing::new(format!("create {}", new.user), "kapok tenant ls").shown_by(LOOK);
    let request_id = client.request_id(new.request.request_id);
    let external = new.issuer.zip(new.external_subject);
    let request = CreateUserRequest {
        subject: new.user.clone(),
        display_name: new.display_name,
        grants: wire(new.grants),
        external: external.map(|(issuer, subject)| ExternalIdentity { issuer, subject }),
        request_id: request_id.clone(),
    };
    let logs_in_elsewhere = request.external.is_some();
    let user = client
        .change(&doing, &request_id, async |channel| {
            Users::new(channel).create_user(request.clone()).await
        })
        .await?;
    if !logs_in_elsewhere && out.format().is_for_people() {
        out.remark(&format!(
            "let them log in: kapok token create {}",
            crate::human::plain(&new.user)
        ));
    }
    changed(client, out, &User::from(user), &new.user, "created")
}

async fn list(client: &Client, out: &mut Out) -> Result<(), Error> {
    let doing = Doing::new("list users", LOOK);
    let users = pages(&doing, async |page_token| {
        let request = ListUsersRequest {
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Users::new(channel).list_users(request.clone()).await
            })
            .await?;
        Ok((page.users, page.next_page_token))
    })
    .await?;
    let users: Vec<_> = users.into_iter().map(User::from).collect();
    out.list(&users, client.now())
}

async fn update(
    client: &Client,
    change: UpdateUserRequest,
    request_id: Option<String>,
    what: &str,
) -> Result<kapok_proto::fabric::v1::User, Error> {
    let doing = Doing::new(format!("{what} {}", change.user), LOOK);
    let request_id = client.request_id(request_id);
    let request = UpdateUserRequest {
        request_id: request_id.clone(),
        ..change
    };
    client
        .change(&doing, &request_id, async |channel| {
            Users::new(channel).update_user(request.clone()).await
        })
        .await
}
