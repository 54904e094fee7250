//! Usage and the pooling report over gRPC: whose they are, and that they are the fold's.

use kapok_proto::fabric::v1::{
    CreateInstanceRequest, GetPoolingReportRequest, ListIdleInstancesRequest, ListUsageRequest,
    UsageBy, UsageRecord,
};

use super::*;
use crate::fabric::{accounting::Reading, city, command::Sighting};

async fn list(who: &Clients, request: ListUsageRequest) -> (Vec<UsageRecord>, String) {
    let page = who.usage().list_usage(request).await.unwrap().into_inner();
    (page.usages, page.next_page_token)
}

fn called(lines: &[UsageRecord]) -> Vec<String> {
    let called = lines
        .iter()
        .map(|one| format!("{}/{}", one.tenant, one.system));
    called.collect()
}

#[tokio::test]
async fn usage_is_the_tenants_own_and_the_report_the_citys() {
    let lab = Lab::new().await.with_nodes(&["node-1"]).await;
    for name in ["water", "parks"] {
        lab.own(fixture::tenant(name, None)).await;
    }
    instances::import_base(&lab).await;
    let water = lab
        .user("user/wang", &["tenant_administrator in water"])
        .await;
    let member = lab.user("user/zhao", &["tenant_member in water"]).await;
    let auditor = lab.user("user/sun", &["auditor"]).await;
    for (tenant, name) in [("water", "web"), ("parks", "map")] {
        let wish = CreateInstanceRequest {
            tenant: tenant.into(),
            ..instances::wish(name)
        };
        lab.instances().create_instance(wish).await.unwrap();
    }
    let snapshot = lab.api.ledger.snapshot();
    let web = snapshot.fabric.instance("water/web", &city()).unwrap();
    let incarnation = web.incarnations[0].id;
    let node: Name = "node-1".parse().unwrap();
    let (id, at) = (fixture::node_id(1), lab.api.env.now());
    lab.own(Command::RecordAvailability {
        node: node.clone(),
        id,
        sightings: vec![Sighting {
            incarnation,
            up: true,
            at,
            why: String::new(),
        }],
    })
    .await;
    let read = |cpu_ms| Command::RecordUsage {
        node: node.clone(),
        id,
        boot: "boot".into(),
        readings: vec![Reading {
            incarnation,
            run: "1".into(),
            cpu_ms,
            at,
        }],
    };
    lab.own(read(1000)).await;
    lab.own(read(61_000)).await;

    let all = ListUsageRequest::default;
    let (lines, _) = list(&lab, all()).await;
    assert_eq!(called(&lines), ["parks/default", "water/default"]);
    assert_eq!(
        (lines[1].used_cpu_seconds, lines[1].unknown_seconds),
        (61, 0)
    );
    assert_eq!(called(&list(&auditor, all()).await.0).len(), 2);
    assert_eq!(called(&list(&water, all()).await.0), ["water/default"]);
    assert!(list(&member, all()).await.0.is_empty());
    let page = ListUsageRequest {
        page_size: 1,
        by: UsageBy::Tenant.into(),
        ..all()
    };
    let (first, page_token) = list(&lab, page.clone()).await;
    let (second, end) = list(&lab, ListUsageRequest { page_token, ..page }).await;
    assert_eq!([called(&first), called(&second)], [["parks/"], ["water/"]]);
    assert_eq!(end, "");
    let past = ListUsageRequest {
        month: "2001-01".into(),
        ..all()
    };
    assert_eq!(list(&lab, past).await.0[1].used_cpu_seconds, 0);
    let wrong = |month: &str, tenant: &str| ListUsageRequest {
        month: month.into(),
        tenant: tenant.into(),
        ..all()
    };
    let answer = lab.usage().list_usage(wrong("2026-13", "")).await;
    assert_eq!(field(answer), "month");
    let answer = water.usage().list_usage(wrong("", "parks")).await;
    assert_eq!(refused(answer).0, Code::NotFound);
    // Who is as young as that isn't judged.
    let idle = ListIdleInstancesRequest::default();
    let idle = lab.usage().list_idle_instances(idle).await.unwrap();
    assert!(idle.into_inner().instances.is_empty());

    let whole = GetPoolingReportRequest::default;
    let report = lab.reports().get_pooling_report(whole()).await.unwrap();
    let report = report.into_inner();
    let bureaus: Vec<_> = report
        .bureaus
        .iter()
        .map(|one| (&*one.bureau, one.nodes))
        .collect();
    assert_eq!(bureaus, [("parks", 2), ("water", 2)]);
    assert_eq!((report.nodes_alone, report.nodes_pooled), (4, 2));
    assert_eq!((report.saved_permille, report.most_nodes_in_use), (500, 1));
    assert!(report.method.contains("N+1"));
    let answer = water.reports().get_pooling_report(whole()).await;
    assert_eq!(refused(answer).0, Code::PermissionDenied);
    let backwards = GetPoolingReportRequest {
        from_month: "2026-02".into(),
        to_month: "2026-01".into(),
        ..whole()
    };
    let answer = lab.reports().get_pooling_report(backwards).await;
    assert_eq!(field(answer), "from_month");
}
