//! Create to running, through the agent and by the same libvirt calls made in-process.
//!
//! Runs inside a host that has libvirt and a running agent which already holds the image. In
//! alternating pairs it creates an instance through the agent (one `ApplyInstance` on a warm
//! connection, until `Watch` says *running*) and an equal domain by hand on a warm connection
//! (define, copy-on-write disk, start), and removes both again. Prints the medians, the median of
//! the pairs' differences with its 95 % interval (order statistics, exact for any distribution),
//! and what an fdatasync takes on the same disk.
//!
//! Exits 1 when the difference is over `--allow-ms` plus two fdatasyncs.

#![allow(clippy::print_stdout, reason = "its output is the result")]

use std::{
    io::{Seek as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use kapok_libvirt::{
    Connection,
    domain::Start,
    storage::Pool,
    xml::{
        domain::{
            CacheMode, CpuMode, DiskConfig, DiskSource, DomainConfig, DomainDoc, MacAddress,
            NicConfig, VirtType,
        },
        metadata::Metadata,
        placement::Placement,
        storage::{BackingConfig, VolumeConfig},
    },
};
use kapok_proto::{
    agent::v1::{
        AcknowledgeGoneRequest, ApplyInstanceRequest, DeleteInstanceRequest, GetNodeRequest,
        HeartbeatRequest, WatchRequest, WatchResponse, node_service_client::NodeServiceClient,
        watch_item::Item, watch_response::Event,
    },
    common::v1::Phase,
};
use kapok_types::{
    Bytes, Digest, Env, Epoch, Generation, Intent, MemoryMib, NodeId, OperationId, Vcpus,
    env::System,
    instance::{Arch, Counters, DiskFormat, Power, RootDisk, RunPolicy, Spec},
};
use tonic::{Streaming, transport::Channel};

/// What it needs to know.
struct Options {
    agent: String,
    node: NodeId,
    trust: PathBuf,
    uri: String,
    pool: String,
    network: String,
    image: Digest,
    image_format: DiskFormat,
    image_bytes: u64,
    pairs: usize,
    state_dir: PathBuf,
    allow: Duration,
}

impl Options {
    fn from_env() -> Result<Self> {
        let mut options = Self {
            agent: "127.0.0.1:7701".into(),
            node: NodeId(uuid::Uuid::nil()),
            trust: PathBuf::new(),
            uri: "qemu:///system".into(),
            pool: "kapok".into(),
            network: "kapok".into(),
            image: Digest([0; 32]),
            image_format: DiskFormat::Qcow2,
            image_bytes: 0,
            pairs: 30,
            state_dir: "/var/lib/kapok".into(),
            allow: Duration::from_millis(10),
        };
        let mut args = std::env::args().skip(1);
        while let Some(key) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{key} needs a value"))?;
            match key.as_str() {
                "--agent" => options.agent = value,
                "--node" => options.node = value.parse()?,
                "--trust" => options.trust = value.into(),
                "--uri" => options.uri = value,
                "--pool" => options.pool = value,
                "--network" => options.network = value,
                "--image" => options.image = value.parse()?,
                "--image-format" => options.image_format = format(&value)?,
                "--image-bytes" => options.image_bytes = value.parse()?,
                "--pairs" => options.pairs = value.parse()?,
                "--state-dir" => options.state_dir = value.into(),
                "--allow-ms" => options.allow = Duration::from_millis(value.parse()?),
                _ => bail!("unknown option {key}"),
            }
        }
        ensure!(
            options.pairs >= 30,
            "at least 30 pairs are needed for the interval"
        );
        Ok(options)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::from_env()?;
    let env = System::new();
    let mut agent = Agent::connect(&options, env.clone()).await?;
    let direct = Direct::open(&options, env)?;
    // Both ways once, so that nothing in a pair is done for the first time.
    agent.start().await?;
    direct.start()?;
    let mut through = Vec::with_capacity(options.pairs);
    let mut by_hand = Vec::with_capacity(options.pairs);
    for pair in 0..options.pairs {
        if pair % 2 == 0 {
            through.push(agent.start().await?);
            by_hand.push(direct.start()?);
        } else {
            by_hand.push(direct.start()?);
            through.push(agent.start().await?);
        }
    }
    let sync = fdatasync(&options.state_dir)?;
    let mut differences: Vec<f64> = through
        .iter()
        .zip(&by_hand)
        .map(|(through, by_hand)| through - by_hand)
        .collect();
    differences.sort_by(f64::total_cmp);
    let difference = median(&mut differences.clone());
    let (low, high) = interval(&differences);
    println!("pairs                    {}", options.pairs);
    println!(
        "through the agent        {:8.1} ms (median)",
        median(&mut through)
    );
    println!(
        "libvirt in-process       {:8.1} ms (median)",
        median(&mut by_hand)
    );
    println!(
        "difference               {difference:8.1} ms (median), 95 % interval {low:.1} to {high:.1} ms"
    );
    println!("fdatasync                {sync:8.2} ms (median)");
    let allowed = options.allow.as_secs_f64() * 1000.0 + 2.0 * sync;
    println!("allowed                  {allowed:8.1} ms");
    ensure!(
        difference <= allowed,
        "the agent adds {difference:.1} ms, more than {allowed:.1} ms"
    );
    Ok(())
}

/// The way through the agent.
struct Agent {
    client: NodeServiceClient<Channel>,
    watch: Streaming<WatchResponse>,
    node: NodeId,
    epoch: Epoch,
    image: RootDisk,
    env: Arc<System>,
}

impl Agent {
    async fn connect(options: &Options, env: Arc<System>) -> Result<Self> {
        let channel = kapok_tests::real::agent(&options.trust, &options.agent, options.node)?;
        let mut client = NodeServiceClient::new(channel);
        let facts = client.get_node(GetNodeRequest {}).await?.into_inner().node;
        let facts = facts.context("the agent says nothing of its node")?;
        let mut beat = client
            .heartbeat(HeartbeatRequest { interval_ms: 100 })
            .await?
            .into_inner();
        let sign = beat.message().await?.context("no life sign")?;
        ensure!(!sign.needs_resync, "the agent needs a resync first");
        let watch = client.watch(WatchRequest {}).await?.into_inner();
        let image = RootDisk {
            image: options.image,
            image_format: options.image_format,
            image_bytes: Bytes(options.image_bytes),
            size: Bytes(1 << 30),
        };
        let epoch = Epoch(sign.epoch.max(1));
        Ok(Self {
            client,
            watch,
            node: facts.node_id.parse()?,
            epoch,
            image,
            env,
        })
    }

    /// One create, timed until it runs; then it is deleted.
    async fn start(&mut self) -> Result<f64> {
        let intent = Intent {
            incarnation: self.env.incarnation_id(),
            instance: self.env.instance_id(),
            node: self.node,
            name: "bench".parse()?,
            spec: spec(self.image.clone()),
            power: Power::Running,
            counters: Counters {
                starts: 1,
                ..Counters::default()
            },
            generation: Generation(1),
            epoch: self.epoch,
            operation: None::<OperationId>,
            assignment: kapok_types::Assignment::default(),
        };
        let incarnation = intent.incarnation.to_string();
        let begin = Instant::now();
        self.client
            .apply_instance(ApplyInstanceRequest::from(&intent))
            .await?;
        self.until(&incarnation, Phase::Running).await?;
        let took = begin.elapsed();
        self.client
            .delete_instance(DeleteInstanceRequest {
                incarnation_id: incarnation.clone(),
                instance_id: intent.instance.to_string(),
                node_id: self.node.to_string(),
                generation: 1,
                epoch: self.epoch.get(),
            })
            .await?;
        self.until(&incarnation, Phase::Gone).await?;
        let epoch = self.epoch.get();
        let gone = AcknowledgeGoneRequest {
            epoch,
            incarnation_ids: vec![incarnation],
        };
        self.client.acknowledge_gone(gone).await?;
        Ok(millis(took))
    }

    async fn until(&mut self, incarnation: &str, phase: Phase) -> Result<()> {
        let seen = async {
            while let Some(message) = self.watch.message().await? {
                let Some(Event::Item(item)) = message.event else {
                    continue;
                };
                let Some(Item::Instance(status)) = item.item else {
                    continue;
                };
                if status.incarnation_id == incarnation && status.phase() == phase {
                    return Ok(());
                }
            }
            bail!("the watch ended")
        };
        let bound = Duration::from_mins(1);
        tokio::time::timeout(bound, seen)
            .await
            .context("it took more than a minute")?
    }
}

/// The way by hand.
struct Direct {
    connection: Connection,
    pool: Pool,
    folder: String,
    base: BackingConfig,
    machine: String,
    network: String,
    env: Arc<System>,
}

impl Direct {
    fn open(options: &Options, env: Arc<System>) -> Result<Self> {
        let connection = Connection::open(&options.uri)?;
        let pool = connection.pool(&options.pool)?;
        let (digest, format) = (options.image.hex(), options.image_format);
        let base = pool.volume(&format!("kapok-base-{digest}.{}", format.as_str()))?;
        let base = BackingConfig {
            path: base.path()?,
            format,
        };
        let folder = pool.view()?.target_path.context("the pool has no folder")?;
        let capabilities = connection.capabilities()?;
        let machine = capabilities
            .guest("x86_64")
            .and_then(|guest| guest.canonical("q35"))
            .context("no q35 machine type")?
            .to_owned();
        let network = options.network.clone();
        Ok(Self {
            connection,
            pool,
            folder,
            base,
            machine,
            network,
            env,
        })
    }

    /// The same domain and disk as the agent makes; then all of it is removed.
    fn start(&self) -> Result<f64> {
        let incarnation = self.env.incarnation_id();
        let volume_name = format!("bench-{incarnation}.qcow2");
        let path = format!("{}/{volume_name}", self.folder.trim_end_matches('/'));
        let begin = Instant::now();
        let domain = self.connection.define(&DomainDoc::new(&DomainConfig {
            incarnation,
            title: Some("bench".into()),
            memory: MemoryMib(256),
            vcpus: Vcpus(1),
            // As the agent lets a guest grow.
            most_vcpus: Vcpus(4),
            placement: Placement::default(),
            arch: Arch::X86_64,
            machine: self.machine.clone(),
            virt_type: VirtType::Qemu,
            cpu: CpuMode::Maximum,
            root: DiskConfig {
                source: DiskSource::File(path),
                format: DiskFormat::Qcow2,
                cache: CacheMode::Writeback,
            },
            nic: Some(NicConfig {
                network: self.network.clone(),
                mac: MacAddress::local([0x54, 0x00, 0x01, 0x02, 0x03]),
            }),
            metadata: Metadata::new("{\"bench\":true}")?,
        })?)?;
        let volume = self.pool.create_volume(&VolumeConfig {
            name: volume_name,
            format: DiskFormat::Qcow2,
            capacity: Bytes(1 << 30),
            backing: Some(self.base.clone()),
        })?;
        domain.start(Start::default())?;
        let took = begin.elapsed();
        domain.destroy(false)?;
        domain.undefine()?;
        volume.delete()?;
        Ok(millis(took))
    }
}

fn format(word: &str) -> Result<DiskFormat> {
    [DiskFormat::Raw, DiskFormat::Qcow2]
        .into_iter()
        .find(|format| format.as_str() == word)
        .with_context(|| format!("the format {word:?} is neither raw nor qcow2"))
}

fn spec(root: RootDisk) -> Spec {
    Spec {
        arch: Arch::X86_64,
        vcpus: Vcpus(1),
        memory: MemoryMib(256),
        root,
        run_policy: RunPolicy::default(),
        needs: kapok_types::Needs::default(),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The 95 % interval of the median of sorted values: the order statistics whose ranks a fair
/// coin would leave in fewer than 2.5 % of cases on each side.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len();
    let mut below = 0;
    // Chances of exactly k heads in n throws, summed until over 2.5 %.
    let mut chance = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut sum = chance;
    while sum <= 0.025 && below + 1 < n {
        below += 1;
        let (left, k) = (n - below + 1, below);
        chance *=
            f64::from(u32::try_from(left).unwrap_or(0)) / f64::from(u32::try_from(k).unwrap_or(1));
        sum += chance;
    }
    (sorted[below.min(n - 1)], sorted[n - 1 - below.min(n - 1)])
}

/// Median time of writing 4 KiB and fdatasync in a folder, in milliseconds.
fn fdatasync(folder: &std::path::Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(folder)?;
    let page = [7_u8; 4096];
    let mut times = Vec::new();
    for _ in 0..100 {
        file.rewind()?;
        let begin = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(millis(begin.elapsed()));
    }
    Ok(median(&mut times))
}
