//! How soon questions are answered.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kapok_proto::fabric::v1::{
    ExplainInstanceRequest, GetCapacityRequest, GetInstanceRequest, GetNodeRequest,
    GetPoolingReportRequest, GetSystemRequest, GetTenantRequest, ListInstancesRequest,
    ListNodesRequest, ListSystemsRequest, ListTenantsRequest, ListUsageRequest, UsageBy,
    capacity_service_client::CapacityServiceClient, explain_instance_request::Question,
    report_service_client::ReportServiceClient, system_service_client::SystemServiceClient,
    tenant_service_client::TenantServiceClient, usage_service_client::UsageServiceClient,
};
use tonic::Status;

use crate::{
    city::{City, full_name, patiently},
    names::{TENANTS, system_name, tenant},
};

/// How often each question is asked.
const ASKED: u32 = 50;

/// Asks each question many times, one after the other, and prints how long answers took.
pub(crate) async fn ask_all(City { channel, people }: &City) -> Result<()> {
    println!("answers, {ASKED} times each, one after the other on one connection with mTLS:");
    let tenants = || TenantServiceClient::new(channel.clone());
    let systems = || SystemServiceClient::new(channel.clone());
    let a_thousand = 1000;
    let the_tenant = || tenant(7);
    ask("list 200 tenants", async |_| {
        let wanted = ListTenantsRequest {
            page_size: a_thousand,
            ..ListTenantsRequest::default()
        };
        tenants().list_tenants(wanted).await.map(drop)
    })
    .await?;
    ask("show a tenant", async |n| {
        let tenant = tenant(n % TENANTS);
        tenants()
            .get_tenant(GetTenantRequest { tenant })
            .await
            .map(drop)
    })
    .await?;
    ask("list 698 systems", async |_| {
        let wanted = ListSystemsRequest {
            page_size: a_thousand,
            ..ListSystemsRequest::default()
        };
        systems().list_systems(wanted).await.map(drop)
    })
    .await?;
    ask("show a system", async |n| {
        let system = format!("{}/{}", tenant(n % TENANTS), system_name(n % TENANTS));
        systems()
            .get_system(GetSystemRequest { system })
            .await
            .map(drop)
    })
    .await?;
    for page_size in [100, a_thousand] {
        ask(&format!("list {page_size} instances"), async |_| {
            let wanted = ListInstancesRequest {
                page_size,
                ..ListInstancesRequest::default()
            };
            people.instances().list_instances(wanted).await.map(drop)
        })
        .await?;
    }
    ask("list a tenant's instances", async |_| {
        let wanted = ListInstancesRequest {
            page_size: a_thousand,
            tenant: the_tenant(),
            ..ListInstancesRequest::default()
        };
        people.instances().list_instances(wanted).await.map(drop)
    })
    .await?;
    ask("show an instance", async |n| {
        let instance = full_name(n);
        let wanted = GetInstanceRequest { instance };
        people.instances().get_instance(wanted).await.map(drop)
    })
    .await?;
    ask("explain an instance", async |n| {
        let wanted = ExplainInstanceRequest {
            question: Some(Question::Instance(full_name(n))),
        };
        people.instances().explain_instance(wanted).await.map(drop)
    })
    .await?;
    let nodes = ListNodesRequest {
        page_size: a_thousand,
        ..ListNodesRequest::default()
    };
    let first = people.nodes().list_nodes(nodes.clone()).await?.into_inner();
    ask("list the nodes", async |_| {
        people.nodes().list_nodes(nodes.clone()).await.map(drop)
    })
    .await?;
    let node = first.nodes.first().map(|node| node.name.clone());
    ask("show a node", async |_| {
        let node = node.clone().unwrap_or_default();
        people
            .nodes()
            .get_node(GetNodeRequest { node })
            .await
            .map(drop)
    })
    .await?;
    for (what, by) in [
        ("report usage by tenant", UsageBy::Tenant),
        ("report usage by system", UsageBy::System),
    ] {
        ask(what, async |_| {
            let wanted = ListUsageRequest {
                by: by.into(),
                page_size: a_thousand,
                ..ListUsageRequest::default()
            };
            let mut client = UsageServiceClient::new(channel.clone());
            client.list_usage(wanted).await.map(drop)
        })
        .await?;
    }
    ask("report pooling", async |_| {
        let wanted = GetPoolingReportRequest::default();
        let mut client = ReportServiceClient::new(channel.clone());
        client.get_pooling_report(wanted).await.map(drop)
    })
    .await?;
    ask("report capacity, 8 flavors", async |_| {
        let wanted = GetCapacityRequest::default();
        let mut client = CapacityServiceClient::new(channel.clone());
        client.get_capacity(wanted).await.map(drop)
    })
    .await
}

/// Asks a question many times and prints how long answers took.
async fn ask(what: &str, call: impl AsyncFn(u32) -> Result<(), Status>) -> Result<()> {
    let mut took = Times::default();
    for number in 0..ASKED {
        let answered = patiently(async || {
            let begun = Instant::now();
            call(number).await.map(|()| begun.elapsed())
        });
        took.0
            .push(answered.await.with_context(|| what.to_owned())?);
    }
    took.print(what);
    Ok(())
}

/// How long things took.
#[derive(Debug, Default)]
pub(crate) struct Times(pub(crate) Vec<Duration>);

impl Times {
    /// Prints median, 99th percentile and the longest.
    pub(crate) fn print(mut self, what: &str) {
        self.0.sort_unstable();
        let Some(last) = self.0.len().checked_sub(1) else {
            println!("  {what:<30} none");
            return;
        };
        let at = |share: usize| self.0[last * share / 100].as_secs_f64() * 1000.0;
        println!(
            "  {what:<30} p50 {:>7.1} ms, p99 {:>7.1} ms, most {:>7.1} ms ({})",
            at(50),
            at(99),
            at(100),
            self.0.len()
        );
    }
}
