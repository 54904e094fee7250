//! The tenants' groups.

use kapok_proto::fabric::v1::{
    CreateGroupRequest, DeleteGroupRequest, DeleteGroupResponse, GetGroupRequest, Group,
    GroupDomain, GroupKind, ListGroupsRequest, ListGroupsResponse,
    group_service_server::GroupService,
};
use kapok_scheduler::Domain;
use kapok_types::Name;
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{absent, key, optional, parsed, request_id},
    page::{Page, place},
    status, view,
};
use crate::{
    authz::{Action, about},
    fabric::{Command, Fabric, command::CreateGroup, group::Kind},
};

#[tonic::async_trait]
impl GroupService for Api {
    async fn create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<Response<Group>, Status> {
        let mut caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let tenant = optional::<Name>("tenant", &wire.tenant)?;
        let name: Name = parsed("name", &wire.name)?;
        let (kind, domain) = (kind(wire.kind())?, domain(wire.domain())?);
        let home = tenant.clone().unwrap_or_else(|| caller.home.clone());
        let object = about::tenant(&home);
        self.authorize(&caller, Action::GroupCreate, &object, home.as_str())?;
        caller.reach(&home);
        let command = Command::CreateGroup(CreateGroup {
            tenant,
            name: name.clone(),
            kind,
            domain,
            strict: !wire.soft,
        });
        let done = self.submit(caller, id, command).await?;
        shown(&done.snapshot.fabric, name.as_str(), &home)
    }

    async fn get_group(
        &self,
        request: Request<GetGroupRequest>,
    ) -> Result<Response<Group>, Status> {
        let caller = self.caller(&request)?;
        let which = key("group", request.into_inner().group)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let found = fabric.group(&which, &caller.home);
        let found = found.ok_or_else(|| absent("group", &which))?;
        self.authorize(&caller, Action::GroupGet, &about::group(found), &which)?;
        let members = fabric.members_of(found);
        let members =
            members.filter(|one| self.may(&caller, Action::InstanceGet, &about::instance(one)));
        Ok(Response::new(Group {
            members: members.map(|one| view::member(fabric, one)).collect(),
            ..view::group(fabric, found)
        }))
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        let caller = self.caller(&request)?;
        let ListGroupsRequest {
            tenant,
            page_size,
            page_token,
        } = request.into_inner();
        let below = optional::<Name>("tenant", &tenant)?;
        let page = Page::new(format!("groups {tenant}"), page_size, &page_token)?;
        let snapshot = self.ledger.snapshot();
        let fabric = &snapshot.fabric;
        let places = self.places(
            fabric,
            &caller,
            Action::GroupList,
            below.as_ref(),
            &fabric.groups,
            page.after.as_deref(),
        )?;
        let seen =
            places.filter(|(_, group)| self.may(&caller, Action::GroupGet, &about::group(group)));
        let (groups, next_page_token) =
            page.take(seen.map(|(called, group)| (place(called), view::group(fabric, group))));
        Ok(Response::new(ListGroupsResponse {
            groups,
            next_page_token,
        }))
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let mut caller = self.caller(&request)?;
        let wire = request.into_inner();
        let id = request_id(&wire.request_id)?;
        let group = key("group", wire.group)?;
        let action = Action::GroupDelete;
        let snapshot = self.ledger.snapshot();
        match snapshot.fabric.group(&group, &caller.home) {
            Some(found) => {
                self.authorize(&caller, action, &about::group(found), &group)?;
                caller.reach(&found.tenant);
            }
            None => self.authorize_absent(&caller, action, about::some_group, &group)?,
        }
        self.submit(caller, id, Command::DeleteGroup { group })
            .await?;
        Ok(Response::new(DeleteGroupResponse {}))
    }
}

fn shown(fabric: &Fabric, which: &str, home: &Name) -> Result<Response<Group>, Status> {
    let group = fabric.group(which, home);
    let group = group.ok_or_else(|| absent("group", which))?;
    Ok(Response::new(view::group(fabric, group)))
}

fn kind(wire: GroupKind) -> Result<Kind, Status> {
    match wire {
        GroupKind::Apart => Ok(Kind::Apart),
        GroupKind::Together => Ok(Kind::Together),
        GroupKind::Unspecified => Err(status::bad_field("kind", "isn't known or stated")),
    }
}

fn domain(wire: GroupDomain) -> Result<Domain, Status> {
    match wire {
        GroupDomain::Node => Ok(Domain::Node),
        GroupDomain::Rack => Ok(Domain::Rack),
        GroupDomain::Room => Ok(Domain::Room),
        GroupDomain::Unspecified => Err(status::bad_field("domain", "isn't known or stated")),
    }
}
