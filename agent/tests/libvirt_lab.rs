//! The libvirt driver on a real libvirtd with real QEMUs, in a lab host of its own.
//!
//! One test after another: each raises a lab. Without root or libvirt they say why they skip.
#![cfg(feature = "libvirt")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, where a failed unwrap is a failed test"
)]
#![allow(clippy::print_stdout, reason = "measurements are shown")]

#[path = "lab_bench/bound.rs"]
mod bound;
mod lab_bench;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kapok_agent::{
    config::{Config, VirtChoice},
    doctor,
    driver::{Error, Hint, Off, OpenConsole, Run, contract},
    probe::TOKEN,
};
use kapok_health::Condition;
use kapok_lab::{guest, libvirt::NETWORK, places, run::has_program};
use kapok_libvirt::{Connection, probe as boot, xml::domain::VirtType};
use kapok_types::{
    Env, IncarnationId, MemoryMib,
    env::System,
    instance::{DiskFormat, RootDisk},
};
use lab_bench::{BOUND, Bench, bench};
use nix::sys::signal::Signal;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_keeps_its_promises() {
    let Some(bench) = bench("the_driver_keeps_its_promises", VirtChoice::Qemu).await else {
        return;
    };
    contract::compute(&bench.subject).await;
    contract::resize(&bench.subject).await;
    contract::storage(&bench.subject).await;
    contract::console(&bench.subject).await;
    what_it_offers(&bench).await;
    formats_are_ours(&bench).await;
    assert_eq!(
        bench
            .host()
            .virsh(&["list", "--all", "--name"])
            .unwrap()
            .trim(),
        ""
    );
    bench.end();
}

/// The inventory's part of a hypervisor: machine types, processor models, the pool's room.
async fn what_it_offers(bench: &Bench) {
    let facts = bench.driver().compute.facts().await.unwrap();
    let offers = &facts.offers;
    assert!(offers.machines.contains(&facts.machine), "{offers:?}");
    assert!(offers.cpu_models.len() > 3, "{offers:?}");
    let room = bench.driver().storage.room().await.unwrap();
    let [available, size] = [room.available_bytes, room.size_bytes];
    assert!(0 < available && available <= size, "{room:?}");
}

/// FAULTS 9, 10: an image that is recorded as raw stays raw, whatever its bytes look like.
async fn formats_are_ours(bench: &Bench) {
    let storage = &bench.driver().storage;
    let image = &bench.subject.image;
    let stored = storage
        .store_image(image.digest, DiskFormat::Raw, &image.file)
        .await;
    assert_eq!(stored.unwrap(), image.digest);
    let root = RootDisk {
        image_format: DiskFormat::Raw,
        ..bench.root().await
    };
    let id = IncarnationId(Uuid::from_u128(0xFA));
    storage.create_root(id, &root).await.unwrap();
    let disk = format!("{}/kapok-{id}-root.qcow2", kapok_lab::libvirt::POOL_FOLDER);
    let info = bench
        .host()
        .run("qemu-img", |command| {
            command.args(["info", "--output=json", "-f", "qcow2", &disk])
        })
        .unwrap();
    assert!(
        info.contains("\"backing-filename-format\": \"raw\""),
        "{info}"
    );
    assert_eq!(storage.disks().await.unwrap()[0].image, Some(image.digest));
    storage.remove_root(id).await.unwrap();
    storage.remove_image(image.digest).await.unwrap();
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
        bench
            .host()
            .signal_qemu(&format!("kapok-{id}"), Signal::SIGSTOP)
            .unwrap();
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
    // As many as that lane has workers.
    bench
        .until("some are flagged", || {
            compute.health().quarantined.len() >= 3
        })
        .await;

    let began = Instant::now();
    let listing = compute.list().await.unwrap();
    let took = began.elapsed();
    println!("a listing with 30 stopped QEMUs took {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(
        listing
            .ours
            .iter()
            .any(|seen| seen.record.intent.incarnation == healthy)
    );
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
    assert!(
        compute.health().quarantined.is_empty(),
        "the quarantine ends with its calls"
    );
    for id in stopped {
        bench.gone(id).await;
    }
    assert_eq!(
        compute.observe(healthy).await.unwrap().unwrap().run,
        Run::On
    );
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
    bench
        .until("its end is noticed", || !compute.health().up)
        .await;
    let refused = compute.observe(id).await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    let mut hints = compute.hints();
    bench.host().start_libvirtd().unwrap();
    let hinted = async { while hints.recv().await.unwrap() != Hint::Everything {} };
    tokio::time::timeout(BOUND, hinted)
        .await
        .expect("everything is to be looked at");
    bench.until("it is back", || compute.health().up).await;
    let seen = compute.observe(id).await.unwrap().unwrap();
    assert_eq!((&seen.record, seen.run), (&record, Run::On));
    assert_eq!(
        bench.host().qemu_pids().unwrap(),
        before,
        "the guest ran on"
    );

    // Events come again.
    let mut hints = compute.hints();
    bench
        .host()
        .virsh(&["suspend", &format!("kapok-{id}")])
        .unwrap();
    let hinted = async { while hints.recv().await.unwrap() != Hint::Incarnation(id) {} };
    tokio::time::timeout(BOUND, hinted)
        .await
        .expect("a hint after the restart");
    assert_eq!(compute.observe(id).await.unwrap().unwrap().run, Run::Paused);
    bench
        .host()
        .virsh(&["resume", &format!("kapok-{id}")])
        .unwrap();

    // All of the lane's workers are connected: opening a connection to a frozen libvirtd has no end.
    let looks = (0..64).map(|_| compute.observe(id));
    for seen in futures::future::join_all(looks).await {
        assert_eq!(seen.unwrap().unwrap().run, Run::On);
    }

    // Frozen: a call on it ends in bounded time, and the next ones at once.
    bench.host().signal_libvirtd(Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    let refused = tokio::time::timeout(BOUND, compute.observe(id))
        .await
        .expect("a call on a frozen libvirtd ends");
    println!(
        "a call on a frozen libvirtd ended after {:?}",
        began.elapsed()
    );
    assert!(
        matches!(refused, Err(Error::Unavailable { .. } | Error::Quarantined)),
        "{refused:?}"
    );
    bench
        .until("it counts as down", || !compute.health().up)
        .await;
    let began = Instant::now();
    assert!(compute.observe(id).await.is_err());
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    bench.host().signal_libvirtd(Signal::SIGCONT).unwrap();
    bench.until("it is back", || compute.health().up).await;
    bench
        .until("no call is stuck", || {
            compute.health().quarantined.is_empty()
        })
        .await;
    assert_eq!(compute.observe(id).await.unwrap().unwrap().run, Run::On);
    assert_eq!(bench.host().qemu_pids().unwrap(), before);
    bench.gone(id).await;
    bench.end();
}

/// A card's bridge is told, by libvirt's own exporter as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cards_name_their_bridge() {
    let Some(bench) = bench("cards_name_their_bridge", VirtChoice::Qemu).await else {
        return;
    };
    let (id, _) = bench.running(1, 32).await;
    let network = bench.host().virsh(&["net-info", NETWORK]).unwrap();
    let bridge = network.lines().find_map(|it| it.strip_prefix("Bridge:"));
    let bridge = bridge.expect("a bridge").trim();
    let glances = bench.driver().statistics.glance().await.unwrap();
    let [nic] = &*glances[0].nics else {
        panic!("{glances:?}");
    };
    assert_eq!((glances[0].domain, &*nic.bridge), (id.0, bridge));

    if has_program(EXPORTER) {
        let page = exporters_page(&bench).await;
        let wanted = [
            format!("domain=\"kapok-{id}\""),
            format!("target_device=\"{}\"", nic.name),
            format!("source_bridge=\"{bridge}\""),
        ];
        let family = "libvirt_domain_interface_stats_receive_bytes_total{";
        let mut lines = page.lines().filter(|line| line.starts_with(family));
        assert!(
            lines.any(|line| wanted.iter().all(|label| line.contains(label))),
            "{wanted:?} isn't in {page}"
        );
    } else {
        println!("SKIP {EXPORTER}: it isn't installed");
    }
    bench.gone(id).await;
    bench.end();
}

/// The exporter that `metrics.compat = ["libvirt"]` stands in for.
const EXPORTER: &str = "prometheus-libvirt-exporter";

async fn exporters_page(bench: &Bench) -> String {
    let listen = "127.0.0.1:9177";
    let program = format!("/usr/bin/{EXPORTER}");
    let mut exporter = bench
        .host()
        .spawn(EXPORTER, &program, |command| {
            command.arg(format!("--web.listen-address={listen}"))
        })
        .unwrap();
    let page = Mutex::new(String::new());
    bench
        .until("the exporter's page", || {
            let read = bench.host().run("/usr/bin/curl", |command| {
                command.args(["--silent", "--fail", &format!("http://{listen}/metrics")])
            });
            let said = read.is_ok_and(|said| {
                *page.lock().unwrap() = said;
                true
            });
            said && page.lock().unwrap().contains("libvirt_up 1")
        })
        .await;
    exporter.kill().unwrap();
    page.into_inner().unwrap()
}

/// FAULTS 61: a console that nobody reads costs its ring. What was dropped is told to the reader
/// and counted, the newest output is kept, and calls go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_guest_costs_its_ring() {
    let Some(bench) = bench("a_flooding_guest_costs_its_ring", VirtChoice::Qemu).await else {
        return;
    };
    let (compute, statistics) = (&bench.driver().compute, &bench.driver().statistics);
    let (loud, _) = bench.running(1, 256).await;
    let (other, _) = bench.running(2, 32).await;
    let mut console = bench.driver().console.open(loud, false).await.unwrap();
    read_until(&mut console, guest::USERLAND).await;
    let flood = "\nyes kapok-flood-kapok-flood-kapok-flood\n";
    console.input.send(flood.into()).await.unwrap();
    let dropped = || statistics.intake().dropped_console_bytes;
    bench.until("much is dropped", || dropped() > 1 << 20).await;
    assert_eq!(compute.observe(loud).await.unwrap().unwrap().run, Run::On);
    assert_eq!(compute.observe(other).await.unwrap().unwrap().run, Run::On);
    // Ctrl-C; in two pieces, lest the echo of what is typed be taken for the answer.
    let end = "\u{3}\necho flood-''over\n";
    console.input.send(end.into()).await.unwrap();
    let told = read_until(&mut console, "flood-over").await;
    assert_eq!(told, dropped(), "not all that was dropped was told");
    let intake = statistics.intake();
    assert!(intake.console_bytes > told, "{intake:?}");
    drop(console);
    bench.gone(loud).await;
    bench.gone(other).await;
    bench.end();
}

/// Reads a console until it has said this; gives the bytes that were dropped meanwhile.
async fn read_until(console: &mut OpenConsole, text: &str) -> u64 {
    let (mut tail, mut dropped) = (String::new(), 0);
    while !tail.contains(text) {
        let piece = tokio::time::timeout(BOUND, console.output.recv()).await;
        let piece = piece.unwrap().expect("the console is open");
        dropped += piece.dropped;
        let begin = tail.len().saturating_sub(64);
        let kept = tail.get(begin..).unwrap_or_default().to_owned();
        tail = kept + &String::from_utf8_lossy(&piece.data);
    }
    dropped
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
    assert!(
        drift()
            .await
            .contains(&"the definition was removed while the domain runs".into())
    );
    let record = bench.subject.record(1).await;
    compute.define(&record).await.unwrap();
    assert!(drift().await.is_empty(), "defining repairs it");

    // A copy of the definition under another name and UUID is foreign, and its QEMU holds the disk.
    virsh(&["destroy", &name]);
    assert_eq!(
        compute.observe(id).await.unwrap().unwrap().off,
        Off::Destroyed
    );
    let copy = Uuid::from_u128(0xC0C0);
    let xml = virsh(&["dumpxml", "--inactive", &name])
        .replace(&format!("<name>{name}</name>"), "<name>copy</name>")
        .replace(
            &format!("<uuid>{id}</uuid>"),
            &format!("<uuid>{copy}</uuid>"),
        );
    bench.host().machine().write("/run/copy.xml", &xml).unwrap();
    virsh(&["define", "/run/copy.xml"]);
    virsh(&["start", "copy"]);
    let listing = compute.list().await.unwrap();
    assert_eq!(listing.foreign.len(), 1);
    assert_eq!(
        (listing.foreign[0].uuid, listing.foreign[0].active),
        (copy, true)
    );
    // Never "absent", which would let somebody remove the disk under it.
    let seen = compute.observe(IncarnationId(copy)).await;
    assert!(matches!(seen, Err(Error::Failed { .. })), "{seen:?}");
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

/// `virt_type = auto` decides in bounded time and says why. The probe's guest itself is sound: it
/// reaches userland under emulation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kvm_is_believed_only_after_userland() {
    let Some(bench) = bench("kvm_is_believed_only_after_userland", VirtChoice::Auto).await else {
        return;
    };
    let compute = &bench.driver().compute;
    let began = Instant::now();
    let facts = compute.facts().await.unwrap();
    println!(
        "{}: {} (after {:?})",
        facts.virt_type,
        facts.virt_reason,
        began.elapsed()
    );
    assert!(began.elapsed() < Duration::from_secs(30));
    let reached = facts.virt_reason.contains("reached userland under KVM in");
    assert_eq!(facts.virt_type == "kvm", reached);
    let listing = compute.list().await.unwrap();
    assert!(
        listing.foreign.is_empty() && listing.ours.is_empty(),
        "the probe's guest is gone"
    );
    assert_eq!(compute.facts().await.unwrap(), facts);

    let image = guest::build().unwrap();
    let inside = |path| places::inside(path).to_str().unwrap().to_owned();
    let config = boot::ProbeConfig {
        uuid: Uuid::from_u128(0xB007),
        kernel: inside(&image.probe_kernel),
        initrd: inside(&image.probe_initrd),
        token: TOKEN.into(),
        virt_type: VirtType::Qemu,
        arch: facts.arch,
        machine: facts.machine,
        memory: MemoryMib(256),
    };
    let socket = bench.host().path("/run/libvirt/libvirt-sock");
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let outcome = tokio::task::spawn_blocking(move || {
        boot::boot(&Connection::open(&uri).unwrap(), &config, BOUND).unwrap()
    });
    let outcome = outcome.await.unwrap();
    assert!(
        matches!(outcome, boot::Outcome::Userland { .. }),
        "{outcome:?}"
    );

    // The doctor finds the same, on its own, and leaves nothing.
    let mut config = Config::default();
    config.libvirt.uri = format!("qemu+unix:///system?socket={}", socket.display());
    config.libvirt.pool = kapok_lab::libvirt::POOL.into();
    config.libvirt.network = NETWORK.into();
    config.libvirt.probe_kernel = Some(places::inside(&image.probe_kernel));
    config.libvirt.probe_initrd = Some(places::inside(&image.probe_initrd));
    config.libvirt.probe_seconds = Duration::from_secs(10);
    let env: Arc<dyn Env> = System::new();
    let findings = doctor::hypervisor::check(&config, true, &env).await;
    for finding in &findings {
        println!("{finding:?}");
        let fine = finding.check != "kvm" || reached;
        assert_eq!(finding.condition == Condition::Healthy, fine);
    }
    let checks: Vec<_> = findings.iter().map(|it| it.check).collect();
    assert_eq!(checks, ["libvirt", "pool", "network", "kvm"]);
    let listing = compute.list().await.unwrap();
    assert!(listing.foreign.is_empty(), "the doctor's guest is gone");
    bench.end();
}
