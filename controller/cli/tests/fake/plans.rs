//! The fake's answers about what still fits and what would move where: one of each.

use kapok_proto::fabric::v1::{
    capacity_service_server::CapacityService, plan_service_server::PlanService, *,
};
use tonic::{Request, Response};

use super::{Answer, Fake};

#[tonic::async_trait]
impl CapacityService for Fake {
    async fn get_capacity(&self, request: Request<GetCapacityRequest>) -> Answer<Capacity> {
        let request = request.into_inner();
        // No change, but it should be seen what was asked.
        self.changed(&request);
        Ok(Response::new(Capacity {
            tenant: request.tenant,
            ..Capacity::default()
        }))
    }
}

#[tonic::async_trait]
impl PlanService for Fake {
    async fn compute_plan(&self, request: Request<ComputePlanRequest>) -> Answer<Plan> {
        let request = request.into_inner();
        self.changed(&request);
        Ok(Response::new(Plan {
            kind: request.kind,
            ..Plan::default()
        }))
    }
}
