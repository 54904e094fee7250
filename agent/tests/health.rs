//! How an agent says how its server does: over real gRPC, from readings to what subscribers hear.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

mod common;

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{BOUND, Client, Node, id, reason};
use kapok_agent::{
    driver::sim::{Fault, Shape},
    health::{Accepted, Health, Options, accepted},
};
use kapok_health::{
    Assessment, Component, Condition, Failure, Host, Inventory, Kind, Outcome, Reading, Source,
    inventory::Parts, quantity,
};
use kapok_proto::{
    agent::v1::{self as wire, watch_item::Item, watch_response::Event},
    common::v1 as words,
};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming};

/// A node whose server is watched by what the test says.
async fn watched() -> (Node, Client, Health) {
    watched_by(Options::simulated()).await
}

async fn watched_by(options: Options) -> (Node, Client, Health) {
    let mut node = Node::new(Shape::default());
    node.health = Some(options);
    node.start();
    let mut client = node.client().await;
    common::resync(&mut client, 1, &[]).await.unwrap();
    let health = node.health();
    (node, client, health)
}

/// Waits, within the bound, for an assessment like this.
async fn assessed(health: &Health, like: impl Fn(&Assessment) -> bool) -> Arc<Assessment> {
    let mut assessments = health.assessment();
    let found = assessments.wait_for(|it| it.as_deref().is_some_and(&like));
    let found = timeout(BOUND, found).await.unwrap();
    found.unwrap().clone().unwrap()
}

fn codes(assessment: &Assessment) -> Vec<String> {
    let line = |it: &kapok_health::Verdict| format!("{} {}", it.code, it.component);
    assessment.verdicts.iter().map(line).collect()
}

/// The next news of health.
async fn news(watch: &mut Streaming<wire::WatchResponse>) -> words::NodeHealth {
    let next = async {
        loop {
            let message = watch.next().await.unwrap().unwrap();
            if let Some(Event::Item(wire::WatchItem {
                item: Some(Item::Health(health)),
            })) = message.event
            {
                return health;
            }
        }
    };
    timeout(BOUND, next).await.unwrap()
}

fn disk() -> Component {
    Component::new(Kind::Disk, "sda")
}

#[allow(clippy::unnecessary_wraps, reason = "what a source answers")]
fn smart(failing: bool, celsius: f64) -> Result<Vec<Reading>, Failure> {
    Ok(vec![
        Reading::flag(&disk(), quantity::SMART_FAILING, failing),
        Reading::new(&disk(), quantity::TEMPERATURE, celsius),
    ])
}

#[tokio::test(start_paused = true)]
async fn verdicts_reach_subscribers_and_numbers_alone_do_not() {
    let (node, mut client, health) = watched().await;
    health.report("smart", smart(false, 30.0)).await;
    let mut watch = client
        .watch(wire::WatchRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        news(&mut watch).await.condition(),
        words::Condition::Healthy
    );

    health.report("smart", smart(true, 31.0)).await;
    let failing = news(&mut watch).await;
    assert_eq!(failing.condition(), words::Condition::Failing);
    let verdict = &failing.verdicts[0];
    assert_eq!(
        (verdict.code.as_str(), verdict.component.as_str()),
        ("DISK_SMART_FAILING", "disk/sda")
    );
    assert!(!verdict.evidence.is_empty() && !verdict.remedy.is_empty());

    // Other numbers are no news; they are told to whoever asks.
    health.report("smart", smart(true, 44.0)).await;
    assessed(&health, |it| {
        it.readings
            .iter()
            .any(|it| it.reading.value() == Some(44.0))
    })
    .await;
    let quiet = timeout(Duration::from_secs(30), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let ask = |readings| wire::GetHealthRequest { readings };
    let told = client
        .get_health(ask(true))
        .await
        .unwrap()
        .into_inner()
        .health
        .unwrap();
    assert!(
        told.readings
            .iter()
            .any(|it| it.quantity == "temperature" && it.unit == "celsius")
    );
    assert!(told.components.iter().any(|it| it.component == "disk/sda"));
    assert!(
        told.sources
            .iter()
            .any(|it| it.name == "hypervisor" && it.cadence_ms == 5000)
    );
    let told = client
        .get_health(ask(false))
        .await
        .unwrap()
        .into_inner()
        .health
        .unwrap();
    assert!(told.readings.is_empty());

    // It goes when it was well for long enough; connections don't get that old.
    health.report("smart", smart(false, 30.0)).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    health.report("smart", smart(false, 30.0)).await;
    assessed(&health, |it| it.verdicts.is_empty()).await;
    let mut client = node.client().await;
    let watch = client.watch(wire::WatchRequest {}).await.unwrap();
    let told = news(&mut watch.into_inner()).await;
    assert_eq!(told.condition(), words::Condition::Healthy);
}

/// A source that never answers in time, and one that breaks.
struct Slow;

#[async_trait]
impl Source for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn cadence(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn deadline(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn read(&self, _: &Host) -> Result<Vec<Reading>, Failure> {
        std::future::pending().await
    }
}

/// What was never judged is told as nothing, not as healthy: all sources speak first.
#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_all_have_spoken() {
    let mut options = Options::simulated();
    options.sources = vec![Arc::new(Slow)];
    let (_node, mut client, health) = watched_by(options).await;
    let early = client
        .get_health(wire::GetHealthRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (early.code(), reason(&early)),
        (Code::Unavailable, "HEALTH_UNREAD".into())
    );
    let early = client
        .get_inventory(wire::GetInventoryRequest {})
        .await
        .unwrap_err();
    assert_eq!(
        (early.code(), reason(&early)),
        (Code::Unavailable, "INVENTORY_UNREAD".into())
    );
    let first = assessed(&health, |_| true).await;
    let source = first.sources.iter().find(|it| &*it.name == "slow").unwrap();
    assert!(
        matches!(source.outcome, Outcome::Unreadable(_)),
        "{source:?}"
    );
}

/// An agent whose server isn't watched says so, and works.
#[tokio::test(start_paused = true)]
async fn an_agent_works_without_it() {
    let (node, mut client) = Node::ready(Shape::default()).await;
    node.running(&mut client, 1).await;
    let unjudged = client
        .get_health(wire::GetHealthRequest::default())
        .await
        .unwrap_err();
    assert_eq!(reason(&unjudged), "HEALTH_UNREAD");
    let unread = client
        .accept_parts(wire::AcceptPartsRequest { epoch: 1 })
        .await
        .unwrap_err();
    assert_eq!(reason(&unread), "INVENTORY_UNREAD");
}

/// Reads a file of its host, and counts.
struct Reader {
    name: &'static str,
    file: &'static str,
    under_way: AtomicU32,
    most: AtomicU32,
    reads: AtomicU32,
    breaks: bool,
}

impl Reader {
    fn new(name: &'static str, file: &'static str, breaks: bool) -> Arc<Self> {
        Arc::new(Self {
            name,
            file,
            under_way: AtomicU32::new(0),
            most: AtomicU32::new(0),
            reads: AtomicU32::new(0),
            breaks,
        })
    }

    fn reads(&self) -> u32 {
        self.reads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Source for Reader {
    fn name(&self) -> &str {
        self.name
    }

    fn cadence(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(100)
    }

    async fn read(&self, host: &Host) -> Result<Vec<Reading>, Failure> {
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        assert!(!self.breaks, "this source breaks");
        let read = host.number(self.file);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let part = Component::new(Kind::Site, self.name);
        Ok(Reading::tried(&part, quantity::TEMPERATURE, read)
            .into_iter()
            .collect())
    }
}

/// FAULTS 63: one source hangs in the kernel, another breaks; they are unreadable, with the reason,
/// and the third goes on, as does everything else. The one that hung is read again when it can be.
#[tokio::test]
async fn a_source_that_hangs_is_in_nobodys_way() {
    let root = tempfile::tempdir().unwrap();
    let pipe = root.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // The same pipe by another name.
    let old = root.path().join("old");
    fs::hard_link(&pipe, &old).unwrap();
    fs::write(root.path().join("file"), "21\n").unwrap();
    let hangs = Reader::new("hangs", "pipe", false);
    let breaks = Reader::new("breaks", "file", true);
    let works = Reader::new("works", "file", false);
    let mut options = Options::simulated();
    options.host = Host::new(root.path());
    options.sources = vec![hangs.clone(), breaks.clone(), works.clone()];
    let (node, mut client, health) = watched_by(options).await;

    let outcome = |it: &Assessment, name: &str| {
        let found = it.sources.iter().find(|it| &*it.name == name);
        found.unwrap().outcome.clone()
    };
    let why = |it: &Assessment, name: &str| match outcome(it, name) {
        Outcome::Unreadable(reason) => reason,
        other => panic!("{name}: {other}"),
    };
    let first = assessed(&health, |_| true).await;
    assert!(why(&first, "hangs").contains("has not answered"), "{first}");
    assert!(why(&first, "breaks").contains("broke"), "{first}");
    // At once; it is a verdict when it stays so.
    let hanging = Component::new(Kind::Source, "hangs");
    assert_eq!(first.components[&hanging], Condition::Unknown, "{first}");
    assert_eq!(outcome(&first, "works"), Outcome::Read(1));

    let before = works.reads();
    let went_on = || works.reads() > before + 10 && breaks.reads() > 3;
    common::eventually("the others are read on", went_on).await;
    assert_eq!(hangs.reads(), 1, "it is never asked twice at a time");
    node.running(&mut client, 1).await;

    // It can be read again. What its thread brings is old, and is left; then it is asked anew.
    fs::copy(root.path().join("file"), root.path().join("new")).unwrap();
    fs::rename(root.path().join("new"), &pipe).unwrap();
    drop(let_go(&old));
    assessed(&health, |it| outcome(it, "hangs") == Outcome::Read(1)).await;
    assert_eq!(hangs.most.load(Ordering::SeqCst), 1);

    // The agent's end doesn't wait for one that hangs.
    fs::remove_file(&pipe).unwrap();
    fs::rename(&old, &pipe).unwrap();
    let mut node = node;
    assessed(&health, |it| outcome(it, "hangs") != Outcome::Read(1)).await;
    timeout(BOUND, node.shutdown()).await.unwrap();
    drop(let_go(&pipe));
}

/// Lets go whoever waits for a writer of a pipe.
fn let_go(pipe: &Path) -> File {
    let mut writer = OpenOptions::new();
    let writer = writer
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(pipe);
    writer.unwrap()
}

/// The next news of parts.
async fn part_news(watch: &mut Streaming<wire::WatchResponse>) -> wire::PartList {
    let next = async {
        loop {
            let message = watch.next().await.unwrap().unwrap();
            if let Some(Event::Item(wire::WatchItem {
                item: Some(Item::Parts(told)),
            })) = message.event
            {
                return told;
            }
        }
    };
    timeout(BOUND, next).await.unwrap()
}

fn parts(lines: &[(&str, &str)]) -> Inventory {
    let own = |(part, line): &(&str, &str)| ((*part).to_owned(), (*line).to_owned());
    let ways = ["memory", "disk"].map(|kind| (kind.to_owned(), "kernel".to_owned()));
    Inventory {
        parts: Parts {
            lines: lines.iter().map(own).collect(),
            ways: ways.into(),
        },
        ..Inventory::default()
    }
}

/// A part that is gone is told, also by the next agent, until a person accepts the server as it is.
#[tokio::test(start_paused = true)]
async fn a_lost_part_is_missed_until_it_is_let_go() {
    let (mut node, mut client, health) = watched().await;
    let whole = parts(&[
        ("memory/A1", "16384 MiB"),
        ("memory/A2", "16384 MiB"),
        ("disk/S1", "x"),
    ]);
    let less = parts(&[("memory/A1", "16384 MiB"), ("disk/S1", "x")]);
    health.set_inventory(whole).await;
    assessed(&health, |it| it.condition == Condition::Healthy).await;

    health.set_inventory(less.clone()).await;
    let lost = |it: &Assessment| codes(it) == ["PART_LOST memory/A2"];
    assessed(&health, lost).await;
    let changes = |told: words::Inventory| -> Vec<_> {
        told.changes
            .into_iter()
            .map(|it| (it.part, it.before, it.after))
            .collect()
    };
    let gone = [(
        "memory/A2".to_owned(),
        "16384 MiB".to_owned(),
        String::new(),
    )];
    let inventory = |client: &Client| {
        let mut client = client.clone();
        async move {
            let told = client
                .get_inventory(wire::GetInventoryRequest {})
                .await
                .unwrap();
            told.into_inner().inventory.unwrap()
        }
    };
    assert_eq!(changes(inventory(&client).await), gone);

    // The next agent knows what the last one accepted.
    client = node.revive().await;
    common::resync(&mut client, 2, &[]).await.unwrap();
    let health = node.health();
    health.set_inventory(less).await;
    assessed(&health, lost).await;
    let mut watch = client
        .watch(wire::WatchRequest {})
        .await
        .unwrap()
        .into_inner();
    let told = part_news(&mut watch).await;
    assert_eq!((told.parts.len(), told.changes.len()), (2, 1));

    let stale = client
        .accept_parts(wire::AcceptPartsRequest { epoch: 1 })
        .await
        .unwrap_err();
    assert_eq!(reason(&stale), "STALE_EPOCH");
    assert_eq!(changes(inventory(&client).await), gone);
    client
        .accept_parts(wire::AcceptPartsRequest { epoch: 2 })
        .await
        .unwrap();
    assert_eq!(changes(inventory(&client).await), []);
    assessed(&health, |it| {
        it.verdicts.is_empty() && it.condition == Condition::Healthy
    })
    .await;
}

/// Parts whose kind can't be read now are told as they were, not as gone.
#[tokio::test(start_paused = true)]
async fn what_can_not_be_read_is_not_told_as_gone() {
    let (_node, mut client, health) = watched().await;
    let whole = [("memory/A1", "16384 MiB"), ("disk/S1", "x")];
    health.set_inventory(parts(&whole)).await;
    let watch = client.watch(wire::WatchRequest {}).await.unwrap();
    let mut watch = watch.into_inner();
    let lines = |told: wire::PartList| -> Vec<String> { told.parts.into_keys().collect() };
    assert_eq!(lines(part_news(&mut watch).await).len(), 2);

    let mut blind = parts(&[("memory/A1", "16384 MiB"), ("memory/A2", "16384 MiB")]);
    blind.parts.ways.remove("disk");
    health.set_inventory(blind).await;
    let mut told = lines(part_news(&mut watch).await);
    told.sort();
    assert_eq!(told, ["disk/S1", "memory/A1", "memory/A2"]);
}

/// FAULTS 54: accepted parts that can't be read are a change, so that a person can accept anew.
#[tokio::test(start_paused = true)]
async fn damaged_accepted_parts_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(accepted::FILE), "{").unwrap();
    let mut options = Options::simulated();
    options.accepted = Accepted::open(dir.path());
    let (_node, mut client, health) = watched_by(options).await;
    health.set_inventory(parts(&[("disk/S1", "x")])).await;
    let watch = client.watch(wire::WatchRequest {}).await.unwrap();
    let mut watch = watch.into_inner();
    let told = part_news(&mut watch).await;
    let [change] = &told.changes[..] else {
        panic!("{told:?}");
    };
    assert_eq!(
        (change.part.as_str(), change.before.as_str()),
        ("parts", "")
    );
    let accept = wire::AcceptPartsRequest { epoch: 1 };
    client.accept_parts(accept).await.unwrap();
    assert!(part_news(&mut watch).await.changes.is_empty());
    let kept = Accepted::open(dir.path()).parts().unwrap().unwrap();
    assert!(kept.lines.contains_key("disk/S1"));
}

/// FAULTS 41: the instance whose QEMU doesn't answer is named, and only it; the server is sound.
#[tokio::test(start_paused = true)]
async fn a_stuck_instance_is_flagged() {
    let (node, mut client, health) = watched().await;
    node.running(&mut client, 1).await;
    node.running(&mut client, 2).await;
    assessed(&health, |it| it.condition == Condition::Healthy).await;
    node.host.inject(Fault::Freeze { incarnation: id(1) });
    let instance = node.apply(1).instance_id;
    let flagged = format!("INSTANCE_STUCK instance/{instance}");
    let stuck = assessed(&health, |it| codes(it) == [flagged.as_str()]).await;
    assert_eq!(stuck.condition, Condition::Healthy, "{stuck}");
    node.host.release();
    assessed(&health, |it| it.verdicts.is_empty()).await;
}

/// A hypervisor that is away is said so, and nothing else is blamed.
#[tokio::test(start_paused = true)]
async fn a_silent_hypervisor_is_told() {
    let (node, _client, health) = watched().await;
    assessed(&health, |it| it.condition == Condition::Healthy).await;
    node.host.set_up(false);
    let silent = assessed(&health, |it| it.condition != Condition::Healthy).await;
    assert_eq!(codes(&silent), ["HYPERVISOR_SILENT hypervisor"]);
    node.host.set_up(true);
    assessed(&health, |it| it.condition == Condition::Healthy).await;
}

/// FAULTS 52: a host that was suspended is found by its boot time.
#[tokio::test(start_paused = true)]
async fn a_suspended_host_is_told() {
    let (_node, _client, health) = watched().await;
    let clock = Component::only(Kind::Clock);
    let slept = |seconds| Ok(vec![Reading::new(&clock, quantity::SUSPENDED, seconds)]);
    health.report("suspend", slept(0.0)).await;
    assessed(&health, |it| it.condition == Condition::Healthy).await;
    health.report("suspend", slept(300.0)).await;
    let told = assessed(&health, |it| !it.verdicts.is_empty()).await;
    assert_eq!(codes(&told), ["HOST_SUSPENDED clock"]);
}
