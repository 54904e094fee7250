//! `cargo xtask bench placement`: how many placements a second, in memory and durable, and whether
//! that depends on the size of the fabric.
#![allow(clippy::print_stdout, reason = "a measurement, for people to read")]

use std::{collections::VecDeque, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use futures::future::try_join_all;
use kapok_controller::fabric::{Command, command::CreateInstance};
use kapok_replay::{
    figures::{Disk, Durations},
    world::{self, Shape, World},
};
use kapok_scheduler::{Delta, Fleet, Policy, Request, place};
use kapok_types::{
    Bytes, Env, IncarnationId, MemoryMib, Name, NodeId, Vcpus,
    env::System,
    instance::{Arch, MemoryClaim, Power, RunPolicy},
};

/// The nodes' shape.
const NODE: Shape = Shape {
    vcpus: Vcpus(64),
    memory: MemoryMib(256 * 1024),
};

/// Nodes in the fabrics of which decisions in memory are measured.
const PURE: [u32; 3] = [500, 5_000, 100_000];

/// Nodes in the fabrics of which durable decisions are measured.
const DURABLE: [u32; 2] = [5_000, 15_000];

/// What is asked for, in the shares of recorded public-cloud demand: of 16 requests, so many vCPUs,
/// each with as many times 1792 MiB.
const MIX: [u32; 16] = [1, 2, 1, 4, 1, 1, 2, 1, 1, 8, 1, 2, 1, 1, 4, 1];

/// Of the fabric's vCPUs, how many of 100 are taken while decisions in memory are measured.
const FILL: u64 = 70;

/// Tenants, in three levels.
const BUREAUS: usize = 200;

/// Measures placements
#[derive(Debug, Parser)]
struct Arguments {
    /// Decisions in memory to measure, for each size
    #[arg(long, default_value_t = 200_000)]
    decisions: usize,
    /// Durable creates to measure, for each size
    #[arg(long, default_value_t = 120_000)]
    creates: usize,
    /// Clients that each wait for their own answer
    #[arg(long, default_value_t = 512)]
    clients: usize,
    /// Where the log is written; must be on a disk
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: std::path::PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = || {
        tempfile::Builder::new()
            .prefix("bench-placement-")
            .tempdir_in(&arguments.folder)
            .with_context(|| format!("can't write to {}", arguments.folder.display()))
    };
    let disk = Disk::measure(folder()?.path())?;
    println!("nodes of {NODE}; requests of 1 to 8 vCPUs with 1792 MiB each; {disk}\n");

    println!("in memory: place and claim, one released for each; {FILL} % of vCPUs are taken");
    for nodes in PURE {
        let folder = folder()?;
        let world = World::open(folder.path(), System::new(), nodes, NODE).await?;
        let fleet = world.snapshot().fabric.fleet.clone();
        let figures = in_memory(fleet, arguments.decisions)?;
        world.close().await?;
        println!("  {nodes:>7} nodes: {figures}");
    }

    println!(
        "\ndurable: a create with its request id, quota path, placement, claim, operation and audit \
         facts, {} clients",
        arguments.clients
    );
    for nodes in DURABLE {
        let folder = folder()?;
        let figures = durable(folder.path(), nodes, &arguments).await?;
        println!("  {nodes:>7} nodes: {figures}");
    }
    Ok(())
}

/// What a measurement came to.
struct Figures {
    each: Durations,
    whole: Duration,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = u32::try_from(self.each.len()).unwrap_or(u32::MAX);
        let rate = f64::from(count) / self.whole.as_secs_f64();
        write!(f, "{rate:>9.0}/s, {}", self.each)
    }
}

/// The question for the instance of a number.
fn request(number: usize) -> Request {
    let vcpus = Vcpus(MIX[number % MIX.len()]);
    let memory = guest_memory(vcpus);
    Request::new(Arch::X86_64, vcpus, MemoryClaim::of(memory, vcpus))
}

fn guest_memory(vcpus: Vcpus) -> MemoryMib {
    world::guest_memory(MemoryMib(1792 * u64::from(vcpus.get())), vcpus)
}

fn in_memory(mut fleet: Fleet, decisions: usize) -> Result<Figures> {
    let env = System::new();
    let incarnation = |number: usize| IncarnationId(uuid::Uuid::from_u128(number_of(number)));
    let mut running: VecDeque<(NodeId, IncarnationId)> = VecDeque::new();
    let claim = |fleet: &mut Fleet, number: usize| -> Result<(NodeId, IncarnationId)> {
        let request = request(number);
        let Ok(placed) = place(fleet, &request, &Policy::PACK) else {
            bail!("no room for request {number}");
        };
        let (node, incarnation) = (placed.node, incarnation(number));
        fleet.apply(Delta::Claimed {
            node,
            incarnation,
            claim: placed.claim,
        });
        Ok((node, incarnation))
    };
    let all: u64 = fleet
        .nodes()
        .map(|node| u64::from(node.vcpu_limit().get()))
        .sum();
    let (mut taken, mut next) = (0, 0);
    while taken * 100 < all * FILL {
        running.push_back(claim(&mut fleet, next)?);
        taken += u64::from(MIX[next % MIX.len()]);
        next += 1;
    }
    let mut each = Vec::with_capacity(decisions);
    let began = env.monotonic();
    for number in next..next + decisions {
        let began = env.monotonic();
        running.push_back(claim(&mut fleet, number)?);
        each.push(env.monotonic().saturating_sub(began));
        if let Some((node, incarnation)) = running.pop_front() {
            fleet.apply(Delta::Released { node, incarnation });
        }
    }
    Ok(Figures {
        whole: env.monotonic().saturating_sub(began),
        each: each.into_iter().collect(),
    })
}

fn number_of(number: usize) -> u128 {
    u128::try_from(number).unwrap_or(u128::MAX)
}

async fn durable(folder: &Path, nodes: u32, arguments: &Arguments) -> Result<Figures> {
    let env = System::new();
    let world = Arc::new(World::open(folder, env.clone(), nodes, NODE).await?);
    let tenants = Arc::new(bureaus(&world).await?);
    let each_client = arguments.creates / arguments.clients;
    let began = env.monotonic();
    let clients = (0..arguments.clients).map(|client| {
        let (world, tenants, env) = (world.clone(), tenants.clone(), env.clone());
        tokio::spawn(async move {
            let mut each = Vec::with_capacity(each_client);
            for number in client * each_client..(client + 1) * each_client {
                let create = create(number, &tenants[number % tenants.len()])?;
                let began = env.monotonic();
                let done = world
                    .submit(Some(format!("create-{number}")), create)
                    .await?;
                each.push(env.monotonic().saturating_sub(began));
                world::created(&done).context("a create made no instance")?;
            }
            anyhow::Ok(each)
        })
    });
    let each = try_join_all(clients).await?;
    let whole = env.monotonic().saturating_sub(began);
    let each = each.into_iter().collect::<Result<Vec<_>>>()?;
    if let Some(world) = Arc::into_inner(world) {
        world.close().await?;
    }
    Ok(Figures {
        whole,
        each: each.into_iter().flatten().collect(),
    })
}

/// Bureaus with an office each, below the root.
async fn bureaus(world: &World) -> Result<Vec<Name>> {
    let create = |name: &Name, parent: Option<Name>| Command::CreateTenant {
        name: name.clone(),
        display: "规划和自然资源局".into(),
        parent,
        contacts: Vec::new(),
    };
    let mut offices = Vec::new();
    for number in 0..BUREAUS {
        let bureau: Name = format!("bureau-{number}").parse()?;
        let office: Name = format!("office-{number}").parse()?;
        world.all([create(&bureau, None)]).await?;
        world.all([create(&office, Some(bureau))]).await?;
        offices.push(office);
    }
    Ok(offices)
}

fn create(number: usize, tenant: &Name) -> Result<Command> {
    let vcpus = Vcpus(MIX[number % MIX.len()]);
    Ok(Command::CreateInstance(CreateInstance {
        tenant: Some(tenant.clone()),
        name: format!("vm-{number}").parse()?,
        system: None,
        image: format!("city/{}", world::IMAGE),
        flavor: None,
        groups: std::collections::BTreeSet::new(),
        vcpus,
        memory: guest_memory(vcpus),
        root_disk: Some(Bytes(1 << 20)),
        run_policy: RunPolicy::default(),
        power: Power::Running,
        needs: kapok_types::Needs::default(),
    }))
}
