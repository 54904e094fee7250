//! A lab host of its own, and a libvirt driver for it, for the tests on real libvirtds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "helpers of tests, which say why they skip; not every test uses each"
)]

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kapok_agent::{
    config::{Offering, VirtChoice},
    driver::{
        Driver, Record,
        contract::{Subject, TestImage},
        libvirt::{self, Options},
    },
    local::{Local, Memory},
    probe::{self, Guest, Probe},
};
use kapok_lab::{Host, Lab, guest, places};
use kapok_types::{
    Bytes, Digest, Env, IncarnationId, MemoryMib,
    env::System,
    instance::{DiskFormat, RootDisk},
};
use uuid::Uuid;

/// How long anything may take on a busy machine.
pub const BOUND: Duration = Duration::from_secs(90);
/// A call older than this is stuck.
const DEADLINE: Duration = Duration::from_secs(3);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub struct Bench {
    pub subject: Subject,
    pub lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

/// Raises a lab with one host and a driver for it, or says why it can't.
pub async fn bench(test: &str, choice: VirtChoice) -> Option<Bench> {
    bench_offering(test, choice, Offering::default()).await
}

/// As [`bench`], with what of the node single instances can have.
pub async fn bench_offering(test: &str, choice: VirtChoice, offering: Offering) -> Option<Bench> {
    if let Some(obstacle) = Lab::obstacle() {
        println!("SKIP {test}: {obstacle}");
        return None;
    }
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let image = guest::build().unwrap();
    let lab = Lab::raise(&kapok_lab::Options { hosts: 1 }).unwrap();
    let bytes = fs::read(&image.disk).unwrap();
    let env: Arc<dyn Env> = System::new();
    let node = env.node_id();
    let socket = lab.host(0).path("/run/libvirt/libvirt-sock");
    let driver = libvirt::open(Options {
        uri: format!("qemu+unix:///system?socket={}", socket.display()),
        pool: kapok_lab::libvirt::POOL.into(),
        pool_shared: false,
        network: kapok_lab::libvirt::NETWORK.into(),
        offering,
        fabric: "kapok".parse().unwrap(),
        node,
        call_deadline: DEADLINE,
        probe: Probe::new(probe::Options {
            choice,
            guest: Some(Guest {
                kernel: places::inside(&image.probe_kernel).to_str().unwrap().into(),
                initrd: places::inside(&image.probe_initrd).to_str().unwrap().into(),
                timeout: Duration::from_secs(10),
            }),
            boot: Uuid::nil(),
            kernel: "test".into(),
            local: Local::in_memory(&Memory::new(node), Arc::clone(&env)),
        }),
        env,
    })
    .unwrap();
    let subject = Subject {
        driver,
        node,
        image: TestImage {
            digest: Digest::of(&bytes),
            format: DiskFormat::Qcow2,
            bytes: u64::try_from(bytes.len()).unwrap(),
            file: image.disk,
            root_bytes: 64 << 20,
        },
        guests_run: true,
        bound: BOUND,
    };
    let bench = Bench {
        subject,
        lab,
        _turn: turn,
    };
    bench
        .until("libvirtd answers", || {
            bench.subject.driver.compute.health().up
        })
        .await;
    Some(bench)
}

impl Bench {
    pub fn host(&self) -> &Host {
        self.lab.host(0)
    }

    pub fn driver(&self) -> &Driver {
        &self.subject.driver
    }

    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + BOUND;
        while !condition() {
            assert!(Instant::now() < end, "never came: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn root(&self) -> RootDisk {
        let image = &self.subject.image;
        let storage = &self.driver().storage;
        if storage.images().await.unwrap().is_empty() {
            let stored = storage
                .store_image(image.digest, image.format, &image.file)
                .await;
            assert_eq!(stored.unwrap(), image.digest);
        }
        RootDisk {
            image: image.digest,
            image_format: image.format,
            image_bytes: Bytes(image.bytes),
            size: Bytes(image.root_bytes),
        }
    }

    /// A running domain; its guest has only just begun to boot.
    pub async fn running(&self, number: u128, memory: u64) -> (IncarnationId, Record) {
        let mut record = self.subject.record(number).await;
        record.intent.spec.memory = MemoryMib(memory);
        let id = record.intent.incarnation;
        let (compute, storage) = (&self.driver().compute, &self.driver().storage);
        compute.define(&record).await.unwrap();
        storage.create_root(id, &self.root().await).await.unwrap();
        compute.start(id).await.unwrap();
        (id, record)
    }

    pub async fn gone(&self, id: IncarnationId) {
        let (compute, storage) = (&self.driver().compute, &self.driver().storage);
        compute.destroy(id).await.unwrap();
        storage.remove_root(id).await.unwrap();
        compute.undefine(id).await.unwrap();
        assert_eq!(compute.observe(id).await.unwrap(), None);
    }

    pub fn end(self) {
        let Self { subject, lab, .. } = self;
        drop(subject);
        lab.close().unwrap();
    }
}
