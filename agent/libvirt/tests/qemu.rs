//! A whole life against a real libvirtd and QEMU, by hand: set `KAPOK_QEMU_URI` to a libvirtd
//! that is yours alone, with a network `default`, and `KAPOK_QEMU_GUEST` to a directory with
//! `vmlinuz`, `initrd.gz` and a bootable `disk.qcow2` of the tiny guest. Everything it makes, it
//! takes away. The lab's suites cover the same ground automatically.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::{
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use kapok_libvirt::{
    Connection, Domain, Event, EventReceiver, Kind,
    console::{ConsoleReader, Output},
    domain::{Copy, Shutdown, ShutoffReason, Start, State},
    events::{self, Lifecycle, StopReason},
    probe::{self, Outcome, ProbeConfig},
    stats::Groups,
    storage::{Pool, TransferError},
    xml::{
        domain::{CpuMode, DomainDoc, VirtType},
        metadata::Metadata,
        storage::{BackingConfig, VolumeConfig},
    },
};
use kapok_types::{
    Bytes, Env as _, MemoryMib,
    env::Seeded,
    instance::{Arch, DiskFormat},
};

const POOL: &str = "kapok-qemu-test";
const SOON: Duration = Duration::from_mins(1);
const TICK: Duration = Duration::from_millis(100);

fn setting() -> Option<(Connection, PathBuf)> {
    let (uri, guest) = (
        std::env::var("KAPOK_QEMU_URI").ok(),
        std::env::var("KAPOK_QEMU_GUEST").ok(),
    );
    let (Some(uri), Some(guest)) = (uri, guest) else {
        println!("skipped: KAPOK_QEMU_URI and KAPOK_QEMU_GUEST aren't set");
        return None;
    };
    Some((Connection::open(&uri).unwrap(), guest.into()))
}

fn until(reader: &ConsoleReader, wanted: &str) {
    let end = Instant::now() + SOON;
    let mut seen = String::new();
    while Instant::now() < end {
        match reader.read(TICK) {
            Output::Bytes { bytes, .. } => seen.push_str(&String::from_utf8_lossy(&bytes)),
            Output::Nothing => {}
            Output::Closed { error } => panic!("closed by {error:?} after {seen}"),
        }
        if seen.contains(wanted) {
            return;
        }
    }
    panic!("no {wanted:?} in {seen}");
}

fn wait_event(receiver: &EventReceiver, wanted: impl Fn(&Event) -> bool) {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if receiver
            .recv_timeout(TICK)
            .is_some_and(|event| wanted(&event))
        {
            return;
        }
    }
    panic!("an event didn't come");
}

/// A guest only notices the button while it listens for it.
fn press_until_off(domain: &Domain) -> State {
    for _ in 0..10 {
        domain.shutdown(Shutdown::Acpi).unwrap();
        if let Ok(off) = domain.wait_for(State::is_off, TICK, Duration::from_secs(5)) {
            return off;
        }
    }
    panic!("the guest ignores its power button");
}

/// Takes everything away again, whatever happened.
struct Cleanup {
    connection: Connection,
    pool: Pool,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        for domain in self.connection.domains().unwrap_or_default() {
            if domain.name().starts_with("kapok-") {
                let _ = domain.destroy(false);
                let _ = domain.undefine();
            }
        }
        for volume in self.pool.volumes().unwrap_or_default() {
            let _ = volume.delete();
        }
        let _ = self.pool.stop();
        let _ = self.pool.undefine();
    }
}

#[test]
fn a_probe_reaches_userland() {
    let Some((connection, guest)) = setting() else {
        return;
    };
    let config = ProbeConfig {
        uuid: Seeded::new(90).uuid(),
        kernel: guest.join("vmlinuz").display().to_string(),
        initrd: guest.join("initrd.gz").display().to_string(),
        token: "kapok-userland-ok".into(),
        virt_type: VirtType::Qemu,
        arch: Arch::X86_64,
        machine: "pc-q35-7.2".into(),
        memory: MemoryMib(256),
    };
    let outcome = probe::boot(&connection, &config, SOON).unwrap();
    assert!(matches!(outcome, Outcome::Userland { .. }), "{outcome:?}");
    println!("probe: {outcome:?}");
    let silent = ProbeConfig {
        token: "no guest says this".into(),
        ..config
    };
    let outcome = probe::boot(&connection, &silent, Duration::from_secs(4)).unwrap();
    assert!(matches!(outcome, Outcome::NoUserland { .. }), "{outcome:?}");
    assert!(
        connection
            .domain(silent.uuid)
            .unwrap_err()
            .is(Kind::NotFound)
    );
}

#[test]
fn a_guest_lives_on_an_overlay() {
    let Some((connection, guest)) = setting() else {
        return;
    };
    connection.set_keepalive(Duration::from_secs(5), 5).unwrap();
    let capabilities = connection.capabilities().unwrap();
    let machines = capabilities.guest("x86_64").unwrap();
    assert_eq!(machines.canonical("q35"), Some("pc-q35-7.2"));
    let offered = connection
        .domain_capabilities(VirtType::Qemu, "x86_64", Some("q35"))
        .unwrap();
    assert_eq!(offered.machine.as_deref(), Some("pc-q35-7.2"));
    assert!(
        offered.cpu_modes.iter().any(|mode| mode == "maximum"),
        "{offered:?}"
    );

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool").display().to_string();
    let pool = connection.define_dir_pool(POOL, &path).unwrap();
    let _cleanup = Cleanup {
        connection: connection.clone(),
        pool: pool.clone(),
    };
    pool.build().unwrap();
    pool.start().unwrap();

    // The image goes in, and comes out as it was.
    let image = guest.join("disk.qcow2");
    let length = std::fs::metadata(&image).unwrap().len();
    let base = VolumeConfig {
        name: "base".into(),
        format: DiskFormat::Raw,
        capacity: Bytes(length),
        backing: None,
    };
    let base = pool.create_volume(&base).unwrap();
    let short = base
        .upload(0, length + 1, File::open(&image).unwrap())
        .unwrap_err();
    assert!(matches!(short, TransferError::Short { .. }), "{short}");
    assert_eq!(
        base.upload(0, length, File::open(&image).unwrap()).unwrap(),
        length
    );
    let mut copy = Vec::new();
    assert_eq!(base.download(0, 0, &mut copy).unwrap(), length);
    assert!(copy == std::fs::read(&image).unwrap());

    let overlay = VolumeConfig {
        name: "root.qcow2".into(),
        format: DiskFormat::Qcow2,
        capacity: Bytes(64 << 20),
        backing: Some(BackingConfig {
            path: base.path().unwrap(),
            format: DiskFormat::Qcow2,
        }),
    };
    let overlay = pool.create_volume(&overlay).unwrap();
    let view = overlay.view().unwrap();
    assert_eq!(view.backing.unwrap().format.as_deref(), Some("qcow2"));
    overlay.grow(DiskFormat::Qcow2, Bytes(80 << 20)).unwrap();
    assert_eq!(overlay.info().unwrap().capacity, Bytes(80 << 20));

    let (subscription, receiver) = events::subscribe(&connection, 1024).unwrap();
    let mut config = common::config(91);
    config.virt_type = VirtType::Qemu;
    config.cpu = CpuMode::Maximum;
    config.vcpus = kapok_types::Vcpus(1);
    config.most_vcpus = kapok_types::Vcpus(2);
    config.root.source = overlay.disk_source().unwrap();
    let domain = connection
        .define_validated(&DomainDoc::new(&config).unwrap())
        .unwrap();
    let began = Instant::now();
    domain.start(Start::default()).unwrap();
    println!("start: {:?}", began.elapsed());
    assert_eq!(domain.state(), Ok(State::Running));

    // Its line speaks both ways, and is one caller's at a time.
    let (reader, writer) = domain
        .open_console(false, 64 * 1024, &Arc::default())
        .unwrap();
    let busy = domain.open_console(false, 10, &Arc::default()).unwrap_err();
    assert_eq!(busy.kind, Kind::Busy, "{busy}");
    until(&reader, "kapok-guest-ready");
    println!("boot: {:?}", began.elapsed());
    writer.write(b"hello\n", SOON).unwrap();
    until(&reader, "got:hello");

    // A second QEMU on the same disk is refused by its lock.
    let mut rival = common::config(92);
    rival.virt_type = VirtType::Qemu;
    rival.root.source = overlay.disk_source().unwrap();
    let rival = connection.define(&DomainDoc::new(&rival).unwrap()).unwrap();
    let locked = rival.start(Start::default()).unwrap_err();
    assert_eq!(locked.kind, Kind::Locked, "{locked}");
    assert_eq!(rival.state(), Ok(State::Shutoff(ShutoffReason::Failed)));

    let uuid = domain.uuid();
    wait_event(&receiver, |event| {
        *event
            == Event::AgentLifecycle {
                uuid,
                connected: true,
            }
    });
    domain.guest_ping(SOON).unwrap();
    assert_eq!(domain.guest_host_name(SOON).unwrap(), "tiny");
    assert!(domain.guest_os(SOON).unwrap().kernel_release.is_some());
    let interfaces = domain.guest_interfaces(SOON).unwrap();
    let mac = config.nic.as_ref().unwrap().mac.to_string();
    assert!(
        interfaces
            .iter()
            .any(|found| found.mac.as_ref() == Some(&mac)),
        "{interfaces:?}"
    );

    let record = Metadata::new("{\"v\":2,\"t\":\"]]>&<\"}").unwrap();
    domain.set_metadata(&record).unwrap();
    for copy in [Copy::Live, Copy::Config] {
        assert_eq!(domain.view(copy).unwrap().metadata.as_ref(), Some(&record));
    }

    let stats = connection.all_stats(Groups::ALL, true).unwrap();
    let stats = stats.into_iter().find(|stats| stats.uuid == uuid).unwrap();
    assert!(stats.cpu_time_ns.unwrap_or(0) > 0, "{stats:?}");
    assert!(stats.balloon.rss_kib.unwrap_or(0) > 0, "{stats:?}");
    // The overlay and, because it is part of the chain, nothing else.
    assert_eq!(stats.block.len(), 1, "{stats:?}");
    assert!(
        stats.block[0].read_bytes > 0 && stats.net.len() == 1,
        "{stats:?}"
    );

    domain.reset().unwrap();
    until(&reader, "kapok-guest-ready");
    let off = press_until_off(&domain);
    assert_eq!(off, State::Shutoff(ShutoffReason::Shutdown));
    wait_event(&receiver, |event| {
        *event
            == Event::Lifecycle {
                uuid,
                kind: Lifecycle::Stopped(StopReason::Shutdown),
            }
    });
    let end = Instant::now() + SOON;
    while !matches!(reader.read(TICK), Output::Closed { .. }) {
        assert!(Instant::now() < end, "the line stayed open");
    }
    assert_eq!(
        writer.write(b"x", TICK).unwrap_err().kind,
        Kind::InvalidState
    );

    // A panic in the guest is a crash, not a shutdown.
    domain.start(Start::default()).unwrap();
    let (reader, writer) = domain
        .open_console(true, 64 * 1024, &Arc::default())
        .unwrap();
    until(&reader, "kapok-guest-ready");
    writer.write(b"crash\n", SOON).unwrap();
    let off = domain.wait_for(State::is_off, TICK, SOON).unwrap();
    assert_eq!(off, State::Shutoff(ShutoffReason::Crashed));
    drop(subscription);
}

/// FAULTS 10: a raw disk on which the guest wrote a qcow2 header stays raw for us.
#[test]
fn a_disguised_raw_disk_is_noticed() {
    let Some((connection, guest)) = setting() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool").display().to_string();
    let pool = connection
        .define_dir_pool("kapok-qemu-test-raw", &path)
        .unwrap();
    let _cleanup = Cleanup {
        connection: connection.clone(),
        pool: pool.clone(),
    };
    pool.build().unwrap();
    pool.start().unwrap();
    let config = VolumeConfig {
        name: "disk.raw".into(),
        format: DiskFormat::Raw,
        capacity: Bytes(64 << 20),
        backing: None,
    };
    let volume = pool.create_volume(&config).unwrap();
    volume.grow(DiskFormat::Raw, Bytes(65 << 20)).unwrap();
    volume
        .upload(0, 65536, File::open(guest.join("disk.qcow2")).unwrap())
        .unwrap();
    pool.refresh().unwrap();
    assert_eq!(
        volume.view().unwrap().probed_format.as_deref(),
        Some("qcow2")
    );
    let refused = volume.grow(DiskFormat::Raw, Bytes(66 << 20)).unwrap_err();
    assert_eq!(refused.kind, Kind::Refused, "{refused}");
}
