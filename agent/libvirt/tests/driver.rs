//! The driver rung: real libvirt calls against libvirt's own test driver.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{config, node};
use kapok_libvirt::{
    Connection, Event, EventReceiver, EventSubscription, Kind,
    domain::{Copy, Shutdown, ShutoffReason, Start, State},
    events::{self, Lifecycle, StopReason},
    stats::Groups,
    xml::{
        domain::{DiskSource, DomainDoc, domain_name},
        metadata::Metadata,
        storage::{BackingConfig, VolumeConfig},
    },
};
use kapok_types::{Bytes, instance::DiskFormat};
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(10);

fn doc(seed: u64) -> DomainDoc {
    DomainDoc::new(&config(seed)).unwrap()
}

fn next(receiver: &EventReceiver, uuid: Uuid, wanted: Lifecycle) {
    loop {
        let event = receiver
            .recv_timeout(SOON)
            .unwrap_or_else(|| panic!("no {wanted:?}"));
        if event == (Event::Lifecycle { uuid, kind: wanted }) {
            return;
        }
    }
}

#[test]
fn a_life_from_define_to_undefine() {
    let connection = node();
    let (_subscription, receiver) = events::subscribe(&connection, 64).unwrap();
    let domain = connection.define_validated(&doc(1)).unwrap();
    let uuid = domain.uuid();
    assert_eq!(uuid, config(1).incarnation.0);
    assert_eq!(domain.name(), domain_name(config(1).incarnation));
    assert_eq!(domain.state(), Ok(State::Shutoff(ShutoffReason::Unknown)));
    assert_eq!(
        (domain.is_active(), domain.is_persistent()),
        (Ok(false), Ok(true))
    );

    domain.set_autostart(true).unwrap();
    assert_eq!(domain.autostart(), Ok(true));
    domain.set_autostart(false).unwrap();
    assert_eq!(domain.autostart(), Ok(false));

    domain.start(Start::default()).unwrap();
    assert_eq!(domain.state(), Ok(State::Running));
    domain.shutdown(Shutdown::Default).unwrap();
    assert_eq!(domain.state(), Ok(State::Shutoff(ShutoffReason::Shutdown)));
    let paused = Start {
        paused: true,
        ..Start::default()
    };
    assert_eq!(domain.start(paused).unwrap_err().kind, Kind::Unsupported);
    domain.start(Start::default()).unwrap();
    domain.destroy(false).unwrap();
    assert_eq!(domain.state(), Ok(State::Shutoff(ShutoffReason::Destroyed)));
    domain.undefine().unwrap();

    for wanted in [
        Lifecycle::Defined,
        Lifecycle::Started,
        Lifecycle::Stopped(StopReason::Shutdown),
        Lifecycle::Started,
        Lifecycle::Stopped(StopReason::Destroyed),
        Lifecycle::Undefined,
    ] {
        next(&receiver, uuid, wanted);
    }
    assert_eq!(receiver.take_lost(), 0);
    assert!(connection.domain(uuid).unwrap_err().is(Kind::NotFound));
}

#[test]
fn wrong_states_and_names_get_their_kind() {
    let connection = node();
    let domain = connection.define(&doc(2)).unwrap();
    assert_eq!(domain.destroy(false).unwrap_err().kind, Kind::InvalidState);
    assert_eq!(
        domain.shutdown(Shutdown::Default).unwrap_err().kind,
        Kind::InvalidState
    );
    domain.start(Start::default()).unwrap();
    assert_eq!(
        domain.start(Start::default()).unwrap_err().kind,
        Kind::InvalidState
    );
    domain.destroy(false).unwrap();
    domain.undefine().unwrap();
    for gone in [
        domain.start(Start::default()).unwrap_err(),
        domain.undefine().unwrap_err(),
        domain.state().unwrap_err(),
        connection.pool("none").unwrap_err(),
        connection.network("none").unwrap_err(),
        connection.domain(Uuid::nil()).unwrap_err(),
    ] {
        assert_eq!(gone.kind, Kind::NotFound, "{gone}");
    }
    assert_eq!(connection.network("a\0b").unwrap_err().kind, Kind::Invalid);
    assert_eq!(domain.abort_job().unwrap_err().kind, Kind::Unsupported);
    assert_eq!(domain.guest_ping(SOON).unwrap_err().kind, Kind::Unsupported);
    let refused = domain.open_console(false, 10, &Arc::default()).unwrap_err();
    assert_eq!(refused.kind, Kind::Unsupported, "{refused}");
}

#[test]
fn opening_nothing_is_an_error_and_not_a_panic() {
    for (uri, kind) in [
        (
            "qemu+unix:///system?socket=/nonexistent/sock",
            Kind::Disconnected,
        ),
        ("test:///nonexistent/node.xml", Kind::Invalid),
        ("nonsense:///", Kind::Disconnected),
        ("test:///a\0b", Kind::Invalid),
    ] {
        let error = Connection::open(uri).unwrap_err();
        assert_eq!(error.kind, kind, "{uri}: {error}");
    }
}

#[test]
fn the_record_lives_in_both_copies() {
    let connection = node();
    let domain = connection.define(&doc(3)).unwrap();
    assert_eq!(
        domain.metadata(Copy::Config).unwrap(),
        Some(config(3).metadata)
    );
    domain.start(Start::default()).unwrap();
    let record = Metadata::new("{\"name\":\"市政云 <]]>&amp;\\u0000\",\n\t\"v\":2}").unwrap();
    domain.set_metadata(&record).unwrap();
    for copy in [Copy::Live, Copy::Config] {
        assert_eq!(
            domain.metadata(copy).unwrap().as_ref(),
            Some(&record),
            "{copy:?}"
        );
        assert_eq!(
            domain.view(copy).unwrap().metadata.as_ref(),
            Some(&record),
            "{copy:?}"
        );
    }
    domain.destroy(false).unwrap();
    assert_eq!(domain.metadata(Copy::Live).unwrap(), Some(record));
    let off = Metadata::new("{\"v\":3}").unwrap();
    domain.set_metadata(&off).unwrap();
    assert_eq!(domain.metadata(Copy::Config).unwrap(), Some(off));
    domain.undefine().unwrap();
    assert_eq!(
        domain.metadata(Copy::Config).unwrap_err().kind,
        Kind::NotFound
    );
}

#[test]
fn what_libvirt_made_of_the_document_is_read_back() {
    let connection = node();
    let config = config(4);
    let domain = connection
        .define(&DomainDoc::new(&config).unwrap())
        .unwrap();
    domain.start(Start::default()).unwrap();
    for copy in [Copy::Live, Copy::Config] {
        let view = domain.view(copy).unwrap();
        assert_eq!(view.machine.as_deref(), Some("pc-q35-7.2"));
        assert_eq!((view.memory_bytes, view.vcpus), (256 << 20, 2));
        assert_eq!(view.disks[0].source.as_deref(), Some("/pool/root.qcow2"));
        assert_eq!(view.disks[0].format.as_deref(), Some("qcow2"));
        assert_eq!(
            view.nics[0].mac,
            config.nic.as_ref().map(|nic| nic.mac.to_string())
        );
    }
    let stats = connection
        .stats_of(std::slice::from_ref(&domain), Groups::STATE, true)
        .unwrap();
    assert_eq!(stats.len(), 1);
    assert_eq!(
        (stats[0].uuid, stats[0].state),
        (domain.uuid(), Some(State::Running))
    );
    let domains = connection.domains().unwrap();
    assert_eq!(
        domains
            .iter()
            .map(kapok_libvirt::Domain::uuid)
            .collect::<Vec<_>>(),
        [domain.uuid()]
    );
}

#[test]
fn the_node_tells_about_itself() {
    let connection = node();
    let info = connection.node_info().unwrap();
    assert_eq!(
        (info.cpus, info.numa_cells, info.memory_kib),
        (8, 2, 16_777_216)
    );
    assert!(connection.versions().unwrap().libvirt.major >= 6);
    assert!(!connection.host_name().unwrap().is_empty());
    assert!(!connection.capabilities().unwrap().guests.is_empty());
    assert_eq!(connection.is_alive(), Ok(true));
    assert_eq!(
        connection.set_keepalive(Duration::from_secs(5), 5),
        Ok(false)
    );
    let network = connection.network("default").unwrap();
    assert_eq!(network.is_active(), Ok(true));
    assert_eq!(network.view().unwrap().bridge.as_deref(), Some("virbr0"));
    assert_eq!(connection.networks().unwrap().len(), 1);
}

#[test]
fn volumes_come_and_go() {
    let connection = node();
    let pool = connection.define_dir_pool("kapok", "/kapok").unwrap();
    assert_eq!(pool.is_active(), Ok(false));
    assert_eq!(pool.volumes().unwrap_err().kind, Kind::InvalidState);
    pool.build().unwrap();
    pool.start().unwrap();
    pool.refresh().unwrap();
    assert_eq!(pool.view().unwrap().target_path.as_deref(), Some("/kapok"));
    assert!(pool.info().unwrap().available_bytes > 0);

    let base = VolumeConfig {
        name: "base.raw".into(),
        format: DiskFormat::Raw,
        capacity: Bytes(1 << 20),
        backing: None,
    };
    let volume = pool.create_volume(&base).unwrap();
    assert_eq!(
        pool.create_volume(&base).unwrap_err().kind,
        Kind::AlreadyExists
    );
    let overlay = VolumeConfig {
        name: "root.qcow2".into(),
        format: DiskFormat::Qcow2,
        capacity: Bytes(1 << 30),
        backing: Some(BackingConfig {
            path: volume.path().unwrap(),
            format: DiskFormat::Raw,
        }),
    };
    let overlay = pool.create_volume(&overlay).unwrap();
    assert_eq!(
        overlay.disk_source(),
        Ok(DiskSource::File("/kapok/root.qcow2".into()))
    );
    assert_eq!(overlay.info().unwrap().capacity, Bytes(1 << 30));
    let backing = overlay.view().unwrap().backing.unwrap();
    assert_eq!(
        (backing.path.as_str(), backing.format.as_deref()),
        ("/kapok/base.raw", Some("raw"))
    );
    assert_eq!(pool.volumes().unwrap().len(), 2);
    assert_eq!(
        connection.volume_by_path("/kapok/base.raw").unwrap().name(),
        "base.raw"
    );

    overlay.delete().unwrap();
    assert_eq!(pool.volume("root.qcow2").unwrap_err().kind, Kind::NotFound);
    assert_eq!(overlay.view().unwrap_err().kind, Kind::NotFound);
    assert_eq!(
        pool.volume("../../etc/shadow").unwrap_err().kind,
        Kind::Invalid
    );
    pool.stop().unwrap();
}

/// FAULTS 10: a volume that looks otherwise than recorded isn't resized by its looks.
#[test]
fn a_disguised_disk_is_not_resized() {
    let connection = node();
    let pool = connection.define_dir_pool("kapok", "/kapok").unwrap();
    pool.build().unwrap();
    pool.start().unwrap();
    let config = VolumeConfig {
        name: "disk".into(),
        format: DiskFormat::Qcow2,
        capacity: Bytes(1 << 20),
        backing: None,
    };
    let volume = pool.create_volume(&config).unwrap();
    let disguised = volume.grow(DiskFormat::Raw, Bytes(1 << 21)).unwrap_err();
    assert_eq!(disguised.kind, Kind::Refused, "{disguised}");
    assert_eq!(
        volume.grow(DiskFormat::Qcow2, Bytes(1)).unwrap_err().kind,
        Kind::Invalid
    );
    // As recorded, it reaches libvirt, whose test driver can't resize.
    assert_eq!(
        volume
            .grow(DiskFormat::Qcow2, Bytes(1 << 21))
            .unwrap_err()
            .kind,
        Kind::Unsupported
    );
}

#[test]
fn a_full_queue_counts_what_it_drops() {
    let connection = node();
    let (subscription, receiver) = events::subscribe(&connection, 1).unwrap();
    let domain = connection.define(&doc(5)).unwrap();
    for _ in 0..10 {
        domain.start(Start::default()).unwrap();
        domain.destroy(false).unwrap();
    }
    let end = std::time::Instant::now() + SOON;
    let mut lost = 0;
    while lost < 10 && std::time::Instant::now() < end {
        lost += receiver.take_lost();
        std::thread::yield_now();
    }
    assert!(lost >= 10, "{lost}");
    drop(subscription);
}

/// A sink that panics mustn't take libvirt's thread, or the process, with it.
#[test]
fn a_panicking_sink_is_contained() {
    let connection = node();
    let (sender, receiver) = std::sync::mpsc::channel();
    let sink: events::Sink = Arc::new(move |event| {
        sender.send(event).unwrap();
        panic!("on purpose");
    });
    let _subscription = EventSubscription::new(&connection, &sink).unwrap();
    let domain = connection.define(&doc(6)).unwrap();
    domain.start(Start::default()).unwrap();
    for kind in [Lifecycle::Defined, Lifecycle::Started] {
        let event = receiver.recv_timeout(SOON).unwrap();
        assert_eq!(
            event,
            Event::Lifecycle {
                uuid: domain.uuid(),
                kind
            }
        );
    }
}

/// libvirt keeps one callback of a kind a connection; a refused one leaves nothing behind.
#[test]
fn a_second_subscription_is_refused() {
    let connection = node();
    let (subscription, receiver) = events::subscribe(&connection, 64).unwrap();
    assert_eq!(
        events::subscribe(&connection, 64).unwrap_err().kind,
        Kind::Invalid
    );
    let domain = connection.define(&doc(7)).unwrap();
    next(&receiver, domain.uuid(), Lifecycle::Defined);
    drop(subscription);
}

/// The sink is freed when the subscription ends, and only then.
#[test]
fn the_sink_is_freed_with_its_subscription() {
    let connection = node();
    let sink: events::Sink = Arc::new(|_| {});
    let subscription = EventSubscription::new(&connection, &sink).unwrap();
    assert!(Arc::strong_count(&sink) > 1);
    drop(subscription);
    let end = std::time::Instant::now() + SOON;
    while Arc::strong_count(&sink) > 1 && std::time::Instant::now() < end {
        std::thread::yield_now();
    }
    assert_eq!(Arc::strong_count(&sink), 1);
}
