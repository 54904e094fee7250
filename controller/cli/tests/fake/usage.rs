//! The fake's answers about usage and pooling: one line of each.

use kapok_proto::fabric::v1::{
    report_service_server::ReportService, usage_service_server::UsageService, *,
};
use tonic::{Request, Response};

use super::{Answer, Fake};

#[tonic::async_trait]
impl UsageService for Fake {
    async fn list_usage(&self, request: Request<ListUsageRequest>) -> Answer<ListUsageResponse> {
        let request = request.into_inner();
        let by_tenant = request.by() == UsageBy::Tenant;
        let system = if by_tenant { "" } else { "billing" };
        Ok(Response::new(ListUsageResponse {
            usages: vec![UsageRecord {
                tenant: "water".into(),
                system: system.into(),
                month: request.month,
                vcpu_seconds: 5400,
                memory_mib_seconds: 1024 * 3600,
                unknown_seconds: 60,
                ..UsageRecord::default()
            }],
            next_page_token: String::new(),
            known_since: None,
        }))
    }

    async fn list_idle_instances(
        &self,
        request: Request<ListIdleInstancesRequest>,
    ) -> Answer<ListIdleInstancesResponse> {
        Ok(Response::new(ListIdleInstancesResponse {
            instances: vec![IdleInstance {
                tenant: "water".into(),
                instance: "web".into(),
                at_most_permille: request.into_inner().below_permille - 1,
                ..IdleInstance::default()
            }],
            next_page_token: String::new(),
        }))
    }
}

#[tonic::async_trait]
impl ReportService for Fake {
    async fn get_pooling_report(
        &self,
        request: Request<GetPoolingReportRequest>,
    ) -> Answer<GetPoolingReportResponse> {
        let request = request.into_inner();
        let line = |bureau: &str, nodes| BureauPooling {
            bureau: bureau.into(),
            nodes,
            ..BureauPooling::default()
        };
        Ok(Response::new(GetPoolingReportResponse {
            from_month: request.from_month,
            node_memory_mib: request.node_memory_mib,
            bureaus: vec![line("parks", 3), line("water", 4)],
            pool: Some(line("", 5)),
            nodes_alone: 7,
            nodes_pooled: 5,
            saved_permille: 285,
            method: "counted by hand".into(),
            ..GetPoolingReportResponse::default()
        }))
    }
}
