//! `cargo xtask bench city`: a fabric of a city's size on one controller, through the API: what it
//! takes, and how soon it answers. 500 simulated nodes and 10,000 instances unless told otherwise
//! (`city NODES INSTANCES`), over 200 tenants with 698 systems. Prints figures; asserts none. The
//! programs were built before.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kapok_lab::{
    fabric::{Build, Settings},
    loopback::{Loopback, Nodes},
};
use kapok_proto::{
    common::v1::Phase,
    fabric::v1::{
        CreateFlavorRequest, CreateInstanceRequest, CreateSystemRequest, CreateTenantRequest,
        ExplainInstanceRequest, GetCapacityRequest, GetInstanceRequest, GetNodeRequest,
        GetPoolingReportRequest, GetSystemRequest, GetTenantRequest, ListInstancesRequest,
        ListNodesRequest, ListSystemsRequest, ListTenantsRequest, ListUsageRequest, UsageBy,
        capacity_service_client::CapacityServiceClient, explain_instance_request::Question,
        flavor_service_client::FlavorServiceClient, report_service_client::ReportServiceClient,
        system_service_client::SystemServiceClient, tenant_service_client::TenantServiceClient,
        usage_service_client::UsageServiceClient,
    },
};
use kapok_tests::{
    env::SimEnv,
    people::{People, small},
    real,
};
use kapok_trust::Lasting;
use tonic::Status;

const TENANTS: u32 = 200;
const SYSTEMS: u32 = 698;
/// Sizes that capacity is counted for: vCPUs, each with as many GiB.
const FLAVORS: [u32; 8] = [1, 2, 4, 8, 12, 16, 24, 32];
/// Changes that are under way at a time.
const AT_A_TIME: usize = 64;
/// How long everything may take to come up.
const BOUND: Duration = Duration::from_mins(10);
/// Pause of whoever was told to ask later.
const PAUSE: Duration = Duration::from_millis(200);
/// How often each question is asked.
const ASKED: u32 = 50;

const DISTRICTS: [&str; 10] = [
    "滨江区",
    "城东区",
    "城南区",
    "城西区",
    "城北区",
    "高新区",
    "临港区",
    "开发区",
    "新城区",
    "郊县",
];
const OFFICES: [&str; 20] = [
    "公安局",
    "教育局",
    "民政局",
    "财政局",
    "水务局",
    "交通运输局",
    "卫生健康委员会",
    "规划和自然资源局",
    "住房和城乡建设局",
    "人力资源和社会保障局",
    "生态环境局",
    "农业农村局",
    "商务局",
    "文化和旅游局",
    "审计局",
    "市场监督管理局",
    "应急管理局",
    "统计局",
    "医疗保障局",
    "政务服务数据管理局",
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let nodes: u16 = arguments.next().map_or(Ok(500), |text| text.parse())?;
    let instances: u32 = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    // A fifth more than is needed, spread over all nodes: each thread carries four vCPUs.
    let cpus = (instances * 6 / 5).div_ceil(u32::from(nodes) * 4).max(1);
    let fabric = Loopback::start(
        Nodes {
            count: nodes,
            cpus,
            latency_ms: 5,
        },
        &Settings {
            build: Build::Release,
            ..Settings::default()
        },
    )?;
    let measured = measure(&fabric, nodes, instances).await;
    measured.with_context(|| fabric.last_words())
}

async fn measure(fabric: &Loopback, nodes: u16, instances: u32) -> Result<()> {
    let kapok = fabric.kapok();
    let channel = real::lasting(&real::person(&kapok.credential())?, kapok.server())?;
    let people = People::new(channel.clone(), SimEnv::new(1, tokio::time::Instant::now()));
    println!("with {nodes} nodes: {}", resident(fabric)?);

    people.import().await?;
    make_tenants(&channel, &people).await?;
    let begun = Instant::now();
    let creates = stream::iter(0..instances).map(|number| {
        let system = number % SYSTEMS;
        let wanted = CreateInstanceRequest {
            vcpus: 1,
            tenant: tenant(system % TENANTS),
            system: system_name(system),
            image: format!("city/{}", kapok_tests::people::IMAGE),
            request_id: people.request_id(),
            ..small(&instance(number))
        };
        let people = &people;
        patiently(async move || people.create_as(wanted.clone()).await)
    });
    let answers: Vec<_> = creates.buffer_unordered(AT_A_TIME).collect().await;
    let accepted = begun.elapsed();
    if let Some(refused) = answers.into_iter().find_map(Result::err) {
        return Err(refused).context("a create was refused");
    }
    wait(fabric, || running(&people), usize::try_from(instances)?).await?;
    println!(
        "with {nodes} nodes, {TENANTS} tenants, {SYSTEMS} systems, {instances} instances: {} \
         (accepted in {:.1} s, all run after {:.1} s)",
        resident(fabric)?,
        accepted.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    answers_of(&channel, &people).await?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    println!("a minute later: {}", resident(fabric)?);
    Ok(())
}

fn tenant(number: u32) -> String {
    format!("bureau-{number}")
}

fn system_name(number: u32) -> String {
    format!("system-{number}")
}

fn instance(number: u32) -> String {
    format!("web-{number}")
}

fn picked<'w>(words: &[&'w str], number: u32) -> &'w str {
    let at = usize::try_from(number).unwrap_or_default() % words.len();
    words[at]
}

async fn make_tenants(channel: &Lasting, people: &People) -> Result<()> {
    for vcpus in FLAVORS {
        let wanted = CreateFlavorRequest {
            name: format!("size-{vcpus}"),
            vcpus,
            memory_mib: u64::from(vcpus) * 1024,
            request_id: people.request_id(),
            ..CreateFlavorRequest::default()
        };
        let mut client = FlavorServiceClient::new(channel.clone());
        client.create_flavor(wanted).await?;
    }
    stream::iter(0..TENANTS)
        .map(Ok::<_, Status>)
        .try_for_each_concurrent(AT_A_TIME, async |number| {
            let district = picked(&DISTRICTS, number / 20);
            let wanted = CreateTenantRequest {
                name: tenant(number),
                display_name: format!("{district}{}", picked(&OFFICES, number)),
                request_id: people.request_id(),
                ..CreateTenantRequest::default()
            };
            patiently(async || {
                let mut client = TenantServiceClient::new(channel.clone());
                client.create_tenant(wanted.clone()).await.map(drop)
            })
            .await
        })
        .await
        .context("a tenant was refused")?;
    stream::iter(0..SYSTEMS)
        .map(Ok::<_, Status>)
        .try_for_each_concurrent(AT_A_TIME, async |number| {
            let office = picked(&OFFICES, number % TENANTS);
            let wanted = CreateSystemRequest {
                tenant: tenant(number % TENANTS),
                name: system_name(number),
                display_name: format!("{office}业务系统{number}"),
                owner: "值班室".into(),
                request_id: people.request_id(),
                ..CreateSystemRequest::default()
            };
            patiently(async || {
                let mut client = SystemServiceClient::new(channel.clone());
                client.create_system(wanted.clone()).await.map(drop)
            })
            .await
        })
        .await
        .context("a system was refused")
}

/// Asks each question many times, one after the other, and prints how long answers took.
async fn answers_of(channel: &Lasting, people: &People) -> Result<()> {
    println!("answers, {ASKED} times each, on one connection with mTLS:");
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
    let named = |n: u32| format!("{}/{}", tenant(n % SYSTEMS % TENANTS), instance(n));
    ask("show an instance", async |n| {
        let instance = named(n);
        let wanted = GetInstanceRequest { instance };
        people.instances().get_instance(wanted).await.map(drop)
    })
    .await?;
    ask("explain an instance", async |n| {
        let wanted = ExplainInstanceRequest {
            question: Some(Question::Instance(named(n))),
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

/// Whether the controller says that this caller asks too much at a time.
fn is_pace(status: &Status) -> bool {
    status.code() == tonic::Code::ResourceExhausted
        && status.message().contains("too many requests")
}

/// Asks again as long as the controller says that this caller asks too much at a time.
async fn patiently<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    loop {
        match call().await {
            Err(status) if is_pace(&status) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

async fn ask(what: &str, call: impl AsyncFn(u32) -> Result<(), Status>) -> Result<()> {
    let mut took = Vec::new();
    for number in 0..ASKED {
        let begun = Instant::now();
        match call(number).await {
            Ok(()) => took.push(begun.elapsed()),
            Err(status) if is_pace(&status) => tokio::time::sleep(PAUSE).await,
            Err(status) => return Err(status).with_context(|| what.to_owned()),
        }
    }
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!(
        "  {what:<28} p50 {:>6.1} ms, p99 {:>6.1} ms, most {:>6.1} ms",
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}

fn resident(fabric: &Loopback) -> Result<String> {
    let kib = fabric.controller_resident_kib()?;
    Ok(format!(
        "{}.{} MiB resident",
        kib / 1024,
        kib % 1024 * 10 / 1024
    ))
}

async fn wait(
    fabric: &Loopback,
    count: impl AsyncFn() -> Result<usize>,
    wanted: usize,
) -> Result<()> {
    let end = Instant::now() + BOUND;
    loop {
        let there = count().await?;
        if there >= wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "{there} of {wanted}\n{}",
            fabric.last_words()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn running(people: &People) -> Result<usize> {
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let wanted = ListInstancesRequest {
            page_size: 1000,
            page_token,
            ..Default::default()
        };
        let answer = people
            .instances()
            .list_instances(wanted)
            .await?
            .into_inner();
        count += answer
            .instances
            .iter()
            .filter(|one| one.phase() == Phase::Running)
            .count();
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(count);
        }
    }
}
