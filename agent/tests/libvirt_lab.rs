//! The libvirt driver on a real libvirtd with real QEMUs, in a lab host of its own.
//!
//! One test after another: each raises a lab. Without root or libvirt they say why they skip.
#![cfg(feature = "libvirt")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "helpers of tests, which say why they skip"
)]

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kapok_agent::{
    config::VirtChoice,
    driver::{
        Driver, Error, Hint, Off, Record, Run,
        contract::{self, Subject, TestImage},
        libvirt::{self, Options},
    },
    local::{Local, Memory},
    probe::{self, Guest, Probe},
};
use kapok_lab::{Host, Lab, guest};
use kapok_types::{
    Bytes, Digest, Env, IncarnationId, MemoryMib, NodeId,
    env::System,
    instance::{DiskFormat, RootDisk},
};
use nix::sys::signal::Signal;
use uuid::Uuid;

/// How long anything may take on a busy machine.
const BOUND: Duration = Duration::from_secs(90);
/// A call older than this is stuck.
const DEADLINE: Duration = Duration::from_secs(3);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Bench {
    subject: Subject,
    lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

/// Raises a lab with one host and a driver for it, or says why it can't.
async fn bench(test: &str, choice: VirtChoice) -> Option<Bench> {
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
        fabric: "kapok".parse().unwrap(),
        node,
        call_deadline: DEADLINE,
        probe: Probe::new(probe::Options {
            choice,
            guest: Some(Guest {
                kernel: image.probe_kernel.to_str().unwrap().into(),
                initrd: image.probe_initrd.to_str().unwrap().into(),
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
    bench.until("libvirtd answers", || bench.subject.driver.compute.health().up).await;
    Some(bench)
}

impl Bench {
    fn host(&self) -> &Host {
        self.lab.host(0)
    }

    fn driver(&self) -> &Driver {
        &self.subject.driver
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + BOUND;
        while !condition() {
            assert!(Instant::now() < end, "never came: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn root(&self) -> RootDisk {
        let image = &self.subject.image;
        let storage = &self.driver().storage;
        if storage.images().await.unwrap().is_empty() {
            let stored = storage.store_image(image.digest, image.format, &image.file).await;
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
    async fn running(&self, number: u128, memory: u64) -> (IncarnationId, Record) {
        let mut record = self.subject.record(number).await;
        record.intent.spec.memory = MemoryMib(memory);
        let id = record.intent.incarnation;
        let (compute, storage) = (&self.driver().compute, &self.driver().storage);
        compute.define(&record).await.unwrap();
        storage.create_root(id, &self.root().await).await.unwrap();
        compute.start(id).await.unwrap();
        (id, record)
    }

    async fn gone(&self, id: IncarnationId) {
        let (compute, storage) = (&self.driver().compute, &self.driver().storage);
        compute.destroy(id).await.unwrap();
        storage.remove_root(id).await.unwrap();
        compute.undefine(id).await.unwrap();
        assert_eq!(compute.observe(id).await.unwrap(), None);
    }

    fn end(self) {
        let Self { subject, lab, .. } = self;
        drop(subject);
        lab.close().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_keeps_its_promises() {
    let Some(bench) = bench("the_driver_keeps_its_promises", VirtChoice::Qemu).await else {
        return;
    };
    contract::compute(&bench.subject).await;
    contract::storage(&bench.subject).await;
    contract::console(&bench.subject).await;
    assert_eq!(bench.host().virsh(&["list", "--all", "--name"]).unwrap().trim(), "");
    bench.end();
}

/// FAULTS 41: a stopped QEMU is noticed, the others stay fresh, and it can be deleted in bounded
/// time. Also with 30 of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_qemus_hold_up_nobody() {
    let Some(bench) = bench("stopped_qemus_hold_up_nobody", VirtChoice::Qemu).await else {
        return;
    };
    let compute = &bench.driver().compute;
    let (healthy, _) = bench.running(100, 128).await;
    let mut stopped = Vec::new();
    for number in 0..30 {
        let (id, _) = bench.running(number, 32).await;
        bench.host().signal_qemu(&format!("kapok-{id}"), Signal::SIGSTOP).unwrap();
        stopped.push(id);
    }
    // Everybody asks every guest's agent, as actors do, and none of them waits for another.
    let polls: Vec<_> = stopped
        .iter()
        .map(|&id| {
            let compute = Arc::clone(compute);
            tokio::spawn(async move { compute.guest_agent(id).await })
        })
        .collect();
    bench.until("some are flagged", || compute.health().quarantined.len() >= 4).await;

    let began = Instant::now();
    let listing = compute.list().await.unwrap();
    let took = began.elapsed();
    println!("a listing with 30 stopped QEMUs took {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(listing.ours.iter().any(|seen| seen.record.intent.incarnation == healthy));
    assert_eq!(listing.ours.len() + listing.silent.len(), 31);
    assert!(!listing.silent.is_empty() && !listing.silent.contains(&healthy));
    let flagged = listing.silent[0];
    assert_eq!(compute.observe(flagged).await, Err(Error::Quarantined));
    assert_eq!(compute.start(flagged).await, Err(Error::Quarantined));

    // Another instance's whole life goes on meanwhile.
    let began = Instant::now();
    let (other, _) = bench.running(200, 32).await;
    bench.gone(other).await;
    println!("create and delete beside them took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20));

    // Deletion gets through.
    let began = Instant::now();
    let deletes: Vec<_> = stopped
        .iter()
        .map(|&id| {
            let compute = Arc::clone(compute);
            tokio::spawn(async move { (Instant::now(), compute.destroy(id).await) })
        })
        .collect();
    for delete in deletes {
        delete.await.unwrap().1.unwrap();
    }
    println!("destroying 30 stopped QEMUs took {:?}", began.elapsed());
    for poll in polls {
        // Each call has ended in the end: none is lost.
        let _ = poll.await.unwrap();
    }
    assert!(compute.health().quarantined.is_empty(), "the quarantine ends with its calls");
    for id in stopped {
        bench.gone(id).await;
    }
    assert_eq!(compute.observe(healthy).await.unwrap().unwrap().run, Run::On);
    bench.gone(healthy).await;
    bench.end();
}

/// FAULTS 39, 40: libvirtd restarts, and stops answering, with a guest running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libvirtd_may_die_and_hang() {
    let Some(bench) = bench("libvirtd_may_die_and_hang", VirtChoice::Qemu).await else {
        return;
    };
    let compute = &bench.driver().compute;
    let (id, record) = bench.running(1, 128).await;
    let before = bench.host().qemu_pids().unwrap();

    bench.host().kill_libvirtd().unwrap();
    bench.until("its end is noticed", || !compute.health().up).await;
    let refused = compute.observe(id).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let mut hints = compute.hints();
    bench.host().start_libvirtd().unwrap();
    let hinted = async { while hints.recv().await.unwrap() != Hint::Everything {} };
    tokio::time::timeout(BOUND, hinted).await.expect("everything is to be looked at");
    bench.until("it is back", || compute.health().up).await;
    let seen = compute.observe(id).await.unwrap().unwrap();
    assert_eq!((&seen.record, seen.run), (&record, Run::On));
    assert_eq!(bench.host().qemu_pids().unwrap(), before, "the guest ran on");

    // Events come again.
    let mut hints = compute.hints();
    bench.host().virsh(&["suspend", &format!("kapok-{id}")]).unwrap();
    let hinted = async { while hints.recv().await.unwrap() != Hint::Incarnation(id) {} };
    tokio::time::timeout(BOUND, hinted).await.expect("a hint after the restart");
    assert_eq!(compute.observe(id).await.unwrap().unwrap().run, Run::Paused);
    bench.host().virsh(&["resume", &format!("kapok-{id}")]).unwrap();

    // Frozen: a call on it ends in bounded time, and the next ones at once.
    bench.host().signal_libvirtd(Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    let refused = compute.observe(id).await;
    println!("a call on a frozen libvirtd ended after {:?}", began.elapsed());
    assert!(
        matches!(refused, Err(Error::Unavailable { .. } | Error::Quarantined)),
        "{refused:?}"
    );
    bench.until("it counts as down", || !compute.health().up).await;
    let began = Instant::now();
    assert!(compute.observe(id).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    bench.host().signal_libvirtd(Signal::SIGCONT).unwrap();
    bench.until("it is back", || compute.health().up).await;
    bench.until("no call is stuck", || compute.health().quarantined.is_empty()).await;
    assert_eq!(compute.observe(id).await.unwrap().unwrap().run, Run::On);
    assert_eq!(bench.host().qemu_pids().unwrap(), before);
    bench.gone(id).await;
    bench.end();
}

/// FAULTS 44, 50's ground: what outsiders do is told, foreign domains stay as they are, and a disk
/// that another QEMU holds is told from any other failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outsiders_are_noticed() {
    let Some(bench) = bench("outsiders_are_noticed", VirtChoice::Qemu).await else {
        return;
    };
    let compute = &bench.driver().compute;
    let (id, _) = bench.running(1, 128).await;
    let name = format!("kapok-{id}");
    let virsh = |arguments: &[&str]| bench.host().virsh(arguments).unwrap();
    let drift = || async { compute.observe(id).await.unwrap().unwrap().drift };
    assert!(drift().await.is_empty());

    virsh(&["setvcpus", &name, "2", "--config", "--maximum"]);
    virsh(&["setvcpus", &name, "2", "--config"]);
    assert_eq!(drift().await, ["the definition has 2 vCPUs instead of 1"]);
    virsh(&["undefine", &name]);
    assert!(drift().await.contains(&"the definition was removed while the domain runs".into()));
    let record = bench.subject.record(1).await;
    compute.define(&record).await.unwrap();
    assert!(drift().await.is_empty(), "defining repairs it");

    // A copy of the definition under another name and UUID is foreign, and its QEMU holds the disk.
    virsh(&["destroy", &name]);
    assert_eq!(compute.observe(id).await.unwrap().unwrap().off, Off::Destroyed);
    let copy = Uuid::from_u128(0xC0C0);
    let xml = virsh(&["dumpxml", "--inactive", &name])
        .replace(&format!("<name>{name}</name>"), "<name>copy</name>")
        .replace(&format!("<uuid>{id}</uuid>"), &format!("<uuid>{copy}</uuid>"));
    bench.host().machine().write("/run/copy.xml", &xml).unwrap();
    virsh(&["define", "/run/copy.xml"]);
    virsh(&["start", "copy"]);
    let listing = compute.list().await.unwrap();
    assert_eq!(listing.foreign.len(), 1);
    assert_eq!((listing.foreign[0].uuid, listing.foreign[0].active), (copy, true));
    assert_eq!(compute.observe(IncarnationId(copy)).await.unwrap(), None);
    assert!(compute.destroy(IncarnationId(copy)).await.is_err());
    let refused = compute.start(id).await;
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    assert_eq!(virsh(&["domstate", "copy"]).trim(), "running");
    virsh(&["destroy", "copy"]);
    virsh(&["undefine", "copy"]);
    compute.start(id).await.unwrap();
    bench.gone(id).await;
    bench.end();
}

/// `virt_type = auto` decides in bounded time and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kvm_is_believed_only_after_userland() {
    let Some(bench) = bench("kvm_is_believed_only_after_userland", VirtChoice::Auto).await else {
        return;
    };
    let compute = &bench.driver().compute;
    let began = Instant::now();
    let facts = compute.facts().await.unwrap();
    println!("{}: {} (after {:?})", facts.virt_type, facts.virt_reason, began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(facts.virt_type == "kvm", facts.virt_reason.contains("reached userland under KVM in"));
    let listing = compute.list().await.unwrap();
    assert!(listing.foreign.is_empty() && listing.ours.is_empty(), "the probe's guest is gone");
    assert_eq!(compute.facts().await.unwrap(), facts);
    bench.end();
}
