//! `kapok usage …` and `kapok report …`

use kapok_proto::fabric::v1::{
    GetPoolingReportRequest, ListIdleInstancesRequest, ListUsageRequest, UsageBy,
    report_service_client::ReportServiceClient as Reports,
    usage_service_client::UsageServiceClient as Usages,
};
use kapok_types::Name;

use crate::{
    args::usage::{By, Command, Report, Usage},
    client::{Client, PAGE, pages},
    error::{Doing, Error},
    output::{Format, Out},
    view::usage::{Idle, Line, Pooling},
};

/// Lists what could have been meant.
const LOOK: &str = "kapok tenant ls";

/// Does it.
pub(super) async fn run(client: &Client, out: &mut Out, usage: Usage) -> Result<(), Error> {
    if let Some(Command::Idle {
        tenant,
        days,
        below,
    }) = usage.command
    {
        return idle(client, out, tenant, days, below).await;
    }
    let doing = Doing::new("show usage", LOOK);
    let tenant = usage
        .tenant
        .map(|name| name.to_string())
        .unwrap_or_default();
    let by = match usage.by {
        By::System => UsageBy::System,
        By::Tenant => UsageBy::Tenant,
    };
    let lines = pages(&doing, async |page_token| {
        let request = ListUsageRequest {
            tenant: tenant.clone(),
            month: usage.month.clone(),
            by: by.into(),
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Usages::new(channel).list_usage(request.clone()).await
            })
            .await?;
        Ok((page.usages, page.next_page_token))
    })
    .await?;
    let lines: Vec<_> = lines.into_iter().map(Line::from).collect();
    out.list(&lines, client.now())
}

async fn idle(
    client: &Client,
    out: &mut Out,
    tenant: Option<Name>,
    days: u32,
    below: u32,
) -> Result<(), Error> {
    let doing = Doing::new("list idle instances", LOOK);
    let tenant = tenant.map(|name| name.to_string()).unwrap_or_default();
    let instances = pages(&doing, async |page_token| {
        let request = ListIdleInstancesRequest {
            tenant: tenant.clone(),
            days,
            below_permille: below * 10,
            page_size: PAGE,
            page_token,
        };
        let page = client
            .read(&doing, async |channel| {
                Usages::new(channel)
                    .list_idle_instances(request.clone())
                    .await
            })
            .await?;
        Ok((page.instances, page.next_page_token))
    })
    .await?;
    let instances: Vec<_> = instances.into_iter().map(Idle::from).collect();
    out.list(&instances, client.now())
}

/// Does it.
pub(super) async fn report(client: &Client, out: &mut Out, report: Report) -> Result<(), Error> {
    let Report::Pooling {
        from,
        to,
        node_vcpus,
        node_memory,
    } = report;
    let doing = Doing::new("report on pooling", "kapok whoami");
    let request = GetPoolingReportRequest {
        from_month: from,
        to_month: to,
        node_vcpus,
        node_memory_mib: node_memory.map_or(0, kapok_types::MemoryMib::get),
    };
    let made = client
        .read(&doing, async |channel| {
            Reports::new(channel)
                .get_pooling_report(request.clone())
                .await
        })
        .await?;
    let made = Pooling::from(made);
    if out.format() == Format::Csv {
        out.data(made.lines())
    } else {
        out.one(&made, client.now())
    }
}
