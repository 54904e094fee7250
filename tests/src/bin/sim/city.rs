//! The city as its people know it: bureaus, systems and instances, made and counted through the API.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kapok_proto::{
    common::v1::Phase,
    fabric::v1::{
        CreateFlavorRequest, CreateInstanceRequest, CreateSystemRequest, CreateTenantRequest,
        ListInstancesRequest, ListNodesRequest, Node, Operation,
        flavor_service_client::FlavorServiceClient, system_service_client::SystemServiceClient,
        tenant_service_client::TenantServiceClient,
    },
};
use kapok_tests::people::{IMAGE, People, small};
use kapok_trust::Lasting;
use tonic::Status;

use crate::names::{SYSTEMS, TENANTS, bureau, instance, office, system_name, tenant};

/// Sizes that capacity is counted for: vCPUs, each with as many GiB.
const FLAVORS: [u32; 8] = [1, 2, 4, 8, 12, 16, 24, 32];
/// Changes that are under way at a time.
const AT_A_TIME: usize = 64;
/// How long anything may take to come up.
const BOUND: Duration = Duration::from_mins(20);
/// Pause of whoever was told to ask later.
const PAUSE: Duration = Duration::from_millis(200);

/// The city's administrator, on one connection that is made again when it ends.
pub(crate) struct City {
    pub(crate) channel: Lasting,
    pub(crate) people: People,
}

impl City {
    /// Makes flavors, tenants and systems.
    pub(crate) async fn found(&self) -> Result<()> {
        let Self { channel, people } = self;
        people.import().await?;
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
                let wanted = CreateTenantRequest {
                    name: tenant(number),
                    display_name: bureau(number),
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
                let office = office(number % TENANTS);
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

    /// Makes instances, many at a time.
    pub(crate) async fn fill(&self, instances: u32) -> Result<()> {
        let creates = stream::iter(0..instances).map(async |number| {
            let wanted = self.wanted(number);
            patiently(async || self.people.create_as(wanted.clone()).await).await
        });
        let answers: Vec<_> = creates.buffer_unordered(AT_A_TIME).collect().await;
        let refused = answers.into_iter().find_map(Result::err);
        refused.map_or(Ok(()), |refused| {
            Err(refused).context("a create was refused")
        })
    }

    /// Makes one instance.
    pub(crate) async fn create(&self, number: u32) -> Result<Operation, Status> {
        self.people.create_as(self.wanted(number)).await
    }

    /// Deletes one instance.
    pub(crate) async fn delete(&self, number: u32) -> Result<Operation, Status> {
        self.people.delete(&full_name(number)).await
    }

    fn wanted(&self, number: u32) -> CreateInstanceRequest {
        let system = number % SYSTEMS;
        CreateInstanceRequest {
            tenant: tenant(system % TENANTS),
            system: system_name(system),
            image: format!("city/{IMAGE}"),
            request_id: self.people.request_id(),
            ..small(&instance(number))
        }
    }

    /// Waits until so many instances run.
    pub(crate) async fn all_run(&self, instances: u32) -> Result<()> {
        let wanted = usize::try_from(instances)?;
        wait(async || self.running().await, wanted).await
    }

    async fn running(&self) -> Result<usize> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let wanted = ListInstancesRequest {
                page_size: 1000,
                page_token,
                ..Default::default()
            };
            let client = self.people.instances();
            let answer = patiently(async || client.clone().list_instances(wanted.clone()).await);
            let answer = answer.await?.into_inner();
            let runs = |one: &&kapok_proto::fabric::v1::Instance| one.phase() == Phase::Running;
            count += answer.instances.iter().filter(runs).count();
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(count);
            }
        }
    }

    /// All nodes.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, Status> {
        let (mut nodes, mut page_token) = (Vec::new(), String::new());
        loop {
            let wanted = ListNodesRequest {
                page_size: 1000,
                page_token,
            };
            let answer = self.people.nodes().list_nodes(wanted).await?.into_inner();
            nodes.extend(answer.nodes);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(nodes);
            }
        }
    }
}

/// An instance's name to people of the whole fabric.
pub(crate) fn full_name(number: u32) -> String {
    format!(
        "{}/{}",
        tenant(number % SYSTEMS % TENANTS),
        instance(number)
    )
}

async fn wait(count: impl AsyncFn() -> Result<usize>, wanted: usize) -> Result<()> {
    let end = Instant::now() + BOUND;
    loop {
        let there = count().await?;
        if there >= wanted {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{there} of {wanted}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whether the controller says that this caller asks too much at a time.
pub(crate) fn is_pace(status: &Status) -> bool {
    status.code() == tonic::Code::ResourceExhausted
        && status.message().contains("too many requests")
}

/// Asks again as long as the controller says that this caller asks too much at a time.
pub(crate) async fn patiently<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    loop {
        match call().await {
            Err(status) if is_pace(&status) => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}
