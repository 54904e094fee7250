//! FAULTS 63: a source that hangs or finds garbage. The parsers' own tests are beside them; here
//! all sources read a server whose files hold anything.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod server;

use std::{
    fs,
    sync::{Arc, mpsc},
    time::Duration,
};

use kapok_health::{Failure, Host, Read, Reading, Source, config::Config, source};
use nix::{sys::stat::Mode, unistd::mkfifo};
use proptest::{collection::vec, prelude::*};

/// For what should happen at once.
const BOUND: Duration = Duration::from_secs(30);
/// For what should not happen at all.
const MOMENT: Duration = Duration::from_millis(300);

fn config() -> Config {
    let state = ("state".to_owned(), "/".into());
    Config {
        filesystems: [state].into(),
        ..Config::default()
    }
}

fn read(source: &dyn Source, host: &Host) -> Result<Vec<Reading>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(source.read(host))
}

/// Sources that found something.
fn found(host: &Host) -> Vec<String> {
    let all = source::all(&config()).into_iter();
    let found = all.filter(|source| read(&**source, host).is_ok());
    found.map(|source| source.name().to_owned()).collect()
}

#[test]
fn a_sound_server_is_read_by_all_sources_of_files() {
    let root = server::sound();
    let expected = [
        "edac",
        "machine_check",
        "throttle",
        "hwmon",
        "thermal",
        "rapl",
        "nic",
        "bond",
        "block",
        "filesystem",
        "md",
        "kernel",
        "oom",
        "pressure",
        "suspend",
    ];
    assert_eq!(found(&Host::new(root.path())), expected);
    for source in source::all(&config()) {
        for reading in read(&*source, &Host::new(root.path())).unwrap_or_default() {
            assert!(!matches!(reading.read, Read::Unreadable(_)), "{reading:?}");
        }
    }
}

#[test]
fn an_empty_server_has_nothing_and_nothing_is_wrong() {
    let root = tempfile::tempdir().unwrap();
    for source in source::all(&config()) {
        match read(&*source, &Host::new(root.path())) {
            Err(Failure::Absent(_)) => {}
            // These ask the kernel under the test itself.
            Ok(_) if ["suspend", "filesystem"].contains(&source.name()) => {}
            other => panic!("{}: {other:?}", source.name()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn garbage_in_all_files_is_no_panic_and_no_nonsense(
        garbage in vec(prop_oneof![".{0,40}", "[0-9a-fx. -]{0,400}", "[0-9]{0,20}"], 1..8),
        keep in vec(any::<bool>(), 1..8),
    ) {
        let turn = std::cell::Cell::new(0);
        let root = server::make(|_, text| {
            turn.set(turn.get() + 1);
            if keep[turn.get() % keep.len()] {
                return text.to_owned();
            }
            garbage[turn.get() % garbage.len()].clone()
        });
        for source in source::all(&config()) {
            for reading in read(&*source, &Host::new(root.path())).unwrap_or_default() {
                prop_assert!(reading.value().is_none_or(f64::is_finite), "{reading:?}");
                prop_assert!(reading.component.name().len() <= 128, "{reading:?}");
            }
        }
    }
}

/// A file that is a pipe answers when its writer does, as a broken driver's may never. The source is
/// stuck in it, and comes back by itself when the driver does: it is for the caller to wait no
/// longer than the deadline.
#[test]
fn a_file_that_hangs_holds_its_own_source_and_no_other() {
    let root = server::sound();
    let stuck = "sys/class/hwmon/hwmon0/temp1_input";
    let pipe = root.path().join(stuck);
    fs::remove_file(&pipe).unwrap();
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let host = Host::new(root.path());
    let hwmon = source::all(&config())
        .into_iter()
        .find(|source| source.name() == "hwmon")
        .unwrap();
    let (answer, answered) = mpsc::channel();
    let reader = std::thread::spawn({
        let (source, host) = (Arc::clone(&hwmon), host.clone());
        move || answer.send(read(&*source, &host)).unwrap()
    });
    assert!(answered.recv_timeout(MOMENT).is_err());
    for source in source::all(&config()) {
        if source.name() != "hwmon" {
            let _ = read(&*source, &host);
        }
    }
    fs::write(&pipe, "45500\n").unwrap();
    let readings = answered.recv_timeout(BOUND).unwrap().unwrap();
    assert!(readings.iter().any(|it| it.value() == Some(45.5)));
    reader.join().unwrap();
}

/// Such as a counter that only root may read.
#[test]
fn a_file_that_refuses_is_unreadable_and_not_absent() {
    let root = server::sound();
    let refuses = root
        .path()
        .join("sys/class/powercap/intel-rapl:0/energy_uj");
    // Permissions don't stop root, who may run this test; a folder in the file's place does.
    fs::remove_file(&refuses).unwrap();
    fs::create_dir(&refuses).unwrap();
    let rapl = source::all(&config())
        .into_iter()
        .find(|source| source.name() == "rapl")
        .unwrap();
    let readings = read(&*rapl, &Host::new(root.path())).unwrap();
    let of = |name: &str| readings.iter().find(|it| it.component.name() == name);
    let package = of("intel-rapl:0 package-0").unwrap();
    assert!(
        matches!(&package.read, Read::Unreadable(reason) if reason.contains("energy_uj")),
        "{package:?}"
    );
    assert!(of("intel-rapl:0:0 core").unwrap().value().is_some());
}
