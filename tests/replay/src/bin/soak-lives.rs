//! `cargo xtask soak lives`: instances come and go, a million of them over a month, and neither the
//! store nor the memory grows with how many there ever were.
//!
//! A real ledger over redb on a disk, its retention and its archive; the clock is simulated, and no
//! agent stands behind the nodes.
#![allow(clippy::print_stdout, reason = "a measurement, for people to read")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use futures::future::join_all;
use kapok_controller::{
    audit::{Keeper, Policy},
    fabric::{
        Command, OperationOutcome, Outcome,
        command::CreateInstance,
        decide::{Rules, expire},
    },
    ledger::Ledger,
};
use kapok_replay::world::{self, Shape, World};
use kapok_store::{Archive, Redb, segments::Directory};
use kapok_types::{
    Bytes, Env as _, Epoch, IncarnationId, MemoryMib, NodeId, OperationId, Vcpus,
    env::Seeded,
    instance::{Power, RunPolicy},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The nodes: room for a batch of lives and as much again.
const NODES: u32 = 100;
const NODE: Shape = Shape {
    vcpus: Vcpus(64),
    memory: MemoryMib(256 * 1024),
};
/// Lives that are lived at once.
const BATCH: usize = 500;
/// How much time passes for each.
const EACH: Duration = Duration::from_secs(3);
/// How many lives between two looks.
const LOOK: usize = 50_000;
/// Batches between two rounds of the archive; in the field there is one a minute.
const ARCHIVE: usize = 20;

/// Lets instances come and go
#[derive(Debug, Parser)]
struct Arguments {
    /// How many instances
    #[arg(long, default_value_t = 1_000_000)]
    lives: usize,
    /// Where the log is written; must be on a disk
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
}

/// An instance that was made.
struct Life {
    id: String,
    operation: OperationId,
    node: NodeId,
    incarnation: IncarnationId,
}

/// What it all takes.
#[derive(Debug, Clone, Copy)]
struct Size {
    store: u64,
    segments: u64,
    memory: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::Builder::new()
        .prefix("soak-lives-")
        .tempdir_in(&arguments.folder)
        .with_context(|| format!("can't write to {}", arguments.folder.display()))?;
    let env = Seeded::new(1);
    let world = World::open(folder.path(), env.clone(), NODES, NODE).await?;
    let segments = Directory::open(folder.path().join("segments"))?;
    let keeper = Keeper {
        archive: Archive::new(world.store().clone(), Arc::new(segments)),
        token: world.token(),
        policy: Policy::default(),
        ledger: world.handle().clone(),
        env: env.clone(),
    };
    let (never, began) = (CancellationToken::new(), Instant::now());
    let mut sizes = Vec::new();
    for (batch, from) in (0..arguments.lives).step_by(BATCH).enumerate() {
        let count = BATCH.min(arguments.lives - from);
        live(&world, from, count).await?;
        env.advance(EACH * u32::try_from(count)?);
        while expire::is_due(&world.snapshot().fabric, env.now()) {
            world.all([Command::Expire]).await?;
        }
        if batch % ARCHIVE == 0 {
            keeper.round(&never).await?;
        }
        let done = from + count;
        if done.is_multiple_of(LOOK) {
            let size = Size::of(folder.path())?;
            println!("{done:>9} lives: {size}");
            sizes.push(size);
        }
    }
    let took = began.elapsed();
    let lives = u32::try_from(arguments.lives)?;
    println!(
        "{lives} lives of {} simulated days in {:.0} s: {:.0} a second, four decisions each",
        (EACH * lives).as_secs() / 86_400,
        took.as_secs_f64(),
        f64::from(lives) / took.as_secs_f64()
    );
    let head = world.snapshot().head.seq;
    drop(keeper);
    world.close().await?;

    let began = Instant::now();
    let store = Arc::new(Redb::open(folder.path().join("log.redb")).await?);
    let opened = began.elapsed();
    let extent = kapok_store::Store::extent(&*store).await?;
    let rules = Rules::default();
    let started = Ledger::start(store, env, "again", Epoch::ZERO, rules);
    let (handle, ledger) = started.await?;
    println!(
        "started again in {:.2} s, {:.2} of them verifying the file: a checkpoint, and {} entries behind it",
        began.elapsed().as_secs_f64(),
        opened.as_secs_f64(),
        head.get().saturating_sub(extent.checkpoint.get())
    );
    drop((handle, ledger));

    // Once all that is kept for a time is there, nothing grows any more.
    let half = sizes.len() / 2;
    if let (Some(then), Some(now)) = (sizes.get(half), sizes.last())
        && sizes.len() > 3
    {
        let flat = |then: u64, now: u64| now <= then + then / 10;
        ensure!(
            flat(then.store, now.store) && flat(then.memory, now.memory),
            "it grew in the second half: {then} then, {now} now"
        );
        println!("flat in the second half, within a tenth");
    }
    Ok(())
}

/// So many instances are made, run, and are deleted.
async fn live(world: &World, from: usize, count: usize) -> Result<()> {
    let creates = (from..from + count).map(|number| async move {
        let command = create(number)?;
        let done = world
            .submit(Some(format!("create-{number}")), command)
            .await?;
        let Outcome::Operation(operation) = done.outcome else {
            anyhow::bail!("a create has no operation");
        };
        let instance = world::created(&done).context("a create made no instance")?;
        let incarnation = instance.incarnations.first();
        let incarnation = incarnation.context("an instance has no incarnation")?;
        Ok(Life {
            id: instance.id.to_string(),
            operation,
            node: incarnation.node,
            incarnation: incarnation.id,
        })
    });
    let lives: Vec<Life> = join_all(creates).await.into_iter().collect::<Result<_>>()?;
    // Its agent's word that it runs.
    let runs = lives.iter().map(|life| Command::EndOperation {
        operation: life.operation,
        outcome: OperationOutcome::Succeeded,
        detail: String::new(),
    });
    world.all(runs).await?;
    let deletes = lives.iter().map(|life| Command::DeleteInstance {
        instance: life.id.clone(),
        etag: String::new(),
    });
    world.all(deletes).await?;
    let gone = lives.iter().map(|life| Command::IncarnationGone {
        node: life.node,
        incarnation: life.incarnation,
    });
    world.all(gone).await
}

fn create(number: usize) -> Result<Command> {
    Ok(Command::CreateInstance(CreateInstance {
        tenant: None,
        name: format!("vm-{number}").parse()?,
        system: None,
        image: format!("city/{}", world::IMAGE),
        flavor: None,
        groups: std::collections::BTreeSet::new(),
        vcpus: Vcpus(1),
        memory: world::guest_memory(MemoryMib(1792), Vcpus(1)),
        root_disk: Some(Bytes(1 << 20)),
        run_policy: RunPolicy::default(),
        power: Power::Running,
        needs: kapok_types::Needs::default(),
    }))
}

impl Size {
    fn of(folder: &Path) -> Result<Self> {
        let mut segments = 0;
        for entry in fs::read_dir(folder.join("segments"))? {
            segments += entry?.metadata()?.len();
        }
        let statm = fs::read_to_string("/proc/self/statm")?;
        let pages: u64 = statm
            .split(' ')
            .nth(1)
            .context("statm has no second number")?
            .parse()?;
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
        let page = u64::try_from(page.context("pages have no size")?)?;
        Ok(Self {
            store: fs::metadata(folder.join("log.redb"))?.len(),
            segments,
            memory: pages * page,
        })
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        let (store, memory) = (mib(self.store), mib(self.memory));
        write!(
            f,
            "store {store:>5} MiB, moved out {:>5} MiB, memory {memory:>5} MiB",
            mib(self.segments)
        )
    }
}
