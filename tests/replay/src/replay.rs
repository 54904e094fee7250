//! A trace's requests, handed in when they came.
//!
//! What came in the same second is handed in together, as concurrent clients do; what ended by
//! then has ended before. Nothing is known ahead, nothing is moved, and all nodes are there from
//! the beginning: one is in use while it carries an instance.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use kapok_controller::{
    fabric::{Command, Denied, OperationOutcome, command::CreateInstance},
    ledger,
    report::{self, Pooling, Question},
};
use kapok_types::{
    Bytes, Env as _, IncarnationId, InstanceId, MemoryMib, Name, NodeId, OperationId, Vcpus,
    env::{Seeded, System},
    instance::{Power, RunPolicy},
};
use serde::Serialize;

use crate::{
    figures::Durations,
    trace::Request,
    world::{self, AT_ONCE, Shape, World},
};

/// What is replayed on what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The nodes' shape.
    pub shape: Shape,
    /// How many nodes there are.
    pub nodes: u32,
    /// How many tenants the batches are spread over: batch n belongs to number n modulo this.
    pub tenants: u32,
    /// Whether the pooling report is made at the end, as people would get it.
    pub pooling: bool,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Requests handed in.
    pub requests: usize,
    /// Of these, refused because no node had room.
    pub refused: usize,
    /// Most nodes in use at once.
    pub peak_nodes: u32,
    /// Nodes that the most demanding moment needs at least: its demand ÷ a node.
    pub peak_bound: u64,
    /// Nodes in use, averaged over the trace's time.
    pub mean_nodes: f64,
    /// Nodes that the demand needs at least, averaged over the trace's time.
    pub mean_bound: f64,
    /// From handing a create in until it was durable.
    pub creates: Durations,
    /// The pooling report, if it was wanted: from the fold that the ledger kept meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Nodes in use after each second in which something came or ended.
    #[serde(skip)]
    pub series: Vec<Sample>,
}

/// One moment of a replay.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Seconds from the trace's start.
    pub at_s: u64,
    /// Nodes in use.
    pub nodes: u32,
    /// Nodes that the demand needs at least.
    pub bound: u64,
}

/// An instance that runs.
#[derive(Debug)]
struct Guest {
    id: InstanceId,
    incarnation: IncarnationId,
    node: NodeId,
    vcpus: Vcpus,
    memory: MemoryMib,
}

/// Replays `trace` in a fabric of its own in `folder`; `told` is called with requests done so far.
///
/// # Errors
///
/// The fabric can't be made, or something was refused for another reason than room.
pub async fn replay(
    folder: &Path,
    trace: &[Request],
    options: &Options,
    mut told: impl FnMut(usize),
) -> Result<Report> {
    let clock = Seeded::new(1);
    let world = World::open(folder, clock.clone(), options.nodes, options.shape).await?;
    let tenants = make_tenants(&world, options.tenants).await?;
    let mut replay = Replay {
        world: &world,
        options,
        tenants,
        clock,
        now_s: 0,
        running: BTreeMap::new(),
        ends: BinaryHeap::new(),
        used: BTreeMap::new(),
        vcpus: 0,
        memory_mib: 0,
        refused: 0,
        took: Vec::with_capacity(trace.len()),
        series: Vec::new(),
    };
    let mut done = 0;
    for arrivals in trace.chunk_by(|one, next| one.arrival_s == next.arrival_s) {
        let at = arrivals[0].arrival_s;
        replay.end_until(at).await?;
        replay.wait_until(at);
        for requests in arrivals.chunks(AT_ONCE) {
            replay.create(done, requests).await?;
            done += requests.len();
            told(done);
        }
        replay.sample();
    }
    let report = replay.report(trace);
    world.close().await?;
    report
}

async fn make_tenants(world: &World, count: u32) -> Result<Vec<Option<Name>>> {
    if count <= 1 {
        return Ok(vec![None]);
    }
    let names = (1..=count).map(|number| format!("bureau-{number:03}").parse::<Name>());
    let names = names.collect::<Result<Vec<_>, _>>()?;
    for names in names.chunks(AT_ONCE) {
        let create = |name: &Name| Command::CreateTenant {
            name: name.clone(),
            display: String::new(),
            parent: None,
            contacts: Vec::new(),
        };
        world.all(names.iter().map(create)).await?;
    }
    Ok(names.into_iter().map(Some).collect())
}

struct Replay<'a> {
    world: &'a World,
    options: &'a Options,
    tenants: Vec<Option<Name>>,
    clock: Arc<Seeded>,
    now_s: u64,
    /// By the request's number.
    running: BTreeMap<usize, Guest>,
    /// When which of them ends.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    /// Instances on each node in use.
    used: BTreeMap<NodeId, u32>,
    vcpus: u64,
    memory_mib: u64,
    refused: usize,
    took: Vec<Duration>,
    series: Vec<Sample>,
}

impl Replay<'_> {
    fn wait_until(&mut self, at_s: u64) {
        self.clock
            .advance(Duration::from_secs(at_s.saturating_sub(self.now_s)));
        self.now_s = at_s;
    }

    /// Ends what ends up to and at a moment, each at its own.
    async fn end_until(&mut self, until_s: u64) -> Result<()> {
        while let Some(Reverse((at, _))) = self.ends.peek()
            && *at <= until_s
        {
            let at = *at;
            let mut ended = Vec::new();
            while let Some(Reverse((same, number))) = self.ends.peek().copied()
                && same == at
            {
                self.ends.pop();
                ended.extend(self.running.remove(&number));
            }
            self.wait_until(at);
            for guests in ended.chunks(AT_ONCE) {
                self.end(guests).await?;
            }
            self.sample();
        }
        Ok(())
    }

    async fn end(&mut self, guests: &[Guest]) -> Result<()> {
        let delete = |guest: &Guest| Command::DeleteInstance {
            instance: guest.id.to_string(),
            etag: String::new(),
        };
        let gone = |guest: &Guest| Command::IncarnationGone {
            node: guest.node,
            incarnation: guest.incarnation,
        };
        self.world.all(guests.iter().map(delete)).await?;
        self.world.all(guests.iter().map(gone)).await?;
        for guest in guests {
            self.vcpus -= u64::from(guest.vcpus.get());
            self.memory_mib -= guest.memory.get();
            if let Some(count) = self.used.get_mut(&guest.node) {
                *count -= 1;
                if *count == 0 {
                    self.used.remove(&guest.node);
                }
            }
        }
        Ok(())
    }

    /// Hands requests in together; the first has the number `first`.
    async fn create(&mut self, first: usize, requests: &[Request]) -> Result<()> {
        let env = System::new();
        let submits = (first..).zip(requests).map(|(number, request)| {
            let (env, world, create) = (&env, self.world, self.command(number, request));
            async move {
                let began = env.monotonic();
                let done = world
                    .submit(Some(format!("create-{number}")), create?)
                    .await;
                anyhow::Ok((done, env.monotonic().saturating_sub(began)))
            }
        });
        let answers = join_all(submits).await;
        let mut made: Vec<OperationId> = Vec::new();
        for ((number, request), answer) in (first..).zip(requests).zip(answers) {
            let (done, took) = answer?;
            let done = match done {
                Ok(done) => done,
                Err(ledger::Error::Denied(Denied::NoCapacity(_))) => {
                    self.refused += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.took.push(took);
            let instance = world::created(&done).context("a create made no instance")?;
            let [incarnation] = instance.incarnations.as_slice() else {
                bail!("{} has not one incarnation", instance.name);
            };
            made.push(instance.operation);
            *self.used.entry(incarnation.node).or_default() += 1;
            self.vcpus += u64::from(request.vcpus.get());
            self.memory_mib += request.memory.get();
            if let Some(lifetime) = request.lifetime_s {
                self.ends
                    .push(Reverse((request.arrival_s + lifetime, number)));
            }
            let guest = Guest {
                id: instance.id,
                incarnation: incarnation.id,
                node: incarnation.node,
                vcpus: request.vcpus,
                memory: request.memory,
            };
            self.running.insert(number, guest);
        }
        // Its agent's word that it runs.
        let runs = made.into_iter().map(|operation| Command::EndOperation {
            operation,
            outcome: OperationOutcome::Succeeded,
            detail: String::new(),
        });
        self.world.all(runs).await
    }

    fn command(&self, number: usize, request: &Request) -> Result<Command> {
        let tenant = usize::try_from(request.batch)? % self.tenants.len();
        Ok(Command::CreateInstance(CreateInstance {
            tenant: self.tenants[tenant].clone(),
            name: format!("vm-{number}").parse()?,
            system: None,
            image: format!("city/{}", world::IMAGE),
            flavor: None,
            groups: BTreeSet::new(),
            vcpus: request.vcpus,
            memory: world::guest_memory(request.memory, request.vcpus),
            root_disk: Some(Bytes(1 << 20)),
            run_policy: RunPolicy::default(),
            power: Power::Running,
            needs: kapok_types::Needs::default(),
        }))
    }

    fn sample(&mut self) {
        let shape = self.options.shape;
        let vcpus = self.vcpus.div_ceil(u64::from(shape.vcpus.get()));
        let memory = self.memory_mib.div_ceil(shape.memory.get());
        self.series.push(Sample {
            at_s: self.now_s,
            nodes: u32::try_from(self.used.len()).unwrap_or(u32::MAX),
            bound: vcpus.max(memory),
        });
    }

    fn report(self, trace: &[Request]) -> Result<Report> {
        let end = trace.last().map_or(0, |request| request.arrival_s);
        let mut areas = (0_u64, 0_u64);
        let until = self
            .series
            .iter()
            .skip(1)
            .map(|next| next.at_s)
            .chain([end]);
        for (sample, until) in self.series.iter().zip(until) {
            let lasted = until.saturating_sub(sample.at_s);
            areas.0 += u64::from(sample.nodes) * lasted;
            areas.1 += sample.bound * lasted;
        }
        let mean = |area: u64| -> Result<f64> {
            let thousandths = area.saturating_mul(1000) / end.max(1);
            Ok(f64::from(u32::try_from(thousandths)?) / 1000.0)
        };
        let peak = |of: fn(&Sample) -> u64| self.series.iter().map(of).max().unwrap_or(0);
        let question = Question {
            vcpus: Some(self.options.shape.vcpus),
            memory: Some(self.options.shape.memory),
            ..Question::default()
        };
        let pooling = self.options.pooling.then(|| {
            let fabric = &self.world.snapshot().fabric;
            report::pooling(fabric, self.clock.now(), question)
        });
        Ok(Report {
            pooling: pooling.transpose()?,
            requests: trace.len(),
            refused: self.refused,
            peak_nodes: u32::try_from(peak(|sample| sample.nodes.into()))?,
            peak_bound: peak(|sample| sample.bound),
            mean_nodes: mean(areas.0)?,
            mean_bound: mean(areas.1)?,
            creates: self.took.into_iter().collect(),
            series: self.series,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            refused,
            peak_nodes,
            peak_bound,
            mean_nodes,
            mean_bound,
            pooling,
            ..
        } = self;
        writeln!(f, "requests          {requests}, refused {refused}")?;
        writeln!(f, "peak nodes        {peak_nodes} (at least {peak_bound})")?;
        writeln!(
            f,
            "mean nodes        {mean_nodes:.0} (at least {mean_bound:.0})"
        )?;
        write!(f, "create to durable {}", self.creates)?;
        pooling
            .iter()
            .try_for_each(|pooling| write!(f, "\n\npooling\n{pooling}"))
    }
}

/// The distinct tenants of a trace's batches, for whoever wants to know how many there can be.
pub fn batches(trace: &[Request]) -> usize {
    trace
        .iter()
        .map(|request| request.batch)
        .collect::<BTreeSet<_>>()
        .len()
}
