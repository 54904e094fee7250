//! The libvirt driver on libvirt's own `test:///default`: what that driver supports.
//!
//! It lacks, by its own account: consoles, guest agents, reset, and the bytes of volumes (so the
//! suites of storage's bytes and of consoles run against real hosts only). Its state is shared by
//! all connections of the process, so everything is one test.
#![cfg(feature = "libvirt")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use kapok_agent::{
    config::{Offering, VirtChoice},
    driver::{
        Driver, Error, Hint, Run,
        contract::{self, Subject, TestImage},
        libvirt::{self, Options},
    },
    local::{Local, Memory},
    probe::{self, Probe},
};
use kapok_libvirt::{
    Connection,
    domain::Copy,
    xml::{metadata::Metadata, storage::VolumeConfig},
};
use kapok_types::{
    Bytes, Digest, Env, IncarnationId, NodeId,
    env::System,
    instance::{DiskFormat, RootDisk},
};
use uuid::Uuid;

const URI: &str = "test:///default";
const BOUND: Duration = Duration::from_secs(20);

fn open(node: NodeId, fabric: &str) -> Driver {
    open_with(node, fabric, Offering::default())
}

fn open_with(node: NodeId, fabric: &str, offering: Offering) -> Driver {
    let env: Arc<dyn Env> = System::new();
    let memory = Memory::new(node);
    libvirt::open(Options {
        uri: URI.into(),
        pool: "default-pool".into(),
        pool_shared: false,
        network: "default".into(),
        offering,
        fabric: fabric.parse().unwrap(),
        node,
        call_deadline: Duration::from_secs(5),
        probe: Probe::new(probe::Options {
            choice: VirtChoice::Auto,
            guest: None,
            boot: Uuid::nil(),
            kernel: "test".into(),
            local: Local::in_memory(&memory, Arc::clone(&env)),
        }),
        env,
    })
    .unwrap()
}

async fn until_up(driver: &Driver) {
    tokio::time::timeout(BOUND, async {
        while !driver.compute.health().up {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the driver connects");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_keeps_its_promises_on_the_test_driver() {
    let node = NodeId(Uuid::from_u128(0xA));
    let driver = open(node, "kapok");
    until_up(&driver).await;

    // The image is there without its bytes.
    let digest = Digest::of(b"image");
    let outside = Connection::open(URI).unwrap();
    let pool = outside.pool("default-pool").unwrap();
    let base = VolumeConfig {
        name: format!("kapok-base-{}.qcow2", digest.hex()),
        format: DiskFormat::Raw,
        capacity: Bytes(1 << 20),
        backing: None,
    };
    let make_base = || drop(pool.create_volume(&base).unwrap());
    make_base();
    let subject = Subject {
        driver,
        node,
        image: TestImage {
            file: PathBuf::from("/dev/null"),
            digest,
            format: DiskFormat::Qcow2,
            bytes: 1 << 20,
            root_bytes: 1 << 30,
        },
        guests_run: false,
        bound: BOUND,
    };
    contract::compute(&subject).await;

    make_base();
    let version = |id: IncarnationId, from: &str, to: &str| {
        let domain = outside.domain(id.0).unwrap();
        let record = domain.metadata(Copy::Config).unwrap().unwrap();
        let (from, to) = (format!("\"version\":{from}"), format!("\"version\":{to}"));
        let record = Metadata::new(record.as_str().replace(&from, &to)).unwrap();
        domain.set_metadata(&record).unwrap();
    };
    contract::disowned(
        &subject,
        |id| version(id, "1", "2"),
        |id| version(id, "2", "1"),
    )
    .await;

    make_base();
    contract::resize(&subject).await;

    make_base();
    threads_are_set_aside(&subject, &outside).await;

    make_base();
    disks_name_their_image(&subject).await;
    foreign_domains_are_only_reported(&subject, &outside).await;
    autostart_is_drift_and_is_turned_off(&subject, &outside).await;
}

/// The test driver's node has two cells of eight threads.
async fn threads_are_set_aside(subject: &Subject, outside: &Connection) {
    let compute = &subject.driver.compute;
    let whole = compute.facts().await.unwrap();
    assert_eq!((whole.cpus, whole.equipment.cells.len()), (16, 0));
    let with = |threads: &str| {
        let offering = Offering {
            dedicated: threads.parse().unwrap(),
            networks: ["default".parse().unwrap(), "absent".parse().unwrap()].into(),
            ..Offering::default()
        };
        open_with(subject.node, "kapok", offering)
    };
    let driver = with("6-9");
    until_up(&driver).await;
    let facts = driver.compute.facts().await.unwrap();
    assert_eq!((facts.cpus, facts.memory), (12, whole.memory));
    let cells = facts.equipment.cells.iter();
    let cells: Vec<_> = cells.map(|cell| (cell.id, &cell.dedicated[..])).collect();
    assert_eq!(cells, [(0, &[6, 7][..]), (1, &[8, 9][..])]);
    // Networks that are there; the pool and the network of the node by their names.
    assert_eq!(
        facts.equipment.networks,
        ["default".parse().unwrap()].into()
    );
    assert_eq!(
        facts.equipment.pools,
        ["default-pool".parse().unwrap()].into()
    );
    let image = TestImage {
        file: subject.image.file.clone(),
        ..subject.image
    };
    let subject = Subject {
        driver,
        image,
        ..*subject
    };
    contract::equipment(&subject).await;

    // Domains without threads of their own stay off those, and who changes that is told of.
    let compute = &subject.driver.compute;
    let record = subject.record(8).await;
    let id = record.intent.incarnation;
    compute.define(&record).await.unwrap();
    let domain = outside.domain(id.0).unwrap();
    let placement = domain.view(Copy::Config).unwrap().placement;
    assert_eq!(placement.threads, "0-5,10-15".parse().unwrap());
    let seen = compute.observe(id).await.unwrap().unwrap();
    assert_eq!(seen.drift, Vec::<String>::new());
    let other = with("6-7");
    until_up(&other).await;
    other.compute.facts().await.unwrap();
    let seen = other.compute.observe(id).await.unwrap().unwrap();
    let told = "the definition may run on the threads 0-5,10-15 instead of the threads 0-5,8-15";
    assert_eq!(seen.drift, [told]);
    compute.undefine(id).await.unwrap();

    // A thread that isn't there is an error that says so, and so is a host without any left.
    for (threads, words) in [
        (
            "3,16-20",
            "names the threads 16-20; those online here are 0-15",
        ),
        ("0-15", "names all threads"),
    ] {
        let driver = with(threads);
        until_up(&driver).await;
        let refused = driver.compute.facts().await.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}

async fn disks_name_their_image(subject: &Subject) {
    let storage = &subject.driver.storage;
    let digest = subject.image.digest;
    let id = IncarnationId(Uuid::from_u128(0xB));
    let root = RootDisk {
        image: digest,
        image_format: DiskFormat::Qcow2,
        image_bytes: Bytes(1 << 20),
        size: Bytes(1 << 30),
    };
    let hashed = storage.hash_image(digest, DiskFormat::Qcow2).await;
    assert!(matches!(hashed, Err(Error::Lacking { .. })), "{hashed:?}");
    let raw = RootDisk {
        image_format: DiskFormat::Raw,
        ..root.clone()
    };
    let other = storage.create_root(id, &raw).await;
    assert!(
        matches!(other, Err(Error::Absent { .. })),
        "the format is part of the name"
    );
    storage.create_root(id, &root).await.unwrap();
    storage.create_root(id, &root).await.unwrap();
    let disks = storage.disks().await.unwrap();
    assert_eq!((disks[0].incarnation, disks[0].image), (id, Some(digest)));
    let used = storage.remove_image(digest).await;
    assert_eq!(used, Err(Error::InUse { overlays: 1 }));
    storage.remove_root(id).await.unwrap();
    storage.remove_root(id).await.unwrap();
    storage.remove_image(digest).await.unwrap();
    assert!(storage.images().await.unwrap().is_empty());
}

/// FAULTS 44: domains that aren't ours, among them a copy of one of ours as another node or fabric
/// would see it, are listed and never changed.
async fn foreign_domains_are_only_reported(subject: &Subject, outside: &Connection) {
    let compute = &subject.driver.compute;
    let listing = compute.list().await.unwrap();
    assert!(listing.ours.is_empty() && listing.silent.is_empty());
    let test = listing
        .foreign
        .iter()
        .find(|foreign| foreign.name == "test")
        .unwrap();
    assert!(test.active && test.vcpus.get() > 0 && test.memory.get() > 0);

    let record = subject.record(4).await;
    let id = record.intent.incarnation;
    compute.define(&record).await.unwrap();
    for (node, fabric) in [
        (subject.node, "other"),
        (NodeId(Uuid::from_u128(0xF)), "kapok"),
    ] {
        let stranger = open(node, fabric);
        until_up(&stranger).await;
        let compute = &stranger.compute;
        // Never "absent", which would let somebody remove the disk under it.
        let seen = compute.observe(id).await;
        assert!(matches!(seen, Err(Error::Failed { .. })), "{seen:?}");
        let listing = compute.list().await.unwrap();
        assert!(listing.ours.is_empty());
        assert!(listing.foreign.iter().any(|foreign| foreign.uuid == id.0));
        let mut theirs = record.clone();
        theirs.intent.node = node;
        for refused in [
            compute.define(&theirs).await,
            compute.start(id).await,
            compute.shutdown(id).await,
            compute.destroy(id).await,
            compute.undefine(id).await,
        ] {
            assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
        }
        assert!(compute.destroy(IncarnationId(test.uuid)).await.is_err());
    }
    assert!(outside.domain(test.uuid).unwrap().is_active().unwrap());
    let seen = compute.observe(id).await.unwrap().unwrap();
    assert_eq!((seen.record, seen.run), (record, Run::Off));
    compute.undefine(id).await.unwrap();
}

async fn autostart_is_drift_and_is_turned_off(subject: &Subject, outside: &Connection) {
    let compute = &subject.driver.compute;
    let record = subject.record(5).await;
    let id = record.intent.incarnation;
    compute.define(&record).await.unwrap();
    let domain = outside.domain(id.0).unwrap();
    domain.set_autostart(true).unwrap();
    let seen = compute.observe(id).await.unwrap().unwrap();
    assert_eq!(seen.drift, ["autostart was turned on"]);
    tokio::time::timeout(BOUND, async {
        while domain.autostart().unwrap() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("autostart goes off");
    assert!(compute.observe(id).await.unwrap().unwrap().drift.is_empty());
    let mut hints = compute.hints();
    compute.undefine(id).await.unwrap();
    // About it, or about everything once the driver has forgotten it.
    let hinted = async {
        while !matches!(
            hints.recv().await.unwrap(),
            Hint::Everything | Hint::Incarnation(_)
        ) {}
    };
    tokio::time::timeout(BOUND, hinted).await.expect("a hint");
    assert_eq!(compute.observe(id).await.unwrap(), None);
}
