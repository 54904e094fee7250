//! The fake's answers about flavors, systems and groups: one of each.

use kapok_proto::fabric::v1::{
    flavor_service_server::FlavorService, group_service_server::GroupService,
    system_service_server::SystemService, *,
};
use tonic::{Request, Response};

use super::{Answer, Fake};

fn flavor(name: String) -> Response<Flavor> {
    Response::new(Flavor {
        name,
        vcpus: 2,
        memory_mib: 4096,
        ..Flavor::default()
    })
}

fn system(name: String) -> Response<System> {
    Response::new(System {
        name,
        tenant: "water".into(),
        ..System::default()
    })
}

fn group(name: String) -> Response<Group> {
    Response::new(Group {
        name,
        tenant: "water".into(),
        kept: true,
        ..Group::default()
    })
}

#[tonic::async_trait]
impl GroupService for Fake {
    async fn create_group(&self, request: Request<CreateGroupRequest>) -> Answer<Group> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(group(request.name))
    }

    async fn get_group(&self, request: Request<GetGroupRequest>) -> Answer<Group> {
        Ok(group(request.into_inner().group))
    }

    async fn list_groups(&self, _: Request<ListGroupsRequest>) -> Answer<ListGroupsResponse> {
        Ok(Response::new(ListGroupsResponse {
            groups: vec![group("web".into()).into_inner()],
            next_page_token: String::new(),
        }))
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Answer<DeleteGroupResponse> {
        self.changed(&request.into_inner());
        Ok(Response::new(DeleteGroupResponse {}))
    }
}

#[tonic::async_trait]
impl FlavorService for Fake {
    async fn create_flavor(&self, request: Request<CreateFlavorRequest>) -> Answer<Flavor> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(flavor(request.name))
    }

    async fn get_flavor(&self, request: Request<GetFlavorRequest>) -> Answer<Flavor> {
        Ok(flavor(request.into_inner().flavor))
    }

    async fn list_flavors(&self, _: Request<ListFlavorsRequest>) -> Answer<ListFlavorsResponse> {
        Ok(Response::new(ListFlavorsResponse {
            flavors: vec![flavor("small".into()).into_inner()],
            next_page_token: String::new(),
        }))
    }

    async fn update_flavor(&self, request: Request<UpdateFlavorRequest>) -> Answer<Flavor> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(flavor(request.flavor))
    }

    async fn delete_flavor(
        &self,
        request: Request<DeleteFlavorRequest>,
    ) -> Answer<DeleteFlavorResponse> {
        self.changed(&request.into_inner());
        Ok(Response::new(DeleteFlavorResponse {}))
    }
}

#[tonic::async_trait]
impl SystemService for Fake {
    async fn create_system(&self, request: Request<CreateSystemRequest>) -> Answer<System> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(system(request.name))
    }

    async fn get_system(&self, request: Request<GetSystemRequest>) -> Answer<System> {
        Ok(system(request.into_inner().system))
    }

    async fn list_systems(&self, _: Request<ListSystemsRequest>) -> Answer<ListSystemsResponse> {
        Ok(Response::new(ListSystemsResponse {
            systems: vec![system("billing".into()).into_inner()],
            next_page_token: String::new(),
        }))
    }

    async fn update_system(&self, request: Request<UpdateSystemRequest>) -> Answer<System> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(system(request.system))
    }

    async fn delete_system(
        &self,
        request: Request<DeleteSystemRequest>,
    ) -> Answer<DeleteSystemResponse> {
        self.changed(&request.into_inner());
        Ok(Response::new(DeleteSystemResponse {}))
    }
}
