//! People and programs, and what they may do.

use std::{collections::BTreeSet, ops::Bound};

use kapok_proto::fabric::v1::{
    self as wire, CreateUserRequest, DeleteUserRequest, DeleteUserResponse, GetUserRequest,
    ListUsersRequest, ListUsersResponse, UpdateUserRequest, user_service_server::UserService,
};
use kapok_trust::Subject;
use kapok_types::Name;
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, key, optional, optional_key, parsed, request_id},
    page::Page,
    status, view,
};
use crate::{
    authz::{Action, Object, about},
    fabric::{Command, External, Fabric, Grant, people::Role},
};

#[tonic::async_trait]
impl UserService for Api {
    async fn create_user(
        &self,
        request: Request<CreateUserRequest>,
    ) -> Result<Response<wire::User>, Status> {
        let caller = self.caller(&request)?;
        let CreateUserRequest {
            subject,
            display_name,
            grants: given,
            external,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let subject = whom("subject", &key("subject", subject)?)?;
        let display = optional_key("display_name", display_name)?;
        let grants = grants("grants", given)?;
        let external = external.map(identity).transpose()?;
        self.authorize(&caller, Action::UserCreate, &Object::Fabric, "")?;
        let caller = self.may_give(caller, &subject, &grants)?;
        let command = Command::CreateUser {
            subject: subject.clone(),
            display,
            grants,
            external,
        };
        let done = self.submit(caller, id, command).await?;
        shown(&done.snapshot.fabric, &subject)
    }

    async fn get_user(
        &self,
        request: Request<GetUserRequest>,
    ) -> Result<Response<wire::User>, Status> {
        let caller = self.caller(&request)?;
        let which = key("user", request.into_inner().user)?;
        let subject = whom("user", &which)?;
        let snapshot = self.ledger.snapshot();
        let answer = shown(&snapshot.fabric, &subject)?;
        let object = about::user(&subject);
        self.authorize(&caller, Action::UserGet, &object, &subject.to_string())?;
        Ok(answer)
    }

    async fn list_users(
        &self,
        request: Request<ListUsersRequest>,
    ) -> Result<Response<ListUsersResponse>, Status> {
        let caller = self.caller(&request)?;
        self.authorize(&caller, Action::UserList, &Object::Fabric, "")?;
        let ListUsersRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let page = Page::new("users".into(), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<Subject>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let snapshot = self.ledger.snapshot();
        let rest = snapshot.fabric.users.range((from, Bound::Unbounded));
        let seen = rest.filter(|(whom, _)| self.may(&caller, Action::UserGet, &about::user(whom)));
        let (users, next_page_token) =
            page.take(seen.map(|(subject, user)| (subject.to_string(), view::user(user))));
        Ok(Response::new(ListUsersResponse {
            users,
            next_page_token,
        }))
    }

    async fn update_user(
        &self,
        request: Request<UpdateUserRequest>,
    ) -> Result<Response<wire::User>, Status> {
        let caller = self.caller(&request)?;
        let UpdateUserRequest {
            user,
            grant,
            revoke,
            disabled,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let user = whom("user", &key("user", user)?)?;
        let (grant, revoke) = (grants("grant", grant)?, grants("revoke", revoke)?);
        if disabled.is_some() || (grant.is_empty() && revoke.is_empty()) {
            self.may_change_user(&caller, Action::UserUpdate, &user)?;
        }
        let caller = self.may_give(caller, &user, &grant)?;
        let caller = self.may_give(caller, &user, &revoke)?;
        let command = Command::UpdateUser {
            user: user.clone(),
            grant,
            revoke,
            disabled,
        };
        let done = self.submit(caller, id, command).await?;
        shown(&done.snapshot.fabric, &user)
    }

    async fn delete_user(
        &self,
        request: Request<DeleteUserRequest>,
    ) -> Result<Response<DeleteUserResponse>, Status> {
        let caller = self.caller(&request)?;
        let DeleteUserRequest {
            user,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let user = whom("user", &key("user", user)?)?;
        self.may_change_user(&caller, Action::UserDelete, &user)?;
        self.submit(caller, id, Command::DeleteUser { user })
            .await?;
        Ok(Response::new(DeleteUserResponse {}))
    }
}

impl Api {
    /// Refuses a caller who may not do this with a user, whether they are there or not.
    fn may_change_user(
        &self,
        caller: &Caller,
        action: Action,
        user: &Subject,
    ) -> Result<(), Status> {
        let which = user.to_string();
        if self.ledger.snapshot().fabric.users.contains_key(user) {
            self.authorize(caller, action, &about::user(user), &which)
        } else {
            let some = |name: &Name| about::user(&Subject::User(name.clone()));
            self.authorize_absent(caller, action, some, &which)
        }
    }

    /// Refuses a caller who may not give or take these roles.
    fn may_give(
        &self,
        mut caller: Caller,
        user: &Subject,
        grants: &BTreeSet<Grant>,
    ) -> Result<Caller, Status> {
        for grant in grants {
            let object = about::grant(user, grant);
            self.authorize(&caller, Action::UserGrant, &object, &user.to_string())?;
        }
        for tenant in grants.iter().filter_map(|grant| grant.tenant.as_ref()) {
            caller.reach(tenant);
        }
        Ok(caller)
    }
}

/// "user/NAME", "machine/NAME", or NAME for a person.
fn whom(field: &str, text: &str) -> Result<Subject, Status> {
    let subject = if text.contains('/') {
        parsed(field, text)?
    } else {
        Subject::User(parsed(field, text)?)
    };
    match subject {
        Subject::User(_) | Subject::Machine(_) => Ok(subject),
        Subject::Node(_) | Subject::Controller(_) => Err(status::bad_field(
            field,
            "must be user/NAME or machine/NAME",
        )),
    }
}

/// Grants as they came. What goes together is `decide`'s to say.
fn grants(field: &str, given: Vec<wire::Grant>) -> Result<BTreeSet<Grant>, Status> {
    given
        .into_iter()
        .map(|one| {
            let role = match one.role() {
                wire::Role::SystemAdministrator => Role::SystemAdministrator,
                wire::Role::SecurityAdministrator => Role::SecurityAdministrator,
                wire::Role::Auditor => Role::Auditor,
                wire::Role::TenantAdministrator => Role::TenantAdministrator,
                wire::Role::TenantMember => Role::TenantMember,
                wire::Role::Unspecified => {
                    return Err(status::bad_field(field, "has a role that isn't known"));
                }
            };
            let tenant = optional(field, &one.tenant)?;
            Ok(Grant { role, tenant })
        })
        .collect()
}

fn identity(given: wire::ExternalIdentity) -> Result<External, Status> {
    Ok(External {
        issuer: key("external.issuer", given.issuer)?,
        subject: key("external.subject", given.subject)?,
    })
}

fn shown(fabric: &Fabric, subject: &Subject) -> Result<Response<wire::User>, Status> {
    let user = fabric.users.get(subject);
    let user = user.ok_or_else(|| absent("user", &subject.to_string()))?;
    Ok(Response::new(view::user(user)))
}
