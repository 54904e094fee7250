//! How much memory a controller takes: 500 simulated nodes with 10,000 instances unless told
//! otherwise (`size NODES INSTANCES`). Prints figures; asserts none. The programs were built before.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use kapok_lab::{
    fabric::Settings,
    loopback::{Loopback, Nodes},
};
use kapok_proto::fabric::v1::{CreateInstanceRequest, ListInstancesRequest, ListNodesRequest};
use kapok_proto::{common::v1::Phase, fabric::v1::NodeState};
use kapok_tests::{
    env::SimEnv,
    people::{People, small},
    real,
};

/// Creates that are under way at a time.
const AT_A_TIME: usize = 64;
/// How long everything may take to come up.
const BOUND: Duration = Duration::from_mins(10);

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
        &Settings::default(),
    )?;
    let channel = real::channel(fabric.kapok())?;
    let people = People::new(channel, SimEnv::new(1, tokio::time::Instant::now()));
    println!(
        "controller, empty:                      {}",
        resident(&fabric)?
    );

    let begun = Instant::now();
    wait(&fabric, || ready_nodes(&people), usize::from(nodes)).await?;
    println!(
        "with {nodes} nodes:                         {} ({:.1} s until all are ready)",
        resident(&fabric)?,
        begun.elapsed().as_secs_f64()
    );

    people.import().await?;
    let begun = Instant::now();
    let creates = stream::iter(0..instances).map(|number| {
        people.create_as(CreateInstanceRequest {
            vcpus: 1,
            ..small(&format!("web-{number}"))
        })
    });
    let answers: Vec<_> = creates.buffer_unordered(AT_A_TIME).collect().await;
    let accepted = begun.elapsed();
    if let Some(refused) = answers.into_iter().find_map(Result::err) {
        return Err(refused).context("a create was refused");
    }
    wait(&fabric, || running(&people), usize::try_from(instances)?).await?;
    println!(
        "with {nodes} nodes and {instances} instances:    {} (accepted in {:.1} s, all run after {:.1} s)",
        resident(&fabric)?,
        accepted.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    tokio::time::sleep(Duration::from_mins(1)).await;
    println!(
        "the same a minute later:                {}",
        resident(&fabric)?
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

async fn ready_nodes(people: &People) -> Result<usize> {
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let wanted = ListNodesRequest {
            page_size: 1000,
            page_token,
        };
        let answer = people.nodes().list_nodes(wanted).await?.into_inner();
        count += answer
            .nodes
            .iter()
            .filter(|node| node.state() == NodeState::Ready)
            .count();
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(count);
        }
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
